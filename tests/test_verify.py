"""Verification: no changed, missing, extra or renamed byte unseen, and nothing believed unseen."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyarrow import parquet

from archives import archived, finished, flips, manifest_of, rewritten, signed, spoil_link
from moesweep.archive.content import checksum
from moesweep.cli import main

FLIPS = 100


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep."""
    return finished(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def pristine(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its archive, which no test changes."""
    return archived(project, tmp_path_factory.mktemp("archives") / "archive")


@pytest.fixture
def archive(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the archive to spoil."""
    return shutil.copytree(pristine, tmp_path / "archive")


def verified(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Exit code of `moesweep verify`, and its lines with the folder left out."""
    capsys.readouterr()
    code = main(["verify", str(folder)])
    written = capsys.readouterr()
    return code, (written.err or written.out).replace(f"{folder}/", "").splitlines()


def test_an_archive_and_its_results_verify(
    project: Path, pristine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (pristine, project / "results"):
        code, (line,) = verified(folder, capsys)
        assert code == 0
        assert line.endswith("all as recorded")


def test_a_bag_is_verified_beside_its_payload_too(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = shutil.copytree(pristine.parent, tmp_path / "bag")
    assert verified(bag, capsys)[0] == 0
    beside = sorted(file for file in bag.iterdir() if file.is_file())
    assert len(beside) == 4
    for file in beside:
        whole = file.read_bytes()
        file.write_bytes(whole[:-2] + b"!\n")
        code, (line,) = verified(bag, capsys)
        assert code == 1
        assert line.startswith(f"{file.name}: changed")
        file.unlink()
        assert verified(bag, capsys) == (1, [f"{file.name}: missing: is missing"])
        file.write_bytes(whole)
    (bag / "notes.txt").write_text("mine")
    assert verified(bag, capsys) == (1, ["notes.txt: extra: is not in the bag"])
    (bag / "notes.txt").unlink()
    (bag / "data/costs.parquet").unlink()
    assert verified(bag, capsys) == (1, ["data/costs.parquet: missing: is missing"])
    shutil.rmtree(bag / "data")
    assert verified(bag, capsys)[1][0].startswith("data: missing")


@pytest.mark.slow
def test_every_flipped_byte_is_found_and_named(archive: Path) -> None:
    assert flips(archive, FLIPS) == (FLIPS, FLIPS)


def test_every_byte_of_the_manifest_s_first_lines_counts(archive: Path) -> None:
    manifest = archive / "manifest.json"
    whole = manifest.read_bytes()
    for place in range(200):
        manifest.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert main(["verify", str(archive)]) == 1


def spoil_missing(folder: Path) -> None:
    (folder / "costs.parquet").unlink()


def spoil_extra(folder: Path) -> None:
    (folder / "traces/notes.txt").write_text("mine")


def spoil_renamed(folder: Path) -> None:
    (folder / "costs.parquet").rename(folder / "costs.old.parquet")


def spoil_swapped(folder: Path) -> None:
    (folder / "costs.parquet").rename(folder / "kept")
    (folder / "workloads.parquet").rename(folder / "costs.parquet")
    (folder / "kept").rename(folder / "workloads.parquet")


def spoil_cut(folder: Path) -> None:
    file = folder / "summary.txt"
    file.write_bytes(file.read_bytes()[:-1])


def spoil_linked_folder(folder: Path) -> None:
    shutil.move(folder / "tables", folder.parent / "tables")
    (folder / "tables").symlink_to(folder.parent / "tables")


def spoil_pipe(folder: Path) -> None:
    (folder / "costs.parquet").unlink()
    os.mkfifo(folder / "costs.parquet")


def spoil_empty_folder(folder: Path) -> None:
    (folder / "spare").mkdir()


def spoil_manifest_missing(folder: Path) -> None:
    (folder / "manifest.json").unlink()


SPOILT: list[tuple[Callable[[Path], None], list[str]]] = [
    (spoil_missing, ["costs.parquet: missing: is missing"]),
    (spoil_extra, ["traces/notes.txt: extra: is not in the manifest"]),
    (spoil_renamed, ['costs.parquet: renamed: is named "costs.old.parquet" now']),
    (spoil_swapped, ["costs.parquet: changed: has ", "workloads.parquet: changed: has "]),
    (spoil_cut, ["summary.txt: changed: has "]),
    (spoil_link, ["costs.parquet: extra: is a symbolic link"]),
    (spoil_pipe, ["costs.parquet: extra: is neither a file nor a folder"]),
    (spoil_empty_folder, ["spare: extra: is an empty folder"]),
    (spoil_manifest_missing, ["manifest.json: missing: there is no manifest"]),
]


@pytest.mark.parametrize(("spoil", "lines"), SPOILT)
def test_verification_says_what_is_wrong(
    archive: Path, spoil: Callable[[Path], None], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(archive)
    code, said = verified(archive, capsys)
    assert code == 1
    assert len(said) == len(lines)
    assert all(line.startswith(start) for line, start in zip(said, lines, strict=True))


def test_folders_may_be_deeper_than_python_recurses(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mkdir", "-p", "/".join(["d"] * 1500)], cwd=archive, check=True)
    code, (line,) = verified(archive, capsys)
    subprocess.run(["rm", "-r", "d"], cwd=archive, check=True)
    assert code == 1
    assert line.endswith("/d/d: extra: is an empty folder that the manifest does not list")


def test_a_folder_behind_a_link_is_missing(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil_linked_folder(archive)
    code, said = verified(archive, capsys)
    assert code == 1
    assert "tables: extra: is a symbolic link, which an archive never holds" in said
    assert "tables/memory.parquet: missing: is missing" in said


def test_what_is_no_archive_is_bad_input(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verified(tmp_path / "none", capsys)[0] == 2
    assert verified(pristine / "README.md", capsys)[0] == 2
    with pytest.raises(SystemExit, match="2"):
        main(["verify"])


def test_newer_forms_are_refused_by_the_release_they_need(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = manifest_of(archive)["files"]
    newer = [entry | {"schema_version": 7 if entry["table"] == "costs" else 1} for entry in files]
    rewritten(archive, files=newer, moesweep_version="3.1")
    assert verified(archive, capsys) == (
        2,
        [
            "manifest.json: files: version: table costs has schema version 7; moesweep 0.1.0 knows 2; "
            "use moesweep 3.1 or later"
        ],
    )
    rewritten(archive, manifest_version=2, moesweep_version="4.0", unheard_of=True)
    code, (line,) = verified(archive, capsys)
    assert code == 2
    assert "is of manifest version 2" in line
    assert 'use moesweep "4.0" or later' in line


def test_older_tables_are_verified(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs = archive / "costs.parquet"
    table = parquet.read_table(costs)
    older = table.replace_schema_metadata(
        {**parquet.read_metadata(costs).metadata, b"moesweep.schema_version": b"0"}
    )
    parquet.write_table(older, costs)
    size, digest = checksum(costs)
    entry = {"bytes": size, "sha256": digest, "schema_version": 0}
    recorded(archive, "costs.parquet", **entry)
    assert verified(archive, capsys)[0] == 0


def recorded(archive: Path, path: str, **entry: Any) -> None:
    """Change what the manifest says of a file."""
    files = manifest_of(archive)["files"]
    rewritten(archive, files=[each | entry if each["path"] == path else each for each in files])


@pytest.mark.parametrize(
    ("path", "entry", "said"),
    [
        ("costs.parquet", {"rows": 7}, "rows: has rows 6 where 7 is recorded"),
        ("costs.parquet", {"rows": None}, "rows: has rows 6 where null is recorded"),
        ("costs.parquet", {"table": "memory"}, 'table: has table "costs" where "memory" is recorded'),
        ("costs.parquet", {"schema_version": 1}, "schema_version: has schema_version 2 where 1 is recorded"),
        ("summary.txt", {"rows": 3}, "rows: has rows null where 3 is recorded"),
    ],
)
def test_what_is_recorded_of_a_file_is_what_the_file_says(
    archive: Path, path: str, entry: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pl.read_parquet(archive / "costs.parquet").height
    recorded(archive, path, **entry)
    assert verified(archive, capsys) == (1, [f"{path}: {said.replace('rows 6', f'rows {rows}')}"])


def test_a_table_that_is_none_is_named(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (archive / "costs.parquet").write_bytes(b"PAR1 nothing PAR1")
    size, digest = checksum(archive / "costs.parquet")
    recorded(archive, "costs.parquet", bytes=size, sha256=digest)
    code, (line,) = verified(archive, capsys)
    assert code == 1
    assert line.startswith("costs.parquet: readable: cannot be read as Parquet: ")


@pytest.mark.parametrize("key", ["sweep", "cluster"])
def test_a_manifest_without_its_sweep_is_none(
    archive: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = manifest_of(archive)["config"]
    del config["settings"][key]
    rewritten(archive, config=config)
    code, (line,) = verified(archive, capsys)
    assert code == 1
    assert line.startswith("manifest.json: config.settings")
    assert key in line


HOSTILE: list[tuple[bytes, str]] = [
    (b'"manifest_version": 1, "files": [], "files": []}', "duplicate"),
    (b'"code": {"version": "1", "version": "2"}}', "duplicate"),
    (b'"sha256": "a second one"}', "duplicate"),
    (b"", "json"),
    (b"[" * 100_000, "json"),
    (b'"manifest_version": ' + b"9" * 5000 + b"}", "json"),
    (b'"manifest_version": 1}', "missing_key"),
    (b'"manifest_version": "1", "files": {}}', "type"),
    (b"\xff}", "json"),
]


@pytest.mark.parametrize(("body", "rule"), HOSTILE)
def test_a_manifest_that_is_none(
    archive: Path, body: bytes, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    signed(archive / "manifest.json", body)
    code, said = verified(archive, capsys)
    assert code == 1
    assert f": {rule}: " in "\n".join(said)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "a//b", "./a", "a\\b", "a\n", ""])
def test_a_manifest_cannot_name_what_lies_outside(
    archive: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = manifest_of(archive)["files"]
    rewritten(archive, files=[files[0] | {"path": path}, *files[1:]])
    code, said = verified(archive, capsys)
    assert code == 1
    assert said[0].startswith("manifest.json: files[0].path: pattern: ")
