"""One workload as the exporters take it: from the results where they hold it, else computed now."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.cost.buckets import HIDDEN_OF_THE_TAIL, hidden_of_the_tail
from moesweep.cost.fold import fold, layers_of, unfold, with_layer_kind
from moesweep.cost.iteration import stage_seconds
from moesweep.cost.model import OF_THE_WORKLOAD, cost
from moesweep.cost.stages import PASS_KEY, passes
from moesweep.evaluate.costs import on_cluster
from moesweep.export.skewed_costs import own_costs
from moesweep.store.layout import Results
from moesweep.store.tablefile import as_read, facts_of, read_table
from moesweep.study.catalog import Cluster
from moesweep.study.routing import given
from moesweep.study.workload import description
from moesweep.trace.programs import programs
from moesweep.trace.skewed_copies import given_routing
from moesweep.trace.skewed_programs import busiest, rank_programs

COMPUTED_TOGETHER = 32
"""Workloads whose expressions are evaluated at once: nearly the cost of one, and little memory."""


@dataclass(frozen=True)
class Traced:
    """A workload: its catalogue row and its costed program (columns of cost_ops).

    The program's `wait_seconds` is how long a stage waits for its host after the last op of a layer's
    pass, 0 elsewhere; its `hidden_seconds` what of reducing gradients and gathering parameters runs beside
    passes. `tp_overlap` is the fraction of a tp collective that runs beside the GEMM after it,
    `userbuffers_overlap` that of one in parts;
    `gpus_per_node` is the cluster's.
    Where routing is given, `program` is the one that everybody waits for, `each` has that of every ep rank
    with its own quantities and seconds (`own_costs`), and `routing` is the table given_routing.
    """

    workload: dict[str, Any]
    program: pl.DataFrame
    tp_overlap: float
    userbuffers_overlap: float
    gpus_per_node: int
    each: pl.DataFrame | None = None
    routing: pl.DataFrame | None = None

    def of(self, ep_rank: int) -> "Traced":
        """Return the workload as the ranks of one ep rank run it, as if all others were like them."""
        if self.each is None:
            return self
        own = self.each.filter(pl.col("ep_rank") == ep_rank).drop("ep_rank")
        waits = self.program.select("stage", "op_index", "wait_seconds", "hidden_seconds")
        program = own.join(waits, on=["stage", "op_index"], maintain_order="left")
        return replace(self, program=program, each=None)


def traced(
    workloads: pl.DataFrame, results: Results, cluster: Cluster, root: Path = Path()
) -> Iterator[Traced]:
    """Yield each workload in order, the missing ones computed a few at a time.

    Results hold no seconds of single ep ranks, so what has a given routing is always computed; measured
    routing tables are read from `root`. Raises BadInput if one cannot be, or has changed.
    """
    for part in workloads.iter_slices(COMPUTED_TOGETHER):
        rows = list(part.iter_rows(named=True))
        described = on_cluster(part, cluster).rename(OF_THE_WORKLOAD)
        uneven = set(part.filter(given)["workload"])
        absent = [row["workload"] for row in rows if not _stored(row, results, cluster)]
        alike = _named(part.filter(~given), absent)
        costed = _costed(programs(alike), alike, cluster) if alike.height else {}
        even = [row["workload"] for row in rows if row["workload"] not in uneven]
        costed |= {id_: read_table(results.cost_ops(id_), "cost_ops") for id_ in even if id_ not in costed}
        costed = _with_overlaps(costed, described) if costed else {}
        for row in rows:
            id_ = row["workload"]
            if id_ in uneven:
                yield _uneven(_named(part, [id_]), described, cluster, root)
            else:
                yield Traced(row, costed[id_], *_of_the_cluster(cluster))


def _named(workloads: pl.DataFrame, ids: list[str]) -> pl.DataFrame:
    return workloads.filter(pl.col("workload").is_in(ids))


def _uneven(workload: pl.DataFrame, described: pl.DataFrame, cluster: Cluster, root: Path) -> Traced:
    """Return the one workload of a frame, whose routing is given."""
    row = workload.row(0, named=True)
    each = rank_programs(workload, root)
    costed = _costed(busiest(each), workload, cluster)
    (program,), (waiting,) = costed.values(), _with_overlaps(costed, described).values()
    own = own_costs(each, program, workload, cluster)
    return Traced(row, waiting, *_of_the_cluster(cluster), own, given_routing(row, root))


def _of_the_cluster(cluster: Cluster) -> tuple[float, float, int]:
    return (
        cluster.value("tp_overlap"),
        cluster.value("userbuffers_overlap"),
        int(cluster.value("gpus_per_node")),
    )


def _stored(row: dict[str, Any], results: Results, cluster: Cluster) -> bool:
    """Return whether the results cost exactly this workload, on this cluster."""
    programs_file, costs_file = results.trace("programs", row["workload"]), results.cost_ops(row["workload"])
    if not (programs_file.exists() and costs_file.exists()):
        return False
    described = facts_of(programs_file).get("moesweep.workload")
    costed_on = facts_of(costs_file).get("moesweep.cluster")
    return described == description(row) and costed_on == cluster.name


def _costed(unfolded: pl.DataFrame, workloads: pl.DataFrame, cluster: Cluster) -> dict[str, pl.DataFrame]:
    """Return the costed program of each workload by its id."""
    layers = layers_of(unfolded, workloads)
    costs = cost(fold(unfolded), on_cluster(workloads, cluster), layers=layers)
    by_workload = unfold(unfolded, costs.ops).partition_by("workload", as_dict=True, maintain_order=True)
    return {str(id_): as_read(frame, "cost_ops") for (id_,), frame in by_workload.items()}


def _with_overlaps(costed: Mapping[str, pl.DataFrame], described: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Add to programs `wait_seconds`, what a layer's pass takes beyond its kernels where its host is slower.

    And `hidden_seconds` of the ops of BUCKETED.
    """
    named = pl.concat(
        program.select(pl.lit(id_).alias("workload"), pl.all()) for id_, program in costed.items()
    )
    own = described.filter(pl.col("workload").is_in(list(costed)))
    microbatches = described.select("workload", "microbatches")
    kernels = pl.col("compute") + pl.col("exposed")
    passed = passes(fold(named).join(microbatches, on="workload", maintain_order="left"), own)
    waits = passed.select(*PASS_KEY, wait_seconds=(pl.col("seconds") - kernels).clip(lower_bound=0))
    ends_layer = (pl.col("layer") != pl.col("layer").shift(-1).over("workload", "stage", "phase")) & (
        pl.col("layer") >= 0
    )
    told = (
        with_layer_kind(named)
        .join(waits, on=PASS_KEY, how="left", nulls_equal=True, maintain_order="left")
        .join(_hidden(passed, own), on=["workload", "stage", "op"], how="left", maintain_order="left")
        .select(
            *named.columns,
            pl.when(ends_layer).then("wait_seconds").otherwise(0.0).fill_null(0.0),
            pl.col("hidden_seconds").fill_null(0.0),
        )
    )
    by_workload = told.partition_by("workload", as_dict=True, maintain_order=True, include_key=False)
    return {str(id_): program for (id_,), program in by_workload.items()}


def _hidden(passed: pl.DataFrame, workloads: pl.DataFrame) -> pl.DataFrame:
    """Return `workload stage op hidden_seconds`: what of ops of BUCKETED runs beside passes."""
    named_as_ever = workloads.rename({"microbatches": "num_microbatches"})
    stages = stage_seconds(passed).join(named_as_ever, on="workload", maintain_order="left")
    hidden = stages.with_columns(**hidden_of_the_tail()).select("workload", "stage", *HIDDEN_OF_THE_TAIL)
    each = hidden.unpivot(index=["workload", "stage"], variable_name="op", value_name="hidden_seconds")
    return each.with_columns(pl.col("op").str.strip_suffix("_hidden"))
