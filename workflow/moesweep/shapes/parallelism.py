"""Who works with whom: ranks, their coordinates, the communicators they form and the nodes they stand on.

A rank has two sets of coordinates, both mixed-radix numbers with the first axis varying fastest (DESIGN
section 3):

    dense   rank = tp + TP * (dp + DP * pp)
    expert  rank = etp + ETP * (ep + EP * (edp + EDP * pp))

The pipeline stage is the same in both, because TP * DP = ETP * EP * EDP. As in Megatron's RankGenerator, an
order of axes and a mask derive every communicator: ranks that agree on all axes outside the mask form one
group, and the axes inside the mask, read as a number, are a member's position.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import polars as pl

from moesweep.shapes.communication import EXPERT_KINDS, GROUP_KINDS

DENSE_ORDER = ("tp", "dp", "pp")
EXPERT_ORDER = ("etp", "ep", "edp", "pp")

_MASKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "tp": (DENSE_ORDER, ("tp",)),
    "etp": (EXPERT_ORDER, ("etp",)),
    "ep": (EXPERT_ORDER, ("ep",)),
    "dp": (DENSE_ORDER, ("dp",)),
    "edp": (EXPERT_ORDER, ("edp",)),
    "pp": (DENSE_ORDER, ("pp",)),
    "tp_ep": (EXPERT_ORDER, ("etp", "ep")),
    # The pipeline's group with its middle stages left out.
    "embedding": (DENSE_ORDER, ("pp",)),
    "world": (DENSE_ORDER, ("tp", "dp", "pp")),
}
_COORDINATE_COLUMNS = {
    "stage": (DENSE_ORDER, "pp"),
    "tp_rank": (DENSE_ORDER, "tp"),
    "dp_rank": (DENSE_ORDER, "dp"),
    "etp_rank": (EXPERT_ORDER, "etp"),
    "ep_rank": (EXPERT_ORDER, "ep"),
    "edp_rank": (EXPERT_ORDER, "edp"),
}
GPUS_PER_NODE = 8
"""DGX A100. Ranks fill nodes in order."""


def dp_size() -> pl.Expr:
    """Ranks over which batches are split and dense parameters replicated: world_size / (tp * pp)."""
    return pl.col("world_size") // (pl.col("tp") * pl.col("pp"))


def edp_size() -> pl.Expr:
    """Ranks over which experts are replicated: world_size / (etp * ep * pp)."""
    return pl.col("world_size") // (pl.col("etp") * pl.col("ep") * pl.col("pp"))


def ranks(workload: Mapping[str, Any], gpus_per_node: int = GPUS_PER_NODE) -> pl.DataFrame:
    """One row per rank: its coordinates on every axis, its node, and its group's id of every kind.

    Columns rank, stage, {tp,dp,etp,ep,edp}_rank, node, {kind}_group for every kind of GROUP_KINDS, all i64.
    Group ids count from 0 within a kind, in the order of the groups' smallest ranks; embedding_group is -1 on
    middle stages.
    """
    frame = pl.DataFrame({"rank": range(workload["world_size"])}, schema={"rank": pl.Int64})
    return frame.select(
        "rank",
        *(
            _coordinate(order, axis, workload).alias(name)
            for name, (order, axis) in _COORDINATE_COLUMNS.items()
        ),
        (pl.col("rank") // gpus_per_node).alias("node"),
        *(_group_id(kind, workload).alias(f"{kind}_group") for kind in GROUP_KINDS),
    )


def groups(workload: Mapping[str, Any]) -> pl.DataFrame:
    """One row per member of every communicator: group_kind, group_id, group_size, position, rank.

    Groups of one rank are left out, and so are a dense workload's expert groups. Ordered by kind
    (GROUP_KINDS), id and position. Ids are those of `ranks`.
    """
    everyone = ranks(workload)
    kinds = [kind for kind in GROUP_KINDS if workload["num_experts"] > 0 or kind not in EXPERT_KINDS]
    return pl.concat([_members(everyone, kind, workload) for kind in kinds])


@dataclass(frozen=True)
class Placement:
    """Where a kind's group stands, as expressions over workload columns.

    size              ranks in a group
    stride            distance in rank order between neighbouring members
    members_per_node  members on the first node that the group touches
    nodes             nodes the group spans
    """

    size: pl.Expr
    stride: pl.Expr
    members_per_node: pl.Expr
    nodes: pl.Expr


def placement(kind: str, gpus_per_node: pl.Expr | int = GPUS_PER_NODE) -> Placement:
    """Size, stride and nodes of the group of rank 0, over columns tp, dp, pp, etp, ep, edp.

    With stride S and G GPUs a node: min(n, ceil(G/S)) members on the first node, and 1 + floor((n-1)*S / G)
    nodes, or n nodes where S >= G. All groups of a kind stand alike where n*S and G divide one another, as
    powers of two do.
    """
    order, mask = _MASKS[kind]
    node = gpus_per_node if isinstance(gpus_per_node, pl.Expr) else pl.lit(gpus_per_node, pl.Int64)
    size = _product([pl.col(axis) for axis in mask])
    stride = _product([pl.col(axis) for axis in order[: order.index(mask[0])]])
    if kind == "embedding":
        stride = stride * pl.max_horizontal(size - 1, 1)
        size = pl.min_horizontal(size, 2)
    members = pl.min_horizontal(size, (node + stride - 1) // stride)
    nodes = pl.when(stride >= node).then(size).otherwise((size - 1) * stride // node + 1)
    return Placement(size, stride, members, nodes)


def _product(factors: list[pl.Expr]) -> pl.Expr:
    return reduce(lambda a, b: a * b, factors, pl.lit(1, pl.Int64))


def _coordinate(order: tuple[str, ...], axis: str, sizes: Mapping[str, int]) -> pl.Expr:
    """A rank's coordinate on one axis of an order."""
    stride = 1
    for earlier in order[: order.index(axis)]:
        stride *= sizes[earlier]
    return pl.col("rank") // stride % sizes[axis]


def _number(order: tuple[str, ...], axes: tuple[str, ...], sizes: Mapping[str, int]) -> pl.Expr:
    """The chosen axes of a rank's coordinates, read as one mixed-radix number."""
    number, radix = pl.lit(0, pl.Int64), 1
    for axis in order:
        if axis in axes:
            number = number + _coordinate(order, axis, sizes) * radix
            radix *= sizes[axis]
    return number


def _group_id(kind: str, sizes: Mapping[str, int]) -> pl.Expr:
    order, mask = _MASKS[kind]
    number = _number(order, tuple(axis for axis in order if axis not in mask), sizes)
    if kind != "embedding":
        return number
    stage = _coordinate(order, "pp", sizes)
    return pl.when((stage == 0) | (stage == sizes["pp"] - 1)).then(number).otherwise(-1)


def _members(everyone: pl.DataFrame, kind: str, sizes: Mapping[str, int]) -> pl.DataFrame:
    """The rows of `groups` of one kind; none where its groups have one member."""
    order, mask = _MASKS[kind]
    size, position = prod(sizes[axis] for axis in mask), _number(order, mask, sizes)
    if kind == "embedding":
        size, position = min(size, 2), pl.min_horizontal(position, 1)
    return (
        everyone.filter((pl.col(f"{kind}_group") >= 0) & (size > 1))
        .select(
            pl.lit(kind).alias("group_kind"),
            pl.col(f"{kind}_group").alias("group_id"),
            pl.lit(size, pl.Int64).alias("group_size"),
            position.alias("position"),
            "rank",
        )
        .sort("group_id", "position")
    )
