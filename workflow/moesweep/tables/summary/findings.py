"""What the seed's document did not have: twins as a join, seconds, memory, refusals, what is validated."""

import polars as pl

from moesweep.tables.comparison import nodes_per_ep_group
from moesweep.tables.inputs import Inputs
from moesweep.tables.summary.text import (
    NO_MOE,
    Tables,
    bullet,
    columns,
    count,
    moe_rows,
    paragraph,
    spread,
    times,
)


def dense_twins(inputs: Inputs, tables: Tables) -> list[str]:
    """Return what a MoE workload costs beside its dense twin."""
    pairs = tables["moe_against_dense"]
    if pairs.is_empty():
        return [NO_MOE]
    listed = inputs.workloads.filter(~moe_rows & (pl.col("listed") == 0)).height
    same = int(pairs["dense_iteration_seconds"].is_not_null().sum())
    lines = [
        'The non-MOE ("Densed") equivalent:',
        "  - Has ep=1 (no expert parallelism)",
        "  - Uses standard MLP layers instead of MOE layers",
        *bullet(
            "Same TP, PP, DP configuration otherwise: true of Megatron's dp. In the seed's own DP (edp) it "
            "holds nowhere that ep > 1: the twin has ep times the copies."
        ),
        *bullet(f"{count(pairs['twin'].n_unique(), 'distinct twin')} for {count(same, 'MoE workload')}, "
                f"{listed} of them added by the sweep; those that differ only in ep share one"),
        "",
        "Ratios, MoE over dense twin (table moe_against_dense):",
    ]  # fmt: skip
    names = {
        "flops_per_token": "model flops per token",
        "iteration_seconds": "seconds of an iteration",
        "tokens_per_second_per_gpu": "tokens per second and GPU",
        "compute_seconds": "compute seconds",
        "exposed_comm_seconds": "exposed communication seconds",
        "wire_bytes": "bytes on links per rank",
        "peak_memory_bytes": "memory at the peak",
        "usd_per_billion_tokens": "USD per billion tokens",
    }
    ratios = {words: pairs[f"{name}_ratio"].drop_nulls() for name, words in names.items()}
    cells = [(words, *_quantiles(values)) for words, values in ratios.items() if values.len()]
    return [*lines, "", *columns(("", "least", "median", "greatest"), cells)]


def _quantiles(values: pl.Series) -> tuple[str, ...]:
    return tuple(times(pl.Series([value])) for value in (values.min(), values.median(), values.max()))


def costs(inputs: Inputs, tables: Tables) -> list[str]:
    """Return the ranges of seconds, throughput and price, model by model."""
    cells = []
    for (model, kind), rows in tables["cost_summary"].group_by("model", "kind", maintain_order=True):
        best = rows.sort("tokens_per_second_per_gpu", maintain_order=True).row(-1, named=True)
        layout = f"ws{best['world_size']} tp{best['tp']} pp{best['pp']} ep{best['ep']}"
        cells.append(
            (
                f"{model} {kind}",
                str(rows.height),
                spread(rows["iteration_seconds"], "s"),
                spread(rows["tokens_per_second_per_gpu"]),
                spread(100 * rows["mfu"]),
                spread(rows["usd_per_billion_tokens"]),
                layout + ("" if best["fits"] else " (does not fit)"),
            )
        )
    headers = ("model", "n", "iteration", "tokens/s/GPU", "MFU %", "USD/billion tokens", "fastest per GPU")
    price = inputs.cluster.value("usd_per_gpu_hour")
    return [
        *paragraph(f"Predicted on {inputs.cluster.name} at {price:g} USD per GPU hour (table cost_summary)."),
        "",
        *columns(headers, cells),
    ]


def memory(inputs: Inputs, tables: Tables) -> list[str]:
    """Return how many workloads fit the GPU and what fills it."""
    table = tables["memory"]
    hbm = inputs.cluster.value("hbm_bytes") / 2**30
    lines = paragraph(f"Worst rank's peak against {hbm:g} GiB a GPU (table memory).")
    cells = []
    for (model, kind), rows in table.group_by("model", "kind", maintain_order=True):
        parts = rows["largest_part"].value_counts().sort("count", "largest_part", descending=[True, False])
        fits = rows["fits"].sum()
        cells.append(
            (
                f"{model} {kind}",
                f"{fits} of {rows.height}",
                spread(rows["peak_memory_bytes"] / 2**30),
                str(parts["largest_part"][0]),
            )
        )
    verdicts = table.group_by("kind", maintain_order=True).agg(pl.col("fits").sum(), n=pl.len())
    said = "; ".join(f"{row['kind']} {row['fits']} of {row['n']}" for row in verdicts.iter_rows(named=True))
    return [*lines, f"Fit: {said}.", "", *columns(("model", "fit", "peak GiB", "mostly"), cells)]


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
        verdict = "refused" if row["refused"] else "runs, but"
        where = f"{row['moe_workloads']} MoE ({row['moe_entries']} entries), {row['dense_workloads']} dense"
        lines += bullet(f"{row['rule']} ({verdict}): {where}; e.g. {row['first_workload']}: {row['message']}")
    return lines


def validated(inputs: Inputs, tables: Tables) -> list[str]:
    """Return how far the numbers can be trusted, and for how many workloads they cannot."""
    gpus_per_node = int(inputs.cluster.value("gpus_per_node"))
    moe = inputs.workloads.filter(moe_rows)
    across = moe.filter(nodes_per_ep_group(gpus_per_node) > 1).height
    lines = paragraph(
        "Op shapes, flops, bytes and group sizes follow from the parameters and are held to hand-worked "
        "numbers. "
        "Seconds, memory and USD are predictions of a cost model, not measurements."
    )
    if moe.height:
        lines += [""]
        lines += paragraph(
            f"Experts across nodes: in {across} of the {moe.height} distinct MoE workloads the members of "
            "an EP group lie on more than one node. No published A100 measurement of such a run with its full "
            "configuration was found, so the seconds of these workloads, and what follows from them, are not "
            "validated."
        )
    return lines
