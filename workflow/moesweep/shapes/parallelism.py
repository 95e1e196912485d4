"""Who works with whom: ranks, their coordinates and the communicators they form.

A rank has two sets of coordinates, both mixed-radix numbers with the first axis varying fastest (DESIGN
section 3):

    dense   rank = tp + TP * (cp + CP * (dp + DP * pp))
    expert  rank = etp + ETP * (ep + EP * (edp + EDP * pp))

The pipeline stage is the same in both, because TP * CP * DP = ETP * EP * EDP. With `use_tp_pp_dp_mapping` a
pipeline's stages stand side by side (Megatron: order tp-cp-ep-pp-dp), which is one order for both where the
tp * cp ranks of a stage that follow one another hold each expert once:

    dense   rank = tp + TP * (cp + CP * (pp + PP * dp))
    expert  rank = etp + ETP * (ep + EP * (pp + PP * edp))

As in Megatron's RankGenerator, an order of axes and a mask derive every communicator: ranks that agree on all
axes outside the mask form one group, and the axes inside the mask, read as a number, are a member's position.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import polars as pl

from moesweep.shapes.communication import EXPERT_KINDS, GROUP_KINDS, STEPS_OF_CP
from moesweep.shapes.placement import stage_of_prediction

STAGES_BESIDE = "use_tp_pp_dp_mapping"
"""The column that says whether a pipeline's stages stand before data-parallel ranks."""

DENSE, EXPERT = "dense", "expert"
_STEPS = ("cp_a2a", "cp_p2p")
"""What cp is of: neighbours exchange heads (Megatron `create_hierarchical_groups`)."""
_REPLICAS = ("edp_beside", "edp_apart")
"""What edp is of, where stages stand between: without experts more than one replica follow one another."""

_ORDERS: dict[bool, dict[str, tuple[str, ...]]] = {
    False: {DENSE: ("tp", *_STEPS, "dp", "pp"), EXPERT: ("etp", "ep", *_REPLICAS, "pp")},
    True: {DENSE: ("tp", *_STEPS, "pp", "dp"), EXPERT: ("etp", "ep", _REPLICAS[0], "pp", _REPLICAS[1])},
}
"""The axes of ranks, the fastest first, without STAGES_BESIDE and with it."""

MASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tp": (DENSE, ("tp",)),
    "etp": (EXPERT, ("etp",)),
    "ep": (EXPERT, ("ep",)),
    # Ranks of one sequence have the same parameters as those of other sequences: gradients go over both.
    "dp": (DENSE, ("cp", "dp")),
    "edp": (EXPERT, ("edp",)),
    "pp": (DENSE, ("pp",)),
    "tp_ep": (EXPERT, ("etp", "ep")),
    # Of the pipeline's group the first stage, and the last one or that of multi-token prediction.
    "embedding": (DENSE, ("pp",)),
    "world": (DENSE, ("tp", "cp", "dp", "pp")),
    "model": (DENSE, ("tp", "pp")),
    "expert_model": (EXPERT, ("etp", "ep", "pp")),
    "cp": (DENSE, ("cp",)),
    "tp_cp": (DENSE, ("tp", "cp")),
    "tp_cp_dp": (DENSE, ("tp", "cp", "dp")),
    "cp_a2a": (DENSE, ("cp_a2a",)),
    "cp_p2p": (DENSE, ("cp_p2p",)),
}
"""The set of coordinates that tells a kind's groups, and in which axes their members differ."""

_PARTS = {"cp": _STEPS, "edp": _REPLICAS}

_COORDINATES = {
    "stage": (DENSE, ("pp",)),
    "tp_rank": (DENSE, ("tp",)),
    "dp_rank": (DENSE, ("dp",)),
    "etp_rank": (EXPERT, ("etp",)),
    "ep_rank": (EXPERT, ("ep",)),
    "edp_rank": (EXPERT, ("edp",)),
    "cp_rank": (DENSE, ("cp",)),
}


def axes(coordinates: str, stages_beside: bool = False) -> tuple[str, ...]:
    """Return the axes of DENSE or EXPERT coordinates, the fastest first, each in one piece.

    Of edp the piece that stands apart tells where: with stages beside experts have no other.
    """
    whole = {_STEPS[0]: "cp", _STEPS[1]: "", _REPLICAS[0]: "", _REPLICAS[1]: "edp"}
    named = (whole.get(axis, axis) for axis in _ORDERS[stages_beside][coordinates])
    return tuple(axis for axis in named if axis)


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
    sizes = _with_parts(workload)
    return frame.select(
        "rank",
        *(_number(*coordinate, sizes).alias(name) for name, coordinate in _COORDINATES.items()),
        *(_group_id(kind, sizes).alias(f"{kind}_group") for kind in GROUP_KINDS),
    )


def _with_parts(workload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a workload with the sizes of _PARTS: cp of one step is 1 · cp, edp in one piece edp · 1."""
    w = workload
    exchanging, beside = w.get("cp_a2a", 1), w["edp"]
    if w.get(STAGES_BESIDE, False):
        beside = w["tp"] * w["cp"] // (w["etp"] * w["ep"])
    parts = (exchanging, w["cp"] // exchanging, beside, w["edp"] // beside)
    return {**w, **dict(zip((*_STEPS, *_REPLICAS), parts, strict=True))}


def _order(coordinates: str, workload: Mapping[str, Any]) -> tuple[str, ...]:
    return _ORDERS[bool(workload.get(STAGES_BESIDE, False))][coordinates]


def _in_parts(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for axis in names for part in _PARTS.get(axis, (axis,)))


def pipeline_stride(workload: Mapping[str, Any]) -> int:
    """Return how far apart the ranks of neighbouring stages stand, in ranks."""
    order, sizes = _order(DENSE, workload), _with_parts(workload)
    return prod(int(sizes[axis]) for axis in order[: order.index("pp")])


def stage_of(rank: pl.Expr, workload: Mapping[str, Any]) -> pl.Expr:
    """Return the stage of a rank."""
    return rank // pipeline_stride(workload) % int(workload["pp"])


def stages_on(rank: int, step: int, workload: Mapping[str, Any]) -> int:
    """Return the rank of a rank's pipeline some stages on, the first one after the last."""
    stride, pp = pipeline_stride(workload), int(workload["pp"])
    stage = rank // stride % pp
    return rank + ((stage + step) % pp - stage) * stride


def groups(workload: Mapping[str, Any]) -> pl.DataFrame:
    """One row per member of every communicator: group_kind, group_id, group_size, position, rank.

    Groups of one rank are left out, and so are a dense workload's expert groups, and those that it does not
    use (`used_kinds`). Ordered by kind (GROUP_KINDS), id and position. Ids are those of `ranks`.
    """
    everyone, sizes = ranks(workload), _with_parts(workload)
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
    coordinates, mask = MASKS[kind]
    sizes, inner = _with_parts(workload), _in_parts(mask)
    found: list[tuple[int, bool]] = []
    for axis in _order(coordinates, workload):
        size, inside = sizes[axis], axis in inner
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


def _coordinate(order: tuple[str, ...], axis: str, sizes: Mapping[str, int]) -> pl.Expr:
    """A rank's coordinate on one axis of an order."""
    stride = prod(sizes[earlier] for earlier in order[: order.index(axis)])
    return pl.col("rank") // stride % sizes[axis]


def _number(
    coordinates: str, mask: tuple[str, ...], sizes: Mapping[str, Any], inside: bool = True
) -> pl.Expr:
    """The axes of a mask, or those outside it, of a rank's coordinates, read as one mixed-radix number."""
    order, inner = _order(coordinates, sizes), _in_parts(mask)
    number, radix = pl.lit(0, pl.Int64), 1
    for axis in order:
        if (axis in inner) == inside:
            number = number + _coordinate(order, axis, sizes) * radix
            radix *= sizes[axis]
    return number


def _group_id(kind: str, sizes: Mapping[str, Any]) -> pl.Expr:
    number = _number(*MASKS[kind], sizes, inside=False)
    if kind != "embedding":
        return number
    stage = _number(DENSE, ("pp",), sizes)
    return pl.when(stage.is_in([0, stage_of_prediction(sizes)])).then(number).otherwise(-1)


def _members(everyone: pl.DataFrame, kind: str, sizes: Mapping[str, Any]) -> pl.DataFrame:
    """The rows of `groups` of one kind; none where its groups have one member."""
    coordinates, mask = MASKS[kind]
    size, position = prod(sizes[axis] for axis in mask), _number(coordinates, mask, sizes)
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
