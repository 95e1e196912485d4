"""The folded programs that an explanation starts from, and where routing is given, the loads behind them."""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from moesweep.cost.fold import KEY, fold, layers_of, with_layer_kind
from moesweep.cost.skewed_ranks import fullest_ranks
from moesweep.shapes.placement import layer_layout
from moesweep.study.routing import given
from moesweep.trace.programs import folded, stages
from moesweep.trace.skewed_copies import by_tables_in, given_routing, loads
from moesweep.trace.skewed_programs import busiest, rank_programs

LOADS = ("sent", "received", "own")
"""Copies of an ep rank in a layer: what a given routing decides."""


@dataclass(frozen=True)
class Programs:
    """What a workload runs.

    folded   one row per distinct op of a stage, as the costs take it
    layers   rows of `layer_layout`, with the kinds that `folded` tells apart

    Only where routing is given:
    fullest  expert rows of each stage's fullest rank (moesweep.cost.skewed_ranks), else None
    shown    the layer whose op stands for those of the same kind: the columns of KEY, and layer
    loads    one row per MoE layer and ep rank: its LOADS, beside the columns of its stage
    """

    folded: pl.DataFrame
    layers: pl.DataFrame
    fullest: pl.DataFrame | None = None
    shown: pl.DataFrame = field(default_factory=pl.DataFrame)
    loads: pl.DataFrame = field(default_factory=pl.DataFrame)

    @property
    def uneven(self) -> bool:
        """Whether ranks of a stage run different programs."""
        return self.fullest is not None


def programs_of(workload: pl.DataFrame, root: Path) -> Programs:
    """Return the programs of a frame's one workload; measured routing tables are read from `root`.

    Raises BadInput if a routing table cannot be read, or has changed.
    """
    if not workload.select(given).item():
        return Programs(folded(workload), layer_layout(workload))
    row = workload.row(0, named=True)
    programs = busiest(rank_programs(workload, root))
    routing = given_routing(row, root).with_columns(workload=pl.lit(row["workload"]))
    named = with_layer_kind(programs)
    places = layer_layout(workload).select("stage", "layer")
    each = loads(workload, by_tables_in(root)).join(places, on="layer", maintain_order="left")
    return Programs(
        fold(programs),
        layers_of(programs, workload),
        fullest_ranks(programs, routing),
        # Folding keeps the first layer's op.
        named.group_by(KEY, maintain_order=True).agg(pl.col("layer").first()),
        each.join(stages(workload), on=["workload", "stage"], maintain_order="left"),
    )
