"""Skewed workloads for the tests: measured tables, a trace to work out by hand, costs."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl

from costing import constants
from moesweep.cost.fold import fold, layers_of
from moesweep.cost.model import Costs, cost, with_constants
from moesweep.cost.skewed_ranks import fullest_ranks
from moesweep.store.layout import Results
from moesweep.study.routing import Routing
from moesweep.trace.files import write_traces
from moesweep.trace.programs import folded
from moesweep.trace.skewed_copies import given_routing
from moesweep.trace.skewed_programs import busiest, rank_programs
from small import small
from varied import VARIED

SKEWED = "zipf(alpha=1.2,seed=7)"
HERE = Path()


def table_file(folder: Path, counts: list[list[int]], name: str = "mine.parquet") -> str:
    """Write a measured table with one list of tokens a layer; return its path from the folder."""
    rows = [
        {"layer": layer, "expert": expert, "tokens": tokens}
        for layer, row in enumerate(counts)
        for expert, tokens in enumerate(row)
    ]
    pl.DataFrame(rows, schema=dict.fromkeys(("layer", "expert", "tokens"), pl.Int64)).write_parquet(
        folder / name
    )
    return name


def measured(folder: Path, counts: list[list[int]], capacity: str = "") -> str:
    """Return the text of a routing measured so."""
    name = table_file(folder, counts)
    return Routing("table", file=name, capacity=Fraction(capacity) if capacity else None).text


def costs_of(workload: pl.DataFrame, root: Path = HERE, **changes: float) -> Costs:
    described = with_constants(workload, constants(**changes))
    row = workload.row(0, named=True)
    if row["routing"] == "balanced":
        return cost(folded(workload), described)
    programs = busiest(rank_programs(workload, root))
    routing = given_routing(row, root).with_columns(workload=pl.lit(row["workload"]))
    fullest, layers = fullest_ranks(programs, routing), layers_of(programs, workload)
    return cost(fold(programs), described, fullest, layers)


def seconds(workload: pl.DataFrame, **changes: float) -> float:
    return float(costs_of(workload, **changes).workloads["iteration_seconds"][0])


# --- by hand --------------------------------------------------------------------------------------------
# 16 ranks, tp = etp = pp = ep = edp = 2, 4 experts, top-2, 64 tokens, hidden 64. A rank has 32 tokens, so 64
# copies; the two members of an EP group 128. Tokens 50, 30, 15, 5 end at 64, 102, 121 (.6 dropped) and 128:
# 64, 38, 19 and 7 copies. ep rank 0 has 102 of them, ep rank 1 has 26; etp doubles the rows.
COUNTS = [[50, 30, 15, 5]] * 4
COPY = 128  # bytes of a copy


def trace_by_hand(tmp_path: Path, capacity: str = "") -> tuple[Results, str]:
    workload = small(routing=measured(tmp_path, COUNTS, capacity))
    results = Results(tmp_path / "results")
    write_traces(workload, results, tmp_path)
    return results, workload["workload"][0]


CHANGES: dict[str, dict[str, Any]] = {
    "base": {},
    "no tp": VARIED["moe, no tp"],
    "no ep": VARIED["moe, no ep"],
    "etp 1": VARIED["moe, whole experts beside cut attention"],
    "etp 4": VARIED["moe, etp wider than tp"],
    "top-1 of 8": VARIED["moe, top-1 of 8"] | {"ep": 4},
    "full": VARIED["moe, full"],
    "interleaved": VARIED["moe, interleaved"],
    "stages side by side": {"use_tp_pp_dp_mapping": True, "etp": 1, "ep": 2},
    "odd": {"ep": 3, "num_experts": 12, "world_size": 12, "global_batch_size": 24, "seq_length": 70, "pp": 1},
    "gated": VARIED["moe, gated and grouped queries"]
    | {"recompute": "selective", "recompute_modules": "layernorm+moe", "moe_router_dtype": "fp32"},
}
