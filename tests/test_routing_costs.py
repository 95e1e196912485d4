"""What given routing costs and sends, and that balanced routing stays what it was."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest

from moesweep.store.layout import TRACE_TABLES, Results
from moesweep.store.tablefile import read_table
from moesweep.trace.files import write_traces
from moesweep.trace.skewed_copies import given_routing
from moesweep.traffic.files import read_matrix
from moesweep.traffic.messages import Placed
from sampled import sampled
from skewed import CHANGES, COPY, COUNTS, HERE, SKEWED, costs_of, measured, seconds, trace_by_hand
from small import DENSE, small
from varied import VARIED


# --- balanced stays -------------------------------------------------------------------------------------
def test_a_balanced_trace_is_the_same_beside_a_skewed_one(tmp_path: Path) -> None:
    balanced, skewed = small(), small(ep=4, routing=SKEWED)
    write_traces(balanced, Results(tmp_path / "alone"))
    write_traces(pl.concat([skewed, balanced, small(**DENSE)]), Results(tmp_path / "both"))
    for table in TRACE_TABLES:
        alone, both = (
            Results(tmp_path / name).trace(table, balanced["workload"][0]).read_bytes()
            for name in ("alone", "both")
        )
        assert alone == both


ROUTED = [
    name
    for name, changes in VARIED.items()
    if name.startswith("moe")
    and not changes.keys() & {"moe_token_dispatcher_type", "moe_expert_capacity_factor"}
]
"""Workloads that may have a given routing."""


@pytest.mark.parametrize("name", sampled(ROUTED, 3))
def test_zipf_0_costs_what_balanced_does(name: str) -> None:
    numbers = cs.numeric()
    even = costs_of(small(**VARIED[name])).workloads.select(numbers)
    flat = costs_of(small(**VARIED[name], routing="zipf(alpha=0,seed=5)")).workloads.select(numbers)
    for column in even.columns:
        assert flat[column].to_list() == pytest.approx(even[column].to_list(), rel=1e-12), column


def test_a_skewed_trace_is_at_most_five_times_as_large(tmp_path: Path) -> None:
    # 13B on 128 GPUs, as the sweep has it.
    real = {
        **{"world_size": 128, "tp": 2, "pp": 4, "ep": 16, "num_experts": 16, "num_layers": 40},
        **{"hidden_size": 5120, "ffn_hidden_size": 20480, "num_attention_heads": 40, "num_query_groups": 40},
        **{"seq_length": 2048, "micro_batch_size": 2, "global_batch_size": 4096, "vocab_size": 50257},
    }

    def size(name: str, **changes: Any) -> int:
        write_traces(small(**real, **changes), Results(tmp_path / name))
        return sum(file.stat().st_size for file in (tmp_path / name).rglob("*.parquet"))

    assert size("skewed", routing=SKEWED) <= 5 * size("balanced")


# --- costs ----------------------------------------------------------------------------------------------
WIDE = {"ep": 4, "num_experts": 16, "hidden_size": 1024, "seq_length": 1024, "ffn_hidden_size": 4096}


def test_costs_rise_with_skew() -> None:
    found = [costs_of(small(**WIDE, routing=f"zipf(alpha={alpha},seed=1)")) for alpha in (0, 0.5, 1, 1.5)]
    for column in ("iteration_seconds", "ep_comm_seconds", "etp_comm_seconds", "compute_seconds"):
        values = [each.workloads[column][0] for each in found]
        assert values == sorted(values)
        assert values[-1] > 1.2 * values[0]
    flops = [each.workloads["model_flops"][0] for each in found]
    assert flops == pytest.approx([flops[0]] * 4)  # the model needs what it needs
    limited = seconds(small(**WIDE, routing="zipf(alpha=1.5,seed=1,capacity=1)"))
    assert limited < found[-1].workloads["iteration_seconds"][0]


@pytest.mark.parametrize("capacity", ["1.25", "0.5", "0.01"])
def test_what_is_dropped_is_no_work_of_the_model(capacity: str) -> None:
    workload = small(**WIDE, moe_router_topk=4, routing=f"zipf(alpha=1.5,seed=1,capacity={capacity})")
    counts = given_routing(workload.row(0, named=True), HERE)
    kept = counts["rows"].sum() / (counts["rows"].sum() + counts["dropped"].sum())
    assert kept < 0.9
    whole = costs_of(small(**WIDE, moe_router_topk=4))
    experts = whole.ops.filter(kind="grouped_gemm", phase="forward")
    once = (experts["flops"] * experts["repeats"] * experts["num_microbatches"]).sum()
    (row,) = costs_of(workload).workloads.to_dicts()
    needed = whole.workloads["model_flops"][0] - 3 * once / row["pp"] * (1 - kept)
    assert row["model_flops"] == pytest.approx(needed)
    assert row["mfu"] < 1


def test_expert_seconds_by_hand(tmp_path: Path) -> None:
    """The busiest rank has 102/64 of the mean copies: its exchange takes as many times the seconds."""
    changes = {"node_all_to_all_2_bytes_per_second": 1e9}
    workload = small(routing=measured(tmp_path, COUNTS))
    uneven, even = (costs_of(each, tmp_path, **changes).ops for each in (workload, small()))
    for op, ratio in (("moe_dispatch", 102 / 64), ("expert_gather", 102 / 64), ("expert_sort", 102 / 64)):
        mine, other = (each.filter(op=op, phase="forward", stage=0)["seconds"][0] for each in (uneven, even))
        assert mine == pytest.approx(ratio * other)


def test_layers_of_different_load_have_kinds_of_their_own() -> None:
    ops = costs_of(small(routing=SKEWED)).ops
    kinds = set(ops["layer_kind"].drop_nulls())
    assert all(kind.startswith("moe ") for kind in kinds)
    assert ops.filter(op="router", phase="forward")["repeats"].sum() == 4


# --- traffic --------------------------------------------------------------------------------------------
def test_traffic_by_hand(tmp_path: Path) -> None:
    results, id_ = trace_by_hand(tmp_path)
    matrix = read_matrix(results, id_, Placed(8)).filter(group_kind="ep", phase="forward")
    # Rank 0 dispatches 13 copies to rank 2 and gives 51 back, rank 2 dispatches 51 and gives 13 back: two
    # layers, 8 micro-batches.
    found = matrix.filter(pl.col("src").is_in([0, 2])).select("src", "dst", "bytes").rows()
    assert found == [(0, 2, 8 * 2 * COPY * (13 + 51)), (2, 0, 8 * 2 * COPY * (51 + 13))]


@pytest.mark.parametrize("capacity", ["", ",capacity=0.7"])
@pytest.mark.parametrize("name", ["base", "top-1 of 8", "full", "etp 1", "odd"])
def test_rows_of_the_matrix_sum_to_the_wire_bytes(tmp_path: Path, name: str, capacity: str) -> None:
    workload = small(**CHANGES[name], routing=f"zipf(alpha=1.3,seed=2{capacity})")
    results, id_ = Results(tmp_path), workload["workload"][0]
    write_traces(workload, results)
    matrix = read_matrix(results, id_, Placed(8))
    key = ("rank", "group_kind", "phase")
    sent = matrix.rename({"src": "rank"}).group_by(key).agg(pl.col("bytes").sum())
    wire = (pl.col("wire_bytes") * pl.col("num_microbatches")).sum().alias("bytes")
    ops = read_table(results.trace("ops", id_), "ops").group_by(key).agg(wire).filter(pl.col("bytes") > 0)
    assert sent.select(*key, "bytes").sort(key).rows() == ops.sort(key).rows()
    # What is dispatched comes back: forward, everybody sends to each what it gets from it.
    cells = matrix.filter(group_kind="ep", phase="forward").select("src", "dst", "bytes").rows()
    flows = Counter({(src, dst): size for src, dst, size in cells})
    assert all(flows[dst, src] == size for (src, dst), size in flows.items())
