"""Programs where routing is given: one for every stage and ep rank, and the one that everybody waits for."""

from pathlib import Path

import polars as pl

from moesweep.shapes.layer_kinds import KINDS, has_experts
from moesweep.shapes.placement import layer_layout
from moesweep.shapes.sizes import GIVEN
from moesweep.trace.programs import PROGRAM_COLUMNS, evaluate, in_order, sections, stages
from moesweep.trace.skewed_copies import by_tables_in, loads

_QUANTITIES = ("m", "n", "k", "flops", "hbm_bytes", "comm_bytes", "wire_bytes")
RANK_COLUMNS = ["workload", "stage", "ep_rank", *PROGRAM_COLUMNS[2:]]


def rank_programs(workloads: pl.DataFrame, root: Path) -> pl.DataFrame:
    """Return the program of every stage and ep rank in execution order: RANK_COLUMNS."""
    layout = layer_layout(workloads).select("workload", "stage", "layer_kind", "layer", "unit")
    every = stages(workloads).with_columns(ep_rank=pl.int_ranges(0, "ep", dtype=pl.Int64)).explode("ep_rank")
    in_layers = every.join(layout, on=["workload", "stage"])
    loaded = in_layers.join(loads(workloads, by_tables_in(root)), on=["workload", "layer", "ep_rank"])
    frames = {
        kind: (loaded if has_experts(kind) else in_layers).filter(pl.col("layer_kind") == kind)
        for kind in KINDS
    }
    around = every.with_columns(layer=pl.lit(-1, dtype=pl.Int64), unit=pl.lit(None, dtype=pl.Int64))
    rows = [
        frame
        for place, alternatives in enumerate(sections(GIVEN))
        for section in alternatives
        for frame in evaluate(frames.get(section.scope, around), place, section, ("ep_rank", "layer", "unit"))
    ]
    return in_order(pl.concat(pl.collect_all(rows)), workloads, ("stage", "ep_rank")).select(RANK_COLUMNS)


def busiest(rank_programs: pl.DataFrame) -> pl.DataFrame:
    """Return one program a stage, each op as on the ep rank for which it is largest: PROGRAM_COLUMNS.

    The others wait for that rank. An exchange lasts as long as the largest buffer that any rank sends or
    receives, and what it sends forward it receives backward.
    """
    words = pl.exclude("ep_rank", *_QUANTITIES).first()
    exchanged = (pl.col("collective") == "all_to_all") & (pl.col("group_kind") == "ep")
    exchange = pl.col("op").str.strip_prefix("recompute_")
    largest = pl.col("comm_bytes", "wire_bytes").max().over("workload", "layer", exchange)
    return (
        rank_programs.group_by("workload", "stage", "op_index", maintain_order=True)
        .agg(words, pl.col(*_QUANTITIES).max())
        .with_columns(pl.when(exchanged).then(largest).otherwise(pl.col("comm_bytes", "wire_bytes")))
        .select(PROGRAM_COLUMNS)
    )
