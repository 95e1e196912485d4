"""Which layers a backward pass runs again, as polars expressions over a workload's columns."""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.layer_kinds import is_kept, is_predicting


def is_recomputed(kind: str) -> pl.Expr:
    """Return whether full recomputation repeats layers of a kind; Megatron repeats no MTP by `block`."""
    if is_kept(kind):
        return pl.lit(False)
    return s.recomputes_layers & ~s.in_blocks if is_predicting(kind) else s.recomputes_layers
