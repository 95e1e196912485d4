"""`moesweep export`: bad input refused in one line each, full disks survived, results used where they fit."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from moesweep.cli import main
from moesweep.export.request import parsed_ranks
from moesweep.export.source import traced
from moesweep.store.layout import Results
from moesweep.store.tablefile import write_table
from moesweep.study.catalog import load_cluster
from moesweep.study.sweep import enumerate_sweep
from moesweep.trace.files import write_traces

SWEEP = "config/sweeps/moe-a100-123.yaml"
ID = "gpt_7B-ws512-tp4-pp2-ep16-gbs1024-mbs1-seq4096-moe"


@pytest.fixture(autouse=True)
def in_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["--format", "chakre"], ['there is no format "chakre"; did you mean chakra?']),
        (["--format", "simai", "--flavor", "AICB"], ['there is no flavor "AICB"; did you mean aicb?']),
        (["--format", "simai", "--stage", "2"], ["there is no stage 2; nearest: 1"]),
        (["--format", "simai", "--stage", "-1"], ['"-1" is not a pipeline stage']),
        (["--format", "chakra", "--ranks", "0;1"], ['"0;1" is not a list of ranks']),
        (["--format", "chakra", "--ranks", "8-3"], ["8-3 names no rank"]),
        (["--format", "chakra", "--ranks", "510-512"], ["there is no rank 512; nearest: 511"]),
        (["--format", "chakra", "--microbatches", "0"], ["0 micro-batches make no iteration; nearest: 1"]),
        (["--format", "chakra", "--microbatches", "17"], ["an iteration has 16 micro-batches; nearest: 16"]),
        (
            ["--format", "x", "--flavor", "y", "--ranks", "z"],
            ["no format", "no flavor", "not a list of ranks"],
        ),
        (["--format", "simai", "--microbatches", "4"], ["format simai has no --microbatches; leave it out"]),
        (["--format", "simai", "--flavor", "aicb", "--stage", "1"], ["flavor aicb has no --stage"]),
        (["--format", "perfetto", "--stage", "0", "--flavor", "aicb"], ["no --stage", "no --flavor"]),
        ([], ["export needs --format"]),
    ],
)
def test_bad_options_are_refused_one_line_each(
    options: list[str], lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["export", "--sweep", SWEEP, "--workload", ID, "--out", str(out)]
    assert main([*command, *[f"{a}={b}" for a, b in zip(options[::2], options[1::2], strict=True)]]) == 2
    found = capsys.readouterr().err.splitlines()
    assert len(found) == len(lines)
    assert all(line in text for line, text in zip(lines, found, strict=True))
    assert not out.exists()


def test_a_folder_in_use_is_refused_unless_told_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "--sweep", SWEEP, "--workload", ID, "--format", "simai", "--flavor", "aicb"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert main([*command, "--out", str(tmp_path)]) == 2
    assert "is not empty; add --overwrite" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path), "--overwrite"]) == 0
    (file,) = tmp_path.iterdir()
    assert main([*command, "--out", str(file)]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_every_workload_that_aicb_cannot_express_is_named_with_the_reason(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (root / SWEEP).read_text(encoding="utf-8").replace("recompute: none", "recompute: full")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(text, encoding="utf-8")
    command = ["export", "--format", "simai", "--flavor", "aicb", "--sweep", str(sweep), "--workload", ID]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{ID}: recompute: aicb: AICB cannot express")
    assert "use --flavor megatron" in line


FORMS = {
    "aicb": ["export", "--format", "simai", "--flavor", "aicb", "--sweep", SWEEP],
    "simai": ["export", "--format", "simai", "--sweep", SWEEP],
    "chakra": ["export", "--format", "chakra", "--ranks", "0-3", "--sweep", SWEEP],
    "perfetto": ["export", "--format", "perfetto", "--sweep", SWEEP],
    "unrolled": ["trace", "--unroll", "--ranks", "0-63"],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_fails_in_one_line_and_leaves_no_file(form: str, tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    out = tmp_path / "out"
    command = [*FORMS[form], "--workload", ID, "--out", str(out), "--results", str(tmp_path / "none")]
    run = "import sys; from moesweep.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", run, *command],
        preexec_fn=small_files,
        # A module compiled here would be cut off where files end, and no later process could load it; what
        # coverage writes of its own would be too long as well.
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("moesweep: ")
    assert done.stderr.count("\n") == 1
    assert "File too large" in done.stderr
    assert str(out) in done.stderr
    assert list(out.iterdir()) == []


def test_ranks_are_lists_and_ranges() -> None:
    assert parsed_ranks("5,0-2,2,7-7") == [0, 1, 2, 5, 7]


def test_results_are_read_only_where_they_hold_this_workload_on_this_cluster(
    root: Path, tmp_path: Path
) -> None:
    frame = enumerate_sweep(root, SWEEP).filter(pl.col("workload") == ID)
    cluster, results = load_cluster(root, "dgx-a100-80gb-8xhdr200"), Results(tmp_path)
    (fresh,) = traced(frame, results, cluster)
    write_traces(frame, results)
    marked = fresh.program.with_columns(seconds=pl.lit(1.0))
    write_table(marked, results.cost_ops(ID), "cost_ops", {"cluster": cluster.name})
    (stored,) = traced(frame, results, cluster)
    assert stored.program["seconds"].unique().to_list() == [1.0]
    (other,) = traced(frame.with_columns(flash_attention=~pl.col("flash_attention")), results, cluster)
    assert 1.0 not in other.program["seconds"]
    write_table(marked, results.cost_ops(ID), "cost_ops", {"cluster": "another"})
    (elsewhere,) = traced(frame, results, cluster)
    assert elsewhere.program.equals(fresh.program)
