"""The sweep's parameters and how its experts are spread over GPUs."""

from typing import Any

import polars as pl

from moesweep.tables.inputs import Inputs
from moesweep.tables.summary.text import NO_MOE, Tables, box, bullet, count, distinct, moe_rows, paragraph

_OPTIONS = {
    "Precision": "dtype",
    "Recompute": "recompute",
    "Flash attention": "flash_attention",
    "Sequence parallel": "sequence_parallel",
    "Distributed optimizer": "distributed_optimizer",
    "Virtual pipeline": "virtual_pipeline",
    "Routing": "routing",
}


def global_parameters(inputs: Inputs, tables: Tables) -> list[str]:
    """Return what all workloads share, and how many there are."""
    moe, dense = (inputs.workloads.filter(rows) for rows in (moe_rows, ~moe_rows))
    entries = int(moe["listed"].sum())
    gpu = f"{inputs.cluster.gpu.upper()} ({inputs.cluster.name})"
    if moe.is_empty():
        lines = [
            f"GLOBAL PARAMETERS ({count(int(dense['listed'].sum()), 'dense workload')}, no MOE workload):"
        ]
        facts = {"GPU Type": gpu}
    else:
        topk = distinct(moe, "moe_router_topk")
        grouped = (inputs.ops["kind"] == "grouped_gemm").any()
        lines = [f"GLOBAL PARAMETERS (same for all {count(entries, 'MOE workload')}, lists where not):"]
        facts = {
            "Number of Experts": distinct(moe, "num_experts"),
            "Router Top-K": f"{topk} (each token routed to {topk} experts)",
            "Grouped GEMM": "Enabled" if grouped else "Disabled",
            "GPU Type": gpu,
        }
    facts |= {name: distinct(inputs.workloads, column) for name, column in _OPTIONS.items()}
    lines += [f"  - {name + ':':<22} {value}" for name, value in facts.items()]
    twins = tables["moe_against_dense"]["twin"].n_unique()
    if entries:
        lines += ["", *paragraph(f"{_entries(moe)} Dense twins: {twins}.")]
    return lines


def _entries(moe: pl.DataFrame) -> str:
    repeated = moe.filter(pl.col("listed") > 1)
    total = f"{moe['listed'].sum()} entries, {moe.height} distinct"
    if repeated.is_empty():
        return f"{total}."
    named = "; ".join(
        f"{row['model']} {_layout(row)} is listed {row['listed']} times"
        for row in repeated.iter_rows(named=True)
    )
    return f"{total}: {named}."


def _layout(row: dict[str, Any]) -> str:
    return f"world_size={row['world_size']}, tp={row['tp']}, pp={row['pp']}, ep={row['ep']}"


def ep_breakdown(inputs: Inputs, tables: Tables) -> list[str]:
    """Return the box of degrees of expert parallelism."""
    breakdown = tables["ep_breakdown"]
    if breakdown.is_empty():
        return [NO_MOE]
    rows = [
        (
            str(row["ep"]),
            str(row["experts_per_ep_rank"]),
            str(row["entries"]),
            str(row["distinct"]),
            f"{row['num_experts']} ÷ {row['ep']:<2} = {row['experts_per_ep_rank']}",
        )
        for row in breakdown.iter_rows(named=True)
    ]
    most = breakdown.sort("entries", descending=True, maintain_order=True).row(0, named=True)
    held = count(most["experts_per_ep_rank"], "expert")
    total = f"{breakdown['entries'].sum()} entries, {breakdown['distinct'].sum()} distinct workloads"
    return [
        f"The {distinct(breakdown, 'num_experts')} experts are distributed across EP ranks as follows:",
        "",
        *box(("EP", "Experts per EP Rank", "Workloads", "Distinct", "Distribution"), rows),
        "",
        f"{total}; Workloads counts entries as listed.",
        f"Most common: EP={most['ep']} ({most['entries']} workloads) with {held} per EP rank",
    ]


def expert_distribution(inputs: Inputs, tables: Tables) -> list[str]:
    """Return the formula and the worked examples."""
    examples = tables["distribution_examples"]
    if examples.is_empty():
        return [NO_MOE]
    lines = [
        "The total GPU count (world_size) is divided among 4 parallelism dimensions:",
        "",
        "    world_size = TP × PP × EP × DP",
        "",
        "Where:",
        "  - TP (Tensor Parallelism):    Split model layers across GPUs",
        "  - PP (Pipeline Parallelism):  Split model stages across GPUs",
        "  - EP (Expert Parallelism):    Split experts across GPUs",
        "  - DP (Data Parallelism):      Replicate entire model",
        "",
        *paragraph(
            "This DP is the number of copies of each expert: the column edp = world/(ETP·EP·PP), here "
            "with experts split over ETP = TP ranks unless said otherwise. Megatron's own dp = "
            "world/(TP·PP) = EP·edp is another number: batches are split, and all other parameters "
            "replicated, over dp ranks. Ranks of one EP group therefore work on different tokens."
        ),
    ]
    for row in examples.iter_rows(named=True):
        lines += ["", *_example(row)]
    return lines


def _example(row: dict[str, Any]) -> list[str]:
    copies = row["edp"]
    replicas = (
        f"{copies} complete data-parallel replicas" if copies > 1 else "1 model replica (no data parallelism)"
    )
    tensor = "TP" if row["etp"] == row["tp"] else "ETP"
    held = count(row["experts_per_ep_rank"], "expert")
    product = f"{row['etp']} × {row['pp']} × {row['ep']}"
    batches = f"Megatron's dp = {row['world_size']} / ({row['tp']} × {row['pp']}) = {row['dp']}"
    shown = f"{row['workload']} ({count(row['workloads'], 'workload')} laid out like this)"
    return [
        f"Expert Distribution Example {row['example']}:",
        f"  {_layout(row)}",
        f"  → DP = {row['world_size']} / ({product}) = {copies}",
        f"  → {replicas}",
        f"  → {'Each replica has ' if copies > 1 else ''}{row['num_experts']} experts distributed across "
        f"{row['ep']} EP ranks",
        f"  → Each EP rank holds {held}, sharded across {row['etp']} {tensor} GPUs",
        f"  → {count(row['pp'], 'pipeline stage')}{' per replica' if copies > 1 else ''}",
        f"  → {batches}: {row['dp']} shares of every batch",
        *bullet(f"e.g. {shown}", "→"),
    ]
