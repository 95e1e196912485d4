"""The best layouts of a model on some GPUs: a space around it, screened in memory."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from moesweep.edge.paths import provided
from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.edge.yaml_reader import read_yaml
from moesweep.screen.choice import Choice
from moesweep.screen.points import POSITION, costed_points
from moesweep.screen.run import AT_ONCE
from moesweep.study.catalog import Cluster
from moesweep.study.configured import Configuration
from moesweep.study.models import given_by_model
from moesweep.study.parts import parts_of
from moesweep.study.space import Space, nothing_left, space_of

FILE = "best"
"""What problems call the space that nobody has written."""

MOST_TP = 64
"""Tensor parallelism beyond this many GPUs is not searched."""

SEQ_LENGTH, SEQUENCES_A_GPU = 4096, 2
"""Without other word: tokens of a sequence, and sequences of a global batch for each GPU."""

UNREFUSED = [
    "num_attention_heads % tp = 0",
    "num_layers % (pp * virtual_pipeline) = 0 OR num_layers_in_first_pipeline_stage > 0 OR "
    "num_layers_in_last_pipeline_stage > 0 OR account_for_embedding_in_pipeline_split OR "
    "account_for_loss_in_pipeline_split OR pipeline_model_parallel_layout <> 'none'",
]
"""What Megatron refuses is no layout to run."""

NOT_TAKEN = ("model", "routing", "cluster")
"""What a search does not take from the configured sweep's options: it is balanced, and has one cluster."""

SAID_BY = {"model": "MODEL", "world_size": "--gpus"}
"""What NAME=VALUE does not take, since another argument says it."""

NEXT = 3
"""Points that are shown of those that fell out."""


@dataclass(frozen=True)
class Found:
    """What a search has come to.

    space     what was searched
    best      the best points that fit, the best first
    faster    points that do not fit, faster than the best one if there is one: those first that lack least
    legal     how many points are legal; `left_out` why the others are not
    """

    space: Space
    best: pl.DataFrame
    faster: pl.DataFrame
    legal: int
    left_out: Mapping[str, int]


def searched(configuration: Configuration, model: str, gpus: int, given: Mapping[str, Any]) -> Space:
    """Return the space of a model's layouts on some GPUs: what is not given is searched, or as configured.

    Searched: tp, pp, ep, etp, virtual_pipeline, micro_batch_size and recompute. Raises BadInput.
    """
    twice = sorted(SAID_BY.keys() & given.keys())
    if twice:
        raise BadInput([_said_twice(name, given[name]) for name in twice])
    own = given_by_model(configuration.root, model)
    kept = {key: value for key, value in _options(configuration).items() if key not in (*own, *NOT_TAKEN)}
    degrees = [degree for degree in range(1, min(gpus, MOST_TP) + 1) if gpus % degree == 0]
    axes: dict[str, Any] = {
        "tp": degrees,
        "pp": "all",
        "ep": "all",
        "etp": [1, "tp"],
        "virtual_pipeline": "all",
        "micro_batch_size": [1, 2, 4, 8],
        "recompute": ["none", "selective", "full"],
    }
    plain = {"seq_length": SEQ_LENGTH, "global_batch_size": SEQUENCES_A_GPU * gpus}
    if not ({"num_experts": 0} | own | kept | dict(given))["num_experts"]:
        axes = {key: value for key, value in axes.items() if key not in ("ep", "etp")}
    grid = plain | axes | dict(given) | {"model": model, "world_size": gpus, "where": UNREFUSED}
    said = {key: value for key, value in kept.items() if key not in grid}
    data = {"description": f"Layouts of {model} on {gpus} GPUs.", "options": said, "grids": [grid]}
    return space_of(*parts_of(configuration.root, data, FILE, space=True))


def _said_twice(name: str, value: object) -> Problem:
    return Problem("", name, "given_twice", shown(value), f"{SAID_BY[name]} says it", "leave it out")


def _options(configuration: Configuration) -> dict[str, Any]:
    """Return the options of the configured sweep; none where there is no such sweep."""
    path = configuration.load()["sweep"]
    try:
        data = read_yaml(provided(configuration.root, path), path)
    except BadInput:
        return {}
    found = data.get("options") if isinstance(data, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def best(space: Space, cluster: Cluster, top: int) -> Found:
    """Return the fastest points of a space that fit; raise BadInput where none is legal."""
    kept, faster, legal, left_out = [], [], 0, Counter[str]()
    choice = Choice(top=top, fits=True)
    space = space.on({cluster.name: cluster.values})
    for part in space.parts(AT_ONCE):
        batch = space.batch(part)
        left_out.update(batch.left_out)
        legal += batch.workloads.height
        if not batch.workloads.height:
            continue
        points = costed_points(space, part, batch, {cluster.name: cluster})
        kept.append(choice.of(points))
        faster.append(points.filter(~pl.col("fits")))
    if not legal:
        raise BadInput([nothing_left(space, left_out)])
    found = choice.of(pl.concat(kept))
    return Found(space, found, _fallen_out(pl.concat(faster), found), legal, left_out)


def _fallen_out(points: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """Return the points that do not fit and are faster than what does; or those that lack least."""
    if found.is_empty():
        return points.sort("peak_memory_bytes", POSITION).head(NEXT)
    slower = points.filter(pl.col("iteration_seconds") < found["iteration_seconds"][0])
    return slower.sort("peak_memory_bytes", POSITION)
