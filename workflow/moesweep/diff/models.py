"""Workloads as functions of constants: what the code at hand predicts of them, measure by measure."""

from collections.abc import Callable, Mapping

import polars as pl

from moesweep.cost.fold import fold, layers_of
from moesweep.cost.model import cost, with_constants
from moesweep.cost.skewed_ranks import fullest_ranks
from moesweep.diff.folder import Folder
from moesweep.evaluate.costs import costed
from moesweep.network.slowed import slowed
from moesweep.store.layout import Results
from moesweep.store.tablefile import read_table
from moesweep.study.networks import Network
from moesweep.study.routing import given

MEASURES = ("iteration_seconds", "peak_memory_bytes", "usd_per_billion_tokens")

Model = Callable[[Mapping[str, float]], pl.DataFrame]
"""From constants to workload and MEASURES."""


def resolved(workloads: pl.DataFrame, network: Network) -> Model:
    """Return the model of workloads whose routing is not given: their programs follow from their columns."""

    def measured(constants: Mapping[str, float]) -> pl.DataFrame:
        slower = slowed(workloads, network, constants)
        return costed(slower, pl.DataFrame([dict(constants)])).select("workload", *MEASURES)

    return measured


def traced(folder: Folder, ids: list[str], network: Network) -> Model:
    """Return the model of workloads by their traces: programs, and rows of the fullest ranks where given.

    So a given routing needs no table of counts; what the code that traced them did otherwise is in it, too.
    """
    results, workloads = Results(folder.path), chosen(folder, ids)
    programs = _read(results, "programs", "programs", ids)
    uneven = workloads.filter(given)["workload"].to_list()
    fullest = fullest_ranks(programs, _read(results, "routing", "given_routing", uneven)) if uneven else None
    layers = layers_of(programs, workloads)
    folded = fold(programs)

    def measured(constants: Mapping[str, float]) -> pl.DataFrame:
        described = with_constants(slowed(workloads, network, constants), constants)
        costs = cost(folded, described, fullest, layers).workloads
        return costs.select("workload", *MEASURES)

    return measured


def has_traces(folder: Folder, id_: str) -> bool:
    """Return whether a folder holds what `traced` reads of a workload."""
    results = Results(folder.path)
    return all(results.trace(table, id_).is_file() for table in ("programs", "routing"))


def chosen(folder: Folder, ids: list[str]) -> pl.DataFrame:
    """Return the catalogue's rows of some workloads, in their order."""
    order = pl.DataFrame({"workload": ids}, schema={"workload": pl.String})
    return order.join(folder.workloads, on="workload", how="left", maintain_order="left").select(
        folder.workloads.columns
    )


def _read(results: Results, table: str, declaration: str, ids: list[str]) -> pl.DataFrame:
    return pl.concat(
        read_table(results.trace(table, id_), declaration).select(pl.lit(id_).alias("workload"), pl.all())
        for id_ in ids
    )
