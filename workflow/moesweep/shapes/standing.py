"""On which nodes groups of ranks stand: their size and stride, and how many members share a node.

Ranks fill nodes in order, so places follow from the order of ranks' axes (moesweep.shapes.parallelism).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import polars as pl

from moesweep.shapes.parallelism import MASKS, STAGES_BESIDE, axes
from moesweep.shapes.placement import prediction_stage

GPUS_PER_NODE = 8
"""DGX A100."""

_AXES = {"cp_p2p": pl.col("cp") // pl.col("cp_a2a")}
"""Axes that no column has."""

_ONE = pl.lit(1, pl.Int64)


class Extent(NamedTuple):
    """How a kind's groups lie, as expressions over workload columns.

    size     ranks in a group
    stride   distance in rank order between neighbouring members, of a run where there are several
    runs     of how many runs of ranks a group is: those that leave out an axis between their own
    spread   over how many ranks these lie evenly
    """

    size: pl.Expr
    stride: pl.Expr
    runs: pl.Expr
    spread: pl.Expr


@dataclass(frozen=True)
class Placement:
    """Where a kind's groups stand, as expressions over workload columns.

    size              ranks in a group
    stride            of its Extent
    members_per_node  the fewest members on a node that a group touches: as many rings cross nodes
    nodes             the most nodes that a group spans: everybody waits for it
    """

    size: pl.Expr
    stride: pl.Expr
    members_per_node: pl.Expr
    nodes: pl.Expr


def placement(kind: str, gpus_per_node: pl.Expr | int = GPUS_PER_NODE) -> Placement:
    """Size, stride and nodes of a kind's groups, over columns of degrees, world_size and STAGES_BESIDE."""
    size, stride, runs, spread = extent(kind)
    stands = standing(size, stride, pl.col("world_size"), gpus_per_node, runs, spread=spread)
    return Placement(size, stride, *stands)


def extent(kind: str) -> Extent:
    """Return the Extent of a kind's groups, over the same columns."""
    plain, beside = _without(kind), _beside(kind)
    moved = pl.col(STAGES_BESIDE)
    parts = [
        own if own.meta.eq(other) else pl.when(moved).then(other).otherwise(own)
        for own, other in zip(plain, beside, strict=True)
    ]
    found = Extent(*parts)
    if kind != "embedding":
        return found
    apart = found.stride * pl.max_horizontal(prediction_stage, 1)
    return found._replace(size=pl.min_horizontal(found.size, 2), stride=apart)


def _without(kind: str) -> Extent:
    """Return the Extent in Megatron's own order: `model` leaves out cp and dp in each of pp stages."""
    coordinates, mask = MASKS[kind]
    before = _before(axes(coordinates), mask[0])
    runs = pl.col("pp") if kind in ("model", "expert_model") else _ONE
    return Extent(_product(mask), before, runs, pl.col("world_size"))


def _beside(kind: str) -> Extent:
    """Return the Extent with STAGES_BESIDE: data-parallel ranks leave out stages, `model` cp ranks.

    Where nobody stands between, or one rank makes a run, a group is ranks one stride apart.
    """
    coordinates, mask = MASKS[kind]
    order = axes(coordinates, stages_beside=True)
    size, before = _product(mask), _before(order, mask[0])
    if kind == "embedding":
        # Both ends of the block of ranks that a pipeline and its neighbours are.
        return Extent(size, before, pl.min_horizontal("pp", 2), before * pl.col("pp"))
    last = order.index(mask[-1]) if mask[-1] in order else 0
    between = [axis for axis in order[order.index(mask[0]) : last] if axis not in mask] if last else []
    if not between:
        return Extent(size, before, _ONE, pl.col("world_size"))
    single = _product(mask[:-1]) == 1
    one_stride = single | (_product(between) == 1)
    stride = pl.when(single).then(_before(order, mask[-1])).otherwise(before)
    return Extent(
        size,
        stride,
        pl.when(one_stride).then(1).otherwise(pl.col(mask[-1])),
        _before(order, mask[-1]) * pl.col(mask[-1]),
    )


def _before(order: Sequence[str], axis: str) -> pl.Expr:
    """Return the ranks that follow one another before an axis of an order moves."""
    if axis == "cp_p2p":
        return _product([*order[: order.index("cp")], "cp_a2a"])
    return _product(order[: order.index("cp" if axis == "cp_a2a" else axis)])


def standing(
    size: pl.Expr,
    stride: pl.Expr,
    world_size: pl.Expr,
    gpus_per_node: pl.Expr | int,
    runs: pl.Expr = pl.lit(1, pl.Int64),
    unit: pl.Expr | None = None,
    spread: pl.Expr | None = None,
) -> tuple[pl.Expr, pl.Expr]:
    """Return `members_per_node` and `nodes` (Placement) of groups of n ranks, S apart, on nodes of G GPUs.

    Groups begin at every place of a node that n·S and G allow: at multiples of g = gcd(n·S, G), and up to
    S - 1 further on. So one spans the nodes of (n-1)·S + 1 ranks from place G - g + min(S, g) - 1 on, and
    where it crosses nodes, one of them holds g/S members, at least 1. All groups of a kind stand alike
    where n·S and G divide one another, as powers of two do. (In a world of few groups none may stand that
    badly.) Several runs of ranks, evenly spread over the world or so many ranks (`spread`), are so many
    groups, of which as many share a node as fit; exact under the same condition. `unit` is g where a frame
    has it already.
    """
    spread = world_size if spread is None else spread
    unit = unit_of(size, stride, gpus_per_node, runs) if unit is None else unit
    size, apart = size // runs, spread // runs
    node = gpus_per_node if isinstance(gpus_per_node, pl.Expr) else pl.lit(gpus_per_node, pl.Int64)
    last = node - unit + pl.min_horizontal(stride, unit) - 1 + (size - 1) * stride
    touched = pl.when(stride >= node).then(size).otherwise(last // node + 1)
    # Blocks of ranks begin within nodes where neither divides the other.
    askew = (spread < world_size) & (spread % node != 0) & (node % spread != 0)
    nodes = pl.min_horizontal(touched * runs, (spread + node - 1) // node + askew.cast(pl.Int64))
    crossing = pl.when(touched > 1).then(pl.max_horizontal(unit // stride, 1)).otherwise(size)
    together = pl.min_horizontal(pl.max_horizontal(node // apart, 1), runs)
    shared = pl.when(askew).then(1).otherwise(together)
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


def _product(names: Iterable[str]) -> pl.Expr:
    factors = (_AXES.get(axis, pl.col(axis)) for axis in names)
    return reduce(lambda a, b: a * b, factors, pl.lit(1, pl.Int64))
