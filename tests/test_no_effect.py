"""What would be ignored is refused: options that nothing heeds, and the environment of another run."""

from pathlib import Path

import pytest

from moesweep.cli import main
from moesweep.edge.problems import BadInput
from moesweep.export.folder import whole_folder
from moesweep.run.failures import ALONE, WITHOUT, alone, left_out, said
from moesweep.run.lock import only_run
from moesweep.store.layout import Results
from project import make_project

ID = "tiny-ws16-tp2-pp2-ep2-gbs32-mbs1-seq128-moe"

IGNORED: list[tuple[list[str], list[str]]] = [
    (["trace", "--out", "x"], ["--out: no_effect: has no effect without --unroll; leave it out"]),
    (
        ["trace", "--ranks", "0", "--microbatches", "1", "--overwrite"],
        [f"--{name}: no_effect: " for name in ("ranks", "microbatches", "overwrite")],
    ),
    (["trace", "--chunk", "x"], ["--chunk: no_effect: has no effect without --resolved"]),
    (["trace", "--resolved", "none", "--chunk", "x"], ["none: readable: cannot be read as Parquet: "]),
    (["trace", "--resolved", "x"], ["--chunk: missing_option: --resolved needs --chunk"]),
    (
        ["trace", "--resolved", "x", "--chunk", "y", "--workload", ID],
        ["--workload: no_effect: has no effect with --resolved"],
    ),
    (
        ["trace", "--unroll", "--out", "x", "--workload", ID, "--chunk", "x"],
        ["--chunk: no_effect: has no effect with --unroll"],
    ),
    (
        ["export", "--check", "--out", "x", "--format", "chakra", "--overwrite"],
        [f"--{name}: no_effect: has no effect with --check" for name in ("format", "overwrite")],
    ),
]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = make_project(tmp_path).root
    monkeypatch.chdir(made)
    return made


@pytest.mark.parametrize(("argv", "lines"), IGNORED)
def test_an_option_without_effect_is_an_error(
    project: Path, argv: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == len(lines)
    assert all(line.startswith(start) for line, start in zip(printed, lines, strict=True))
    assert not (project / "results").exists()
    assert not (project / "x").exists()


@pytest.mark.parametrize("variable", [ALONE, WITHOUT])
@pytest.mark.parametrize("run", ["", "0123456789abcdef:"])
def test_what_another_run_left_in_the_environment_drops_nothing(
    project: Path,
    variable: str,
    run: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["enumerate"]) == 0
    before = Path("results/workloads.parquet").read_bytes()
    monkeypatch.setenv(variable, f"{run}{ID}")
    capsys.readouterr()
    assert main(["enumerate"]) == 2
    assert f"{variable}: no_effect: is set, but by no run" in capsys.readouterr().err
    assert Path("results/workloads.parquet").read_bytes() == before


def test_a_run_that_holds_the_directory_is_believed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with only_run(Results(Path("results"))):
        for name, value in said({"a", "b"}, {ID}).items():
            monkeypatch.setenv(name, value)
        assert alone() == {"a", "b"}
        assert left_out() == {ID}
    with pytest.raises(BadInput):
        left_out()


def test_a_user_s_own_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/trace.0.et").write_text("old")
    (tmp_path / "set/notes.txt").write_text("mine")
    refused = pytest.raises(BadInput, match=r'"notes\.txt" is no file')
    with refused, whole_folder(tmp_path / "set", ("trace.*.et",)):
        raise AssertionError("nothing is made before")
    (tmp_path / "set/notes.txt").unlink()
    with whole_folder(tmp_path / "set", ("trace.*.et",)) as folder:
        (folder / "trace.1.et").write_text("new")
    assert [file.name for file in (tmp_path / "set").iterdir()] == ["trace.1.et"]


STAGES = ("enumerate", "validate", "cost", "traffic", "tables", "network", "figures", "report", "manifest")


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_that_was_planned_on_other_files_ends_before_it_writes(
    project: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([stage, "--planned", "0123456789abcdef"]) == 2
    assert capsys.readouterr().err == (
        "--planned: edited: the configuration, or a file it names, was edited after the workflow had begun; "
        "run it again\n"
    )
    assert not (project / "results").exists()
