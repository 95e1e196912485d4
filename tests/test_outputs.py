"""What --out names: refused before any work if nothing should be written there; nothing else is touched."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from moesweep.cli import main
from project import CHECKOUT, Project, make_project

ID = "tiny-ws16-tp2-pp2-ep2-gbs32-mbs1-seq128-moe"
TRAFFIC = ["traffic", "--workload", ID]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a list of one run."""
    made = make_project(tmp_path / "project")
    monkeypatch.chdir(made.root)
    runs = pl.read_csv(CHECKOUT / "tests/data/measured_runs.csv", n_rows=1, infer_schema=False)
    runs.write_csv(made.root / "runs.csv")
    return made


def everything(root: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with the content of files."""
    found = sorted(root.rglob("*"))
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in found}


def fifo(root: Path) -> None:
    os.mkfifo(root / "x")


def listening(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "x"))


def loop(root: Path) -> None:
    (root / "x").symlink_to("x")


def way_out(root: Path) -> None:
    (root.parent / "mine.csv").write_text("mine")
    (root / "x").symlink_to(root.parent / "mine.csv")


def link_to_device(root: Path) -> None:
    (root / "x").symlink_to("/dev/full")


OUT: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "empty": ("", lambda root: None, "--out: empty: the name is empty; name a file"),
    "folder": ("config", lambda root: None, '--out: folder: "config" is a folder; name a file'),
    "folder to be": ("new/", lambda root: None, '--out: folder: "new/" is a folder; name a file'),
    "here": (".", lambda root: None, '--out: folder: "." is a folder; name a file'),
    "device": ("/dev/full", lambda root: None, '"/dev/full" is not a regular file; name another file'),
    "pipe": ("x", fifo, '--out: regular_file: "x" is not a regular file; name another file'),
    "socket": ("x", listening, '--out: regular_file: "x" is not a regular file; name another file'),
    "loop": ("x", loop, '--out: regular_file: "x" is not a regular file; name another file'),
    "way out": ("x", way_out, "--out: symbolic_link: a symbolic link leads out of the project"),
    "below a file": ("runs.csv/a/b", lambda root: None, '"runs.csv/a/b" cannot be written: Not a directory'),
    "no such place": ("/proc/none/x", lambda root: None, '--out: writable: "/proc/none/x" cannot be written'),
    "too long": ("x" * 250, lambda root: None, "cannot be written: File name too long"),
}


@pytest.mark.parametrize("command", ["predict", "traffic"])
@pytest.mark.parametrize("case", OUT)
def test_a_file_that_cannot_be_written(
    project: Project, capsys: pytest.CaptureFixture[str], case: str, command: str
) -> None:
    out, prepare, said = OUT[case]
    prepare(project.root)
    main(["enumerate"])
    capsys.readouterr()
    before = everything(project.root.parent)
    words = ["predict", "runs.csv"] if command == "predict" else TRAFFIC
    assert main([*words, "--out", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--out: ")
    assert said in line
    assert everything(project.root.parent) == before


@pytest.mark.parametrize("out", ["runs.csv", "config/../runs.csv", "again", "other.csv"])
def test_the_list_of_runs_is_not_written_over(
    project: Project, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (project.root / "again").symlink_to("runs.csv")
    (project.root / "other.csv").hardlink_to(project.root / "runs.csv")
    before = everything(project.root)
    assert main(["predict", "runs.csv", "--out", out]) == 2
    assert f'--out: input: "{out}" is the file that is read' in capsys.readouterr().err
    assert everything(project.root) == before


@pytest.mark.parametrize("end", ["there.csv", "not/there.csv"])
def test_a_link_stays_and_what_it_leads_to_is_written(project: Project, end: str) -> None:
    (project.root / "there.csv").write_text("old")
    link = project.root / "x"
    link.symlink_to(end)
    assert main(["predict", "runs.csv", "--out", "x"]) == 0
    assert link.is_symlink()
    assert pl.read_csv(project.root / end).height == 1


def test_a_link_outside_of_the_project_is_the_user_s(project: Project, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "x.csv").symlink_to("mine/runs.csv")
    assert main(["predict", "runs.csv", "--out", str(tmp_path / "x.csv")]) == 0
    assert pl.read_csv(tmp_path / "mine/runs.csv").height == 1


def test_new_folders_are_made_for_what_is_written_alone(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_csv", full)
        assert main(["predict", "runs.csv", "--out", "a/b/out.csv"]) == 1
    assert main([*TRAFFIC, "--out", "a/b/out.parquet"]) == 2
    assert not (project.root / "a").exists()
    assert main(["predict", "runs.csv", "--out", "a/b/out.csv"]) == 0


def test_the_name_and_the_list_are_judged_at_once(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "runs.csv").write_text("")
    assert main(["predict", "runs.csv", "--out", ""]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_prediction_is_no_list_of_runs(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "runs.csv", "--out", "first.csv"]) == 0
    capsys.readouterr()
    assert main(["predict", "first.csv", "--out", "new/second.csv"]) == 2
    lines = capsys.readouterr().err.splitlines()
    for column in ("measured_iteration_seconds", "problem"):
        assert any(
            f"first.csv: line 1, column {column}: reserved: {column} is taken" in line for line in lines
        )
    assert len(lines) == 2
    assert not (project.root / "new").exists()


def test_a_column_of_any_other_name_passes_through(project: Project) -> None:
    runs = pl.read_csv("runs.csv", infer_schema=False)
    runs.with_columns(row=pl.lit("7"), mfu=pl.lit("0.5")).write_csv("runs.csv")
    assert main(["predict", "runs.csv", "--out", "out.csv"]) == 0
    out = pl.read_csv("out.csv")
    assert out.select("row", "measured_mfu").rows() == [(7, 0.5)]


@pytest.mark.parametrize("out", ["results", "results/mine", "link/mine"])
def test_exports_and_archives_stay_out_of_the_results(
    project: Project, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    main(["enumerate"])
    (project.root / "link").symlink_to("results")
    before = everything(project.root)
    chosen = ["--workload", ID, "--overwrite"]
    for words in (["export", "--format", "perfetto", *chosen], ["trace", "--unroll", *chosen], ["archive"]):
        assert main([*words, "--out", out]) == 2
        assert f'--out: among_results: "{out}" lies in the results' in capsys.readouterr().err
    assert everything(project.root) == before


COMMANDS = [
    ["predict", "runs.csv", "--out", "out.csv"],
    ["enumerate"],
    ["cost"],
    ["clean", "--stale"],
    ["run"],
    ["calibrate", "runs.csv"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_folder_that_is_no_project(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    folder = project.root / "below"
    folder.mkdir()
    (folder / "runs.csv").write_bytes((project.root / "runs.csv").read_bytes())
    monkeypatch.chdir(folder)
    assert main(words) == 2
    said = f"config: project_root: there is no such folder here; run it in the project's root, {project.root}"
    assert capsys.readouterr().err.splitlines() == [said]
    assert os.listdir(folder) == ["runs.csv"]  # noqa: PTH208
