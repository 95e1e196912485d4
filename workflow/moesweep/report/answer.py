"""The answer in three sentences, computed from the tables."""

from math import log
from statistics import median

import polars as pl

from moesweep.report.evidence import Evidence
from moesweep.report.words import count
from moesweep.shapes.standing import placement

_NAMED = 6
"""Models that a title names."""


def sentences(evidence: Evidence) -> list[str]:
    """Return what a MoE costs beside its twin, what a higher ep does, and what fits and is validated."""
    return [_against_dense(evidence), _ep(evidence), _memory_and_trust(evidence)]


def about(evidence: Evidence) -> str:
    """Return what the results are of: how many workloads, which models, how many GPUs of which cluster."""
    rows = evidence.workloads
    models = rows["model"].unique(maintain_order=True).to_list()
    more = f" and {len(models) - _NAMED} more models" if len(models) > _NAMED else ""
    sizes = rows["world_size"].unique().sort().to_list()
    gpus = f"{sizes[0]:,} to {sizes[-1]:,}" if len(sizes) > 1 else f"{sizes[0]:,}"
    named = ", ".join(models[:_NAMED]) + more
    return f"{count(rows.height, 'workload')} of {named} on {gpus} GPUs of {evidence.cluster.name}"


def within_band(evidence: Evidence) -> str:
    """Return in how many comparisons the degrees of ep differ by less than the band of one prediction.

    A comparison is within it where its slowest iteration is at most as much slower than its fastest one as
    the band's end is from the prediction; empty without comparisons.
    """
    if evidence.ep_scaling.is_empty():
        return ""
    band = evidence.workloads.select("workload", "iteration_seconds_high")
    spread = (
        evidence.ep_scaling.join(band, on="workload", maintain_order="left")
        .group_by("comparison")
        .agg(
            difference=pl.col("iteration_seconds").max() / pl.col("iteration_seconds").min(),
            band=(pl.col("iteration_seconds_high") / pl.col("iteration_seconds")).min(),
        )
    )
    within, all_ = spread.filter(pl.col("difference") <= pl.col("band")).height, spread.height
    if not within:
        return f"In none of the {count(all_, 'comparison')} do the degrees differ by less than the band."
    return (
        f"In {within} of {count(all_, 'comparison')} the degrees differ by less than the band of one "
        "prediction: there the model does not tell which ep is fastest."
    )


def in_one_sentence(evidence: Evidence) -> str:
    """Return the answer in short: what ep does, else MoE against dense, else an option, else the fastest."""
    if not evidence.ep_scaling.is_empty():
        return _ep(evidence)
    if not evidence.pairs.is_empty():
        return _against_dense(evidence)
    if not evidence.table("options_compared").is_empty():
        return _options(evidence)
    fastest = evidence.workloads.sort("tokens_per_second_per_gpu", maintain_order=True).row(-1, named=True)
    tokens = f"{fastest['tokens_per_second_per_gpu']:,.0f}"
    return f"Most tokens per second and GPU, {tokens}, has {fastest['workload']}."


def fitting(evidence: Evidence) -> str:
    """Return how many workloads of each kind fit a GPU."""
    kinds = evidence.workloads.group_by("kind", maintain_order=True).agg(pl.col("fits").sum(), n=pl.len())
    names = {"moe": "MoE", "dense": "dense"}
    fit = " and ".join(
        f"{fits:,} of {n:,} {names[str(kind)]} workloads" for kind, fits, n in kinds.iter_rows()
    )
    return f"{fit} fit the {evidence.cluster.value('hbm_bytes') / 2**30:g} GiB of a GPU"


def _median(values: pl.Series) -> str:
    return f"{float(values.median()):.3g}"  # type: ignore[arg-type]


def _against_dense(evidence: Evidence) -> str:
    pairs = evidence.pairs.filter(pl.col("iteration_seconds_ratio").is_not_null())
    if pairs.is_empty():
        return "This sweep has no MoE workload with a dense twin."
    seconds, flops = pairs["iteration_seconds_ratio"], _median(pairs["flops_per_token_ratio"])
    memory, matched = _median(pairs["peak_memory_bytes_ratio"]), count(pairs.height, "matched pair")
    return (
        f"On {evidence.cluster.name}, an iteration of a MoE takes {_median(seconds)} times as long as its "
        f"dense twin's (median of {matched}; {_range(seconds)}), for {flops} times the flops per token and "
        f"{memory} times the memory."
    )


def _ep(evidence: Evidence) -> str:
    scaling = evidence.ep_scaling
    if scaling.is_empty():
        return _options(evidence)
    last = scaling.group_by("comparison", maintain_order=True).last()
    seconds, exchange = last["iteration_seconds_ratio"], last["all_to_all_seconds_ratio"].drop_nulls()
    shorter, comparisons = (seconds < 1).sum(), count(last.height, "comparison")
    # Without expert parallelism there is no exchange to compare with.
    longer = f"takes {_median(exchange)} times as long" if exchange.len() else "comes on top"
    return (
        f"All else equal, the highest ep takes {_median(seconds)} times as long as the lowest "
        f"({_range(seconds)}; less in {shorter} of {comparisons}): the token exchange {longer}, while "
        f"weights, gradients and optimizer state fill {_median(last['state_bytes_ratio'])} times the memory."
    )


def _options(evidence: Evidence) -> str:
    """Return which option that the sweep varies moves iterations most, all else equal."""
    ratio = pl.col("iteration_seconds_ratio")
    compared = evidence.table("options_compared").filter(ratio.is_not_null())
    if compared.is_empty():
        return "No two of its workloads differ in one option alone, so it does not say what an option does."
    medians = compared.group_by("axis", "value", maintain_order=True).agg(ratio)
    axis, value, ratios = max(medians.iter_rows(), key=lambda row: abs(log(median(row[2]))))
    lowest = compared.filter(axis=axis).group_by("comparison").first()["value"].unique()
    base = lowest[0] if lowest.len() == 1 else "the lowest value"
    seconds = pl.Series(ratios)
    return (
        f"No two of its workloads differ in ep alone. Of the options that it varies, {axis} moves iterations "
        f"most: {value} takes {_median(seconds)} times as long as {base}, all else equal ({_range(seconds)}; "
        f"{count(seconds.len(), 'comparison')})."
    )


def _memory_and_trust(evidence: Evidence) -> str:
    unlike = evidence.workloads.filter(kind="moe", validated="outside").height
    moe = evidence.workloads.filter(kind="moe").height
    trust = (
        f"; seconds are predictions, and for {unlike:,} of {count(moe, 'MoE workload')} no run like them was "
        "measured to hold them against."
        if unlike
        else "; seconds are predictions, not measurements."
    )
    return f"{fitting(evidence)}{trust}"


def experts_across_nodes(evidence: Evidence) -> tuple[int, int]:
    """Return how many MoE workloads have expert groups that span nodes, and how many there are."""
    moe = evidence.workloads.filter(pl.col("kind") == "moe")
    nodes = placement("ep", int(evidence.cluster.value("gpus_per_node"))).nodes
    return moe.filter(nodes > 1).height, moe.height


def _range(values: pl.Series) -> str:
    return f"{float(values.min()):.3g} to {float(values.max()):.3g}"  # type: ignore[arg-type]
