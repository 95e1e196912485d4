"""What fits: the ep of a layout, and the recomputation of a workload."""

from collections.abc import Sequence

import polars as pl

from moesweep.study.routing import given
from moesweep.tables.expense import costed
from moesweep.tables.results import BATCH, LAYOUT, Inputs

LEVELS = ("none", "selective", "full")
SIZES_GIB = (80, 40)
"""Memory of the two A100s."""


def feasible_ep(inputs: Inputs) -> pl.DataFrame:
    """Return each MoE layout of the sweep with the degrees of ep that are legal and those that fit.

    A layout is all columns of the catalogue but ep and what follows from it (edp, the id, the listing).
    Legal: ep divides the experts, and etp·ep·pp the GPUs. All degrees are costed, listed or not; layouts
    with a given routing are left out.
    """
    degrees = _degrees(inputs)
    costs = inputs.recosted(all_degrees(inputs), "feasible_ep")
    fits, seconds, ep = pl.col("fits"), pl.col("iteration_seconds"), pl.col("ep")
    largest = ep == ep.filter(fits).max()
    return (
        degrees.join(costs, on="workload", maintain_order="left")
        .group_by("of", maintain_order=True)
        .agg(
            *(pl.col(name).first() for name in (*LAYOUT[:5], "etp", "dp", *BATCH)),
            sweep_degrees=_listing(pl.col("sweep").first()),
            legal_degrees=_listing(ep.implode()),
            fitting_degrees=_listing(ep.filter(fits).implode()),
            largest_legal_ep=ep.max(),
            largest_fitting_ep=ep.filter(fits).max(),
            smallest_fitting_ep=ep.filter(fits).min(),
            fastest_fitting_ep=ep.filter(fits).sort_by(seconds.filter(fits)).first(),
            fastest_iteration_seconds=seconds.filter(fits).min(),
            iteration_seconds=seconds.filter(largest).first(),
            peak_memory_bytes=pl.col("peak_memory_bytes").filter(largest).first(),
            least_peak_memory_bytes=pl.col("peak_memory_bytes").min(),
        )
        .rename({"of": "workload"})
    )


def all_degrees(inputs: Inputs) -> pl.DataFrame:
    """Return a workload for each legal degree of ep of each layout of `feasible_ep`."""
    return _degrees(inputs).with_columns(listed=pl.lit(0)).select(inputs.workloads.columns)


def _degrees(inputs: Inputs) -> pl.DataFrame:
    """Return the same with all columns, `sweep` the listed degrees, and `of`, a workload of the layout."""
    follows = ("workload", "ep", "edp", "listed", "twin")
    layout = [name for name in inputs.workloads.columns if name not in follows]
    layouts = (
        inputs.workloads.filter((pl.col("kind") == "moe") & ~given)
        .group_by(layout, maintain_order=True)
        .agg(pl.col("workload").first(), pl.col("twin").first(), sweep=pl.col("ep").sort())
    )
    return _legal_degrees(layouts).with_columns(of="workload", workload=pl.format("{} {}", "workload", "ep"))


def _legal_degrees(layouts: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each legal ep of each layout, with its edp."""
    members = pl.col("etp") * pl.col("ep") * pl.col("pp")
    return (
        layouts.with_columns(ep=pl.int_ranges(1, pl.col("num_experts") + 1, dtype=pl.Int64))
        .explode("ep")
        .filter((pl.col("num_experts") % pl.col("ep") == 0) & (pl.col("world_size") % members == 0))
        .with_columns(edp=pl.col("world_size") // members)
    )


def _listing(numbers: pl.Expr) -> pl.Expr:
    return numbers.cast(pl.List(pl.String)).list.join(" ")


def recompute_options(inputs: Inputs) -> pl.DataFrame:
    """Return what each workload takes with each recomputation, and the fastest that fits 80, 40 GiB, the GPU.

    The GPU has the cluster's memory, or `inputs.memory_bytes`. Seconds are those of the sweep's GPU; a
    workload fits if its peak and the cluster's `reserved_hbm_bytes` do. Workloads with a given routing are
    left out.
    """
    measures = ("iteration_seconds", "peak_memory_bytes")
    workloads = inputs.workloads.filter(~given)
    known = costed(inputs).select("workload", "recompute", *measures)
    other = _recomputed(workloads)
    costs = inputs.recosted(other_recomputations(inputs), "recompute_options").select("workload", *measures)
    found = other.join(costs, on="workload", maintain_order="left").with_columns(workload="of")
    both = pl.concat([known, found.select(known.columns)])
    for name in LEVELS:
        one = both.filter(pl.col("recompute") == name).select(
            "workload", pl.col(measures).name.prefix(f"{name}_")
        )
        workloads = workloads.join(one, on="workload", maintain_order="left")
    reserved = inputs.cluster.value("reserved_hbm_bytes")
    sizes = {f"at_{size}_gib": size * 2.0**30 for size in SIZES_GIB}
    gpu = inputs.memory_bytes or inputs.cluster.value("hbm_bytes")
    sizes["on_gpu"] = gpu
    return workloads.with_columns(
        pl.lit(gpu).alias("gpu_memory_bytes"),
        *(_fastest(size - reserved).alias(f"fastest_{where}") for where, size in sizes.items()),
    ).with_columns(
        (_of_level(f"fastest_{where}") / pl.col("none_iteration_seconds")).alias(f"ratio_{where}")
        for where in sizes
    )


def other_recomputations(inputs: Inputs) -> pl.DataFrame:
    """Return the workloads of `recompute_options` with each recomputation but their own."""
    return _recomputed(inputs.workloads.filter(~given)).select(inputs.workloads.columns)


def _recomputed(workloads: pl.DataFrame) -> pl.DataFrame:
    """Return the same with `of`, the workload that one is of."""
    level = workloads.schema["recompute"]
    return pl.concat(
        workloads.filter(pl.col("recompute") != name).with_columns(
            recompute=pl.lit(name, level),
            of="workload",
            workload=pl.format("{} {}", "workload", pl.lit(name)),
        )
        for name in LEVELS
    )


def _fastest(most_bytes: float) -> pl.Expr:
    """Return the level of fewest seconds whose peak is at most so many bytes, null if none is."""
    seconds = [
        pl.when(pl.col(f"{name}_peak_memory_bytes") <= most_bytes).then(f"{name}_iteration_seconds")
        for name in LEVELS
    ]
    return _words(LEVELS).list.get(pl.concat_list(seconds).list.arg_min())


def _words(words: Sequence[str]) -> pl.Expr:
    return pl.lit(pl.Series(words).implode())


def _of_level(level: str) -> pl.Expr:
    """Return the seconds of the level that a column names."""
    return pl.coalesce(pl.when(pl.col(level) == name).then(f"{name}_iteration_seconds") for name in LEVELS)
