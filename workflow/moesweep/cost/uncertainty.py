"""How far an iteration's seconds may be off: by the errors of measured runs of the same regime.

A regime's spread is the log error that four of five measured runs stay within, those of a source weighing as
one, in quadrature with what no measurement shows of a model (make calibrate; docs/costs.md, "The band").
Beside it stand the constants that are known least: what the iteration becomes with each alone at the end of
its range that is farther away.
"""

from collections.abc import Mapping

import polars as pl

from moesweep.shapes.expressions import by_word
from moesweep.study.catalog_files import Constant

UNCERTAIN = (
    "gemm_gain",
    "fp8_gemm_efficiency",
    "grouped_gemm_efficiency",
    "attention_gemm_efficiency",
    "deterministic_attention_fraction",
    "elementwise_hbm_fraction",
    "adam_hbm_fraction",
    "permute_hbm_fraction",
    "host_seconds",
    "host_2021_seconds",
    "host_experts_seconds",
    "tp_skew_seconds",
    "tp_overlap",
    "ep_overlap",
    "userbuffers_overlap",
    "dp_overlap",
    "dp_efficiency",
    "fabric_efficiency",
    "all_to_all_efficiency",
    "p2p_latency_seconds",
    "expert_load_variation",
    "dispatch_wait_seconds",
)
"""The constants fitted or assumed; all others are data sheets' or direct measurements."""


def farther_ends(constants: Mapping[str, Constant]) -> dict[str, float]:
    """Return the end of each uncertain constant's range that is farther from its value."""
    known = {name: constants[name] for name in UNCERTAIN}
    return {name: c.low if c.value - c.low > c.high - c.value else c.high for name, c in known.items()}


def change() -> dict[str, pl.Expr]:
    """Return the share by which an iteration changes with one constant moved, over its `own` seconds."""
    return {"share": pl.col("iteration_seconds") / pl.col("own") - 1}


REGIMES = ("dense_inside", "dense_across", "tp_across", "moe_inside", "moe_across")
"""What a prediction's error depends on: experts or none, and what has to cross nodes."""


def regime() -> dict[str, pl.Expr]:
    """Return which of REGIMES a workload is in.

    moe_across: an EP group spans nodes (etp · ep GPUs are more than a node's); tp_across: a TP group does;
    dense_across: only pipelines and replicas do.
    """
    node = pl.col("gpus_per_node")
    experts = pl.when(pl.col("etp") * pl.col("ep") > node).then(pl.lit("moe_across"))
    dense = pl.when(pl.col("world_size") > node).then(pl.lit("dense_across"))
    return {
        "regime": pl.when(pl.col("kind") == "moe")
        .then(experts.otherwise(pl.lit("moe_inside")))
        .when(pl.col("tp") > node)
        .then(pl.lit("tp_across"))
        .otherwise(dense.otherwise(pl.lit("dense_inside")))
    }


ENDS = {"low": -1, "high": 1}
"""Ends of a band, each with a spread: what nobody knows of a run makes it slow more often than fast."""


def _factor(end: str) -> pl.Expr:
    of_regimes = {name: pl.col(f"band_{name}_{end}_spread") for name in REGIMES}
    return by_word(pl.col("regime"), of_regimes, pl.lit(None)).alias(f"{end}_spread").exp()


def band() -> dict[str, pl.Expr]:
    """Return the ends of the band: seconds / exp(spread below) and seconds · exp(spread above), by regime.

    The lower one is no less than seconds · causal_mfu, what the model's flops take at the GPU's peak: of
    attention a causal kernel computes half.
    """
    seconds = pl.col("iteration_seconds")
    return {
        "iteration_seconds_low": pl.max_horizontal(seconds / _factor("low"), seconds * pl.col("causal_mfu")),
        "iteration_seconds_high": seconds * _factor("high"),
    }


def changes(costs: pl.DataFrame, moved: pl.DataFrame) -> pl.DataFrame:
    """Return workload, constant, `iteration_seconds` with it moved, own and `share`; the largest first.

    `moved` has the iteration's seconds of each workload with each constant moved, one column a constant.
    """
    order = costs.select("workload", own="iteration_seconds").with_row_index("place")
    return (
        moved.unpivot(UNCERTAIN, index="workload", variable_name="constant", value_name="iteration_seconds")
        .join(order, on="workload", maintain_order="left")
        .with_columns(**change())
        .sort("place", -pl.col("share").abs(), "constant")
    )
