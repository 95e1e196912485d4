"""Costs of whole iterations: the host's pace, what hides, price and rates; the same digits in any company."""

import os
import subprocess
import sys
from typing import Any

import polars as pl
import pytest

from costing import ROOT, constants, costs, seconds
from moesweep.cost.fold import KEY, fold
from moesweep.cost.model import cost, with_constants
from moesweep.trace.programs import folded, programs
from sampled import sampled
from small import small
from varied import VARIED
from wide import MOE, WIDE


def test_host_sets_the_pace_of_small_layers() -> None:
    found = costs(WIDE, host_seconds=1.0, host_backward_ratio=0.5, tp_skew_seconds=0.01).workloads.row(
        0, named=True
    )
    # two micro-batches; forward 4 collectives of 3 peers, backward 6 (4 all_gathers and 2 reduce_scatters)
    assert found["compute_seconds"] + found["exposed_comm_seconds"] == pytest.approx(
        2 * (1 + 0.01 * 3 * 4 + 0.5 + 0.01 * 3 * 6), rel=1e-2
    )


def test_host_launches_a_layer_with_experts_for_longer() -> None:
    """With biases more for each expert of the rank: of 4 over ep 4 one, over ep 2 two."""
    host = {"host_seconds": 1.0, "host_experts_seconds": 3.0, "host_expert_seconds": 0.5}
    host |= {"host_backward_ratio": 0.5, "host_2021_seconds": 2.0, "host_2021_backward_ratio": 0.25}

    def pass_seconds(**changes: Any) -> list[float]:
        passes = costs(MOE | {"add_bias_linear": True} | changes, **host).passes.filter(
            pl.col("layer_kind") == "moe"
        )
        return passes["seconds"].unique(maintain_order=True).to_list()

    assert pass_seconds() == pytest.approx([4.5, 2.25])
    assert pass_seconds(add_bias_linear=False) == pytest.approx([4.0, 2.0])
    assert pass_seconds(ep=2) == pytest.approx([5.0, 2.5])
    assert pass_seconds(framework="megatron-lm") == pytest.approx([5.5, 1.375])
    # what is recomputed is launched again, before gradients are
    assert pass_seconds(recompute="full") == pytest.approx([4.5, 2.25 + 4.5])


def test_graphs_take_launches_from_the_host() -> None:
    """3 s of attention and MLP, 4 more of experts: each as far as graphs hold it; a dense layer's at once."""
    host = {"host_seconds": 3.0, "host_experts_seconds": 4.0, "host_backward_ratio": 0.5}
    whole = {"moe_expert_capacity_factor": 1.0, "moe_pad_expert_input_to_capacity": True}

    def forward(kind: str, **changes: Any) -> float:
        base = (MOE | whole if kind == "moe" else WIDE) | {"cuda_graph_impl": "local"}
        passes = costs(base | changes, **host).passes.filter(layer_kind=kind)
        first, second = passes["seconds"].unique(maintain_order=True).to_list()
        assert second == pytest.approx(first / 2, rel=1e-2, abs=0.1)
        return float(first)

    quick = pytest.approx(0, abs=0.1)
    assert forward("moe", cuda_graph_impl="none") == pytest.approx(7)
    assert forward("moe") == quick
    assert forward("moe", cuda_graph_scope="attn+moe_router") == pytest.approx(4)
    assert forward("moe", cuda_graph_scope="moe") == pytest.approx(3)
    assert forward("dense", cuda_graph_scope="attn") == pytest.approx(3)
    assert forward("dense", cuda_graph_scope="attn+mlp") == forward("dense") == quick


def test_blocking_launches_add_up() -> None:
    free = costs(WIDE).workloads["iteration_seconds"].item()
    bound = costs(WIDE | {"blocking_launches": True}, host_seconds=1.0, host_backward_ratio=1.0)
    # a second more for each of the two passes of two micro-batches through one layer
    assert bound.workloads["iteration_seconds"].item() == pytest.approx(free + 4)


def test_backward_collectives_hide_behind_gemms() -> None:
    slow = {"node_bus_4_bytes_per_second": 1e9}
    shown = costs(WIDE, **slow)
    hidden = costs(WIDE, **slow, tp_overlap=0.5)
    # qkv, fc1 and logits: half of what their data- and weight-gradient GEMMs last, as they are shorter
    gemms = [f"{linear}_{kind}" for linear in ("qkv", "fc1", "logits") for kind in ("dgrad", "wgrad")]
    saved = 2 * 0.5 * sum(seconds(shown, gemm, "backward") for gemm in gemms)
    before, after = (found.workloads["exposed_comm_seconds"].item() for found in (shown, hidden))
    assert before - after == pytest.approx(saved)
    assert shown.workloads["tp_comm_seconds"].item() == hidden.workloads["tp_comm_seconds"].item()


def test_price_and_throughput() -> None:
    found = costs(WIDE).workloads.row(0, named=True)
    rate = 2 * 1024 / 4 / found["iteration_seconds"]
    assert found["tokens_per_second_per_gpu"] == pytest.approx(rate)
    assert found["gpu_hours_per_billion_tokens"] == pytest.approx(1e9 / rate / 3600)
    assert found["usd_per_billion_tokens"] == pytest.approx(2e9 / rate / 3600)


def test_model_flops_are_three_forward_passes() -> None:
    found = costs(WIDE | {"recompute": "full", "vocab_size": 512}).workloads.row(0, named=True)
    tokens, h, f, s = 1024, 1024, 4096, 1024
    layer = 2 * tokens * (4 * h * h + 2 * h * f) + 4 * tokens * s * h
    forward = layer + 2 * tokens * h * 512
    per_gpu = 2 * 3 * forward / 4
    assert found["model_flops_per_second_per_gpu"] * found["iteration_seconds"] == pytest.approx(per_gpu)


def test_adam_moves_what_its_row_says_at_a_share_of_its_own() -> None:
    # 4 x 1024^2/4 + 2 x 1024 x 4096/4 + 4 x 1024 a layer, the table, positions, the final norm; alone on dp
    table = 1024 // 4 * 1024
    owned = 1024**2 + 2 * 1024**2 + 4 * 1024 + table + 1024**2 + 2 * 1024
    found = costs(WIDE, adam_hbm_fraction=0.5, elementwise_hbm_fraction=0.25)
    row = found.ops.filter(pl.col("op") == "adam").row(0, named=True)
    # gradient, master weight, two moments in: 16; the last three out: 12; the 16-bit weight: 2
    assert row["hbm_bytes"] == 30 * owned
    assert row["seconds"] == pytest.approx(30 * owned / (0.5 * 1e12))
    assert found.workloads["optimizer_seconds"].item() == row["seconds"]


@pytest.mark.parametrize("name", sampled(VARIED, 2))
def test_the_parts_add_up(name: str) -> None:
    found = costs(VARIED[name], host_seconds=1e-5, p2p_latency_seconds=1e-5).workloads.row(0, named=True)
    parts = ("compute_seconds", "exposed_comm_seconds", "bubble_seconds", "optimizer_seconds")
    assert sum(found[part] for part in parts) == pytest.approx(found["iteration_seconds"])
    assert found["bubble_seconds"] >= 0
    assert all(found[f"{kind}_comm_seconds"] >= 0 for kind in ("tp", "etp", "ep", "dp", "edp", "pp", "other"))
    memory = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "workspace_bytes")
    assert sum(found[part] for part in memory) == pytest.approx(found["peak_memory_bytes"])


@pytest.mark.parametrize("seq_length", [64, 128, 192, 256, 320, 384, 448, 512])
def test_without_a_pipeline_no_rounding_makes_a_bubble_negative(seq_length: int) -> None:
    found = costs({"pp": 1, "seq_length": seq_length}).workloads.row(0, named=True)
    assert 0 <= found["bubble_seconds"] < 1e-12 * found["iteration_seconds"]
    assert found["bubble_fraction"] >= 0


@pytest.mark.parametrize("name", sampled(VARIED, 3))
def test_programs_fold_to_what_predictions_use(name: str) -> None:
    """The sweep folds programs read from files, a prediction folds them from the start: the same rows."""
    workloads = small(**VARIED[name])
    ours, theirs = fold(programs(workloads)), folded(workloads)
    columns = [column for column in ours.columns if column in theirs.columns]
    assert ours.select(columns).sort(KEY).equals(theirs.select(columns).sort(KEY))


@pytest.mark.slow
def test_the_number_of_threads_moves_no_digit() -> None:
    """Sums of many columns and of long groups are what threads would share out."""
    study = """
from costing import cluster
from moesweep.cost.model import cost, with_constants
from moesweep.study.sweep import enumerate_sweep
from moesweep.trace.programs import folded
from pathlib import Path
workloads = enumerate_sweep(Path(), "config/sweeps/moe-a100-123.yaml")
frame = cost(folded(workloads), with_constants(workloads, cluster().values)).workloads
print(*frame.iter_rows(), sep=chr(10))
"""
    tests = {"PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("tests", "workflow"))}
    printed = {
        subprocess.run(
            [sys.executable, "-c", study],
            cwd=ROOT,
            env=os.environ | tests | {"POLARS_MAX_THREADS": threads},
            capture_output=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "3")
    }
    assert len(printed) == 1


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, pytest.param(5, marks=pytest.mark.endurance), 11])
def test_a_workload_costs_to_the_last_bit_the_same_alone_and_among_others(place: int) -> None:
    varied = [small(**changes).with_columns(workload=pl.lit(name)) for name, changes in VARIED.items()]
    together, alone = (
        cost(folded(each), with_constants(each, constants())).workloads
        for each in (pl.concat(varied), varied[place])
    )
    assert alone.equals(together.filter(pl.col("workload") == varied[place]["workload"][0]))
