"""What of a layer's activations is copied to the host after its forward pass, and back before its next."""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.layer_kinds import has_experts
from moesweep.shapes.offloading import OFFLOAD, RELOAD, moved_bytes, offloads_activations
from moesweep.trace.vocabulary import Op, elementwise


def offloaded_layer(kind: str, rows: s.Rows) -> list[Op]:
    """Return the copy down, of all modules of a layer as one."""
    return _copies(OFFLOAD, kind, rows)


def reloaded_layer(kind: str, rows: s.Rows) -> list[Op]:
    """Return the copy up."""
    return _copies(RELOAD, kind, rows)


def _copies(name: str, kind: str, rows: s.Rows) -> list[Op]:
    moved: pl.Expr = moved_bytes(has_experts(kind), rows.expert)
    return [elementwise(name, moved).only(offloads_activations & (moved > 0))]
