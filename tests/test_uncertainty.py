"""The band around a prediction and the constants known least, worked out by hand."""

from math import log

import polars as pl
import pytest

from moesweep.cost.uncertainty import UNCERTAIN, band, changes, farther_ends, regime
from moesweep.study.catalog_files import Constant


@pytest.mark.parametrize(
    ("kind", "world_size", "tp", "etp", "ep", "expected"),
    [
        ("moe", 64, 4, 2, 4, "moe_inside"),
        ("moe", 64, 4, 3, 4, "moe_across"),
        ("moe", 64, 16, 1, 9, "moe_across"),
        ("dense", 64, 16, 1, 1, "tp_across"),
        ("dense", 16, 8, 1, 1, "dense_across"),
        ("dense", 8, 8, 1, 1, "dense_inside"),
    ],
)
def test_a_regime_is_what_crosses_nodes(
    kind: str, world_size: int, tp: int, etp: int, ep: int, expected: str
) -> None:
    row = {"kind": kind, "world_size": world_size, "tp": tp, "etp": etp, "ep": ep, "gpus_per_node": 8.0}
    assert pl.DataFrame([row]).select(**regime()).item() == expected


def test_a_band_divides_and_multiplies_and_stays_above_the_peak() -> None:
    """10 s with a spread of a quarter below and a half above: 10/1.25 and 10 · 1.5; 9 s at the GPU's peak."""
    spreads = {
        f"band_{name}_{end}_spread": log(3)
        for name in ("dense_inside", "dense_across", "tp_across", "moe_inside", "moe_across")
        for end in ("low", "high")
    }
    spreads |= {"band_tp_across_low_spread": log(1.25), "band_tp_across_high_spread": log(1.5)}
    row = {"regime": "tp_across", "iteration_seconds": 10.0, "causal_mfu": 0.5} | spreads
    found = pl.DataFrame([row, row | {"causal_mfu": 0.9}]).select(**band())
    assert found["iteration_seconds_low"].to_list() == pytest.approx([8.0, 9.0])
    assert found["iteration_seconds_high"].to_list() == pytest.approx([15.0, 15.0])


def test_the_end_farther_from_a_value() -> None:
    ends = {"low": (3.0, 1.0, 4.0), "high": (3.0, 2.0, 5.0), "alike": (3.0, 2.0, 4.0)}
    of_names = dict.fromkeys(UNCERTAIN, "alike") | {UNCERTAIN[0]: "low", UNCERTAIN[1]: "high"}
    constants = {
        name: Constant(value, "1", "assumed", "a test", low, high, "a file")
        for name, which in of_names.items()
        for value, low, high in (ends[which],)
    }
    found = farther_ends(constants)
    assert (found[UNCERTAIN[0]], found[UNCERTAIN[1]], found[UNCERTAIN[2]]) == (1.0, 5.0, 4.0)


def test_shares_of_an_iteration_the_largest_first() -> None:
    costs = pl.DataFrame({"workload": ["b", "a"], "iteration_seconds": [2.0, 4.0]})
    moved = pl.DataFrame({"workload": ["a", "b"]}).with_columns(
        **{name: pl.Series([4.0, 2.0]) for name in UNCERTAIN} | {UNCERTAIN[3]: pl.Series([3.0, 2.5])}
    )
    rows = changes(costs, moved).select("workload", "constant", "share").rows()
    assert len(rows) == 2 * len(UNCERTAIN)
    # 2.5 of 2 s is a quarter more, 3 of 4 s a quarter less; workloads in their own order
    assert rows[0] == ("b", UNCERTAIN[3], 0.25)
    assert rows[len(UNCERTAIN)] == ("a", UNCERTAIN[3], -0.25)
    assert {share for *_, share in rows[1 : len(UNCERTAIN)]} == {0.0}
