"""Memory against a second, naive one, part for part and stage for stage, for every model key and option."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moesweep.cost.fold import fold
from moesweep.cost.memory import stage_memory
from moesweep.cost.skewed_ranks import fullest_ranks
from moesweep.study.routing import Routing
from moesweep.trace.programs import folded
from moesweep.trace.skewed_copies import given_routing
from moesweep.trace.skewed_programs import busiest, rank_programs
from naive_memory import naive_memory
from naive_routing import Exchange, popularities
from small import DENSE, MODELS, small
from varied import VARIED

FULL: dict[str, Any] = {"recompute": "full", "recompute_num_layers": 2}
EVERY = (
    VARIED
    | MODELS
    | {
        "two by two beside multi-token prediction": FULL | {"num_layers": 6, "mtp_num_layers": 1},
        "one beside multi-token prediction, two by two": FULL | {"num_layers": 2, "mtp_num_layers": 1},
        "many words": DENSE | {"vocab_size": 20_000, "seq_length": 32, "tied_embeddings": False},
        "few words, many tokens": {"vocab_size": 100, "seq_length": 512, "num_shared_experts": 1},
        "one micro-batch": {"pp": 4, "num_layers": 8, "world_size": 32, "global_batch_size": 8},
    }
)


@pytest.fixture(scope="module")
def stages() -> pl.DataFrame:
    """Memory of every stage of every workload, which one call gives."""
    every = [
        small(**changes).with_columns(workload=pl.lit(name, dtype=pl.String))
        for name, changes in EVERY.items()
    ]
    workloads = pl.concat(every, how="vertical_relaxed")
    return stage_memory(folded(workloads), workloads)


@pytest.mark.parametrize("name", EVERY)
def test_every_part_of_every_stage(name: str, stages: pl.DataFrame) -> None:
    row = small(**EVERY[name]).row(0, named=True)
    own = stages.filter(pl.col("workload") == name).sort("stage")
    assert len(own) == row["pp"]
    for found in own.to_dicts():
        wanted = naive_memory(row, found["stage"])
        assert {part: found[part] for part in wanted} == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("recompute", ["none", "full", "selective"])
def test_the_fullest_rank_where_routing_is_given(recompute: str) -> None:
    capacity = Fraction("1.25")
    modules = {"recompute_modules": "moe_act"} if recompute == "selective" else {}
    text = Routing("zipf", 1.1, 3, capacity=capacity).text
    workload = small(ep=4, num_experts=8, world_size=32, routing=text, recompute=recompute, **modules)
    row = workload.row(0, named=True)
    programs = busiest(rank_programs(workload, Path()))
    routing = given_routing(row, Path()).with_columns(workload=pl.lit(row["workload"]))
    ours = stage_memory(fold(programs), workload, fullest_ranks(programs, routing))
    rows = {}
    for layer in range(row["num_layers"]):
        shares = popularities("zipf", 1.1, 3, layer, row["num_experts"], row["moe_router_topk"])
        kept = Exchange(row, shares, capacity).kept
        local = row["num_experts"] // row["ep"]
        rows[layer] = {
            rank: row["etp"] * sum(kept[rank * local : (rank + 1) * local]) for rank in range(row["ep"])
        }
    assert len({rows[layer][0] for layer in rows}) > 1
    for found in ours.to_dicts():
        wanted = naive_memory(row, found["stage"], rows)
        assert {part: found[part] for part in wanted} == pytest.approx(wanted, rel=1e-12)
