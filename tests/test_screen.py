"""Spaces screened: equal to the costs of a sweep, the same however they are run, the right points kept."""

import json
import shutil
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from costing import cluster
from moesweep.cli import main
from moesweep.edge.problems import BadInput, Problem
from moesweep.evaluate.costs import constants_frame, costed
from moesweep.screen import run
from moesweep.screen.choice import PARETO, Choice
from moesweep.screen.points import COLUMNS, POSITION, TOKEN_SECONDS
from moesweep.store.tablefile import dtypes
from moesweep.study.space import Part, Space
from moesweep.study.sweep import load_sweep
from moesweep.study.validation import findings

OPTIONS = {"num_experts": 8, "moe_router_topk": 2, "seq_length": 1024, "flash_attention": True}
GRID: dict[str, Any] = {
    "model": ["gpt_7B", "gpt_13B"],
    "world_size": [16, 32],
    "tp": [1, 2, 3],
    "pp": [1, 2, 4],
    "ep": [1, 4, 8],
    "virtual_pipeline": [1, 2],
    "micro_batch_size": [1, 2],
    "global_batch_size": [{"per_gpu": 2}],
}


@pytest.fixture(autouse=True)
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def space(folder: Path, **changes: Any) -> str:
    """Write a space; return its path."""
    data = {"description": "x", "options": OPTIONS, "grids": [GRID | changes]}
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(data))
    return str(path)


def screened(path: str, out: Path, *options: str) -> pl.DataFrame:
    assert main(["screen", path, "--out", str(out), *options]) == 0
    return pl.read_parquet(out)


def test_every_legal_point_costs_what_a_sweep_of_it_would(root: Path, tmp_path: Path) -> None:
    found = screened(space(tmp_path), tmp_path / "out.parquet")
    data = {"description": "x", "options": OPTIONS, "grids": [GRID | {"illegal": "skip"}]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(data))
    workloads = load_sweep(root, tmp_path / "sweep.yaml").workloads
    expected = costed(workloads, constants_frame([cluster()]))
    assert sorted(found["workload"]) == sorted(workloads["workload"])
    both = found.join(expected, on="workload", suffix=" of a sweep")
    for name in dtypes("costs"):
        if dtypes("costs")[name].is_numeric():
            assert both[name].to_list() == pytest.approx(both[f"{name} of a sweep"].to_list(), rel=1e-9), name
    assert found.columns == list(COLUMNS)
    assert set(found["cluster"]) == {cluster().name}
    assert not findings(workloads).filter(severity="error").height


def test_refused_points_have_their_rule_and_counts_add_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = tmp_path / "refused.parquet"
    found = screened(space(tmp_path), tmp_path / "out.parquet", "--refused", str(refused))
    said = capsys.readouterr().err
    counts = {
        line.rsplit(": ", 1)[0]: int(line.rsplit(": ", 1)[1].split()[0]) for line in said.splitlines()[:-1]
    }
    lost = pl.read_parquet(refused)
    of_rules = dict(lost.group_by("rule").len().iter_rows())
    assert of_rules == {rule: count for rule, count in counts.items() if rule in of_rules}
    points = len(list(product(*(value for value in GRID.values()))))
    assert found.height + sum(counts.values()) == points
    assert f"{found.height} kept of {found.height} legal ones, of {points} points" in said


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--top", "7", "--by", "mfu"],
        *(
            pytest.param([each], marks=[pytest.mark.slow, pytest.mark.endurance])
            for each in ("--pareto", "--fits")
        ),
    ],
)
def test_shards_and_a_resumed_run_end_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    path = space(tmp_path)
    whole, sharded, resumed = (tmp_path / f"{name}.parquet" for name in ("whole", "sharded", "resumed"))
    # By their paths: `moesweep.screen` is the library's function once somebody has asked for it.
    run, kept = (import_module(f"moesweep.screen.{name}") for name in ("run", "kept"))
    monkeypatch.setattr(run, "LEAST_AT_ONCE", 50)
    found = screened(path, whole, *options)
    for shard in (3, 1, 2):
        assert not sharded.exists()
        assert main(["screen", path, "--out", str(sharded), "--shard", f"{shard}/3", *options]) == 0
    assert pl.read_parquet(sharded).equals(found)
    assert not sharded.with_name("sharded.parquet.parts").exists()
    # Killed after two parts: those are taken as they are.
    monkeypatch.setattr(run, "AT_ONCE", 100)
    made = []
    real = kept.Kept.keep

    def stopping(self: Any, number: int, *rest: Any) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(number)
        real(self, number, *rest)

    monkeypatch.setattr(kept.Kept, "keep", stopping)
    assert main(["screen", path, "--out", str(resumed), *options]) == 130
    parts = sorted(resumed.with_name("resumed.parquet.parts").glob("part-*"))
    before = [part.read_bytes() for part in parts]
    assert len(before) == 2
    monkeypatch.setattr(
        kept.Kept, "keep", lambda self, number, *rest: (made.append(number), real(self, number, *rest))
    )
    assert main(["screen", path, "--out", str(resumed), *options]) == 0
    assert len(made) == len(set(made))
    assert pl.read_parquet(resumed).equals(found)


def frame_of(rows: list[tuple[float, ...]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=list(PARETO), orient="row").with_columns(
        pl.int_range(pl.len()).alias(POSITION), fits=pl.lit(True)
    )


def test_no_point_of_the_pareto_set_is_bettered_and_every_other_is() -> None:
    import random

    rng = random.Random(4)
    rows = [
        (float(rng.randint(0, 9)), float(rng.randint(0, 9)), float(rng.randint(0, 9))) for _ in range(300)
    ]
    kept = set(Choice(pareto=True).of(frame_of(rows))[POSITION])

    def betters(a: int, b: int) -> bool:
        no_worse = all(x <= y for x, y in zip(rows[a], rows[b], strict=True))
        return no_worse and (rows[a] != rows[b] or a < b)

    for at in range(len(rows)):
        bettered = any(betters(other, at) for other in range(len(rows)) if other != at)
        assert (at in kept) != bettered


def test_the_best_by_a_column(tmp_path: Path) -> None:
    path = space(tmp_path)
    every = screened(path, tmp_path / "all.parquet")
    fastest = screened(path, tmp_path / "fast.parquet", "--top", "5")
    assert fastest["iteration_seconds"].to_list() == every["iteration_seconds"].sort().head(5).to_list()
    most = screened(
        path, tmp_path / "most.parquet", "--top", "5", "--by", "tokens_per_second_per_gpu", "--fits"
    )
    fitting = every.filter("fits")["tokens_per_second_per_gpu"].sort(descending=True)
    assert most["tokens_per_second_per_gpu"].to_list() == fitting.head(5).to_list()


def test_chosen_points_are_a_sweep_of_the_same_workloads(root: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.yaml"
    path = space(tmp_path, routing=["balanced", {"zipf": 1.2}], cluster=["a100-80gb-pcie"], world_size=[16])
    found = screened(path, tmp_path / "out.parquet", "--top", "6", "--sweep", str(chosen))
    workloads = load_sweep(root, chosen).workloads
    assert workloads["workload"].to_list() == found["workload"].to_list()
    assert set(found["cluster"]) == {"a100-80gb-pcie"}
    again = costed(workloads, constants_frame([cluster("a100-80gb-pcie")]))
    assert again["iteration_seconds"].to_list() == pytest.approx(
        found["iteration_seconds"].to_list(), rel=1e-12
    )


def test_clusters_are_an_axis(tmp_path: Path) -> None:
    names = [cluster().name, "a100-80gb-pcie"]
    found = screened(space(tmp_path, cluster=names), tmp_path / "out.parquet")
    for name in names:
        alone = screened(space(tmp_path, cluster=name), tmp_path / f"{name}.parquet")
        here = found.filter(cluster=name)
        assert here["workload"].to_list() == alone["workload"].to_list()
        assert here["iteration_seconds"].to_list() == pytest.approx(alone["iteration_seconds"].to_list())


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        ({"tp": 7}, [], "none is legal"),
        ({"where": "tp > 100"}, [], "where tp > 100 removes the last"),
        ({"cluster": "nothing"}, [], "unknown_cluster"),
        ({}, ["--by", "mfu"], "--by: without_effect"),
        ({}, ["--top", "0"], "--top: range"),
        ({}, ["--top", "3", "--by", "mfus"], "did you mean mfu"),
        ({}, ["--shard", "3/2"], "--shard: form"),
        ({}, ["--points", "3"], "the limit is 3"),
        ({}, ["--refused", "lost.csv"], '--refused: form: "lost.csv": points are written'),
    ],
)
def test_mistakes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    options: list[str],
    expected: str,
) -> None:
    path, out = space(tmp_path, **changes), tmp_path / "new" / "out.parquet"
    assert main(["screen", path, "--out", str(out), *options]) == 2
    assert expected in capsys.readouterr().err
    # Neither the file nor its parts, nor the folder that they would lie in.
    assert not out.parent.exists()


def test_a_refusal_after_some_parts_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a shard the parts of the others stay, which may go on."""
    path, costed = space(tmp_path), run.costed_points

    def refusing(space: Space, part: Part, *rest: Any) -> pl.DataFrame:
        if part.number == 2:
            raise BadInput([Problem("", "x", "count", "", "beyond what is counted")])
        return costed(space, part, *rest)

    monkeypatch.setattr(run, "costed_points", refusing)
    monkeypatch.setattr(run, "AT_ONCE", 50)
    monkeypatch.setattr(run, "LEAST_AT_ONCE", 50)
    alone, shared = (tmp_path / name / "o.parquet" for name in ("alone", "shared"))
    assert main(["screen", path, "--out", str(alone)]) == 2
    assert not alone.parent.exists()
    assert main(["screen", path, "--out", str(shared), "--shard", "2/3"]) == 0
    assert main(["screen", path, "--out", str(shared), "--shard", "3/3"]) == 2
    kept = sorted(file.name for file in (shared.parent / "o.parquet.parts").glob("part-*"))
    assert "part-000001.parquet" in kept
    assert "part-000002.parquet" not in kept


def test_an_output_of_another_space_is_not_taken_for_a_part(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    screened(space(tmp_path), out)
    first = out.read_bytes()
    assert screened(space(tmp_path, micro_batch_size=[1]), out).height < pl.read_parquet(first).height


def test_what_a_token_takes_compares_batches(tmp_path: Path) -> None:
    """Twice the batch takes longer an iteration, not a token: it is not bettered for that."""
    both = [{"per_gpu": 2}, {"per_gpu": 8}]
    path = space(tmp_path, global_batch_size=both, tp=[1], pp=[2], ep=[8], micro_batch_size=[1])
    found = screened(path, tmp_path / "out.parquet", "--pareto")
    assert any("gbs128" in id_ or "gbs256" in id_ for id_ in found["workload"])
    assert TOKEN_SECONDS not in found.columns


# --- best -----------------------------------------------------------------------------------------------
def test_the_best_layout_fits_and_no_other_one_is_faster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = tmp_path / "best.yaml"
    command = ["best", "gpt_7B", "--gpus", "32", "num_experts=8", "seq_length=1024", "--top", "3"]
    assert main([*command, "--sweep", str(chosen)]) == 0
    said = capsys.readouterr().out
    rows = yaml.safe_load(chosen.read_text())["rows"]
    assert len(rows) == 3
    path = space(
        tmp_path,
        model="gpt_7B",
        world_size=32,
        tp=[1, 2, 4, 8, 16, 32],
        pp="all",
        ep="all",
        etp=[1, "tp"],
        virtual_pipeline="all",
        micro_batch_size=[1, 2, 4, 8],
        recompute=["none", "selective", "full"],
        where=["num_attention_heads % tp = 0", "num_layers % (pp * virtual_pipeline) = 0"],
        flash_attention=False,
    )
    every = screened(path, tmp_path / "all.parquet", "--fits")
    best = float(every["iteration_seconds"].min())  # type: ignore[arg-type]
    assert f" {best:.4g} " in said


def test_nothing_fits_and_the_nearest_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best", "gpt_175B", "--gpus", "8", "num_experts=16", "--memory", "40GiB"]) == 1
    said = capsys.readouterr().out
    assert "none fits the 38 GiB" in said
    assert "GiB too much" in said


def test_a_dense_model_has_no_experts_to_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best", "gpt_7B", "--gpus", "16", "num_experts=0", "seq_length=1024"]) == 0
    assert "legal layouts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gpt_7", "--gpus", "8"], "gpt_7"),
        (["gpt_7B", "--gpus", "0"], "--gpus: range"),
        (["gpt_7B", "--gpus", "8", "--memory", "40"], "--memory: quantity"),
        (
            ["gpt_7B", "--gpus", "8", "--memory", "1GiB"],
            "the 2 GiB that the framework reserves",
        ),
        (["gpt_7B", "--gpus", "8", "num_expert=16"], "did you mean num_experts"),
        (["gpt_7B", "--gpus", "8", "tp=two"], "tp: type"),
        (["gpt_7B", "--gpus", "8", "tp=2", "tp=4"], "tp: duplicate"),
        (["gpt_7B", "--gpus", "8", "--cluster", "dgx"], "unknown_cluster"),
        (["gpt_7B", "--gpus", "8", "world_size=16"], "world_size: given_twice: --gpus says it; leave it out"),
        (["gpt_7B", "--gpus", "8", "model=gpt_22B"], "model: given_twice: MODEL says it; leave it out"),
        (["gpt_7B", "--gpus", "8", "listed=2"], 'there is no key "listed"; known: '),
    ],
)
def test_mistakes_of_best(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["best", *words]) == 2
    assert expected in capsys.readouterr().err


def test_the_best_layouts_do_not_replace_the_configured_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    sweep = Path(yaml.safe_load(Path("config/config.yaml").read_text())["sweep"])
    written = sweep.read_bytes()
    assert main(["best", "gpt_7B", "--gpus", "8", "tp=1", "num_experts=0", "--sweep", str(sweep)]) == 2
    assert "is the file that is read; name another file" in capsys.readouterr().err
    assert sweep.read_bytes() == written


def test_the_dictionary_of_a_screen_is_that_of_costs() -> None:
    assert json.loads(Path("schemas/tables/screen.json").read_text())["table"] == "screen"
    assert [name for name in dtypes("screen") if name != "cluster"] == list(dtypes("costs"))


def test_twins_are_counted_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = space(tmp_path, world_size=[16])
    Path(path).write_text("twins: true\n" + Path(path).read_text())
    found = screened(path, tmp_path / "out.parquet")
    assert f"{found.height} legal ones, twins among them, of " in capsys.readouterr().err
