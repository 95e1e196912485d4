"""The program of every pipeline stage: which ops, in which order, how often.

`folded` holds one row per distinct op of a stage, with `repeats` the number of layers that run it;
costs need no more. `programs` unfolds it into the stage's program, one row per op and layer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import polars as pl

from moesweep.shapes.expressions import exact
from moesweep.shapes.layer_kinds import DECODER, KINDS, PREDICTING
from moesweep.shapes.placement import layer_layout, layers_of_stages
from moesweep.shapes.sizes import BALANCED, GROUP_SIZE, Rows
from moesweep.study.routing import given
from moesweep.trace import ends, layers, prediction
from moesweep.trace.optimizer import optimizer_ops
from moesweep.trace.sharding import reduced_embedding, reduced_head
from moesweep.trace.vocabulary import Op, wire_bytes


@dataclass(frozen=True)
class Section:
    """A run of ops in a stage's program; `scope` says which stages have it, or which layers repeat it.

    Its ops are made when first asked for: a layer's are many expressions, and few sweeps have every kind.
    """

    scope: str  # stage | first | last | a kind of layer
    phase: str
    make: Callable[[], list[Op]]

    @cached_property
    def ops(self) -> list[Op]:
        """The ops in their order."""
        return self.make()

    @property
    def layer_kind(self) -> str | None:
        """The kind of the layers that repeat the section, None outside the layers."""
        return self.scope if self.scope in KINDS else None

    def then(self, other: "Section") -> "Section":
        """Return one section with the ops of both."""
        return replace(self, make=lambda: self.ops + other.ops)

    def only(self, holds: Callable[[Op], bool]) -> "Section":
        """Return the section of the ops for which a condition holds."""
        return replace(self, make=lambda: [op for op in self.ops if holds(op)])


def sections(rows: Rows = BALANCED) -> list[list[Section]]:
    """Return the sections in program order; those of one inner list alternate layer by layer.

    `rows` are what a rank's experts have to do. A layer of multi-token prediction brings its head.
    """
    message = ends.pipeline_messages()
    forward = {kind: Section(kind, "forward", partial(layers.layer_forward, kind, rows)) for kind in KINDS}
    backward = {kind: Section(kind, "backward", partial(layers.layer_backward, kind, rows)) for kind in KINDS}

    def passed(name: str) -> Section:
        """Return the section of a message between stages."""
        return Section("stage", name.partition("_")[2], lambda: message[name])

    def loss_backward() -> list[Op]:
        """Return the backward of every head that stands with the loss's stage."""
        return ends.prediction_backward() + prediction.distant_head_backward()

    return [
        [passed("recv_forward")],
        [Section("first", "forward", ends.lookup_forward)],
        [forward[kind] for kind in DECODER],
        [Section("last", "forward", ends.final_norm_forward)],
        [forward[kind] for kind in PREDICTING],
        [Section("last", "forward", lambda: prediction.distant_head_forward() + ends.prediction_forward())],
        [passed("send_forward")],
        [passed("recv_backward")],
        [Section("last", "backward", loss_backward)],
        [backward[kind] for kind in PREDICTING],
        [Section("last", "backward", lambda: ends.final_norm_backward() + reduced_head())],
        [backward[kind] for kind in DECODER],
        [Section("first", "backward", lambda: ends.lookup_backward() + reduced_embedding())],
        [passed("send_backward")],
        [Section("stage", "optimizer", optimizer_ops)],
    ]


@cache
def _even_sections() -> list[list[Section]]:
    """Return the sections of experts that all have as much to do: their ops are made once."""
    return sections()


def stages(workloads: pl.DataFrame) -> pl.DataFrame:
    """Return one row per stage: the workload's columns, `<kind>_layers`, `is_first` and `is_last`."""
    return workloads.join(
        layers_of_stages(workloads), on="workload", maintain_order="left_right"
    ).with_columns(is_first=pl.col("stage") == 0, is_last=pl.col("stage") == pl.col("pp") - 1)


def quantities(op: Op) -> dict[str, pl.Expr]:
    """Return the numbers of an op's row, over the columns of a stage."""
    group_size = GROUP_SIZE[op.group_kind] if op.group_kind else pl.lit(0)
    return {
        "m": op.m,
        "n": op.n,
        "k": op.k,
        "groups": op.groups,
        "flops": op.flops,
        "hbm_bytes": op.hbm_bytes,
        "group_size": group_size,
        "comm_bytes": op.comm_bytes,
        "wire_bytes": wire_bytes(op),
        "num_microbatches": op.count,
    }


def _row(op: Op, position: int) -> list[pl.Expr]:
    words = {"op": op.name, "kind": op.kind, "collective": op.collective, "group_kind": op.group_kind}
    return [
        pl.lit(position, dtype=pl.Int64).alias("position"),
        *(pl.lit(word, dtype=pl.String).alias(name) for name, word in words.items()),
        # What 64 bits do not hold is null, and refused as it is written.
        *(quantity.cast(pl.Int64, strict=False).alias(name) for name, quantity in quantities(op).items()),
    ]


SCOPES = {
    "stage": (pl.lit(True), pl.lit(1)),
    "first": (pl.col("is_first"), pl.lit(1)),
    "last": (pl.col("is_last"), pl.lit(1)),
    **{kind: (pl.col(f"{kind}_layers") > 0, pl.col(f"{kind}_layers")) for kind in KINDS},
}


_NONE = Op("", "")
"""Stands for an op where no stage has any."""


def evaluate(
    stage_frame: pl.DataFrame, place: int, section: Section, also: tuple[str, ...] = ()
) -> list[pl.LazyFrame]:
    """Return one frame an op of a section that stands at `place`, with the columns `also` of the stages.

    Ops that no stage has are left out, as a section lists those of every kind of attention.
    """
    present, repeats = SCOPES[section.scope]
    where = [
        pl.col("workload"),
        pl.col("stage", *also).cast(pl.Int64),
        pl.lit(place, dtype=pl.Int64).alias("section"),
        pl.lit(section.phase).alias("phase"),
        pl.lit(section.layer_kind, dtype=pl.String).alias("layer_kind"),
        repeats.cast(pl.Int64).alias("repeats"),
    ]
    here = exact(stage_frame.filter(present))
    if here.is_empty():
        # No row, but the columns of one, for traces of nothing.
        return [here.lazy().select(*where, *_row(_NONE, 0))]
    there = here.select(op.when.alias(f"{position}") for position, op in enumerate(section.ops))
    return [
        here.filter(there[f"{position}"]).lazy().select(*where, *_row(op, position))
        for position, op in enumerate(section.ops)
        if there[f"{position}"].any()
    ]


def folded(workloads: pl.DataFrame) -> pl.DataFrame:
    """Return every distinct op of every stage; `repeats` layers of the stage run it.

    Raises ValueError for a given routing, whose layers are not alike (moesweep.trace.skewed_programs).
    """
    if workloads.select(given.any()).item():
        raise ValueError("programs of a given routing are made by moesweep.trace.skewed_programs")
    stage_frame = stages(workloads)
    frames = [
        frame
        for place, alternatives in enumerate(_even_sections())
        for section in alternatives
        for frame in evaluate(stage_frame, place, section)
    ]
    return pl.concat(pl.collect_all(frames))


PROGRAM_COLUMNS = [
    *(
        "workload",
        "stage",
        "op_index",
        "phase",
        "layer",
        "op",
        "kind",
        "m",
        "n",
        "k",
        "groups",
        "flops",
        "hbm_bytes",
    ),
    *("collective", "group_kind", "group_size", "comm_bytes", "wire_bytes", "num_microbatches"),
]


def programs(workloads: pl.DataFrame) -> pl.DataFrame:
    """Return the program of every stage in execution order; backward runs the layers from last to first."""
    layout = layer_layout(workloads).select("workload", "stage", "layer_kind", "layer", "unit")
    rows = (
        folded(workloads)
        .join(layout, on=["workload", "stage", "layer_kind"], how="left")
        .with_columns(pl.col("layer").fill_null(-1))
    )
    return in_order(rows, workloads, ("stage",)).select(PROGRAM_COLUMNS)


def in_order(rows: pl.DataFrame, workloads: pl.DataFrame, program: tuple[str, ...]) -> pl.DataFrame:
    """Return op rows with their layers in execution order, and `op_index`; `program` tells programs apart.

    Layers that are recomputed together (`unit`) run forward one after the other, then backward.
    """
    backward, layer = pl.col("phase") == "backward", pl.col("layer")
    ordinal: tuple[pl.Expr, ...] = (pl.when(backward).then(-layer).otherwise(layer),)
    if rows["unit"].null_count() < rows.height:
        together, first = backward & pl.col("unit").is_not_null(), pl.coalesce("unit", "layer")
        again = together & pl.col("op").str.starts_with("recompute_")
        ordinal = (
            pl.when(backward).then(-first).otherwise(layer),
            ~again,
            pl.when(backward & ~again).then(-layer).otherwise(layer),
        )
    order = {id_: place for place, id_ in enumerate(workloads["workload"])}
    return rows.sort(
        pl.col("workload").replace_strict(order), *program, "section", *ordinal, "position"
    ).with_columns(op_index=pl.int_range(pl.len(), dtype=pl.Int64).over("workload", *program))
