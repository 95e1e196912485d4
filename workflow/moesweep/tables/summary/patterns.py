"""What MoE layers and everything else put on links."""

from typing import Any

import polars as pl

from moesweep.shapes.communication import EXPERT_KINDS, STEPS_OF_CP
from moesweep.tables.numbers import quantity
from moesweep.tables.results import Inputs
from moesweep.tables.summary.wording import (
    NO_MOE,
    Tables,
    bullet,
    columns,
    moe_rows,
    paragraph,
    refused,
    spread,
)

_PATTERNS = (
    (
        "ALLTOALL_EP: Token routing between EP ranks",
        ("ep",),
        (
            "Tokens are routed to their assigned experts",
            'Appears as "mlp_moelayer" operations in workload files',
        ),
    ),
    (
        "ALLGATHER/REDUCESCATTER: Within expert computation",
        ("etp",),
        ("Standard TP communication within each expert", "Each expert is tensor-parallelized"),
    ),
    (
        "ALLGATHER_DP_EP / REDUCESCATTER_DP_EP: expert parameters and gradients",
        ("edp",),
        (
            "Expert parameters are gathered and expert gradients reduced among the copies of each expert. "
            "The gradient norm is another thing: an all_reduce of 4 bytes over all ranks",
        ),
    ),
    (
        "The other groups",
        (
            *("tp", "dp", "pp", "tp_ep", "embedding", "world", "model", "expert_model", "cp", "tp_cp"),
            *("tp_cp_dp", *STEPS_OF_CP),
        ),
        ("Tensor parallelism outside experts, dense gradients and parameters, messages between stages",),
    ),
)
"""Title, in the words of AICB's workload files, group kinds, what they are for."""


def communication_patterns(inputs: Inputs, tables: Tables) -> list[str]:
    """Return each pattern with its ops, counts and bytes, and one worked example."""
    moe = inputs.workloads.filter(moe_rows).select("workload")
    if moe.is_empty():
        return [NO_MOE]
    traffic = tables["communication"].join(moe, on="workload", how="semi", maintain_order="left")
    lines = paragraph(
        f"MoE layers introduce additional communication. Ranges are over the {moe.height} distinct MoE "
        "workloads; executions, bytes on links and seconds are those of the mean rank in one iteration."
    )
    for number, (title, kinds, remarks) in enumerate(_PATTERNS, start=1):
        lines += ["", f"{number}. {title}"]
        lines += [line for remark in remarks for line in bullet(remark, indent=3)]
        for kind in kinds:
            lines += _pattern(traffic.filter(pl.col("group_kind") == kind), kind, moe.height)
    return [*lines, "", *_worked_example(tables)]


def _pattern(traffic: pl.DataFrame, kind: str, workloads: int) -> list[str]:
    """Return a group kind's ops, how many workloads use it, and the ranges of its traffic."""
    if traffic.is_empty():
        return bullet(f"{kind}: none in this sweep", indent=3)
    summed = traffic.group_by("workload", maintain_order=True).agg(
        pl.col("executions_per_rank", "wire_bytes_per_rank", "seconds_per_rank").sum()
    )
    collectives = ", ".join(sorted(traffic["collective"].cast(pl.String).unique()))
    ops = ", ".join(traffic["op"].unique(maintain_order=True))
    return [
        *bullet(f"{kind}: {collectives} ({ops}) in {summed.height} of {workloads} workloads", indent=3),
        f"       group size {spread(traffic['group_size'])}; buffer {spread(traffic['comm_bytes'], 'byte')}",
        f"       executions {spread(summed['executions_per_rank'])}",
        f"       on links {spread(summed['wire_bytes_per_rank'], 'byte')}; "
        f"time {spread(summed['seconds_per_rank'], 's')}",
    ]


def _worked_example(tables: Tables) -> list[str]:
    """Return the expert traffic of the first distribution example op by op, and all its traffic by group."""
    workload = tables["distribution_examples"]["workload"][0]
    ops = tables["communication"].filter(pl.col("workload") == workload)
    cells = [
        (
            row["op"],
            row["phase"],
            f"{row['group_kind']} {row['group_size']}",
            *_amounts(row, "comm_bytes"),
        )
        for row in ops.filter(pl.col("group_kind").is_in(EXPERT_KINDS)).iter_rows(named=True)
    ]
    groups = (
        tables["communication_by_group"]
        .filter(pl.col("workload") == workload)
        .group_by("group_kind", "group_size", maintain_order=True)
        .agg(pl.col("executions_per_rank", "wire_bytes_per_rank", "seconds_per_rank", "wire_share").sum())
    )
    totals = [
        (row["group_kind"], str(row["group_size"]), *_amounts(row), f"{100 * row['wire_share']:.2f}%")
        for row in groups.iter_rows(named=True)
    ]
    return [
        f"Worked example: {workload},",
        "mean rank, one iteration:",
        *refused(workload, tables),
        "",
        *columns(("op", "phase", "group", "buffer", "runs", "on links", "time"), cells),
        "",
        *columns(("group", "size", "runs", "on links", "time", "of all bytes"), totals),
    ]


def _amounts(row: dict[str, Any], *buffer: str) -> tuple[str, ...]:
    return (
        *(quantity(row[name], "byte", 3) for name in buffer),
        f"{row['executions_per_rank']:,.0f}",
        quantity(row["wire_bytes_per_rank"], "byte", 3),
        quantity(row["seconds_per_rank"], "s", 3),
    )
