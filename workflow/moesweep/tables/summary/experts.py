"""The sweep's parameters and how its experts are spread over GPUs."""

from typing import Any

import polars as pl

from moesweep.tables.results import Inputs
from moesweep.tables.summary.wording import NO_MOE, Tables, box, bullet, count, distinct, moe_rows, paragraph

_OPTIONS = {
    "Precision": "dtype",
    "Recompute": "recompute",
    "Flash attention": "flash_attention",
    "Sequence parallel": "sequence_parallel",
    "Distributed optimizer": "distributed_optimizer",
    "Virtual pipeline": "virtual_pipeline",
}


def global_parameters(inputs: Inputs, tables: Tables) -> list[str]:
    """Return what all workloads share, or the values they have, and how many workloads there are."""
    moe, dense = (inputs.workloads.filter(rows) for rows in (moe_rows, ~moe_rows))
    gpu = {"GPU Type": f"{inputs.cluster.gpu.upper()} ({inputs.cluster.name})"}
    if moe.is_empty():
        entries = count(int(dense["listed"].sum()), "dense workload")
        return [f"GLOBAL PARAMETERS ({entries}, no MOE workload):", *_facts(gpu | _options(dense))]
    entries = count(int(moe["listed"].sum()), "MOE workload")
    same = all(
        moe[column].n_unique() == 1 for column in (*_OPTIONS.values(), "num_experts", "moe_router_topk")
    )
    topk = distinct(moe, "moe_router_topk")
    experts = {
        "Number of Experts": distinct(moe, "num_experts"),
        "Router Top-K": f"{topk} (each token routed to {topk} experts)",
        "Grouped GEMM": "Enabled" if (inputs.ops["kind"] == "grouped_gemm").any() else "Disabled",
    }
    routing = {"Routing": distinct(moe, "routing")}
    twins = tables["moe_against_dense"]["twin"].n_unique()
    return [
        f"GLOBAL PARAMETERS ({'same for all' if same else 'of'} {entries}):",
        *_facts(experts | gpu | _options(moe) | routing),
        "",
        *paragraph(f"{_entries(moe)} Dense twins: {twins}."),
    ]


def _options(workloads: pl.DataFrame) -> dict[str, str]:
    return {name: distinct(workloads, column) for name, column in _OPTIONS.items()}


def _facts(facts: dict[str, str]) -> list[str]:
    return [f"  - {name + ':':<22} {value}" for name, value in facts.items()]


def _entries(moe: pl.DataFrame) -> str:
    repeated = moe.filter(pl.col("listed") > 1)
    total = f"{_listed(int(moe['listed'].sum()))}, {moe.height} distinct"
    if repeated.is_empty():
        return f"{total}."
    named = "; ".join(
        f"{row['model']} {_layout(row)} is listed {row['listed']} times"
        for row in repeated.iter_rows(named=True)
    )
    return f"{total}: {named}."


def _listed(entries: int) -> str:
    return "1 entry" if entries == 1 else f"{entries} entries"


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
    entries, different = (int(breakdown[name].sum()) for name in ("entries", "distinct"))
    total = f"{_listed(entries)}, {count(different, 'distinct workload')}"
    return [
        f"The {distinct(breakdown, 'num_experts')} experts are distributed across EP ranks as follows:",
        "",
        *box(("EP", "Experts per EP Rank", "Workloads", "Distinct", "Distribution"), rows),
        "",
        f"{total}; Workloads counts entries as listed.",
        f"Most common: EP={most['ep']} ({count(most['entries'], 'workload')}) with {held} per EP rank",
    ]


_WHERE = (
    "  - TP (Tensor Parallelism):    Split model layers across GPUs",
    "  - PP (Pipeline Parallelism):  Split model stages across GPUs",
    "  - EP (Expert Parallelism):    Split experts across GPUs",
    "  - DP (Data Parallelism):      Replicate entire model",
)
_WHERE_TP = "  - TP (Tensor Parallelism):    Split the other layers across GPUs"
_WHERE_ETP = "  - ETP (Expert Tensor P.):     Split each expert across GPUs"


def expert_distribution(inputs: Inputs, tables: Tables) -> list[str]:
    """Return the formula and the worked examples."""
    examples = tables["distribution_examples"]
    if examples.is_empty():
        return [NO_MOE]
    split, relation = ("TP", " = EP·edp") if (examples["etp"] == examples["tp"]).all() else ("ETP", "")
    shares, over = "TP·PP", "dp ranks"
    if (examples["cp"] > 1).any():
        shares, over, relation = "TP·CP·PP", "dp ranks, parameters over the CP ranks of each too", ""
    lines = [
        "The total GPU count (world_size) is divided among 4 parallelism dimensions:",
        "",
        f"    world_size = {split} × PP × EP × DP",
        "",
        "Where:",
        *([_WHERE_ETP, _WHERE_TP] if split == "ETP" else _WHERE[:1]),
        *_WHERE[1:],
        "",
        *paragraph(
            f"This DP is the number of copies of each expert: the column edp = world/({split}·PP·EP). "
            f"Megatron's own dp = world/({shares}){relation} is another number: batches are split, and all "
            f"other parameters replicated, over {over}. Ranks of one EP group therefore work on different "
            "tokens."
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
    shards = " × ".join(str(row[name]) for name in ("tp", "cp", "pp") if name != "cp" or row["cp"] > 1)
    batches = f"Megatron's dp = {row['world_size']} / ({shards}) = {row['dp']}"
    shown = f"{row['workload']} ({count(row['workloads'], 'workload')} laid out like this)"
    return [
        f"Expert Distribution Example {row['example']}:",
        f"  {_layout(row)}",
        f"  → DP = {row['world_size']} / ({product}) = {copies}",
        f"  → {replicas}",
        f"  → {'Each replica has ' if copies > 1 else ''}{row['num_experts']} experts distributed across "
        f"{count(row['ep'], 'EP rank')}",
        f"  → Each EP rank holds {held}, sharded across {count(row['etp'], tensor + ' GPU')}",
        f"  → {count(row['pp'], 'pipeline stage')}{' per replica' if copies > 1 else ''}",
        f"  → {batches}: {row['dp']} shares of every batch",
        *bullet(f"e.g. {shown}", "→"),
    ]
