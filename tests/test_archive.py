"""Archives: complete, self-describing, the same bytes from the same inputs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import jsonschema
import polars as pl
import pytest

from archives import archived, contents, finished, manifest_of, rewritten, spoil_link, within
from moesweep.archive import build
from moesweep.cli import main

CROISSANT = """
import itertools, json, os, socket, sys
def offline(*_): raise OSError("no network in this test")
socket.socket.connect = offline
import mlcroissant
data = mlcroissant.Dataset(jsonld="croissant.json")
issues = data.metadata.issues
rows = {name: len(list(itertools.islice(data.records(name), 5))) for name in sys.argv[1:]}
answer = {"errors": list(issues.errors), "warnings": list(issues.warnings), "rows": rows}
print(json.dumps(answer), flush=True)
# Readers that were left half-way sometimes abort the interpreter when it ends.
os._exit(0)
"""


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


def test_an_archive_holds_the_results_and_what_explains_them(project: Path, pristine: Path) -> None:
    results, held = contents(project / "results"), contents(pristine)
    del results["manifest.json"]
    assert {path: held[path] for path in results} == results
    config = {path for path in held if path.startswith("config/")}
    assert held.keys() - results.keys() - config == {
        "README.md",
        "manifest.json",
        "croissant.json",
        "CITATION.cff",
        "LICENSE",
    }
    assert {path: held[path] for path in config - {"config/config.yaml"}} == {
        path: (project / path).read_bytes() for path in config - {"config/config.yaml"}
    }
    files = [file for file in pristine.rglob("*") if not file.is_dir()]
    assert [file for file in files if file.is_symlink() or file.stat().st_nlink != 1] == []


def test_the_manifest_records_every_file_and_what_it_is_made_from(pristine: Path, root: Path) -> None:
    manifest = manifest_of(pristine)
    schema = json.loads((root / "schemas/manifest.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    listed = {entry["path"]: entry for entry in manifest["files"]}
    assert listed.keys() | {"manifest.json"} == contents(pristine).keys()
    for path, entry in listed.items():
        if path.endswith(".parquet"):
            metadata = pl.read_parquet_metadata(pristine / path)
            assert entry["rows"] == pl.read_parquet(pristine / path, hive_partitioning=False).height
            assert (entry["table"], str(entry["schema_version"])) == (
                metadata["moesweep.table"],
                metadata["moesweep.schema_version"],
            )
    assert manifest["environment"]["polars"] == pl.__version__
    assert manifest["config"]["settings"]["sweep"] == "config/sweeps/small.yaml"
    assert manifest["config"]["models"]["tiny"]["hidden_size"] == 256
    assert manifest["config"]["constants"]["nic_bytes_per_second"]["value"] == 25e9
    assert re.fullmatch("[0-9a-f]{64}", manifest["code"]["source_sha256"])


@pytest.mark.parametrize("file", ["README.md", "manifest.json", "LICENSE", "costs.parquet", "tables"])
def test_no_configuration_takes_the_name_of_another_file(
    spare: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = manifest_of(spare / "results")["config"]
    rewritten(spare / "results", config=made | {"files": made["files"] | {file: "rows: []\n"}})
    said = refused(spare, spare.parent / "out", capsys)
    assert said.startswith(f"{file}: name: an archive has a file of its own by this name; give it another")


@pytest.mark.parametrize("sweep", ["a\n# b", "a\x1b[31m", 7, None])
def test_a_sweep_s_name_is_one_line(spare: Path, sweep: object, capsys: pytest.CaptureFixture[str]) -> None:
    made = manifest_of(spare / "results")["config"]
    rewritten(spare / "results", config=made | {"settings": made["settings"] | {"sweep": sweep}})
    said = refused(spare, spare.parent / "out", capsys)
    assert "config.settings.sweep" in said
    assert said.count("\n") == 1


def test_the_archive_alone_runs_again(pristine: Path, tmp_path: Path) -> None:
    shutil.copytree(pristine / "config", tmp_path / "config")
    with within(tmp_path):
        assert main(["enumerate"]) == 0
    again = (tmp_path / "results/workloads.parquet").read_bytes()
    assert again == (pristine / "workloads.parquet").read_bytes()


def test_the_same_inputs_make_the_same_bytes(pristine: Path, tmp_path: Path) -> None:
    other = archived(finished(tmp_path / "another place"), tmp_path / "another name")
    assert contents(other) == contents(pristine)


def test_the_queries_of_the_card_run_as_pasted(pristine: Path) -> None:
    card = (pristine / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", card, flags=re.DOTALL)
    assert [language for language, _ in blocks] == ["sql", "python", "python", "python"]
    with within(pristine):
        answer = duckdb.sql(blocks[0][1]).pl()
    assert answer.height == 3
    assert answer["ep_share"].min() > 0
    for _, code in blocks[1:]:
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, cwd=pristine, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(done.stdout) == ("print" in code)


def test_the_card_explains_every_column_with_its_unit(pristine: Path, root: Path) -> None:
    card = (pristine / "README.md").read_text(encoding="utf-8")
    for table in {entry["table"] for entry in manifest_of(pristine)["files"]} - {None}:
        declared = json.loads((root / f"schemas/tables/{table}.json").read_text(encoding="utf-8"))
        for column in declared["columns"]:
            assert f"| {column['name']} | {column['type']} | {column.get('unit', '')} |" in card


def test_croissant_metadata_is_valid_and_loads_the_data(pristine: Path) -> None:
    command = [sys.executable, "-c", CROISSANT, "costs", "traces/routing", "tables/memory"]
    done = subprocess.run(command, cwd=pristine, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["errors"] == []
    assert answer["rows"] == {"costs": 5, "traces/routing": 5, "tables/memory": 5}
    # A date of publication is recommended, but would make every archive differ from the next.
    assert [warning for warning in answer["warnings"] if "datePublished" not in warning] == []


def test_croissant_metadata_has_every_column_and_checksum(pristine: Path) -> None:
    metadata = json.loads((pristine / "croissant.json").read_bytes())
    fields = {field["@id"] for records in metadata["recordSet"] for field in records["field"]}
    checksums = {entry["path"]: entry["sha256"] for entry in manifest_of(pristine)["files"]}
    for file in pristine.rglob("*.parquet"):
        place = re.sub(r"/workload=.*|\.parquet$", "", str(file.relative_to(pristine)))
        columns = pl.read_parquet_schema(file)
        assert {f"{place}/{column}" for column in columns} <= fields
    given = {each["@id"]: each["sha256"] for each in metadata["distribution"] if "sha256" in each}
    assert given.items() <= checksums.items()


def refused(project: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The message of an archive that must not be made; nothing may be left of it."""
    before = sorted(out.parent.iterdir())
    capsys.readouterr()
    with within(project):
        assert main(["archive", "--out", str(out)]) == 2
    assert sorted(out.parent.iterdir()) == before
    return capsys.readouterr().err


def test_an_archive_never_replaces_anything(
    project: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(archive)
    assert "is not empty" in refused(project, archive, capsys)
    assert contents(archive) == before
    assert "is not a folder" in refused(project, archive / "README.md", capsys)
    (archive.parent / "link").symlink_to(archive)
    assert "is not a folder" in refused(project, archive.parent / "link", capsys)


def test_it_is_a_bag_that_other_tools_verify(pristine: Path) -> None:
    bag = pristine.parent
    beside = {file.name: file.read_text() for file in bag.iterdir() if file.is_file()}
    assert set(beside) == {"bagit.txt", "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt"}
    assert beside["bagit.txt"] == "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
    payload = contents(pristine)
    oxum = f"{sum(map(len, payload.values()))}.{len(payload)}"
    assert f"Payload-Oxum: {oxum}\n" in beside["bag-info.txt"]
    listed = [line.split("  ", 1)[1] for line in beside["manifest-sha256.txt"].splitlines()]
    assert listed == [f"data/{path}" for path in sorted(payload)]
    for manifest in ("manifest-sha256.txt", "tagmanifest-sha256.txt"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", manifest], cwd=bag, check=True)


def test_an_empty_folder_may_be_filled(project: Path, pristine: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert contents(archived(project, tmp_path / "empty")) == contents(pristine)


@pytest.fixture
def spare(project: Path, tmp_path: Path) -> Path:
    """A copy of the finished sweep to spoil."""
    return shutil.copytree(project, tmp_path / "project")


def test_results_that_are_not_as_recorded_are_not_archived(
    spare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = spare / "results/costs.parquet"
    costs.write_bytes(costs.read_bytes() + b"!")
    (spare / "results/summary.txt").unlink()
    said = refused(spare, spare.parent / "out", capsys)
    assert "results/costs.parquet: changed: is not what results/manifest.json records" in said
    assert "results/summary.txt: readable: cannot be read: No such file" in said
    assert said.count("; run make sweep\n") == 2
    config = spare / "config/config.yaml"
    config.write_text(re.sub("outputs: .*", "outputs: []", config.read_text(encoding="utf-8")))
    assert refused(spare, spare.parent / "out", capsys).count("; name manifest under outputs in config/") == 2
    (spare / "results/manifest.json").unlink()
    assert "there is no manifest" in refused(spare, spare.parent / "out", capsys)


def test_a_link_out_of_the_results_is_not_archived(spare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil_link(spare / "results")
    assert "symbolic link" in refused(spare, spare.parent / "out", capsys)


def test_an_archive_that_fails_leaves_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "card", full)
    with within(project):
        assert main(["archive", "--out", str(tmp_path / "out")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_sweep_has_no_manifest(spare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (spare / "results/manifest.json").unlink()
    (spare / "results/costs.parquet").unlink()
    with within(spare):
        assert main(["manifest"]) == 2
    assert "costs.parquet: readable: cannot be read: No such file" in capsys.readouterr().err
    assert not (spare / "results/manifest.json").exists()
