"""What of sharded parameters and gradients runs beside the passes of a micro-batch, and what is whole then.

Megatron-FSDP gathers a layer's parameters while the layer before it runs, and reduces its gradients while the
layer after it does, on streams of their own; both overlaps are always on where gradients, or parameters too,
are sharded (Megatron-Core 0.16.1, `megatron_fsdp.py`).
"""

from collections.abc import Mapping

import polars as pl

from moesweep.cost.timing import constant
from moesweep.shapes.communication import LAYER_SHARDS
from moesweep.shapes.sharding import gathered_elements, shards_gradients, waiting_elements
from moesweep.shapes.sizes import ELEMENT_BYTES, gradient_bytes

SHARDED = ("dp_sharded", "edp_sharded", "head_reduced", "embedding_reduced")
"""Parts of a pass: seconds of its LAYER_SHARDS by kind of communicator, and of the
reductions at both ends of the model."""

_several = 1 - pl.col("pp") * pl.col("virtual_pipeline") / pl.col("num_layers")
_share = (constant("dp_overlap") * pl.max_horizontal(_several, 0.0)).alias("sharded_overlap")
"""Of n layers of the mean chunk one is gathered, and one's gradients are reduced, beside nothing."""


def sharded_ops() -> dict[str, pl.Expr]:
    """Return SHARDED over the op rows of a pass."""
    seconds = pl.col("seconds")
    of_layers = {
        kind: (seconds * pl.any_horizontal(pl.col("op") == op for op in ops)).sum()
        for kind, ops in LAYER_SHARDS.items()
    }
    of_ends = ((seconds * (pl.col("op") == f"{end}_reduce_dense")).sum() for end in ("head", "embedding"))
    return dict(zip(SHARDED, (*of_layers.values(), *of_ends), strict=True))


def beside_passes(busy: Mapping[str, pl.Expr]) -> dict[str, pl.Expr]:
    """Return `seconds exposed dp_hidden edp_hidden` of a pass that is `busy` without what is sharded.

    dp_overlap · (1 - 1/n) of the shorter of both is hidden, for n layers of the mean chunk: the first or last
    one has nothing beside it. Of the head's reduction dp_overlap is hidden, beside the layers that follow; of
    the embedding's nothing, as a micro-batch's backward pass ends with it.
    """
    sharded = pl.col("dp_sharded") + pl.col("edp_sharded")
    hidden = _share * pl.min_horizontal(sharded, busy["seconds"])
    of_head = constant("dp_overlap") * pl.col("head_reduced")
    more = sharded - hidden + pl.col("head_reduced") - of_head + pl.col("embedding_reduced")
    of_kind = {
        kind: hidden * pl.col(f"{kind}_sharded") / pl.when(sharded > 0).then(sharded).otherwise(1.0)
        for kind in LAYER_SHARDS
    }
    found = {
        "exposed": busy["exposed"] + more,
        "seconds": busy["seconds"] + more,
        "dp_hidden": of_kind["dp"] + of_head,
        "edp_hidden": of_kind["edp"],
    }
    otherwise = {"exposed": busy["exposed"], "seconds": busy["seconds"]}
    return {
        name: pl.when(shards_gradients).then(each).otherwise(otherwise.get(name, 0.0))
        for name, each in found.items()
    }


def whole_beside_shards(states: Mapping[str, pl.Expr]) -> dict[str, pl.Expr]:
    """Return `weights_bytes gradients_bytes` with what a rank works with, whole beside the shards it keeps.

    `gathered_elements` of 2 bytes, and `waiting_elements` of a gradient's.
    """
    parameters = pl.col("parameters")
    whole = {
        "weights_bytes": ELEMENT_BYTES * gathered_elements(parameters).alias("gathered_elements"),
        "gradients_bytes": gradient_bytes * waiting_elements(parameters).alias("waiting_elements"),
    }
    return {
        name: pl.when(shards_gradients).then(states[name] + more).otherwise(states[name])
        for name, more in whole.items()
    }
