"""What the seed concluded, each with the evidence of the matched comparisons."""

from typing import Any

import polars as pl

from moesweep.tables.inputs import Inputs
from moesweep.tables.summary.text import NO_COMPARISON, NO_MOE, Tables, bullet, count, paragraph, times

_WORDS = {
    "experts_per_ep_rank": "experts per rank",
    "all_to_all_comm_bytes": "send buffers of the token exchange",
    "all_to_all_wire_bytes": "its bytes on links",
    "all_to_all_seconds": "its seconds",
    "expert_flops": "flops of the expert GEMMs per rank",
    "expert_gemm_seconds": "their seconds",
    "compute_seconds": "all compute seconds",
    "iteration_seconds": "seconds of an iteration",
    "state_bytes": "weights, gradients and optimizer state per rank",
    "peak_memory_bytes": "memory at the peak",
}

_REASONS = {
    "Higher EP → more ALLTOALL communication": (
        "A rank keeps 1/ep of its tokens at home, so it sends (ep-1)/ep of a buffer that does not depend "
        "on ep: bytes level off quickly. Seconds also depend on where the group lies."
    ),
    "Lower EP → more computation per EP rank": (
        "With balanced routing a rank of an EP group gets topk·tokens rows whatever ep is: fewer experts "
        "each see the tokens of more ranks. What a lower ep adds per rank is weights, not work."
    ),
}


def key_insights(inputs: Inputs, tables: Tables) -> list[str]:
    """Return the seed's claims and what the tables say of each."""
    breakdown, scaling = tables["ep_breakdown"], tables["ep_scaling"]
    if breakdown.is_empty():
        return [NO_MOE]
    lines = [*_extremes(breakdown), ""]
    if scaling.is_empty():
        return [*lines, NO_COMPARISON]
    pairs = count(scaling["comparison"].n_unique(), "comparison")
    lines += paragraph(
        f"Evidence: {pairs} of workloads that differ in ep alone ({scaling.height} workloads; table "
        "ep_scaling). Ratios are the highest ep of a comparison over its lowest, least to greatest."
    )
    for claim, rows in tables["seed_claims"].group_by("claim", maintain_order=True):
        lines += ["", *bullet(str(claim[0]), "•", indent=0)]
        for row in rows.iter_rows(named=True):
            lines += bullet(_evidence(row))
        if claim[0] in _REASONS and (inputs.workloads["routing"] == "balanced").all():
            lines += bullet(_REASONS[str(claim[0])], "→")
    return [*lines, "", *_placement(scaling)]


def _extremes(breakdown: pl.DataFrame) -> list[str]:
    least, most = (breakdown.sort("ep").row(at, named=True) for at in (0, -1))
    return [
        "• Higher EP = More fine-grained expert distribution",
        f"  - EP={most['ep']}: Maximum distribution ({count(most['experts_per_ep_rank'], 'expert')}/rank)",
        f"  - EP={least['ep']}:  Minimum distribution ({count(least['experts_per_ep_rank'], 'expert')}/rank)",
    ]


def _evidence(row: dict[str, Any]) -> str:
    if not row["comparisons"]:
        return f"{_WORDS[row['quantity']]}: untested"
    ratios = times(pl.Series([row["lowest_ratio"], row["highest_ratio"]]))
    ups = f"up in {row['rises']}, down in {row['falls']} of {row['comparisons']}"
    return f"{_WORDS[row['quantity']]}: {ratios} ({ups}): {row['verdict']}"


def _placement(scaling: pl.DataFrame) -> list[str]:
    """Return one comparison in full: the one with the most values of ep."""
    sizes = scaling.with_columns(rows=pl.len().over("comparison"))
    chosen = sizes.filter(pl.col("comparison") == sizes.sort("rows", maintain_order=True)["comparison"][-1])
    lines = ["Worked example:"]
    for row in chosen.iter_rows(named=True):
        lines += bullet(
            f"{row['workload']}: EP group on {count(row['nodes_per_ep_group'], 'node')}, "
            f"all_to_all {row['all_to_all_wire_bytes'] / 2**30:.4g} GiB on links and "
            f"{row['all_to_all_seconds']:.4g} s, iteration {row['iteration_seconds']:.4g} s, "
            f"peak {row['peak_memory_bytes'] / 2**30:.4g} GiB"
        )
    return lines
