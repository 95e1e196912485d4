"""Given routing: counts worked out by hand, against single copies dealt out, conserved, and costed."""

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costing import constants
from moesweep.cost.files import write_costs
from moesweep.cost.fold import fold
from moesweep.cost.given import fullest_ranks
from moesweep.cost.model import Costs, cost, with_constants
from moesweep.layout import TRACE_TABLES, Results
from moesweep.routing import Routing, parsed, sent_between
from moesweep.tablefile import read_table, write_table
from moesweep.trace.files import write_traces
from moesweep.trace.loads import given_routing, loads
from moesweep.trace.programs import folded
from moesweep.trace.uneven import busiest, rank_programs
from moesweep.traffic.files import read_matrix
from naive_routing import Exchange, popularities, uneven_ops
from small import DENSE, VARIED, small

SKEWED = "zipf(alpha=1.2,seed=7)"
HERE = Path()


def table_file(folder: Path, counts: list[list[int]], name: str = "mine.parquet") -> str:
    """Write a measured table with one list of tokens a layer; return its path from the folder."""
    rows = [
        {"layer": layer, "expert": expert, "tokens": tokens}
        for layer, row in enumerate(counts)
        for expert, tokens in enumerate(row)
    ]
    pl.DataFrame(rows, schema=dict.fromkeys(("layer", "expert", "tokens"), pl.Int64)).write_parquet(
        folder / name
    )
    return name


def measured(folder: Path, counts: list[list[int]], capacity: str = "") -> str:
    """Return the text of a routing measured so."""
    name = table_file(folder, counts)
    return Routing("table", file=name, capacity=Fraction(capacity) if capacity else None).text


def costs_of(workload: pl.DataFrame, root: Path = HERE, **changes: float) -> Costs:
    described = with_constants(workload, constants(**changes))
    row = workload.row(0, named=True)
    if row["routing"] == "balanced":
        return cost(folded(workload), described)
    programs = busiest(rank_programs(workload, root))
    routing = given_routing(row, root).with_columns(workload=pl.lit(row["workload"]))
    return cost(fold(programs), described, fullest_ranks(programs, routing))


def seconds(workload: pl.DataFrame, **changes: float) -> float:
    return float(costs_of(workload, **changes).workloads["iteration_seconds"][0])


# --- by hand --------------------------------------------------------------------------------------------
# 16 ranks, tp = etp = pp = ep = edp = 2, 4 experts, top-2, 64 tokens, hidden 64. A rank has 32 tokens, so 64
# copies; the two members of an EP group 128. Tokens 50, 30, 15, 5 end at 64, 102, 121 (.6 dropped) and 128:
# 64, 38, 19 and 7 copies. ep rank 0 has 102 of them, ep rank 1 has 26; etp doubles the rows.
COUNTS = [[50, 30, 15, 5]] * 4
COPY = 128  # bytes of a copy


def trace_by_hand(tmp_path: Path, capacity: str = "") -> tuple[Results, str]:
    workload = small(routing=measured(tmp_path, COUNTS, capacity))
    results = Results(tmp_path / "results")
    write_traces(workload, results, tmp_path)
    return results, workload["workload"][0]


def of_layer(results: Results, id_: str, rank: int, phase: str = "forward") -> dict[str, dict[str, Any]]:
    rows = read_table(results.trace("ops", id_), "ops").filter(rank=rank, phase=phase, layer=0)
    return {row["op"]: row for row in rows.iter_rows(named=True)}


def test_rows_by_hand(tmp_path: Path) -> None:
    results, id_ = trace_by_hand(tmp_path)
    routing = read_table(results.trace("routing", id_), "given_routing").filter(layer=0)
    assert routing["rows"].to_list() == [128, 76, 38, 14]
    assert routing["ep_rank"].to_list() == [0, 0, 1, 1]
    assert routing["share"].to_list() == [64 / 128, 38 / 128, 19 / 128, 7 / 128]
    assert routing["dropped"].sum() == 0


@pytest.mark.parametrize(
    ("rank", "copies", "sent_away", "received_from_others"), [(0, 102, 13, 51), (2, 26, 51, 13)]
)
def test_ops_of_a_rank_by_hand(
    tmp_path: Path, rank: int, copies: int, sent_away: int, received_from_others: int
) -> None:
    """Of ep rank 0's 102 copies each member sends every second: 51, of ep rank 1's 26 each sends 13."""
    results, id_ = trace_by_hand(tmp_path)
    forward, backward = (of_layer(results, id_, rank, phase) for phase in ("forward", "backward"))
    out, back = (64 * COPY, sent_away * COPY), (copies * COPY, received_from_others * COPY)
    for ops, name, wanted in (
        (forward, "moe_dispatch", out),
        (forward, "moe_combine", back),
        (backward, "moe_combine", out),
        (backward, "moe_dispatch", back),
    ):
        assert (ops[name]["comm_bytes"], ops[name]["wire_bytes"]) == wanted
    rows = 2 * copies
    assert (forward["expert_fc1"]["m"], forward["expert_fc1"]["groups"]) == (rows, 2)
    assert backward["expert_fc1_wgrad"]["k"] == rows
    assert forward["expert_fc1"]["flops"] == 2 * rows * 128 * 64
    assert forward["expert_gather"]["comm_bytes"] == rows * COPY
    assert forward["expert_scatter"]["wire_bytes"] == rows * COPY // 2
    assert forward["permute"]["hbm_bytes"] == 2 * 64 * COPY


def test_the_program_is_that_of_the_busiest_rank(tmp_path: Path) -> None:
    results, id_ = trace_by_hand(tmp_path)
    program = read_table(results.trace("programs", id_), "programs").filter(layer=0)
    assert program.filter(op="expert_fc1")["m"].item() == 204
    exchanged = program.filter(collective="all_to_all")
    # Dispatched copies are 64 everywhere, but 102 arrive: the exchange waits for them.
    assert exchanged.select("comm_bytes", "wire_bytes").unique().rows() == [(102 * COPY, 51 * COPY)]
    assert exchanged.height == 4


def test_capacity_by_hand(tmp_path: Path) -> None:
    """⌈1.25 · 64 / 4⌉ = 20 copies from each member: expert 0 keeps 40 of 64, all others stay."""
    results, id_ = trace_by_hand(tmp_path, "1.25")
    routing = read_table(results.trace("routing", id_), "given_routing").filter(layer=0)
    assert routing["rows"].to_list() == [80, 76, 38, 14]
    assert routing["dropped"].to_list() == [48, 0, 0, 0]
    sent = sent_between(routing, ep=2, etp=2).sort("source", "ep_rank")
    assert sent["copies"].to_list() == [20 + 19, 13, 20 + 19, 13]
    assert of_layer(results, id_, 0)["moe_dispatch"]["comm_bytes"] == 52 * COPY
    assert of_layer(results, id_, 0)["permute"]["hbm_bytes"] == 2 * 52 * COPY


def test_memory_is_that_of_the_rank_with_most_rows_over_its_layers(tmp_path: Path) -> None:
    """The busy ep rank changes from layer 0 to layer 1, so that in stage 0 both have 204 + 52 rows."""
    away, here = [5, 15, 30, 50], COUNTS[0]
    workload = small(routing=measured(tmp_path, [here, away, here, here]))
    memory, even = (costs_of(each, tmp_path).memory.sort("stage") for each in (workload, small()))
    extra = memory["activations_bytes"] - even["activations_bytes"]
    row_bytes = 2 * 64 + 4 * 256 / 2  # 2h + 4f/etp
    # tokens 5, 15, 30, 50 end at 6, 25, 64 and 128: ep rank 1 has 103 copies, ep rank 0 25. A balanced rank
    # has 128 rows a layer. Stage 0 holds two micro-batches, stage 1 one.
    assert extra.to_list() == [2 * row_bytes * (52 + 206 - 2 * 128), row_bytes * 2 * (204 - 128)]


# --- against the naive one ------------------------------------------------------------------------------
CHANGES: dict[str, dict[str, Any]] = {
    "base": {},
    "no tp": VARIED["moe, no tp"],
    "no ep": VARIED["moe, no ep"],
    "etp 1": VARIED["moe, whole experts beside cut attention"],
    "etp 4": VARIED["moe, etp wider than tp"],
    "top-1 of 8": VARIED["moe, top-1 of 8"] | {"ep": 4},
    "full": VARIED["moe, full"],
    "interleaved": VARIED["moe, interleaved"],
    "odd": {"ep": 3, "num_experts": 12, "world_size": 12, "global_batch_size": 24, "seq_length": 70, "pp": 1},
    "gated": VARIED["moe, gated and grouped queries"],
}


@pytest.mark.parametrize("capacity", [None, "1.25", "0.3"])
@pytest.mark.parametrize("name", CHANGES)
def test_every_row_of_every_rank(tmp_path: Path, name: str, capacity: str | None) -> None:
    limit = None if capacity is None else Fraction(capacity)
    workload = small(**CHANGES[name], routing=Routing("zipf", 1.1, 3, capacity=limit).text)
    row = workload.row(0, named=True)
    results = Results(tmp_path)
    write_traces(workload, results)
    ours = read_table(results.trace("ops", row["workload"]), "ops").drop("hbm_bytes").to_dicts()
    layers = {
        layer: Exchange(row, popularities("zipf", 1.1, 3, layer, row["num_experts"]), limit)
        for layer in range(row["num_layers"])
    }
    theirs = uneven_ops(row, layers)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == {key: other[key] for key in mine}
    routing = read_table(results.trace("routing", row["workload"]), "given_routing")
    for (layer,), part in routing.group_by("layer"):
        exchange = layers[layer]  # type: ignore[index]
        assert part.sort("expert")["rows"].to_list() == [row["etp"] * n for n in exchange.kept]
        assert part.sort("expert")["dropped"].to_list() == [row["etp"] * n for n in exchange.dropped]


# --- conserved ------------------------------------------------------------------------------------------
@st.composite
def skewed_workloads(draw: st.DrawFn) -> pl.DataFrame:
    ep, tp = draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.sampled_from([1, 2, 4]))
    experts = ep * draw(st.integers(1, 4))
    form = draw(st.sampled_from(["zipf", "lognormal"]))
    factor = draw(st.none() | st.fractions(Fraction(1, 100), 4, max_denominator=100))
    factor = None if factor is None else Fraction(str(float(factor)))
    number = draw(st.floats(0, 8, allow_nan=False))
    routing = Routing(form, number, draw(st.integers(0, 2**53 - 1)), capacity=factor)
    return small(
        world_size=ep * tp * 2,
        tp=tp,
        ep=ep,
        global_batch_size=4 * ep,
        num_experts=experts,
        num_layers=2,
        seq_length=tp * draw(st.integers(1, 40)),
        moe_router_topk=draw(st.integers(1, experts)),
        routing=routing.text,
    )


@settings(max_examples=60, deadline=None)
@given(skewed_workloads())
def test_copies_are_conserved(workload: pl.DataFrame) -> None:
    row = workload.row(0, named=True)
    ep, etp = row["ep"], row["etp"]
    copies = row["moe_router_topk"] * row["seq_length"] // row["tp"]
    routing = given_routing(row, HERE)
    assert (
        routing.group_by("layer").agg((pl.col("rows") + pl.col("dropped")).sum()).to_series(1)
    ).to_list() == [ep * etp * copies] * 2
    assert routing["rows"].min() >= 0  # type: ignore[operator]
    assert routing["dropped"].min() >= 0  # type: ignore[operator]
    sent = sent_between(routing, ep, etp)
    assert sent["copies"].min() >= 0  # type: ignore[operator]
    arrives = sent.group_by("layer", "ep_rank").agg(pl.col("copies").sum() * etp).sort("layer", "ep_rank")
    computed = routing.group_by("layer", "ep_rank").agg(pl.col("rows").sum()).sort("layer", "ep_rank")
    assert arrives["copies"].to_list() == computed["rows"].to_list()
    leaves = sent.group_by("layer", "source").agg(pl.col("copies").sum())["copies"]
    assert leaves.max() <= copies  # type: ignore[operator]
    if routing["dropped"].sum() == 0:
        assert set(leaves) == {copies}
    each = loads(workload, HERE).group_by("layer").agg(pl.col("sent", "received").sum())
    assert each["sent"].to_list() == each["received"].to_list()


@settings(max_examples=15, deadline=None)
@given(skewed_workloads())
def test_every_byte_sent_is_received(workload: pl.DataFrame) -> None:
    """Per EP group and layer, all exchanges together: bytes leaving their rank forward and backward agree."""
    program = rank_programs(workload, HERE).filter(pl.col("collective") == "all_to_all")
    name, wire = pl.col("op"), pl.col("wire_bytes").sum()
    totals = program.group_by("layer", "phase", name, maintain_order=True).agg(wire)
    for (_,), part in totals.group_by("layer"):
        assert part["wire_bytes"].n_unique() == 1


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


@pytest.mark.parametrize("name", [name for name in VARIED if name.startswith("moe")])
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
def test_costs_rise_with_skew() -> None:
    wide = {"ep": 4, "hidden_size": 1024, "seq_length": 1024, "ffn_hidden_size": 4096}
    found = [costs_of(small(**wide, routing=f"zipf(alpha={alpha},seed=1)")) for alpha in (0, 0.5, 1, 2)]
    for column in ("iteration_seconds", "ep_comm_seconds", "etp_comm_seconds", "compute_seconds"):
        values = [each.workloads[column][0] for each in found]
        assert values == sorted(values)
        assert values[-1] > 1.2 * values[0]
    flops = [each.workloads["model_flops"][0] for each in found]
    assert flops == pytest.approx([flops[0]] * 4)  # the model needs what it needs
    limited = seconds(small(**wide, routing="zipf(alpha=2,seed=1,capacity=1)"))
    assert limited < found[-1].workloads["iteration_seconds"][0]


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
    matrix = read_matrix(results, id_).filter(group_kind="ep", phase="forward")
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
    matrix = read_matrix(results, id_)
    key = ("rank", "group_kind", "phase")
    sent = matrix.rename({"src": "rank"}).group_by(key).agg(pl.col("bytes").sum())
    wire = (pl.col("wire_bytes") * pl.col("num_microbatches")).sum().alias("bytes")
    ops = read_table(results.trace("ops", id_), "ops").group_by(key).agg(wire).filter(pl.col("bytes") > 0)
    assert sent.select(*key, "bytes").sort(key).rows() == ops.sort(key).rows()
    # What is dispatched comes back: forward, everybody sends to each what it gets from it.
    cells = matrix.filter(group_kind="ep", phase="forward").select("src", "dst", "bytes").rows()
    flows = Counter({(src, dst): size for src, dst, size in cells})
    assert all(flows[dst, src] == size for (src, dst), size in flows.items())


# --- texts and files ------------------------------------------------------------------------------------
def test_a_text_says_all() -> None:
    for routing in (
        Routing("zipf", 1.2, 7, capacity=Fraction("1.25")),
        Routing("lognormal", 0.5),
        Routing("table", file="config/routing/a.parquet", digest="0123456789abcdef"),
    ):
        assert parsed(routing.text) == routing
    assert Routing("zipf", 1.0, 7, capacity=Fraction(5, 4)).text == "zipf(alpha=1,seed=7,capacity=1.25)"


def test_seeds_and_layers_differ() -> None:
    row = small(num_experts=16, ep=4).row(0, named=True)
    rows = [given_routing(row | {"routing": f"lognormal(sigma=1,seed={seed})"}, HERE) for seed in (1, 1, 2)]
    assert rows[0].equals(rows[1])
    assert not rows[0].equals(rows[2])
    layers = rows[0].partition_by("layer", include_key=False)
    assert not layers[0].equals(layers[1])


def test_costs_are_written_and_read(tmp_path: Path) -> None:
    from costing import cluster

    results = Results(tmp_path)
    workloads = pl.concat([small(routing=SKEWED, ep=4), small(), small(**DENSE)])
    write_table(workloads, results.workloads, "workloads")
    write_traces(workloads, results)
    write_costs(results, cluster(), {})
    costs = read_table(results.costs, "costs")
    assert costs["workload"].to_list() == workloads["workload"].to_list()
    assert json.loads(json.dumps(costs["fits"].to_list())) == [True] * 3
