"""Folders of results to compare: written on a cluster, and told otherwise."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.evaluate.files import write_costs
from moesweep.store.layout import Results
from moesweep.store.provenance import facts
from moesweep.store.tablefile import write_table
from moesweep.study.catalog import Cluster, load_cluster
from moesweep.trace.files import write_traces
from skewed import HERE
from small import small

ROOT = Path(__file__).resolve().parents[1]
FASTER = {"nic_bytes_per_second": 5e10, "kernel_seconds": 2e-6}


def made_from(on: Cluster) -> dict[str, str]:
    return facts(on.name, on.constants, asdict(on.network))


def cluster(changed: Mapping[str, float] | None = None) -> Cluster:
    default = load_cluster(ROOT, "dgx-a100-80gb-8xhdr200")
    constants = {
        name: replace(constant, value=(changed or {}).get(name, constant.value))
        for name, constant in default.constants.items()
    }
    return replace(default, constants=constants)


def write(path: Path, sweep: Mapping[str, dict[str, Any]], on: Cluster, root: Path = HERE) -> Path:
    """Make a results folder of small workloads, with the stages' own functions; tables lie in `root`."""
    results = Results(path)
    workloads = pl.concat(
        small(**changes).with_columns(workload=pl.lit(id_)) for id_, changes in sweep.items()
    )
    write_table(workloads, results.workloads, "workloads")
    write_traces(workloads, results, root)
    write_costs(results, on)
    return path


def retold(path: Path, copy: Path, told: Mapping[str, str]) -> Path:
    """Copy a folder, whose costs then say that they are from other inputs."""
    shutil.copytree(path, copy)
    results = Results(copy)
    write_table(pl.read_parquet(results.costs), results.costs, "costs", told)
    return copy
