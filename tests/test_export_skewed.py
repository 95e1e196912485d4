"""Exports of given routing: every rank's own program, the times of the rank that all others wait for."""

from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from export_workloads import CLUSTER, ROOT
from moesweep.catalog import load_cluster
from moesweep.cost.model import OF_THE_WORKLOAD, with_constants
from moesweep.cost.ops import timed
from moesweep.export.source import Traced, traced
from moesweep.export.unroll import executed, unrolled
from moesweep.layout import Results
from moesweep.parallelism import ranks
from moesweep.routing import Routing
from moesweep.trace.files import ops
from moesweep.trace.uneven import rank_programs
from naive_routing import Exchange, popularities, uneven_ops
from skewed import CHANGES, costs_of
from small import small

CASES = [(name, None) for name in CHANGES] + [("base", "0.3"), ("top-1 of 8", "1.25"), ("full", "0.5")]
EXCHANGE = pl.col("collective").eq_missing(pl.lit("all_to_all"))
LENGTH = (pl.col("end_nanoseconds") - pl.col("start_nanoseconds")).alias("length")


def workload(name: str, capacity: str | None = None) -> pl.DataFrame:
    limit = None if capacity is None else Fraction(capacity)
    return small(**CHANGES[name], routing=Routing("zipf", 1.1, 3, capacity=limit).text)


@cache
def skewed(name: str, capacity: str | None = None) -> Traced:
    (each,) = traced(workload(name, capacity), Results(Path("none")), load_cluster(ROOT, CLUSTER))
    return each


def naive_rows(row: dict[str, Any], capacity: str | None) -> pl.DataFrame:
    """Every op of every rank from copies dealt out one by one, none of it by the library's code."""
    limit = None if capacity is None else Fraction(capacity)
    layers = {
        layer: Exchange(row, popularities("zipf", 1.1, 3, layer, row["num_experts"]), limit)
        for layer in range(row["num_layers"])
    }
    return pl.DataFrame(uneven_ops(row, layers), infer_schema_length=None)


# --- the linear trace -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "capacity"), CASES)
def test_unrolled_sums_are_those_of_every_ranks_own_rows(name: str, capacity: str | None) -> None:
    found = (
        unrolled(skewed(name, capacity), None)
        .group_by("rank", "op_index", maintain_order=True)
        .agg(pl.col("op", "group_id").first(), pl.len().cast(pl.Int64), pl.sum("flops", "comm_bytes"))
        .sort("rank", "op_index")
        .collect()
    )
    naive = naive_rows(skewed(name, capacity).workload, capacity)
    times = pl.col("num_microbatches")
    wanted = naive.select(
        *("rank", "op_index", "op", "group_id"), len=times, flops=pl.col("flops") * times,
        comm_bytes=pl.col("comm_bytes") * times,
    )  # fmt: skip
    assert found.rows() == wanted.rows()


@pytest.mark.parametrize(("name", "capacity"), CASES)
def test_kernels_take_their_own_rows_seconds_and_exchanges_those_of_all(
    name: str, capacity: str | None
) -> None:
    frame, cluster = workload(name, capacity), load_cluster(ROOT, CLUSTER)
    rows = ops(rank_programs(frame, ROOT), ranks(frame.row(0, named=True)))
    described = with_constants(frame, cluster.values).rename(OF_THE_WORKLOAD).lazy()
    costed = timed(
        rows.drop("tp", "pp", "ep", "etp", "dp", "edp", strict=False).join(described, on="workload")
    )
    own = costed.select("rank", "op_index", own=(pl.col("seconds") * 1e9).round().cast(pl.Int64))
    found = (
        unrolled(skewed(name, capacity), None)
        .join(own, on=["rank", "op_index"])
        .join(executed(skewed(name, capacity)).lazy(), on=["stage", "step", "op_index"], suffix="_common")
        .with_columns(common=pl.col("end_nanoseconds_common") - pl.col("start_nanoseconds_common"))
        .collect()
    )
    assert found.height == unrolled(skewed(name, capacity), None).select(pl.len()).collect().item()
    assert (found["start_nanoseconds"] == found["start_nanoseconds_common"]).all()
    wanted = pl.when(EXCHANGE).then("common").otherwise("own")
    lengths = found.select(LENGTH, "common", "op", wanted=wanted)
    assert lengths["length"].to_list() == lengths["wanted"].to_list()
    assert lengths.filter(pl.col("length") > pl.col("common")).is_empty()
    shorter = lengths.filter(pl.col("length") < pl.col("common"))["op"].unique()
    if capacity is None:
        assert shorter.str.starts_with("expert_fc").any() == (frame["ep"][0] > 1)


@pytest.mark.parametrize(("name", "capacity"), CASES)
def test_the_last_op_ends_when_the_costs_say_that_the_iteration_does(name: str, capacity: str | None) -> None:
    values = load_cluster(ROOT, CLUSTER).values
    costed = costs_of(workload(name, capacity), ROOT, **values).workloads["iteration_seconds"][0]
    end = unrolled(skewed(name, capacity), None).select(pl.col("end_nanoseconds").max()).collect().item()
    assert end == pytest.approx(costed * 1e9, rel=0.02)
