"""Who works with whom: ranks, their coordinates, the communicators they form and the nodes they stand on.

A rank has two sets of coordinates, both mixed-radix numbers with the first axis varying fastest (DESIGN
section 3):

    dense   rank = tp + TP * (cp + CP * (dp + DP * pp))
    expert  rank = etp + ETP * (ep + EP * (edp + EDP * pp))

The pipeline stage is the same in both, because TP * CP * DP = ETP * EP * EDP. As in Megatron's RankGenerator,
an order of axes and a mask derive every communicator: ranks that agree on all axes outside the mask form one
group, and the axes inside the mask, read as a number, are a member's position.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import polars as pl

from moesweep.shapes.communication import EXPERT_KINDS, GROUP_KINDS, STEPS_OF_CP
from moesweep.shapes.placement import prediction_stage, stage_of_prediction

DENSE_ORDER = ("tp", "cp", "dp", "pp")
EXPERT_ORDER = ("etp", "ep", "edp", "pp")
_STEPS_ORDER = ("tp", "cp_a2a", "cp_p2p", "dp", "pp")
"""The dense axes where cp is two: neighbours exchange heads (Megatron `create_hierarchical_groups`)."""

_MASKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "tp": (DENSE_ORDER, ("tp",)),
    "etp": (EXPERT_ORDER, ("etp",)),
    "ep": (EXPERT_ORDER, ("ep",)),
    # Ranks of one sequence have the same parameters as those of other sequences: gradients go over both.
    "dp": (DENSE_ORDER, ("cp", "dp")),
    "edp": (EXPERT_ORDER, ("edp",)),
    "pp": (DENSE_ORDER, ("pp",)),
    "tp_ep": (EXPERT_ORDER, ("etp", "ep")),
    # Of the pipeline's group the first stage, and the last one or that of multi-token prediction.
    "embedding": (DENSE_ORDER, ("pp",)),
    "world": (DENSE_ORDER, DENSE_ORDER),
    "model": (DENSE_ORDER, ("tp", "pp")),
    "expert_model": (EXPERT_ORDER, ("etp", "ep", "pp")),
    "cp": (DENSE_ORDER, ("cp",)),
    "tp_cp": (DENSE_ORDER, ("tp", "cp")),
    "tp_cp_dp": (DENSE_ORDER, ("tp", "cp", "dp")),
    "cp_a2a": (_STEPS_ORDER, ("cp_a2a",)),
    "cp_p2p": (_STEPS_ORDER, ("cp_p2p",)),
}
_AXES = {"cp_p2p": pl.col("cp") // pl.col("cp_a2a")}
"""Axes that no column has."""

_COORDINATE_COLUMNS = {
    "stage": (DENSE_ORDER, "pp"),
    "tp_rank": (DENSE_ORDER, "tp"),
    "dp_rank": (DENSE_ORDER, "dp"),
    "etp_rank": (EXPERT_ORDER, "etp"),
    "ep_rank": (EXPERT_ORDER, "ep"),
    "edp_rank": (EXPERT_ORDER, "edp"),
    "cp_rank": (DENSE_ORDER, "cp"),
}
GPUS_PER_NODE = 8
"""DGX A100. Ranks fill nodes in order."""


def dp_size() -> pl.Expr:
    """Ranks over which batches are split: world_size / (tp * cp * pp)."""
    return pl.col("world_size") // (pl.col("tp") * pl.col("cp") * pl.col("pp"))


def edp_size() -> pl.Expr:
    """Ranks over which experts are replicated: world_size / (etp * ep * pp)."""
    return pl.col("world_size") // (pl.col("etp") * pl.col("ep") * pl.col("pp"))


def ranks(workload: Mapping[str, Any]) -> pl.DataFrame:
    """One row per rank: its coordinates on every axis, and its group's id of every kind.

    Columns rank, stage, {tp,dp,etp,ep,edp,cp}_rank, {kind}_group for every kind of GROUP_KINDS, all i64.
    Group ids count from 0 within a kind, in the order of the groups' smallest ranks; embedding_group is -1 on
    stages without a table that others share.
    """
    frame = pl.DataFrame({"rank": range(workload["world_size"])}, schema={"rank": pl.Int64})
    sizes = _with_steps(workload)
    return frame.select(
        "rank",
        *(_coordinate(order, axis, sizes).alias(name) for name, (order, axis) in _COORDINATE_COLUMNS.items()),
        *(_group_id(kind, sizes).alias(f"{kind}_group") for kind in GROUP_KINDS),
    )


def _with_steps(workload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a workload with both steps in which cp ranks share sequences; of one step 1 and cp."""
    exchanging = workload.get("cp_a2a", 1)
    return {**workload, "cp_a2a": exchanging, "cp_p2p": workload["cp"] // exchanging}


def groups(workload: Mapping[str, Any]) -> pl.DataFrame:
    """One row per member of every communicator: group_kind, group_id, group_size, position, rank.

    Groups of one rank are left out, and so are a dense workload's expert groups, and those that it does not
    use (`used_kinds`). Ordered by kind (GROUP_KINDS), id and position. Ids are those of `ranks`.
    """
    everyone, sizes = ranks(workload), _with_steps(workload)
    kinds = [kind for kind in used_kinds(workload) if workload["num_experts"] or kind not in EXPERT_KINDS]
    return pl.concat([_members(everyone, kind, sizes) for kind in kinds])


def used_kinds(workload: Mapping[str, Any]) -> list[str]:
    """Return GROUP_KINDS without those over which a workload would balance experts, or share sequences.

    A loss counts tokens over `tp_cp`, one of global batches and biases over `tp_cp_dp`; only two steps share
    sequences over STEPS_OF_CP. Who says nothing has none of these.
    """
    loss = workload.get("moe_router_load_balancing_type", "none")
    over = {
        "tp_cp": loss in ("aux_loss", "seq_aux_loss"),
        "tp_cp_dp": loss == "global_aux_loss" or workload.get("moe_router_enable_expert_bias", False),
        **dict.fromkeys(STEPS_OF_CP, workload.get("cp_comm_type") == "a2a+p2p"),
    }
    return [kind for kind in GROUP_KINDS if over.get(kind, True)]


Runs = tuple[tuple[int, bool], ...]
"""How a kind's groups lie in the world: see `runs`."""


def runs(kind: str, workload: Mapping[str, Any]) -> Runs:
    """Return the axes of a kind's order, the fastest first: size, and whether members of a group differ.

    Axes of one are left out, and neighbours of which members differ alike are one axis: so kinds and
    workloads with the same runs have the same groups.
    """
    order, mask = _MASKS[kind]
    sizes = _with_steps(workload)
    found: list[tuple[int, bool]] = []
    for axis in order:
        size, inside = sizes[axis], axis in mask
        if size > 1 and found and found[-1][1] == inside:
            found[-1] = (found[-1][0] * size, inside)
        elif size > 1:
            found.append((size, inside))
    return tuple(found)


def grouped(runs: Runs) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return the ranks of the groups that lie so, in the order of `groups`: groups × members."""
    sizes = [size for size, _ in runs]
    # The last axis of an array varies fastest.
    everyone = np.arange(prod(sizes)).reshape(sizes[::-1])
    inside = [axis for axis, (_, inside) in enumerate(runs[::-1]) if inside]
    outside = [axis for axis, (_, inside) in enumerate(runs[::-1]) if not inside]
    members = prod(size for size, inside in runs if inside)
    return everyone.transpose(outside + inside).reshape(-1, members)


@dataclass(frozen=True)
class Placement:
    """Where a kind's groups stand, as expressions over workload columns.

    size              ranks in a group
    stride            distance in rank order between neighbouring members
    members_per_node  the fewest members on a node that a group touches: as many rings cross nodes
    nodes             the most nodes that a group spans: everybody waits for it
    """

    size: pl.Expr
    stride: pl.Expr
    members_per_node: pl.Expr
    nodes: pl.Expr


def placement(kind: str, gpus_per_node: pl.Expr | int = GPUS_PER_NODE) -> Placement:
    """Size, stride and nodes of a kind's groups, over columns tp, cp, dp, pp, etp, ep, edp."""
    size, stride, runs = extent(kind)
    world = _product([pl.col(axis) for axis in DENSE_ORDER])
    return Placement(size, stride, *standing(size, stride, world, gpus_per_node, runs))


def extent(kind: str) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Size and stride (Placement) of a kind's groups, over the same columns, and the runs that they are of.

    A group that leaves out an axis between its own (`model`: cp, dp) is a run of ranks in each of pp stages.
    """
    order, mask = _MASKS[kind]
    size = _product([_AXES.get(axis, pl.col(axis)) for axis in mask])
    stride = _product([_AXES.get(axis, pl.col(axis)) for axis in order[: order.index(mask[0])]])
    if kind == "embedding":
        stride = stride * pl.max_horizontal(prediction_stage, 1)
        size = pl.min_horizontal(size, 2)
    return size, stride, pl.col("pp") if kind in ("model", "expert_model") else pl.lit(1, pl.Int64)


def standing(
    size: pl.Expr,
    stride: pl.Expr,
    world_size: pl.Expr,
    gpus_per_node: pl.Expr | int,
    runs: pl.Expr = pl.lit(1, pl.Int64),
    unit: pl.Expr | None = None,
) -> tuple[pl.Expr, pl.Expr]:
    """Return `members_per_node` and `nodes` (Placement) of groups of n ranks, S apart, on nodes of G GPUs.

    Groups begin at every place of a node that n·S and G allow: at multiples of g = gcd(n·S, G), and up to
    S - 1 further on. So one spans the nodes of (n-1)·S + 1 ranks from place G - g + min(S, g) - 1 on, and
    where it crosses nodes, one of them holds g/S members, at least 1. All groups of a kind stand alike
    where n·S and G divide one another, as powers of two do. (In a world of few groups none may stand that
    badly.) Several runs of ranks, evenly spread over the world, are so many groups, of which as many share a
    node as fit; exact under the same condition. `unit` is g where a frame has it already.
    """
    unit = unit_of(size, stride, gpus_per_node, runs) if unit is None else unit
    size, apart = size // runs, world_size // runs
    node = gpus_per_node if isinstance(gpus_per_node, pl.Expr) else pl.lit(gpus_per_node, pl.Int64)
    last = node - unit + pl.min_horizontal(stride, unit) - 1 + (size - 1) * stride
    touched = pl.when(stride >= node).then(size).otherwise(last // node + 1)
    nodes = pl.min_horizontal(touched * runs, (world_size + node - 1) // node)
    crossing = pl.when(touched > 1).then(pl.max_horizontal(unit // stride, 1)).otherwise(size)
    shared = pl.min_horizontal(pl.max_horizontal(node // apart, 1), runs)
    return pl.when(nodes > 1).then(crossing * shared).otherwise(size * runs), nodes


def unit_of(size: pl.Expr, stride: pl.Expr, gpus_per_node: pl.Expr | int, runs: pl.Expr) -> pl.Expr:
    """Return g of `standing`. It is the largest part of that expression, which reads it several times."""
    node = gpus_per_node if isinstance(gpus_per_node, pl.Expr) else pl.lit(gpus_per_node, pl.Int64)
    return _common_divisor(size // runs * stride, node, gpus_per_node)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


_NODE_SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 18, 20, 24, 32, 36, 64, 72)


def _common_divisor(ranks: pl.Expr, node: pl.Expr, known: pl.Expr | int) -> pl.Expr:
    """Return the greatest common divisor of a number of ranks and a node's GPUs, where it is a node's size.

    Of two columns polars has no such function.
    """
    sizes = _NODE_SIZES if isinstance(known, pl.Expr) else _divisors(known)
    divisor = pl.lit(1, pl.Int64)
    for size in sizes[1:]:
        divides = (ranks % size == 0) & (node % size == 0)
        divisor = pl.when(divides).then(pl.lit(size, pl.Int64)).otherwise(divisor)
    return divisor


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
    return pl.when(stage.is_in([0, stage_of_prediction(sizes)])).then(number).otherwise(-1)


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
