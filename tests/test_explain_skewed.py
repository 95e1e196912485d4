"""Explanations of given routing: every root is the table's value, every node its formula's."""

from fractions import Fraction
from functools import cache
from pathlib import Path

import polars as pl
import pytest

from explained import agrees, everything_below
from moesweep.edge.problems import BadInput
from moesweep.evaluate.programs import programs_of
from moesweep.explain.ledger import QUANTITIES, Ledger
from moesweep.explain.metrics import cost_metrics, metric
from moesweep.study.routing import Routing
from skewed import CHANGES, COPY, COUNTS, costs_of, measured
from small import small
from test_explain import BAND, cluster
from varied import VARIED

CASES: dict[str, tuple[dict[str, object], str | None]] = {
    **{name: (changes, None) for name, changes in CHANGES.items()},
    **{f"{name}, {factor}": (CHANGES[name], factor) for name, factor in [("base", "0.3"), ("gated", "1.25")]},
    "leading dense": ({"pp": 4, "num_layers": 8, "first_k_dense": 3}, None),
    "full, capacity": ({**VARIED["moe, full"], "hidden_size": 1024, "seq_length": 512}, "1.1"),
}
"""What is changed of the small workload, and its capacity factor."""


def workload(name: str) -> pl.DataFrame:
    changes, factor = CASES[name]
    capacity = None if factor is None else Fraction(factor)
    return small(**changes, routing=Routing("zipf", 1.1, 3, capacity=capacity).text)


@cache
def ledger(name: str) -> Ledger:
    return Ledger(workload(name), cluster(), {})


LONG = (
    "odd",
    "no tp",
    "etp 1",
    "base",
    "base, 0.3",
    "interleaved",
    "full",
    "gated",
    "gated, 1.25",
    "etp 4",
    "no ep",
)
"""Cases that are tried outside of CI: what is theirs alone, other tests explain without skew."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow, pytest.mark.endurance] if name in LONG else [])
        for name in CASES
    ],
)
def test_every_cost_metric_is_the_tables_value_and_its_formulas(name: str) -> None:
    row = costs_of(workload(name), **cluster().values).workloads.row(0, named=True)
    for column in cost_metrics():
        if column in BAND:
            continue
        node = metric(ledger(name), column)
        assert node.value == row[column], column
        assert agrees(node), column
    tree = [*everything_below(metric(ledger(name), "mfu"))]
    assert [node.key for node in tree if not agrees(node)] == []
    # The numbers of the routing itself are at the bottom.
    assert {"sent", "received"} & {node.name for node in tree if node.origin} or "no ep" in name


@pytest.mark.parametrize("name", list(CASES)[::3])
def test_every_op_and_every_part_of_memory_has_an_explanation(name: str) -> None:
    table, memory = ledger(name).ops, ledger(name).memory
    costed = costs_of(workload(name), **cluster().values)
    for number in range(0, table.frame.height, 7):
        row = table.frame[number]
        for column in ("seconds", *QUANTITIES):
            node = table.column(row, column)
            assert node.value == costed.ops[column][number]
            assert agrees(node), (row["op"][0], column)
    for row in costed.memory.iter_rows(named=True):
        for part in ("weights", "gradients", "optimizer", "activations", "peak_memory"):
            node = metric(ledger(name), f"stage:{row['stage']}:{part}_bytes")
            assert node.value == row[f"{part}_bytes"]
            assert [below.key for below in everything_below(node) if not agrees(below)] == []
    assert memory.frame.height == costed.memory.height


def test_the_band_is_that_of_its_formulas() -> None:
    for name in BAND:
        node = metric(ledger("base, 0.3"), name)
        assert all(agrees(below) for below in (node, *node.children))
    low, high = (metric(ledger("base, 0.3"), name).value for name in BAND)
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert low < ledger("base, 0.3").costs.frame["iteration_seconds"][0] < high


# --- by hand (skewed.py says how) -----------------------------------------------------------------------
def by_hand(tmp_path: Path) -> Ledger:
    frame = small(routing=measured(tmp_path, COUNTS))
    return Ledger(frame, cluster(), {}, programs_of(frame, tmp_path))


def test_the_fullest_rank_by_hand(tmp_path: Path) -> None:
    book = by_hand(tmp_path)
    # ep rank 0 gets 102 copies, twice as many rows with both etp ranks; every rank sends 64.
    rows, sent = metric(book, "op:expert_fc1:forward:m"), metric(book, "op:moe_dispatch:forward:comm_bytes")
    assert (rows.value, sent.value) == (204, 102 * COPY)
    assert [child.value for child in rows.children] == [204, 52]
    assert rows.children[0].where == "ep rank 0 in layer 2"
    received = {node.where: node for node in everything_below(sent) if node.name == "received"}
    assert {place: node.value for place, node in received.items()} == {
        "ep rank 0 in layer 2": 102,
        "ep rank 1 in layer 2": 26,
    }
    assert all("table(file=mine.parquet" in str(node.origin) for node in received.values())


def test_activations_are_those_of_the_rank_with_most_rows(tmp_path: Path) -> None:
    below = everything_below(metric(by_hand(tmp_path), "activations_bytes"))
    (rows,) = (node for node in below if node.name == "mean_rows" and "ep rank" not in node.where)
    assert (rows.value, rows.where) == (204, "stage 0")
    assert [child.value for child in rows.children] == [204, 52]


def test_mfu_counts_the_mean_rows(tmp_path: Path) -> None:
    below = everything_below(metric(by_hand(tmp_path), "mfu"))
    assert {node.value for node in below if node.name == "computed_rows"} == {128}


# --- which layer ----------------------------------------------------------------------------------------
def test_an_op_that_differs_from_layer_to_layer_is_named_by_one() -> None:
    book = ledger("base")
    with pytest.raises(BadInput) as raised:
        metric(book, "op:expert_fc1:forward:m")
    assert "op:expert_fc1:forward:layer=2:m" in raised.value.problems[0].suggestion
    shares = book.programs.loads.group_by("layer").agg(most=2 * pl.col("received").max())
    for layer, most in shares.iter_rows():
        node = metric(book, f"op:expert_fc1:forward:layer={layer}:m")
        assert node.value == most
        assert node.where.startswith(f"stage {layer // 2}, forward of a moe layer of load ")
    with pytest.raises(BadInput):
        metric(book, "op:expert_fc1:forward:layer=4:m")
    assert metric(book, "op:expert_fc1:forward:moe:layer=1:n").value == 128
