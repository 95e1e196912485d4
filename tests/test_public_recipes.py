"""The shipped sweep of public recipes: each row legal, sourced, traced, costed two ways; some explained."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from moesweep.cost.model import cost, with_constants
from moesweep.evaluate.costs import costed
from moesweep.explain.ledger import Ledger
from moesweep.explain.metrics import metric
from moesweep.study.catalog import Cluster, load_cluster
from moesweep.study.sweep import load_sweep
from moesweep.study.validation import validate
from moesweep.trace.programs import folded

RECIPES = "config/sweeps/public-recipes.yaml"


@pytest.fixture(scope="module")
def workloads() -> pl.DataFrame:
    sweep = load_sweep(Path(__file__).parents[1], RECIPES)
    assert validate(sweep).is_empty()  # not even a warning: these ran
    return sweep.workloads


@pytest.fixture(scope="module")
def ops(workloads: pl.DataFrame) -> pl.DataFrame:
    return folded(workloads)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return load_cluster(Path(__file__).parents[1], "dgx-h100-80gb-8xndr400")


def test_each_row_has_its_source(root: Path) -> None:
    text = (root / RECIPES).read_text(encoding="utf-8")
    _, _, rows = text.partition("\nrows:\n")
    said = re.findall(r"^  # (?:Megatron-LM|Bridge|The same of) .+\n  - ", rows, flags=re.MULTILINE)
    assert len(said) == len(yaml.safe_load(text)["rows"]) == 22


def test_the_documented_table_says_what_is_left_out(root: Path) -> None:
    text = (root / "docs/options.md").read_text(encoding="utf-8")
    part = text.split("## Public recipes")[1].split("## Not modelled")[0]
    assert f"`{RECIPES}`" in part
    assert part.count("\n| ") >= 7


# Layers of each stage, with those of multi-token prediction.
STAGES: dict[tuple[str, int], list[int]] = {
    ("deepseek_v3", 1024): [4] * 15 + [2],
    ("deepseek_v3", 256): [8] * 7 + [6],
    ("kimi_k2", 512): [4] * 15 + [1],
    ("mixtral_8x7B", 128): [8] * 4,
}


def test_layers_stand_where_the_recipes_put_them(workloads: pl.DataFrame, ops: pl.DataFrame) -> None:
    cores = ops.filter(op="core_attention", phase="forward")
    layers = cores.group_by("workload", "stage").agg(pl.col("repeats").sum()).sort("workload", "stage")
    for (model, world), wanted in STAGES.items():
        same = workloads.filter(model=model, world_size=world, moe_token_dispatcher_type="alltoall")
        (id_,) = same["workload"]
        assert layers.filter(workload=id_)["repeats"].to_list() == wanted


@pytest.mark.slow
def test_costs_of_rows_and_of_sections_agree(
    workloads: pl.DataFrame, ops: pl.DataFrame, cluster: Cluster
) -> None:
    found = costed(workloads, pl.DataFrame([cluster.values]))
    rows = cost(ops, with_constants(workloads, cluster.values)).workloads
    for name in ("iteration_seconds", "compute_seconds", "exposed_comm_seconds", "peak_memory_bytes"):
        assert found[name].to_list() == pytest.approx(rows[name].to_list(), rel=1e-11)
    mfu: list[Any] = found["causal_mfu"].to_list()
    assert all(0.05 < share < 0.6 for share in mfu)


def test_memory_is_explained(workloads: pl.DataFrame, cluster: Cluster) -> None:
    row = workloads.filter(model="olmoe_1B_7B")
    expected = costed(row, pl.DataFrame([cluster.values]))["activations_bytes"].item()
    assert metric(Ledger(row, cluster, {}), "activations_bytes").value == pytest.approx(expected, rel=1e-12)
