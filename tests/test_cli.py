"""The command line: exit codes, one line per mistake, nothing written when the input is bad."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from moesweep.cli import main
from project import CHECKOUT, Project, make_project

CONFIG = "config/config.yaml"
SWEEP = "config/sweeps/small.yaml"
CLUSTER = "config/clusters/dgx-a100-80gb-8xhdr200.yaml"
ROW = "tp: 2, pp: 2, ep: 2"

# what to change in which file, and what the one line about it must say
MISTAKES: dict[str, tuple[str, str, str, str]] = {
    "unknown model": (
        SWEEP,
        "model: tiny, world_size: 32",
        "model: tinny, world_size: 32",
        "did you mean tiny?",
    ),
    "misspelt key": (SWEEP, "flash_attention", "flash_atention", "did you mean flash_attention?"),
    "yaml syntax": (SWEEP, "rows:", "rows: [", "line 19"),
    "world not divided": (SWEEP, ROW, "tp: 2, pp: 3, ep: 2", "pp 3 does not divide world_size 16"),
    "experts by ep": (SWEEP, "num_experts: 4", "num_experts: 6", "ep 4 does not divide num_experts 6"),
    "ep beyond dp": (SWEEP, ROW, "tp: 8, pp: 2, ep: 2", "needs more ranks"),
    "global batch": (
        SWEEP,
        "ep: 2, global_batch_size: 32",
        "ep: 2, global_batch_size: 30",
        "nearest: 28, 32",
    ),
    "zero": (SWEEP, ROW, "tp: 0, pp: 2, ep: 2", "rows[0].tp"),
    "negative": (SWEEP, ROW, "tp: -2, pp: 2, ep: 2", "rows[0].tp"),
    "fraction": (SWEEP, ROW, "tp: 2.5, pp: 2, ep: 2", "2.5"),
    "nan": (SWEEP, ROW, "tp: .nan, pp: 2, ep: 2", "rows[0].tp"),
    "text": (SWEEP, ROW, 'tp: "8", pp: 2, ep: 2', '"8"'),
    "truth": (SWEEP, ROW, "tp: true, pp: 2, ep: 2", "true"),
    "huge": (SWEEP, ROW, f"tp: {10**30}, pp: 2, ep: 2", "nearest: "),
    "duplicate entry": (SWEEP, "ep: 4, global_batch_size: 32", "ep: 2, global_batch_size: 32", "listed"),
    "wrong dimension": (CLUSTER, "value: 200 Gbit/s", "value: 200 GiB", "nic_bytes_per_second"),
    "no unit": (CLUSTER, "value: 200 Gbit/s", "value: 200", "nic_bytes_per_second"),
    "missing constant": (CLUSTER, "  usd_per_gpu_hour:", "  usd_per_gpu_minute:", "usd_per_gpu_hour"),
    "missing sweep": (
        CONFIG,
        "small.yaml",
        "smal.yaml",
        f"{CONFIG}:4: sweep: missing_file: there is no file config/sweeps/smal.yaml; "
        f"did you mean {SWEEP} or ",
    ),
    "missing cluster": (
        CONFIG,
        "8xhdr200",
        "9xhdr200",
        f'{CONFIG}:5: cluster: unknown_cluster: there is no cluster "dgx-a100-80gb-9xhdr200" in '
        "config/clusters; did you mean dgx-a100-80gb-8xhdr200",
    ),
    "missing gpu": (
        CLUSTER,
        "gpu: a100-sxm-80gb",
        "gpu: a100-sxm-90gb",
        f'{CLUSTER}:5: gpu: unknown_gpu: there is no gpu "a100-sxm-90gb" in config/gpus; '
        "did you mean a100-sxm",
    ),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = make_project(tmp_path)
    monkeypatch.chdir(made.root)
    return made


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_and_nothing_is_written(
    project: Project, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, old, new, said = MISTAKES[name]
    project.edit(file, old, new)
    for stage in ("enumerate", "validate", "trace"):
        assert main([stage]) == 2
        message = capsys.readouterr().err
        assert said in message
        assert "Traceback" not in message
    assert not (project.root / "results").exists()


def test_bytes_that_are_no_text(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.root / SWEEP).write_bytes(b"rows: \xff\xfe")
    assert main(["enumerate"]) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_an_empty_sweep(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.root / SWEEP).write_text("rows: []\n")
    assert main(["enumerate"]) == 2
    assert SWEEP in capsys.readouterr().err


def test_mistakes_in_all_files_at_once(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.edit(CLUSTER, "value: 200 Gbit/s", "value: 200 GiB")
    project.edit(SWEEP, ROW, "tp: 0, pp: 2, ep: 2")
    project.edit(SWEEP, "seq_length: 128", "seq_lenght: 128")
    assert main(["enumerate"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"{CLUSTER}:14: constants.nic_bytes_per_second") for line in lines)
    assert any(line.startswith(f"{SWEEP}:19: rows[0].tp") for line in lines)
    assert any("did you mean seq_length?" in line for line in lines)


def test_mistakes_of_the_configuration_hide_no_others(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.edit(CONFIG, "outputs: []", "outputs: [figure]")
    project.edit(CONFIG, "workloads_per_trace_job: 1", "workloads_per_trace_job: 0")
    project.edit(CLUSTER, "value: 200 Gbit/s", "value: 200 GiB")
    project.edit(SWEEP, ROW, "tp: 0, pp: 2, ep: 2")
    assert main(["enumerate"]) == 2
    lines = capsys.readouterr().err.splitlines()
    for place in (
        f"{CONFIG}:11: outputs[0]",
        f"{CONFIG}:8: workloads_per_trace_job",
        f"{CLUSTER}:14: constants.nic_bytes_per_second",
        f"{SWEEP}:19: rows[0].tp",
    ):
        assert any(line.startswith(place) for line in lines), place
    assert main(["cost"]) == 2
    assert any(line.startswith(CLUSTER) for line in capsys.readouterr().err.splitlines())


def test_a_configuration_without_a_sweep_still_has_its_cluster_judged(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.edit(CONFIG, f"sweep: {SWEEP}", "sweep: 5")
    project.edit(CLUSTER, "value: 200 Gbit/s", "value: 200 GiB")
    assert main(["enumerate"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{CONFIG}:4", "sweep"],
        [f"{CLUSTER}:14", "constants.nic_bytes_per_second.value"],
    ]


def test_the_sweep_of_an_export_is_placed_at_its_option(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--format", "perfetto", "--out", "out", "--sweep", "config/sweeps/smal.yaml"]
    assert main(words) == 2
    said = f"--sweep: missing_file: there is no file config/sweeps/smal.yaml; did you mean {SWEEP} or "
    assert capsys.readouterr().err.startswith(said)


ARGUMENTS = {
    "explain ID mfu --depth x": "moesweep explain: argument --depth: invalid int value: 'x'",
    "diff a b --format xml": "moesweep diff: argument --format: invalid choice: 'xml' (choose from ",
    "clean": "moesweep clean: say what to clean: --stale, --damaged, --stage or several",
    "clear": "moesweep: argument COMMAND: invalid choice: 'clear' (choose from ",
    "": "moesweep: the following arguments are required: COMMAND",
    "predict": "moesweep predict: the following arguments are required: RUNS.csv, --out",
    "enumerate --al\nl": r"moesweep: unrecognized arguments: --al\nl",
}


@pytest.mark.parametrize("words", ARGUMENTS)
def test_a_mistaken_argument_takes_one_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words.split(" ") if words else [])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith(ARGUMENTS[words])
    assert out == ""


def test_snakemake_stops_with_the_same_lines(project: Project) -> None:
    project.edit(SWEEP, ROW, "tp: 3, pp: 2, ep: 2")
    done = project.run()
    assert done.returncode == 2
    assert "tp 3 * pp 2 does not divide world_size 16" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project.root / "results").exists()


def test_one_workload_by_hand(project: Project) -> None:
    id_ = "tiny-ws16-tp2-pp2-ep2-gbs32-mbs1-seq128-moe"
    assert main(["trace", "--workload", id_]) == 0
    traced = {path.parent.name for path in (project.root / "results/traces").rglob("*.parquet")}
    assert traced == {f"workload={id_}"}


def test_an_unknown_workload_is_suggested(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", "--workload", "tiny-ws16-tp2-pp2-ep2-gbs32-mbs1-seq128-mob"]) == 2
    assert "did you mean tiny-ws16-tp2-pp2-ep2-gbs32-mbs1-seq128-moe" in capsys.readouterr().err


def test_costs_without_traces_say_what_is_missing(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["enumerate"]) == 0
    assert main(["cost"]) == 2
    assert "programs.parquet" in capsys.readouterr().err
    assert not (project.root / "results/costs.parquet").exists()


@pytest.fixture
def runs(project: Project) -> Callable[..., Path]:
    """Write a list of runs: a sound one, changed as asked, once per change."""
    sound = pl.read_csv(CHECKOUT / "tests/data/measured_runs.csv", n_rows=1, infer_schema=False)

    def write(*changes: dict[str, str]) -> Path:
        path = project.root / "runs.csv"
        rows = [
            sound.with_columns(pl.lit(value).alias(name) for name, value in change.items())
            for change in changes
        ]
        pl.concat(rows, how="diagonal").write_csv(path)
        return path

    return write


FAULTS = [
    ({"tp": "eight"}, 'column tp: cell: "eight" where a whole number'),
    ({"tp": "3"}, "does not divide world_size"),
    ({"cluster": "dgx"}, "no cluster dgx"),
    ({"iteration_seconds": "-1"}, "column iteration_seconds"),
    ({"recompute": "some"}, "none or selective or full"),
    ({"hidden_size": ""}, "column hidden_size"),
    ({"global_batch_size": "0"}, "column global_batch_size"),
]


def test_faulty_runs_are_all_named(
    runs: Callable[..., Path], project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs({}, *(change for change, _ in FAULTS))
    assert main(["predict", str(path), "--out", "out.csv"]) == 2
    lines = capsys.readouterr().err.splitlines()
    for number, (_, said) in enumerate(FAULTS):
        assert any(f"line {number + 3}, " in line and said in line for line in lines), said
    assert not (project.root / "out.csv").exists()


def test_sound_runs_are_predicted_beside_faulty_ones(runs: Callable[..., Path], project: Project) -> None:
    path = runs({}, *(change for change, _ in FAULTS))
    assert main(["predict", str(path), "--out", "out.csv", "--keep-going"]) == 1
    out = pl.read_csv(project.root / "out.csv")
    assert out["problem"].is_null().to_list() == [True] + [False] * len(FAULTS)
    assert out["iteration_seconds"].is_not_null().to_list() == [True] + [False] * len(FAULTS)


def test_the_measured_time_is_never_read(runs: Callable[..., Path], project: Project) -> None:
    out = []
    for measured in ("1.0", "1000", ""):
        main(["predict", str(runs({"iteration_seconds": measured})), "--out", "out.csv"])
        out.append(pl.read_csv(project.root / "out.csv").drop("measured_iteration_seconds"))
    assert out[0].equals(out[1])
    assert out[0].equals(out[2])


def test_a_missing_column_is_named(runs: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = runs({})
    pl.read_csv(path).rename({"hidden_size": "hiden_size"}).write_csv(path)
    assert main(["predict", str(path), "--out", "out.csv"]) == 2
    assert "did you mean hiden_size?" in capsys.readouterr().err


NO_TABLES = [
    (b"run,tp\na,1,2\nb\nc,3\n", ["line 2: cells: 3 cells where the header has 2", "line 3: cells: 1 cells"]),
    (b"run,tp,run\n", ["line 1: duplicate: ", "occurs twice"]),
    (b'run,tp\n"a,1\nb,2\n', ["line 3: csv: cannot be read as CSV: unexpected end of data"]),
    (b"run,tp\n\xff,1\n", ["line 2: utf8: not UTF-8: byte 0xff"]),
    (b"", ["empty: holds no run"]),
    (b"run,tp\n", ["empty: holds no run"]),
]


@pytest.mark.parametrize(("content", "said"), NO_TABLES)
def test_what_is_no_table_is_refused(
    content: bytes, said: list[str], project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "runs.csv").write_bytes(content)
    assert main(["predict", "runs.csv", "--out", "out.csv"]) == 2
    printed = capsys.readouterr().err
    assert all(words in printed for words in said), printed
    assert "polars" not in printed
    assert not (project.root / "out.csv").exists()


class Panic(BaseException):
    """As polars raises one: no Exception."""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            KeyError("sweep\n\x1b[31m"),
            r"moesweep: KeyError: 'sweep\n\x1b[31m'; this is a fault of MoE Sweep; ",
        ),
        (RecursionError("too deep"), "moesweep: RecursionError: too deep; this is a fault of MoE Sweep; "),
        (Panic("assertion failed"), "moesweep: Panic: assertion failed; this is a fault of MoE Sweep; "),
        (MemoryError(), "moesweep: there is not enough memory"),
        (PermissionError(13, "Permission denied", "a\nb"), r"moesweep: [Errno 13] Permission denied: 'a\nb'"),
    ],
)
def test_what_nobody_foresaw_is_one_line(
    fault: BaseException, said: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def failing(arguments: argparse.Namespace) -> int:
        os.write(2, b"thread panicked at somewhere\nstack backtrace:\n")
        raise fault

    monkeypatch.setattr("moesweep.arguments.parsed", lambda argv: argparse.Namespace(run=failing))
    assert main(["any"]) == 1
    printed = capfd.readouterr().err
    assert printed.startswith(said)
    assert printed.count("\n") == 1
    monkeypatch.setenv("MOESWEEP_TRACEBACK", "1")
    with pytest.raises(type(fault)):
        main(["any"])


def test_what_native_code_says_of_a_success_is_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def warned(arguments: argparse.Namespace) -> int:
        os.write(2, b"a warning\n")
        return 0

    monkeypatch.setattr("moesweep.arguments.parsed", lambda argv: argparse.Namespace(run=warned))
    assert main(["any"]) == 0
    assert capfd.readouterr().err == "a warning\n"


def test_enumeration_says_how_large_models_are(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enumerate"]) == 0
    found = pl.read_parquet(project.root / "results/workloads.parquet")
    sizes = {
        "parameters": found["parameters"].unique(),
        "active_parameters": found["active_parameters"].unique(),
    }
    said = capsys.readouterr().out.splitlines()
    assert len(said) == found.select("model", "kind").unique().height
    moe = found.filter(kind="moe").row(0, named=True)
    assert moe["active_parameters"] < moe["parameters"]
    numbers = f"{moe['parameters']:,} parameters, of which a token passes {moe['active_parameters']:,}"
    assert f"{moe['model']} moe: {numbers}" in said, sizes


def test_what_a_grid_leaves_out_is_counted(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    grid = (
        "  - {model: tiny, world_size: 64, tp: [1, 2, 3], pp: 1, ep: 2, global_batch_size: 64, illegal: skip}"
    )
    project.edit(SWEEP, "rows:\n", f"grids:\n{grid}\nrows:\n")
    assert main(["enumerate"]) == 0
    left_out, made = capsys.readouterr().err.splitlines()
    assert left_out == f"{SWEEP}: grids[0]: world_by_tp: 1 points left out"
    assert made == "results/workloads.parquet: 9 workloads"
