"""What the sweep holds: its workloads, how they spread experts, and what Megatron would refuse."""

import polars as pl

from moesweep.tables.results import Inputs

STUDY_EXAMPLES = pl.DataFrame(
    {"world_size": [1024, 512, 1024], "tp": [16, 8, 4], "pp": [2, 8, 8], "ep": [16, 8, 4]}
)
"""The layouts that the shipped study explains."""

REFUSED = ("heads_by_tp", "groups_by_tp", "layers_by_pp")
"""Rules of validation that Megatron enforces with an assertion."""

_moe = pl.col("kind") == "moe"
_experts_per_rank = (pl.col("num_experts") // pl.col("ep")).alias("experts_per_ep_rank")


def workloads(inputs: Inputs) -> pl.DataFrame:
    """Return every workload with all its parameters, as the catalogue has them."""
    return inputs.workloads


def ep_breakdown(inputs: Inputs) -> pl.DataFrame:
    """Return how often each ep occurs, listed entries and distinct workloads."""
    return (
        inputs.workloads.filter(_moe)
        .group_by("num_experts", "ep")
        .agg(entries=pl.col("listed").sum(), distinct=pl.len().cast(pl.Int64))
        .select("num_experts", "ep", _experts_per_rank, "entries", "distinct")
        .sort("num_experts", "ep")
    )


def distribution_examples(inputs: Inputs) -> pl.DataFrame:
    """Return three layouts that show how experts are spread: the shipped study's, if they occur, then others.

    The others are the layouts of the most GPUs, each of an ep not yet shown.
    """
    layout = ("world_size", "tp", "pp", "ep")
    sizes = ("etp", "cp", "dp", "edp", "num_experts")
    layouts = (
        inputs.workloads.filter(_moe)
        .group_by(*layout, *sizes, maintain_order=True)
        .agg(pl.col("workload").first(), workloads=pl.len().cast(pl.Int64))
    )
    seeds = STUDY_EXAMPLES.join(layouts, on=layout, maintain_order="left")
    others = (
        layouts.sort("world_size", descending=True, maintain_order=True)
        .unique("ep", keep="first", maintain_order=True)
        .filter(~pl.col("ep").is_in(seeds["ep"].implode()))
    )
    return (
        pl.concat([seeds, others.select(seeds.columns)])
        .head(STUDY_EXAMPLES.height)
        .with_row_index("example", offset=1)
        .with_columns(_experts_per_rank)
    )


def warnings(inputs: Inputs) -> pl.DataFrame:
    """Return what validation warned of, rule by rule, with how many workloads each concerns."""
    return (
        _found(inputs)
        .group_by("rule", "refused")
        .agg(
            moe_workloads=pl.col("workload").filter(_moe).n_unique().cast(pl.Int64),
            moe_entries=pl.col("listed").filter(_moe).sum(),
            dense_workloads=pl.col("workload").filter(~_moe).n_unique().cast(pl.Int64),
            first_workload=pl.col("workload").first(),
            message=pl.col("message").first(),
        )
        .sort("refused", "rule", descending=[True, False])
    )


def megatron_refusals(inputs: Inputs) -> pl.DataFrame:
    """Return the workloads that Megatron would stop at with an assertion, and why."""
    return _found(inputs).filter("refused")


def _found(inputs: Inputs) -> pl.DataFrame:
    order = inputs.workloads.with_row_index("_order")
    return (
        inputs.validation.drop_nulls("workload")
        .join(order, on="workload", maintain_order="left")
        .with_columns(refused=pl.col("rule").is_in(REFUSED))
        .sort("_order", maintain_order=True)
        .drop("_order")
    )
