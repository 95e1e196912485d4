"""Results of a small sweep, made stage by stage in one process: what figures and report are drawn from."""

from pathlib import Path
from typing import Any

import polars as pl

from moesweep.cli import main
from moesweep.store.layout import Results
from moesweep.store.tablefile import write_table
from moesweep.study.validation import findings
from moesweep.study.workload import resolve
from moesweep.trace.files import write_traces
from project import shared
from small import BASE

# Two models, an ep comparison, twins, a workload too big for a GPU, and one whose heads tp does not divide.
LISTED: list[dict[str, Any]] = [
    {"model": "small", "ep": 2, "world_size": 64},
    {"model": "small", "ep": 4, "world_size": 64},
    {
        "model": "wide",
        "ep": 2,
        "world_size": 32,
        "hidden_size": 16384,
        "ffn_hidden_size": 65536,
        "seq_length": 16384,
    },
    {"model": "odd", "ep": 2, "num_attention_heads": 7, "num_query_groups": 7, "hidden_size": 448},
]
DENSE = {"ep": 1, "num_experts": 0, "moe_router_topk": 0}


def workloads(only_dense: bool = False) -> pl.DataFrame:
    """Return the small sweep, each MoE workload with its twin."""
    moe = [BASE | entry for entry in LISTED]
    twins = {str(entry | {"ep": 1}): BASE | entry | DENSE | {"listed": 0} for entry in LISTED}
    dense = resolve(list(twins.values()))
    if only_dense:
        return dense
    both = pl.concat([resolve(moe), dense])
    alike = [name for name in both.columns if name in ("model", "world_size", "tp", "pp")]
    ids = both.filter(pl.col("kind") == "dense").select(*alike, pl.col("workload").alias("own"))
    linked = both.join(ids, on=alike, how="left", maintain_order="left")
    is_moe = pl.col("kind") == "moe"
    return linked.with_columns(twin=pl.when(is_moe).then(pl.col("own"))).drop("own")


def make_answers(folder: Path, only_dense: bool = False) -> Results:
    """Write every result of the small sweep below a folder, up to the tables, on the default cluster."""

    def make(root: Path) -> None:
        results, sweep = Results(root), workloads(only_dense)
        write_table(sweep, results.workloads, "workloads")
        write_table(findings(sweep), results.validation, "validation")
        # The command would trace the configured sweep.
        write_traces(sweep, results)
        for stage in ("cost", "traffic", "tables", "network"):
            assert main([stage, "--results", str(root)]) == 0

    return Results(shared("answers-dense" if only_dense else "answers", folder, make))
