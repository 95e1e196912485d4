"""One results folder, as far as a comparison needs it."""

from dataclasses import dataclass, fields
from pathlib import Path

import polars as pl

from moesweep.edge.problems import BadInput, Problem, collect
from moesweep.store.layout import Results
from moesweep.store.provenance import Inputs, inputs
from moesweep.store.tablefile import facts_of, read_table
from moesweep.study.networks import NON_BLOCKING, Network


@dataclass(frozen=True)
class Folder:
    """The catalogue and the costs of a results folder, one row a workload in both, and what made them."""

    path: Path
    workloads: pl.DataFrame
    costs: pl.DataFrame
    inputs: Inputs

    @property
    def network(self) -> Network:
        """The network that the costs assume; where their file tells none that we know, the default one."""
        told, known = self.inputs.network, {field.name for field in fields(Network)}
        return Network(**told) if told.keys() == known else NON_BLOCKING

    @property
    def ids(self) -> list[str]:
        """The workloads that have costs, in the order of the catalogue."""
        costed = set(self.costs["workload"])
        return [id_ for id_ in self.workloads["workload"] if id_ in costed]


def read_folders(a: Path, b: Path) -> tuple[Folder, Folder]:
    """Read two folders; raise BadInput with everything that keeps either from being compared."""
    problems: list[Problem] = []
    first, second = (collect(problems, read_folder, path) for path in (a, b))
    if first is None or second is None:
        raise BadInput(problems)
    return first, second


def read_folder(path: Path) -> Folder:
    """Read one folder; raise BadInput if its tables are missing, broken, of another version or at odds."""
    if not path.is_dir():
        message = "is no folder of results"
        raise BadInput([Problem(str(path), "", "folder", str(path), message, "make one with make sweep")])
    problems: list[Problem] = []
    results = Results(path)
    workloads = collect(problems, read_table, results.workloads, "workloads")
    costs = collect(problems, read_table, results.costs, "costs")
    if workloads is None or costs is None:
        raise BadInput(problems)
    unknown = costs.filter(~pl.col("workload").is_in(workloads["workload"].implode()))["workload"]
    if unknown.len():
        message = "costs a workload that is not in workloads.parquet"
        raise BadInput(Problem(str(results.costs), "", "known", id_, message) for id_ in unknown)
    return Folder(path, workloads, costs, inputs(facts_of(results.costs)))
