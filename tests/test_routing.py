"""Given routing: counts worked out by hand, against single copies dealt out, and conserved."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesweep.evaluate.files import write_costs
from moesweep.store.layout import Results
from moesweep.store.tablefile import read_table, write_table
from moesweep.study.routing import Routing, parsed, sent_between
from moesweep.trace.files import write_traces
from moesweep.trace.skewed_copies import by_tables_in, given_routing, loads
from moesweep.trace.skewed_programs import rank_programs
from naive_routing import Exchange, popularities, uneven_ops
from skewed import CHANGES, COPY, COUNTS, HERE, SKEWED, costs_of, measured, trace_by_hand
from small import DENSE, small


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
    row_bytes = 2 * 64 + 6 * 256 / 2  # 2h + 6f/etp
    # tokens 5, 15, 30, 50 end at 6, 25, 64 and 128: ep rank 1 has 103 copies, ep rank 0 25. A balanced rank
    # has 128 rows a layer. Stage 0 holds two micro-batches, stage 1 one.
    assert extra.to_list() == [2 * row_bytes * (52 + 206 - 2 * 128), row_bytes * 2 * (204 - 128)]


def test_no_expert_gets_more_than_every_token() -> None:
    """zipf 3 over 4 experts: shares 1, 1/8, 1/27, 1/64 of 1.1777; top-2 cuts the first to half of the copies.

    2 members of 32 tokens route 128 copies: 64, and of the other 64 the shares 1/8, 1/27, 1/64 over
    0.1777: 45.03, 13.34 and 5.63, each rounded up or down by where it ends among the experts.
    """
    row = small(routing="zipf(alpha=3,seed=7)").row(0, named=True)
    for _, layer in given_routing(row, HERE).group_by("layer"):
        copies = (layer["rows"] // row["etp"]).sort(descending=True).to_list()
        assert copies[0] == 64
        assert [abs(a - b) <= 1 for a, b in zip(copies[1:], (45, 13, 6), strict=True)] == [True] * 3
        assert sum(copies) == 128
    every = small(routing="zipf(alpha=3,seed=7)", moe_router_topk=4).row(0, named=True)
    assert set(given_routing(every, HERE)["rows"]) == {2 * 64}


# --- against the naive one -----------------------------------------------------------------------------
SIZES = CHANGES | {"shared sequences": {"cp": 2, "cp_comm_type": "a2a", "flash_attention": True}}


@pytest.mark.parametrize("capacity", [None, "1.25", "0.3"])
@pytest.mark.parametrize("name", SIZES)
def test_every_row_of_every_rank(tmp_path: Path, name: str, capacity: str | None) -> None:
    limit = None if capacity is None else Fraction(capacity)
    workload = small(**SIZES[name], routing=Routing("zipf", 1.1, 3, capacity=limit).text)
    row = workload.row(0, named=True)
    results = Results(tmp_path)
    write_traces(workload, results)
    ours = read_table(results.trace("ops", row["workload"]), "ops").drop("hbm_bytes").to_dicts()
    layers = {
        layer: Exchange(
            row, popularities("zipf", 1.1, 3, layer, row["num_experts"], row["moe_router_topk"]), limit
        )
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
    # The experts of a token differ: none gets more than every token of the group.
    tokens = ep * etp * row["seq_length"] // row["tp"]
    assert (routing["rows"] + routing["dropped"]).max() <= tokens  # type: ignore[operator]
    sent = sent_between(routing, ep, etp)
    assert sent["copies"].min() >= 0  # type: ignore[operator]
    arrives = sent.group_by("layer", "ep_rank").agg(pl.col("copies").sum() * etp).sort("layer", "ep_rank")
    computed = routing.group_by("layer", "ep_rank").agg(pl.col("rows").sum()).sort("layer", "ep_rank")
    assert arrives["copies"].to_list() == computed["rows"].to_list()
    leaves = sent.group_by("layer", "source").agg(pl.col("copies").sum())["copies"]
    assert leaves.max() <= copies  # type: ignore[operator]
    if routing["dropped"].sum() == 0:
        assert set(leaves) == {copies}
    each = loads(workload, by_tables_in(HERE)).group_by("layer").agg(pl.col("sent", "received").sum())
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
    write_costs(results, cluster())
    costs = read_table(results.costs, "costs")
    assert costs["workload"].to_list() == workloads["workload"].to_list()
    assert json.loads(json.dumps(costs["fits"].to_list())) == [True] * 3
