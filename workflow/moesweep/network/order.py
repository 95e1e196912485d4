"""Other placements of ranks: which GPU each rank stands on."""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np

from moesweep.network.flows import Ints
from moesweep.shapes.parallelism import DENSE_ORDER, EXPERT_ORDER

_WITHOUT_CP = tuple(axis for axis in DENSE_ORDER if axis != "cp")
ORDERS = tuple(
    "-".join(axes) for order in (_WITHOUT_CP, EXPERT_ORDER, DENSE_ORDER) for axes in permutations(order)
)
"""Every order of the dense axes and of the expert axes, the fastest first; cp left out comes behind tp."""

RANK_ORDER = "-".join(DENSE_ORDER)
"""What Megatron does: rank r on GPU r."""


def slots(layout: Mapping[str, Any], order: str | None) -> Ints:
    """Return the GPU of each rank where ranks are placed axis by axis, the first axis of `order` fastest.

    `tp-cp-dp-pp` and `etp-ep-edp-pp` are rank order; `ep-etp-edp-pp` puts the members of an EP group side by
    side.
    """
    every = np.arange(layout["world_size"])
    if order is None:
        return every
    axes = tuple(order.split("-"))
    if set(axes) == set(_WITHOUT_CP):
        axes = tuple(each for axis in axes for each in (("tp", "cp") if axis == "tp" else (axis,)))
    own = EXPERT_ORDER if set(axes) == set(EXPERT_ORDER) else DENSE_ORDER
    coordinates, stride = {}, 1
    for axis in own:
        coordinates[axis] = every // stride % layout[axis]
        stride *= layout[axis]
    placed, stride = np.zeros_like(every), 1
    for axis in axes:
        placed, stride = placed + coordinates[axis] * stride, stride * layout[axis]
    return placed
