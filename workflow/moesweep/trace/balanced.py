"""How many rows each expert computes: balanced routing is as even as whole tokens allow."""

import polars as pl

from moesweep.shapes import sizes as s


def routing(workloads: pl.DataFrame) -> pl.DataFrame:
    """Return layer, expert, ep_rank, rows, share: one row an expert, layer -1 standing for every MoE layer.

    The ep members of a group route N = e·R copies in all; expert i computes ⌊(i+1)·N/E⌋ - ⌊i·N/E⌋ of
    them, so the rows of a group's experts always add up to N.
    """
    copies, expert = s.ep * s.expert_rows, pl.col("expert")
    return (
        workloads.filter(pl.col("kind") == "moe")
        .with_columns(expert=pl.int_ranges(0, "num_experts", dtype=pl.Int64))
        .explode("expert")
        .select(
            "workload",
            "expert",
            layer=pl.lit(-1, dtype=pl.Int64),
            ep_rank=expert // s.local_experts,
            rows=(expert + 1) * copies // s.experts - expert * copies // s.experts,
            share=1 / s.experts,
        )
    )
