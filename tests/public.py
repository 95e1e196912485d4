"""Public models for the tests: tests/data/public_models.yaml as workloads."""

from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from costing import cluster
from moesweep.cost.model import Costs, cost, with_constants
from moesweep.study.workload import resolve
from moesweep.trace.programs import folded

DATA = Path(__file__).parent / "data"

# One GPU, one sequence of 4096 tokens; no dropout, as whoever trains such models.
ALONE: dict[str, Any] = {
    **{"listed": 1, "world_size": 1, "tp": 1, "pp": 1, "ep": 1, "etp": 1, "micro_batch_size": 1},
    **{"global_batch_size": 1, "seq_length": 4096, "flash_attention": True, "hidden_dropout": 0.0},
    "attention_dropout": 0.0,
}


@cache
def models() -> dict[str, dict[str, Any]]:
    """Each model's `source`, `keys` and figures."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((DATA / "public_models.yaml").read_text("utf-8"))
    return found


def workload(model: str, **changes: Any) -> pl.DataFrame:
    """Return a public model as one workload."""
    return resolve([{"model": model, **models()[model]["keys"], **ALONE, **changes}])


def costs_of(workloads: pl.DataFrame) -> Costs:
    """Return its costs on DGX A100s."""
    return cost(folded(workloads), with_constants(workloads, cluster().values))


def costed(model: str, **changes: Any) -> dict[str, Any]:
    """Return the cost row of a public model."""
    return costs_of(workload(model, **changes)).workloads.row(0, named=True)
