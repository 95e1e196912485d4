"""No kind of communication is costed below what its bytes take on a network card, stage by stage."""

from pathlib import Path

import polars as pl
import pytest

from costing import ROOT, cluster
from moesweep.cost.model import Costs, cost, with_constants
from moesweep.shapes.parallelism import groups, ranks
from moesweep.study.sweep import enumerate_sweep
from moesweep.trace.programs import folded, programs
from moesweep.traffic.matrices import leaves_node, rank_matrix
from moesweep.traffic.messages import Placed

KINDS = ("tp", "etp", "ep", "dp", "edp", "pp")
NODE = 8


def busiest(workload: pl.DataFrame) -> pl.DataFrame:
    """The bytes that a stage's busiest network card sends, or gets, by kind."""
    row = workload.row(0, named=True)
    members = ranks(row)
    matrix = rank_matrix(programs(workload), groups(row), members, Placed(NODE)).filter(leaves_node(NODE))
    # A message is waited for where it arrives.
    ends = {"src": matrix.filter(pl.col("group_kind") != "pp"), "dst": matrix}
    loads = [
        rows.join(members.select(pl.col("rank").alias(end), "stage"), on=end)
        .group_by("stage", "group_kind", pl.col(end).alias("card"))
        .agg(pl.col("bytes").sum())
        for end, rows in ends.items()
    ]
    return (
        pl.concat(loads)
        .group_by("stage", pl.col("group_kind").cast(pl.String))
        .agg(pl.col("bytes").max())
        .filter(pl.col("group_kind").is_in(KINDS))
        .with_columns(workload=pl.lit(row["workload"]))
    )


def costed(found: Costs, workloads: pl.DataFrame) -> pl.DataFrame:
    """The seconds of each kind on each stage in an iteration."""
    m = pl.col("num_microbatches")
    stages = found.stages.join(workloads.select("workload", "num_microbatches"), on="workload")
    each = [
        stages.select(
            "workload",
            "stage",
            group_kind=pl.lit(kind),
            seconds=m * pl.col(f"{kind}_comm") + pl.col(f"tail_{kind}_comm"),
        )
        for kind in KINDS
    ]
    return pl.concat(each)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sweep", "crossing"),
    [
        # What a ring in the order of ranks would need exceeds the cost for every tp and etp here.
        ("moe-a100-123", {"tp": 20, "etp": 14, "ep": 36, "dp": 53, "edp": 12, "pp": 51}),
        ("dense-a100-184", {"tp": 6, "dp": 16, "pp": 15}),
    ],
)
def test_no_kind_is_faster_than_its_network_card(sweep: str, crossing: dict[str, int]) -> None:
    """The smallest workload of every tp, pp and ep of a sweep; `crossing` counts those that leave nodes."""
    everything = enumerate_sweep(ROOT, Path(f"config/sweeps/{sweep}.yaml")).sort("world_size")
    found = everything.unique(["tp", "pp", "ep"], keep="first", maintain_order=True)
    described = with_constants(found, cluster().values)
    seconds = pl.concat(
        costed(cost(folded(found[i : i + 64]), described[i : i + 64]), found[i : i + 64])
        for i in range(0, found.height, 64)
    )
    bounds = pl.concat(busiest(found[i]) for i in range(found.height))
    line = cluster().value("nic_bytes_per_second")
    both = bounds.join(seconds, on=["workload", "stage", "group_kind"], how="left").with_columns(
        share=pl.col("bytes") / line / pl.col("seconds")
    )
    counted = dict(both.group_by("group_kind").agg(pl.col("workload").n_unique()).iter_rows())
    assert counted == crossing
    assert both.filter(~(pl.col("share") <= 1)).is_empty()
    # Not far below either: the bounds are of these costs.
    assert both["share"].max() > 0.6  # type: ignore[operator]
