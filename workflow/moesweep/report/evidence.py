"""What figures and report are made from: result files, each read once."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from moesweep.edge.problems import BadInput, Problem
from moesweep.shapes.communication import COMM_KINDS
from moesweep.shapes.expressions import total
from moesweep.store.layout import Results
from moesweep.store.tablefile import facts_of, read_costed, read_of_all, read_table
from moesweep.study.catalog import Cluster, load_cluster
from moesweep.traffic.files import read_links

_TOGETHER = {
    "exposed tp": ("tp",),
    "exposed etp": ("etp",),
    "exposed ep": ("ep",),
    "exposed dp, edp": ("dp", "edp"),
    "exposed cp, pp, other": ("cp", "pp", "other"),
}


def parts_of_iteration() -> list[pl.Expr]:
    """Return the parts of an iteration in stacking order, named as in `PARTS`; they sum to it."""
    exposed = [
        total(f"{kind}_exposed_seconds" for kind in kinds).alias(name) for name, kinds in _TOGETHER.items()
    ]
    return [
        pl.col("compute_seconds").alias("compute"),
        *exposed,
        pl.col("optimizer_seconds").alias("optimizer"),
        pl.col("bubble_seconds").alias("bubble"),
    ]


@dataclass(frozen=True)
class Evidence:
    """The result files behind the figures and the report."""

    results: Results

    def check(self) -> None:
        """Raise BadInput unless catalogue and costs can be read and are of the same workloads."""
        read_costed(self.results.workloads, self.results.costs)

    @cached_property
    def workloads(self) -> pl.DataFrame:
        """The catalogue with its costs, and the exposed seconds of communication by kind."""
        catalogue, costs = read_costed(self.results.workloads, self.results.costs)
        exposed = self.table("exposed_communication").select(
            "workload", *(f"{kind}_exposed_seconds" for kind in COMM_KINDS)
        )
        joined = catalogue.join(costs, on="workload", how="inner", maintain_order="left")
        return joined.join(exposed, on="workload", maintain_order="left")

    @cached_property
    def cluster(self) -> Cluster:
        """The cluster that the costs are for."""
        name = facts_of(self.results.costs).get("moesweep.cluster")
        if name is None:
            message = "does not say which cluster it is for"
            raise BadInput([Problem(str(self.results.costs), "", "cluster", "", message, "run make sweep")])
        return load_cluster(Path.cwd(), name)

    @cached_property
    def gpus_per_node(self) -> int:
        """GPUs of a node."""
        return int(self.cluster.value("gpus_per_node"))

    @cached_property
    def validation(self) -> pl.DataFrame:
        """What validation found."""
        return read_table(self.results.validation, "validation")

    @cached_property
    def links(self) -> pl.DataFrame:
        """Bytes within nodes and between them."""
        return read_links(self.results, self.gpus_per_node)

    @cached_property
    def topologies(self) -> pl.DataFrame:
        """What each network of the catalogue does to every workload."""
        found = read_of_all(self.results.topologies, "topologies", self.workloads["workload"])
        self._for_the_cluster(self.results.topologies, "moesweep network")
        return found

    @cached_property
    def ep_scaling(self) -> pl.DataFrame:
        """Workloads that differ in ep alone."""
        return self.table("ep_scaling")

    @cached_property
    def refused(self) -> list[str]:
        """Workloads that Megatron would refuse."""
        return self.table("megatron_refusals")["workload"].unique().sort().to_list()

    @cached_property
    def pairs(self) -> pl.DataFrame:
        """MoE workloads beside their dense twins."""
        return self.table("moe_against_dense")

    @cached_property
    def ops(self) -> pl.DataFrame:
        """The costed programs of all workloads, rows that differ only in their layer as one: `layers`."""
        return read_of_all(self.results.distinct_ops, "distinct_ops", self.workloads["workload"])

    @cached_property
    def featured(self) -> str:
        """The workload that figures of one workload show.

        Of the comparison with most values of ep: the workload whose groups of most kinds cross nodes, at
        the highest ep; without a comparison the catalogue's first workload.
        """
        matched = self.ep_scaling
        if matched.is_empty():
            return str(self.workloads["workload"][0])
        crossing = (
            self.links.filter(pl.col("link") == "network")
            .group_by("workload")
            .agg(kinds=pl.col("group_kind").n_unique())
        )
        ranked = (
            matched.with_columns(rows=pl.len().over("comparison"))
            .join(crossing, on="workload", how="left", maintain_order="left")
            .sort("rows", "kinds", "ep", maintain_order=True)
        )
        return str(ranked["workload"][-1])

    def table(self, name: str) -> pl.DataFrame:
        """Return one of the small tables."""
        found = read_table(self.results.table(name, "parquet"), name)
        self._for_the_cluster(self.results.table(name, "parquet"), "moesweep tables")
        return found

    def _for_the_cluster(self, file: Path, command: str) -> None:
        """Raise BadInput if a file says that it is for another cluster than the costs are."""
        said, wanted = (facts_of(each).get("moesweep.cluster") for each in (file, self.results.costs))
        if said and said != wanted:
            message = f"is for the cluster {said}, and {self.results.costs} for {wanted}"
            raise BadInput([Problem(str(file), "", "cluster", str(said), message, f"run {command}")])

    def schedule(self, workload: str) -> pl.DataFrame:
        """Return the order in which each stage runs its micro-batches."""
        return read_table(self.results.trace("schedules", workload), "schedules")

    def matrix(self, workload: str) -> pl.DataFrame:
        """Return a workload's traffic between nodes."""
        return read_table(self.results.traffic("node", workload), "traffic")
