"""MoE against dense, seconds, memory, refusals, what is validated."""

from typing import Any

import polars as pl

from moesweep.cost.validity import outside
from moesweep.shapes.standing import placement
from moesweep.study.catalog import Cluster
from moesweep.study.rules import TRACE_FAILED
from moesweep.tables.numbers import whole_spread
from moesweep.tables.results import Inputs
from moesweep.tables.summary.wording import (
    Tables,
    bullet,
    columns,
    count,
    moe_rows,
    paragraph,
    spread,
    times,
)

_RATIOS = {
    "flops_per_token": "model flops per token",
    "iteration_seconds": "seconds of an iteration",
    "tokens_per_second_per_gpu": "tokens per second and GPU",
    "compute_seconds": "compute seconds",
    "exposed_comm_seconds": "exposed communication seconds",
    "wire_bytes": "bytes on links per rank",
    "peak_memory_bytes": "memory at the peak",
    "usd_per_billion_tokens": "USD per billion tokens",
}


def dense_twins(inputs: Inputs, tables: Tables) -> list[str]:
    """Return what a MoE workload costs beside its dense twin."""
    pairs = tables["moe_against_dense"]
    if pairs.is_empty():
        return ["This sweep pairs no MoE workload with a dense one."]
    ratios = {words: pairs[f"{name}_ratio"].drop_nulls() for name, words in _RATIOS.items()}
    cells = [(words, *_quantiles(values)) for words, values in ratios.items() if values.len()]
    return [
        f"Ratios, MoE over dense, of {count(pairs.height, 'matched pair')} (table moe_against_dense):",
        "",
        *columns(("", "least", "median", "greatest"), cells),
        "",
        *paragraph(
            "A token passes topk experts, each as wide as the twin's one MLP, so equal flops are not to be "
            "expected; what it gets for them is num_experts times the MLP weights. Compute seconds include "
            "waiting for kernel launches, which communication may hide: that is how a MoE workload can "
            "have fewer of them than its twin."
        ),
    ]


def _quantiles(values: pl.Series) -> tuple[str, ...]:
    return tuple(times(pl.Series([value])) for value in (values.min(), values.median(), values.max()))


def parameters(inputs: Inputs, tables: Tables) -> list[str]:
    """Return how many parameters each model has, and how many of them a token passes."""
    cells = [
        (f"{model} {kind}", *(whole_spread(rows[name]) for name in ("parameters", "active_parameters")))
        for (model, kind), rows in inputs.workloads.group_by("model", "kind", maintain_order=True)
    ]
    predicting = inputs.workloads.filter(pl.col("mtp_parameters") > 0)
    apart = [
        f"{model}: {whole_spread(rows['mtp_parameters'])} more of multi-token prediction."
        for (model,), rows in predicting.group_by("model", maintain_order=True)
    ]
    return [
        *paragraph("Biases and norms are in, padding of the vocabulary is not (table workloads)."),
        "",
        *columns(("model", "parameters", "a token passes"), cells),
        *(line for text in apart for line in bullet(text)),
    ]


def costs(inputs: Inputs, tables: Tables) -> list[str]:
    """Return the ranges of seconds, throughput and price, model by model, and the best runnable layout."""
    table = tables["cost_summary"]
    cells = [
        (
            f"{model} {kind}",
            str(rows.height),
            spread(rows["iteration_seconds"], to="–"),
            spread(rows["tokens_per_second_per_gpu"], to="–"),
            spread(100 * rows["mfu"], to="–"),
            spread(rows["usd_per_billion_tokens"], to="–"),
        )
        for (model, kind), rows in table.group_by("model", "kind", maintain_order=True)
    ]
    price = inputs.cluster.value("usd_per_gpu_hour")
    headers = ("model", "n", "iteration s", "tokens/s/GPU", "MFU %", "USD/10⁹ tokens")
    return [
        *paragraph(f"Predicted on {inputs.cluster.name} at {price:g} USD per GPU hour (table cost_summary)."),
        "",
        *columns(headers, cells),
        "",
        "Most tokens per second and GPU, of those that fit and that Megatron would run:",
        *_best(table, tables["megatron_refusals"]),
    ]


def _best(table: pl.DataFrame, refused: pl.DataFrame) -> list[str]:
    runnable = table.filter("fits").join(refused, on="workload", how="anti", maintain_order="left")
    lines = []
    for (model, kind), _ in table.group_by("model", "kind", maintain_order=True):
        rows = runnable.filter(model=model, kind=kind).sort("tokens_per_second_per_gpu", maintain_order=True)
        lines += bullet(f"{model} {kind}: {_named(rows.row(-1, named=True)) if rows.height else 'none'}")
    return lines


def _named(row: dict[str, Any]) -> str:
    return f"{row['tokens_per_second_per_gpu']:,.0f} with {row['workload']}"


def memory(inputs: Inputs, tables: Tables) -> list[str]:
    """Return how many workloads fit the GPU and what fills it."""
    table = tables["memory"]
    cells = []
    for (model, kind), rows in table.group_by("model", "kind", maintain_order=True):
        parts = rows["largest_part"].value_counts().sort("count", "largest_part", descending=[True, False])
        peak = spread(rows["peak_memory_bytes"] / 2**30)
        cells.append(
            (f"{model} {kind}", f"{rows['fits'].sum()} of {rows.height}", peak, parts["largest_part"][0])
        )
    verdicts = table.group_by("kind", maintain_order=True).agg(pl.col("fits").sum(), n=pl.len())
    words = {"moe": "MoE", "dense": "dense"}
    said = " and ".join(f"{fits} of {n} {words[kind]}" for kind, fits, n in verdicts.iter_rows())
    hbm = inputs.cluster.value("hbm_bytes") / 2**30
    return [
        *paragraph(
            f"The worst rank's peak and a reserve fit the {hbm:g} GiB of a GPU in {said} workloads "
            "(table memory)."
        ),
        "",
        *columns(("model", "fit", "peak GiB", "mostly"), cells),
    ]


def refusals(inputs: Inputs, tables: Tables) -> list[str]:
    """Return what Megatron would stop at, and what validation warned of besides."""
    warnings = tables["warnings"]
    if warnings.is_empty():
        return ["Nothing: validation has no warning."]
    refused = tables["megatron_refusals"].unique("workload")
    moe, dense = (refused.filter(rows).height for rows in (moe_rows, ~moe_rows))
    lines = paragraph(
        f"Megatron would refuse {count(moe, 'MoE workload')} and {count(dense, 'dense one')} with an "
        "assertion. They are traced and costed all the same, with work split evenly (tables warnings, "
        "megatron_refusals)."
    )
    for row in warnings.iter_rows(named=True):
        verdict = "refused" if row["refused"] else "runs, but take note"
        entries = "" if row["moe_entries"] == row["moe_workloads"] else f" ({row['moe_entries']} entries)"
        where = f"{row['moe_workloads']} MoE{entries}, {row['dense_workloads']} dense"
        lines += bullet(f"{row['rule']} ({verdict}): {where}; e.g. {row['first_workload']}: {row['message']}")
    return lines


def validated(inputs: Inputs, tables: Tables) -> list[str]:
    """Return how far the numbers can be trusted, and for how many workloads they cannot."""
    gpus_per_node = int(inputs.cluster.value("gpus_per_node"))
    moe = inputs.workloads.filter(moe_rows)
    across = moe.filter(placement("ep", gpus_per_node).nodes > 1)
    unlike = across.join(inputs.costs.filter(validated="outside"), on="workload", how="semi").height
    lines = paragraph(
        "Op shapes, flops, bytes and group sizes follow from the parameters and are held to hand-worked "
        "numbers. Seconds, memory and USD are predictions of a cost model, not measurements."
    )
    failed = inputs.validation.filter(pl.col("rule") == TRACE_FAILED)["workload"].to_list()
    if failed:
        lines += ["", *paragraph("Left out of this summary and of all tables, because their traces failed:")]
        lines += [line for id_ in failed for line in bullet(id_)]
    lines += ["", *_inside_the_measured_range(inputs.workloads, inputs.cluster)]
    if moe.height:
        lines += [""]
        lines += paragraph(
            f"Experts across nodes: in {across.height} of the {moe.height} distinct MoE workloads the "
            f"members of an EP group lie on more than one node, and {unlike} of these are like no run that "
            "was measured. Published runs of that kind are few, and none is of A100s. What follows from "
            "seconds outside the measured range is not validated."
        )
    return lines


def _inside_the_measured_range(workloads: pl.DataFrame, cluster: Cluster) -> list[str]:
    """Return how many workloads resemble runs measured on such GPUs and nodes, and why others do not."""
    constants = {name: pl.lit(value) for name, value in cluster.values.items()}
    judged = workloads.with_columns(**constants).with_columns(why=outside())
    inside = judged.filter(pl.col("why") == "")
    dense, moe = (
        f"{inside.filter(kind).height} of {judged.filter(kind).height}" for kind in (~moe_rows, moe_rows)
    )
    lines = paragraph(
        f"Inside the range of the runs that were measured on GPUs and nodes as of {cluster.name}: {dense} "
        f"dense and {moe} MoE workloads. How far predictions of such runs are off: docs/validation.md."
    )
    others = judged.filter(pl.col("why") != "")
    if others.height:
        lines += ["Outside, with nothing to hold the seconds against:"]
    whys = others.group_by("kind", "why", maintain_order=True).len()
    for row in whys.sort("len", "kind", "why", descending=[True, False, False]).iter_rows(named=True):
        kind = "MoE" if row["kind"] == "moe" else "dense"
        lines += bullet(f"{row['len']} {kind}: {row['why']}")
    return lines
