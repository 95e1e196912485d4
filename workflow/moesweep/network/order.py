"""Other placements of ranks: which GPU each rank stands on."""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import polars as pl

from moesweep.network.flows import Ints
from moesweep.shapes.parallelism import DENSE, EXPERT, STAGES_BESIDE, axes, ranks

_WITHOUT_CP = tuple(axis for axis in axes(DENSE) if axis != "cp")
ORDERS = tuple(
    "-".join(placed) for order in (_WITHOUT_CP, axes(EXPERT), axes(DENSE)) for placed in permutations(order)
)
"""Every order of the dense axes and of the expert axes, the fastest first; cp left out comes behind tp."""


def rank_order() -> pl.Expr:
    """Return a layout's own order, in which rank r stands on GPU r."""
    beside, apart = (pl.lit("-".join(axes(DENSE, moved))) for moved in (True, False))
    return pl.when(pl.col(STAGES_BESIDE)).then(beside).otherwise(apart)


def slots(layout: Mapping[str, Any], order: str | None) -> Ints:
    """Return the GPU of each rank where ranks are placed axis by axis, the first axis of `order` fastest.

    `tp-cp-dp-pp` and `etp-ep-edp-pp` are rank order (with STAGES_BESIDE `tp-cp-pp-dp`, `etp-ep-pp-edp`);
    `ep-etp-edp-pp` puts the members of an EP group side by side.
    """
    if order is None:
        return np.arange(layout["world_size"])
    names = tuple(order.split("-"))
    if set(names) == set(_WITHOUT_CP):
        names = tuple(each for axis in names for each in (("tp", "cp") if axis == "tp" else (axis,)))
    coordinates = ranks(layout)
    placed, stride = np.zeros(layout["world_size"], dtype=np.int64), 1
    for axis in names:
        own = coordinates["stage" if axis == "pp" else f"{axis}_rank"].to_numpy()
        placed, stride = placed + own * stride, stride * layout[axis]
    return placed
