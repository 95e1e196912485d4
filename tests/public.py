"""Public models as workloads: the catalogue's, and those of tests/data/public_models.yaml."""

from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from costing import cluster
from moesweep.cost.model import Costs, cost, with_constants
from moesweep.study.keys import KEYS
from moesweep.study.models import given_by_model
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
    """Each model's figures, and `source` and `keys` of those that are not in the catalogue."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((DATA / "public_models.yaml").read_text("utf-8"))
    return found


def workload(model: str, **changes: Any) -> pl.DataFrame:
    """Return a public model as one workload."""
    return resolve([{"model": model, **keys_of(model), **ALONE, **changes}])


def keys_of(model: str) -> dict[str, Any]:
    """Return what a model says of its keys, as columns have it."""
    own: dict[str, Any] | None = models().get(model, {}).get("keys")
    if own is not None:
        return own
    said = given_by_model(DATA.parents[1], model)
    texts = {key: KEYS[key].text for key in said}
    return {key: value if (text := texts[key]) is None else text(value) for key, value in said.items()}


def costs_of(workloads: pl.DataFrame) -> Costs:
    """Return its costs on DGX A100s."""
    return cost(folded(workloads), with_constants(workloads, cluster().values))


def costed(model: str, **changes: Any) -> dict[str, Any]:
    """Return the cost row of a public model."""
    return costs_of(workload(model, **changes)).workloads.row(0, named=True)
