"""A batch of workloads with skewed routing: every MoE layer has loads of its own.

A layer's ops are as large as on the ep rank for which they are largest, as the others wait for it
(moesweep.trace.skewed_programs.busiest): that with most copies sent, or most received; an exchange lasts as
long as the larger of both. Layers with equal loads are one kind, `moe 1`, `moe 2`, ... of their workload.
"""

import numpy as np
import polars as pl

from moesweep.cost.memory import passes_of_the_fullest
from moesweep.cost.model import MODEL_FLOPS
from moesweep.evaluate.batch import Batch, Declared, Pass, Scope, merged
from moesweep.evaluate.layouts import layouts
from moesweep.evaluate.passes import of_a_layer, sums
from moesweep.shapes.distinct import Array, Codes, distinct
from moesweep.shapes.expressions import Part
from moesweep.shapes.layer_kinds import KIND_READS, KINDS, has_experts
from moesweep.shapes.placement import READS, layer_layout
from moesweep.trace.skewed_copies import Routed, loads

ROUTED = (
    *("routing", "num_experts", "moe_router_topk", "micro_batch_size", "seq_length", "sequence_parallel"),
    *("tp", "cp", "ep", "etp", *KIND_READS),
)
"""The columns of a workload that its loads follow from."""

LOAD = ("sent", "received", "exchanged", "computed")
"""Copies of a layer on the ep rank with most of each; `computed` are the rows of the mean rank."""


class SkewedBatch(Batch):
    """Workloads whose routing is given: `routed` says how."""

    class_columns = (*Batch.class_columns, "mean_rows", "most_rows")

    def __init__(
        self, workloads: pl.DataFrame, constants: pl.DataFrame, cluster: Array, routed: Routed
    ) -> None:
        super().__init__(workloads, constants, cluster)
        placed, ranks = self._placed(routed)
        layers = ranks.select("workload", "layer", *LOAD).unique(maintain_order=True)
        self._loads = layers.select(LOAD).unique(maintain_order=True).with_row_index("load")
        numbered = layers.join(self._loads, on=LOAD, how="left", maintain_order="left").with_columns(
            number=pl.col("load").rank("dense").over("workload").cast(pl.Int64)
        )
        kinds = layer_layout(placed).join(
            numbered.select("workload", "layer", "number"),
            on=["workload", "layer"],
            how="left",
            maintain_order="left",
        )
        loaded = pl.format("{} {}", "layer_kind", "number")
        kinds = kinds.with_columns(layer_kind=pl.coalesce(loaded, "layer_kind")).drop("number")
        self.layouts = layouts(placed, kinds, _fullest(kinds, ranks))
        self._load_of = _by_number(numbered, placed.height)

    def _placed(self, routed: Routed) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the distinct workloads as their layers are placed and loaded, and each ep rank's copies."""
        alike = self.coded.distinct(ROUTED)
        found = self.coded.distinct(READS, alike.codes)
        self.layout = found.codes
        number = pl.int_range(pl.len(), dtype=pl.Int64)
        tables = dict(enumerate(map(routed, self.workloads[alike.first].iter_rows(named=True))))
        numbered = self.workloads[alike.first].with_columns(workload=number.cast(pl.String))
        of_routed = loads(numbered, lambda row: tables[int(row["workload"])])
        placed = self.workloads[found.first].with_columns(
            workload=number, routed=pl.Series(alike.index[found.first]).cast(pl.String)
        )
        rows, in_layer = pl.col("received") * pl.col("etp"), ("workload", "layer")
        ranks = (
            placed.select("workload", "routed", "etp")
            .join(of_routed.rename({"workload": "routed"}), on="routed", maintain_order="left_right")
            .with_columns(
                rows=rows,
                sent=pl.col("sent").max().over(in_layer),
                received=pl.col("received").max().over(in_layer),
                computed=rows.mean().over(in_layer),
            )
            .with_columns(exchanged=pl.max_horizontal("sent", "received"))
        )
        return placed, ranks

    @property
    def scopes(self) -> list[Scope]:
        """The passes of a micro-batch, one a load of MoE layers."""
        routed = {
            kind: [f"{kind} {number + 1}" for number in range(len(self._load_of))]
            for kind in KINDS
            if has_experts(kind)
        }
        return [(kind, phase) for name, phase in super().scopes for kind in routed.get(name, [name])]

    def reads(self, scope: Scope) -> frozenset[str]:
        """Return the columns and constants that a pass depends on, besides its load."""
        return super().reads(scope) if _number(scope) is None else self._loaded(scope).reads - set(LOAD)

    def bytes_of_a_stage(self, part: Part) -> dict[str, pl.Expr]:
        """Return the parts of the memory of a stage's fullest rank."""
        return super().bytes_of_a_stage(part) | passes_of_the_fullest(part)

    def evaluated(self, scope: Scope) -> dict[Scope, Pass]:
        """Return a pass evaluated on the distinct rows of what it reads; those of all loads together."""
        if _number(scope) is None:
            return super().evaluated(scope)
        what, several = self._loaded(scope), self._loads.height
        rows, codes, _ = self.distinct_rows(self.reads(scope))
        pairs = np.concatenate([codes.of * several + load[self.layout.of] for load in self._load_of])
        found = distinct(Codes(pairs, codes.size * several))
        row, load = np.divmod(pairs[found.first], several)
        frame = rows[row].hstack(self._loads[load].select(LOAD))
        values = of_a_layer(what.section, sums(what.ops, frame), frame, self.also)
        if scope[1] == "forward":
            # The model needs what is computed, not that everybody waits for the busiest.
            values |= {name: sums(self._loaded(scope, "mean").ops, frame)[name] for name in MODEL_FLOPS}
        kind = _kind(scope)
        return {
            (f"{kind} {number + 1}", scope[1]): merged(Codes(index, len(found.first)), values)
            for number, index in enumerate(np.split(found.index, len(self._load_of)))
        }

    def _loaded(self, scope: Scope, load: str = "busiest") -> Declared:
        return self.declared((_kind(scope), scope[1]), load)


def _number(scope: Scope) -> int | None:
    """Return the number of a load of MoE layers, None for other passes."""
    _, _, number = scope[0].partition(" ")
    return int(number) if number else None


def _kind(scope: Scope) -> str:
    return scope[0].partition(" ")[0]


def _by_number(numbered: pl.DataFrame, workloads: int) -> list[Array]:
    """Return, for each number that loads have in their workloads, which load that is of each workload."""
    most = int(numbered["number"].max() or 0)  # type: ignore[arg-type]
    found = np.zeros((most, workloads), dtype=np.int64)
    found[numbered["number"].to_numpy() - 1, numbered["workload"].to_numpy()] = numbered["load"].to_numpy()
    return list(found)


def _fullest(layers: pl.DataFrame, ranks: pl.DataFrame) -> pl.DataFrame:
    """Return workload, stage, mean_rows, most_rows of the rank with most rows over a stage's layers.

    Activations of all layers are alive together (moesweep.cost.skewed_ranks.fullest_ranks).
    """
    return (
        ranks.join(
            layers.select("workload", "layer", "stage"), on=["workload", "layer"], maintain_order="left"
        )
        .group_by("workload", "stage", "ep_rank", maintain_order=True)
        .agg(mean_rows=pl.col("rows").mean(), most_rows=pl.col("rows").max())
        .group_by("workload", "stage", maintain_order=True)
        .agg(pl.col("mean_rows", "most_rows").max())
    )
