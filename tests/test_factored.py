"""The factored form against the row form: the same declarations, the same numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costing import cluster, constants
from moesweep.cost.fold import fold, layers_of
from moesweep.cost.model import cost, with_constants
from moesweep.cost.skewed_ranks import fullest_ranks
from moesweep.cost.uncertainty import UNCERTAIN
from moesweep.evaluate.costs import batch_of, constants_frame, costed, moved_seconds
from moesweep.shapes.distinct import Codes, coded, distinct, joined
from moesweep.store.tablefile import dtypes
from moesweep.study.sweep import load_sweep
from moesweep.trace.programs import folded
from moesweep.trace.skewed_copies import given_routing
from moesweep.trace.skewed_programs import busiest, rank_programs
from small import DENSE, small
from varied import VARIED

COLUMNS = list(dtypes("costs"))
MOE = ("moe", "forward")


def frame_of(cases: dict[str, dict[str, Any]]) -> pl.DataFrame:
    return pl.concat(small(**case).with_columns(workload=pl.lit(id_)) for id_, case in cases.items())


def assert_equal(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    assert found["workload"].to_list() == expected["workload"].to_list()
    for name in COLUMNS[1:]:
        left, right = found[name].to_list(), expected[name].to_list()
        words = dtypes("costs")[name] in (pl.Enum, pl.String)
        assert left == (right if words else pytest.approx(right, rel=1e-11, abs=1e-12)), name


def by_rows(workloads: pl.DataFrame, values: dict[str, float]) -> pl.DataFrame:
    return cost(folded(workloads), with_constants(workloads, values)).workloads.select(COLUMNS)


def test_workloads_that_differ_in_every_option() -> None:
    workloads, values = frame_of(VARIED), cluster().values
    assert_equal(costed(workloads, pl.DataFrame([values])).select(COLUMNS), by_rows(workloads, values))


STEPPED: dict[str, dict[str, Any]] = {
    "dense layers first": {"first_k_dense": 2, "num_layers": 8, "virtual_pipeline": 2},
    "heavy first stage": {"first_k_dense": 1, "pp": 4, "ffn_hidden_size": 4096, "world_size": 32},
    "three chunks": {"virtual_pipeline": 3, "num_layers": 12, "first_k_dense": 5, "global_batch_size": 64},
    "many micro-batches": {"num_layers": 7, "pp": 4, "world_size": 32, "global_batch_size": 512},
    "sliced messages": DENSE
    | {"framework": "megatron-lm", "sequence_parallel": False, "virtual_pipeline": 2},
}


def test_pipelines_whose_chunks_differ() -> None:
    workloads, values = frame_of(STEPPED), cluster().values
    assert_equal(costed(workloads, pl.DataFrame([values])).select(COLUMNS), by_rows(workloads, values))


def test_both_shipped_sweeps(root: Path) -> None:
    for name in ("moe-a100-123", "dense-a100-184"):
        workloads, values = load_sweep(root, f"config/sweeps/{name}.yaml").workloads, cluster().values
        assert_equal(costed(workloads, pl.DataFrame([values])).select(COLUMNS), by_rows(workloads, values))


SKEWED: dict[str, dict[str, Any]] = {
    "zipf": {"routing": "zipf(alpha=1,seed=1)"},
    "dropping": {
        "routing": "zipf(alpha=1.2,seed=2,capacity=1.25)",
        "num_experts": 8,
        "ep": 4,
        "world_size": 32,
    },
    "dense first": {"routing": "lognormal(sigma=0.7,seed=0)", "first_k_dense": 1, "num_layers": 8, "pp": 4},
    "interleaved": {"routing": "zipf(alpha=1,seed=3)", "virtual_pipeline": 2, "num_layers": 8},
    "whole experts": {"routing": "zipf(alpha=0.4,seed=3)", "etp": 1, "ep": 4},
    "full": {
        **{"routing": "zipf(alpha=1,seed=1)", "recompute": "full", "pp": 1},
        **{"moe_router_dtype": "fp32", "moe_permute_fusion": True},
    },
    "together": {
        **{"routing": "zipf(alpha=1,seed=1)", "recompute": "full", "recompute_num_layers": 3},
        **{"first_k_dense": 1, "num_layers": 8},
    },
    "blocks": {
        **{"routing": "zipf(alpha=1,seed=1)", "recompute": "full", "recompute_method": "block"},
        **{"num_layers": 8, "virtual_pipeline": 2, "mtp_num_layers": 1},
    },
    "modules": {
        **{"routing": "zipf(alpha=1,seed=1)", "recompute": "selective", "first_k_dense": 1},
        "recompute_modules": "layernorm+mlp+moe",
    },
    "windows and experts apart": {
        **{"routing": "zipf(alpha=1,seed=1)", "moe_layer_freq": "[0,1,1,0,1,1]", "num_layers": 6},
        **{"window_size": "[15,0]", "window_attn_skip_freq": "2"},
    },
    "predicting": {"routing": "lognormal(sigma=0.7,seed=0)", "mtp_num_layers": 1},
}


def test_given_routing_beside_even_ones() -> None:
    workloads, values = frame_of(SKEWED | {"even": {}, "dense": DENSE}), cluster().values
    found = costed(workloads, pl.DataFrame([values])).select(COLUMNS)
    skewed = frame_of(SKEWED)
    programs = busiest(rank_programs(skewed, Path()))
    routed = pl.concat(
        given_routing(row, Path()).with_columns(workload=pl.lit(row["workload"]))
        for row in skewed.iter_rows(named=True)
    )
    rows = cost(
        fold(programs),
        with_constants(skewed, values),
        fullest_ranks(programs, routed),
        layers_of(programs, skewed),
    )
    expected = [rows.workloads.select(COLUMNS), by_rows(frame_of({"even": {}, "dense": DENSE}), values)]
    assert_equal(found, pl.concat(expected))


def test_several_clusters_in_one_batch() -> None:
    names = ["dgx-a100-80gb-8xhdr200", "a100-80gb-pcie"]
    clusters = [cluster(name) for name in names]
    workloads = frame_of(VARIED)
    both = pl.concat(workloads.with_columns(cluster=pl.lit(name)) for name in names)
    mixed = both[np.random.default_rng(0).permutation(both.height)]
    found = costed(mixed, constants_frame(clusters)).hstack(mixed.select("cluster"))
    for each in clusters:
        here = found.filter(cluster=each.name).sort("workload").select(COLUMNS)
        assert_equal(here, by_rows(workloads.sort("workload"), each.values))


@settings(max_examples=4)
@given(
    changes=st.dictionaries(st.sampled_from(sorted(cluster().values)), st.floats(0.5, 2.0), max_size=4),
    names=st.lists(st.sampled_from(sorted(VARIED)), min_size=1, max_size=4, unique=True),
)
def test_any_constants(changes: dict[str, float], names: list[str]) -> None:
    values = {name: value * changes.get(name, 1.0) for name, value in constants().items()}
    values["gpus_per_node"] = cluster().values["gpus_per_node"]
    workloads = frame_of({name: VARIED[name] for name in names})
    assert_equal(costed(workloads, pl.DataFrame([values])).select(COLUMNS), by_rows(workloads, values))


@pytest.mark.slow
@pytest.mark.endurance
def test_a_moved_constant_moves_what_a_full_costing_says() -> None:
    workloads, here = frame_of(VARIED), cluster()
    moved = moved_seconds(workloads, [here])
    for name in UNCERTAIN:
        constant = here.constants[name]
        far = (
            constant.low if constant.value - constant.low > constant.high - constant.value else constant.high
        )
        expected = by_rows(workloads, here.values | {name: far})["iteration_seconds"]
        assert moved[name].to_list() == pytest.approx(expected.to_list(), rel=1e-11), name


def test_one_workload_costs_as_much_alone_as_among_others() -> None:
    workloads = frame_of(VARIED).gather_every(5)
    together = costed(workloads, constants_frame([cluster()]))
    alone = pl.concat(costed(each, constants_frame([cluster()])) for each in workloads.iter_slices(1))
    for name in dtypes("costs"):
        if dtypes("costs")[name].is_float():
            assert together[name].to_list() == pytest.approx(alone[name].to_list(), rel=1e-12), name


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.sampled_from("abc"), st.booleans()), min_size=1, max_size=50)
)
def test_distinct_rows_are_those_that_differ(rows: list[tuple[int, str, bool]]) -> None:
    frame = pl.DataFrame(rows, schema=["number", "word", "truth"], orient="row")
    found = distinct(joined((coded(frame[name]) for name in frame.columns), frame.height))
    assert len(found.first) == len(set(rows))
    assert [rows[found.first[index]] for index in found.index] == rows
    assert all(rows.index(rows[at]) == at for at in found.first)


def test_codes_of_many_wide_columns_stay_countable() -> None:
    rng = np.random.default_rng(0)
    columns = [Codes(rng.integers(0, 1 << 40, 1000), 1 << 40) for _ in range(8)]
    assert len(distinct(joined(columns, 1000)).first) == 1000


def test_a_batch_declares_the_ops_that_some_workload_of_it_has() -> None:
    alone = {"plain": {"num_shared_experts": 0}}
    named = [
        {op.op.name for op in batch_of(frame_of(cases), constants_frame([cluster()])).declared(MOE).ops}
        for cases in (alone, alone | {"shared": {"num_shared_experts": 64}})
    ]
    assert {"router", "moe_dispatch", "attention_output"} <= named[0]
    assert {"shared_fc1", "shared_fc2", "shared_sum"} <= named[1] - named[0]
    assert all(name.startswith("shared_") for name in named[1] - named[0])
    assert not {name for name in named[1] if name.startswith(("fused_", "mtp_", "q_"))}


@pytest.mark.parametrize(
    "values", [[None, "a", "b", "a"], [None, 0.5, 2.0, 0.5], [None, 1, 3, 1], [None, False, True, False]]
)
def test_nothing_is_a_value_like_any_other(values: list[Any]) -> None:
    """Told apart from the smallest one, too."""
    found = coded(pl.Series(values))
    assert (found.of.tolist(), found.size) == ([0, 1, 2, 1], 3)
