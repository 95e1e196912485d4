"""The cost model from folded programs to the rows of results/costs.parquet."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from moesweep.cost.compute import peak_flops_per_second
from moesweep.cost.iteration import (
    filled_and_drained,
    seconds_of_the_slowest,
    stage_seconds,
    with_own,
    with_parts,
)
from moesweep.cost.memory import stage_memory, worst_rank
from moesweep.cost.ops import timed
from moesweep.cost.pairs import pairs
from moesweep.cost.pipeline import stepped
from moesweep.cost.skewed_ranks import at_mean_load
from moesweep.cost.stages import passes
from moesweep.cost.uncertainty import band, regime
from moesweep.cost.validity import validity
from moesweep.cost.words import ROWS, Words, among, choose
from moesweep.shapes import sizes as s
from moesweep.shapes.placement import layer_layout

COST_COLUMNS = ("workload", "seconds", "bound")


@dataclass(frozen=True)
class Costs:
    """Every table on the way from op rows to costs, one row each of what its name says.

    `ops` have `seconds` and `bound`; `passes`, `pairs` of them, `stages` and `memory` (of stages) are the
    sums in between; `workloads` have the cost columns. All also carry columns of their workload.
    """

    ops: pl.DataFrame
    passes: pl.DataFrame
    pairs: pl.DataFrame
    stages: pl.DataFrame
    memory: pl.DataFrame
    workloads: pl.DataFrame


OF_THE_WORKLOAD = {"num_microbatches": "microbatches", "kind": "workload_kind"}
"""Names that workload columns have beside an op's columns of the same name."""


def with_constants(workloads: pl.DataFrame, constants: Mapping[str, float]) -> pl.DataFrame:
    """Add a cluster's constants to each workload, one column a constant, in base units."""
    added = (pl.lit(value, dtype=pl.Float64).alias(name) for name, value in constants.items())
    return _spread(workloads.with_columns(added))


def cost(
    folded: pl.DataFrame,
    workloads: pl.DataFrame,
    fullest: pl.DataFrame | None = None,
    layers: pl.DataFrame | None = None,
) -> Costs:
    """Cost folded programs of workloads that carry their cluster's constants.

    Where routing is given, `fullest` are the expert rows of each stage's fullest rank (`fullest_ranks`), and
    `layers` say which layer has which load (`layers_of`).
    """
    if workloads.height == 1:
        return _alone(folded, workloads, fullest, layers)
    described = workloads.rename(OF_THE_WORKLOAD)
    ops = timed(folded, described)
    per_pass = passes(ops, described)
    stages = with_own(stage_seconds(per_pass).join(workloads, on="workload", maintain_order="left"))
    seconds = _iterations(
        stages, stepped(workloads, stages, per_pass, layer_layout(workloads) if layers is None else layers)
    )
    memory = stage_memory(folded, workloads, fullest)
    frame = (
        workloads.join(seconds.drop("num_microbatches"), on="workload", maintain_order="left")
        .join(worst_rank(memory), on="workload", maintain_order="left")
        .join(_model_flops(at_mean_load(folded, fullest), workloads), on="workload", maintain_order="left")
    )
    rated = frame.with_columns(**throughput()).with_columns(**price(), **regime(), **validity())
    rated = rated.with_columns(**band())
    return Costs(ops, per_pass, pairs(per_pass), stages, memory, rated)


def _alone(
    folded: pl.DataFrame, workloads: pl.DataFrame, fullest: pl.DataFrame | None, layers: pl.DataFrame | None
) -> Costs:
    """Cost one workload beside a copy of itself.

    What divides by one row divides by a constant (`_spread`): a workload that is costed alone would differ in
    the last digit from the same one among others.
    """
    own = pl.col("workload") == workloads["workload"][0]
    frames = (None if each is None else _doubled(each) for each in (folded, workloads, fullest, layers))
    costs = cost(*frames)  # type: ignore[arg-type]
    return Costs(*(frame.filter(own) for frame in vars(costs).values()))


def _doubled(rows: pl.DataFrame) -> pl.DataFrame:
    return _spread(pl.concat([rows, rows.with_columns(pl.col("workload") + " again")]))


def _spread(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with a value in each row of each column.

    polars keeps a literal as one value, however many rows it has, and divides by it by multiplying with its
    reciprocal, which rounds otherwise than a division does.
    """
    return pl.DataFrame(rows.get_columns())


def _iterations(stages: pl.DataFrame, pipelines: pl.DataFrame) -> pl.DataFrame:
    """Return the seconds of DESIGN section 6 by workload."""
    slowest = stages.group_by("workload", maintain_order=True).agg(**seconds_of_the_slowest())
    frame = slowest.join(pipelines, on="workload", maintain_order="left")
    closed = filled_and_drained()["pipeline_seconds"]
    pipeline = pl.coalesce("stepped_seconds", closed)
    frame = frame.with_columns(pipeline_seconds=pipeline, stepped=pl.col("stepped_seconds").is_not_null())
    return with_parts(frame.drop("stepped_seconds"))


needed_by_the_model = (pl.col("phase") == "forward") & (pl.col("flops") > 0)
"""The ops whose flops `needed_flops` counts."""


MODEL_FLOPS = {"model_flops": False, "causal_model_flops": True}
"""What is counted of the flops that a model needs, and whether attention counts by its causal pairs."""


def needed_once(op: Words, causal: bool = False) -> pl.Expr:
    """Return the flops that the model needs of one execution of a forward op, whatever its kernel does.

    Core attention: 2·b·s·keys·(query + value width)/(t·c) in full, although a causal mask hides half of the
    pairs; `causal` counts s²/2 of them, or s·w of a window of w keys. Its kernel may pad values or compute
    whole matrices: the model needs neither, nor rows that pad experts.
    """
    m, n = (pl.col(name).cast(pl.Float64) for name in ("m", "n"))
    pairs = m * pl.min_horizontal(n, s.sequence / 2) if causal else m * n
    width = (s.query_width + s.value_width) / s.tp / s.heads_split
    attention = 2 * pl.col("groups") * pairs * width
    flops = pl.col("flops").cast(pl.Float64)
    other = choose(among(op.kind, "grouped_gemm"), flops * s.needed_share, flops)
    return choose(among(op.kind, "attention"), attention, other)


def needed_flops() -> dict[str, pl.Expr]:
    """Return the flops of an iteration that the model needs, per GPU: three times the forward pass.

    Twice again for backward; nothing for recomputation. `model_flops` count attention in full (Narayanan et
    al. 2021, section 5.1; the convention of published MFU figures until 2025), `causal_model_flops` by its
    pairs (Megatron-LM since 2025).
    """
    runs, stages = pl.col("repeats") * pl.col("num_microbatches"), pl.col("pp").first()
    return {
        name: 3 * (needed_once(ROWS, causal) * runs).sum() / stages for name, causal in MODEL_FLOPS.items()
    }


def _model_flops(folded: pl.DataFrame, workloads: pl.DataFrame) -> pl.DataFrame:
    flops = needed_flops()
    read = {name for expression in flops.values() for name in expression.meta.root_names()}
    of_workload = [name for name in workloads.columns if name in read - set(folded.columns)]
    return (
        folded.filter(needed_by_the_model)
        .join(workloads.select("workload", *of_workload), on="workload", maintain_order="left")
        .group_by("workload", maintain_order=True)
        .agg(**flops)
    )


def throughput() -> dict[str, pl.Expr]:
    """Return tokens and model flops per second and GPU, shares of peak, and whether memory suffices."""
    tokens = pl.col("global_batch_size") * pl.col("seq_length") / pl.col("world_size")
    seconds = pl.col("iteration_seconds")
    rate = pl.col("model_flops") / seconds
    return {
        "tokens_per_second_per_gpu": tokens / seconds,
        "model_flops_per_second_per_gpu": rate,
        "mfu": rate / peak_flops_per_second,
        "causal_mfu": pl.col("causal_model_flops") / seconds / peak_flops_per_second,
        "fits": pl.col("peak_memory_bytes") + pl.col("reserved_hbm_bytes") <= pl.col("hbm_bytes"),
    }


def price() -> dict[str, pl.Expr]:
    """Return what a billion tokens take and cost, over the columns of `throughput`."""
    hours = 1e9 / pl.col("tokens_per_second_per_gpu") / 3600
    return {
        "gpu_hours_per_billion_tokens": hours,
        "usd_per_billion_tokens": hours * pl.col("usd_per_gpu_hour"),
    }
