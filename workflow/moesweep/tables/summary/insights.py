"""What expert parallelism does: the sweep's claims, or else the ratios of the matched comparisons."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from moesweep.study.claims import Claim
from moesweep.tables.claims import evidence
from moesweep.tables.results import Inputs
from moesweep.tables.summary.wording import (
    NO_MOE,
    Tables,
    bullet,
    columns,
    count,
    paragraph,
    refused,
    times,
)

_WORDS = {
    "experts_per_ep_rank": "experts per rank",
    "all_to_all_comm_bytes": "buffers of the exchange",
    "all_to_all_wire_bytes": "its bytes on links",
    "all_to_all_seconds": "its seconds",
    "expert_flops": "flops of the expert GEMMs per rank",
    "expert_gemm_seconds": "their seconds",
    "expert_sort_seconds": "seconds of sorting rows by expert",
    "edp_comm_seconds": "seconds among copies of experts",
    "compute_seconds": "all compute seconds",
    "iteration_seconds": "seconds of an iteration",
    "tokens_per_second_per_gpu": "tokens per second and GPU",
    "state_bytes": "weights, gradients, optimizer",
    "activations_bytes": "activations",
    "peak_memory_bytes": "all at the peak",
}
_EXPERTS = "experts_per_ep_rank"
_TOPICS = {
    "The token exchange": ("all_to_all_comm_bytes", "all_to_all_wire_bytes", "all_to_all_seconds"),
    "Work of a rank": ("expert_flops", "expert_gemm_seconds", "expert_sort_seconds", "compute_seconds"),
    "Iterations": ("edp_comm_seconds", "iteration_seconds", "tokens_per_second_per_gpu"),
    "Memory of a rank": ("state_bytes", "activations_bytes", "peak_memory_bytes"),
}
"""What quantities are about; those of a topic move for the same reasons."""

_EXCHANGE, _WORK, _TIME, _MEMORY = _TOPICS


def key_insights(inputs: Inputs, tables: Tables) -> list[str]:
    """Return what ep does: the sweep's claims with what the tables say of each, without claims the ratios."""
    breakdown, scaling = tables["ep_breakdown"], tables["ep_scaling"]
    if breakdown.is_empty():
        return [NO_MOE]
    reasons = _reasons(scaling) if scaling.height else {}
    if not (inputs.workloads["routing"] == "balanced").all():
        reasons |= {_EXCHANGE: [], _WORK: []}
    if inputs.claims:
        said = _claims(inputs.claims, tables, reasons)
    else:
        said = ["• Experts of a rank:", *_extremes(breakdown), *_moved(scaling, reasons)]
    basis = _basis(scaling, "; table ep_claims has them with the medians" if inputs.claims else "")
    return [*basis, "", *said, "", *_worked_example(tables), *_dense_equivalent(inputs, tables)]


def _basis(scaling: pl.DataFrame, where: str) -> list[str]:
    if scaling.is_empty():
        return paragraph(
            "The sweep has no two workloads that differ in ep alone: what ep does is untested here."
        )
    pairs = count(scaling["comparison"].n_unique(), "comparison")
    return paragraph(
        f"Evidence: {pairs} of workloads that differ in ep alone ({scaling.height} workloads, table "
        "ep_scaling). Each ratio is the highest ep of a comparison over its lowest, from the least to the "
        f"greatest of all comparisons{where}."
    )


def _claims(claims: Sequence[Claim], tables: Tables, reasons: dict[str, list[str]]) -> list[str]:
    """Return the claims with their verdicts; of those that the sweep makes itself the ones it tests."""
    found, lines, under, told = tables["ep_claims"], list[str](), "", set[str]()
    for claim in claims:
        rows = found.filter(claim=claim.claim)
        tested = bool(rows["comparisons"].sum())
        if not (claim.by_source or tested):
            continue
        if claim.under and claim.under != under:
            lines += ["", *bullet(f"{claim.under}:", "•", indent=0)]
        under = claim.under
        lines += bullet(claim.claim) if under else ["", *bullet(claim.claim, "•", indent=0)]
        lines += _extremes(tables["ep_breakdown"]) if _EXPERTS in claim.quantities else []
        lines += _ratios(rows) if tested else []
        about = [topic for topic, its in _TOPICS.items() if not set(its).isdisjoint(claim.quantities)]
        # Of several claims about one thing the first tells why it moves.
        lines += _because(reasons, *(topic for topic in about if topic not in told)) if tested else []
        told |= set(about) if tested else set()
    return lines[1:] if lines and not lines[0] else lines


def _moved(scaling: pl.DataFrame, reasons: dict[str, list[str]]) -> list[str]:
    """Return what a higher ep does to all quantities; nothing without comparisons."""
    if scaling.is_empty():
        return []
    found = evidence(scaling)
    lines = ["", "• What a higher EP does, all else equal:"]
    for topic, quantities in _TOPICS.items():
        there = [found.filter(pl.col("comparisons") > 0, quantity=name) for name in quantities]
        lines += [f"  - {topic}", *_ratios(pl.concat(there)), *_because(reasons, topic)]
    return lines


def _extremes(breakdown: pl.DataFrame) -> list[str]:
    least, most = (breakdown.sort("ep").row(at, named=True) for at in (0, -1))
    return [
        f"  - {'EP=' + str(row['ep']) + ':':<6} {word} distribution "
        f"({count(row['experts_per_ep_rank'], 'expert')}/rank)"
        for row, word in ((most, "Maximum"), (least, "Minimum"))
    ]


def _ratios(rows: pl.DataFrame) -> list[str]:
    """Return a line for each quantity: its least and greatest ratio, and the verdict if there is one."""
    width = max(map(len, _WORDS.values()))
    return [
        f"      {_WORDS[row['quantity']]:<{width}}  {_spread(row):<16}  {row.get('verdict', '')}".rstrip()
        for row in rows.iter_rows(named=True)
    ]


def _spread(row: dict[str, Any]) -> str:
    return times(pl.Series([row["lowest_ratio"], row["highest_ratio"]])) if row["comparisons"] else ""


def _because(reasons: dict[str, list[str]], *topics: str) -> list[str]:
    found = [reason for topic in topics for reason in reasons.get(topic, ())]
    return [line for reason in found for line in bullet(reason, "→", indent=4)]


def _reasons(scaling: pl.DataFrame) -> dict[str, list[str]]:
    """Return why the quantities of a topic move as they do, with numbers from the comparisons."""
    ends = scaling.group_by("comparison", maintain_order=True).agg(
        pl.col("nodes_per_ep_group").first(),
        pl.col("experts_per_ep_rank").last(),
        pl.col("all_to_all_seconds_ratio").last(),
        *(
            (pl.col(f"{name}_seconds").first() - pl.col(f"{name}_seconds").last()).alias(name)
            for name in ("expert_sort", "compute")
        ),
    )
    return {
        _EXCHANGE: [
            "A rank keeps 1/ep of its tokens at home and sends (ep-1)/ep of a buffer that does not depend on "
            "ep, so bytes level off.",
            *_nearness(ends),
        ],
        _WORK: [
            "With balanced routing a rank's experts get the same rows whatever ep is: a lower ep means more "
            "experts, each with the tokens of fewer ranks. It adds weights, not products.",
            *_sorting(ends),
        ],
        _TIME: [
            "Three things compete: the exchange (longer), sorting and the traffic of expert gradients and "
            "parameters among edp copies (both shorter).",
        ],
        _MEMORY: ["A rank holds 1/ep of a stage's experts; its activations do not depend on ep."],
    }


def _nearness(ends: pl.DataFrame) -> list[str]:
    """Return how the exchange's seconds grow, apart for groups that begin inside a node and others."""
    inside = pl.col("nodes_per_ep_group") == 1
    near, far = (ends.filter(rows)["all_to_all_seconds_ratio"].drop_nulls() for rows in (inside, ~inside))
    where = [
        f"{times(ratios)} in the {count(ratios.len(), 'comparison')} whose lowest ep {place}"
        for ratios, place in ((near, "stays within a node"), (far, "crosses nodes already"))
        if ratios.len()
    ]
    return [f"Seconds: {'; '.join(where)}."] if where else []


def _sorting(ends: pl.DataFrame) -> list[str]:
    """Return how much of the fall in compute seconds is the sorting that one expert per rank spares."""
    spared = ends.filter((pl.col("experts_per_ep_rank") == 1) & (pl.col("compute") > 0))
    if spared.is_empty():
        return []
    shares = spared["expert_sort"] / spared["compute"]
    return [
        "What does fall is sorting rows by local expert, which a rank of one expert does not need: where the "
        f"highest ep leaves one, sorting falls by {times(shares)} of what all compute seconds fall by."
    ]


def _worked_example(tables: Tables) -> list[str]:
    """Return the comparison of the most values of ep in full."""
    scaling = tables["ep_scaling"]
    if scaling.is_empty():
        return []
    sizes = scaling.with_columns(rows=pl.len().over("comparison"))
    most = sizes.filter(pl.col("rows") == pl.col("rows").max())
    chosen = most.filter(pl.col("comparison") == pl.col("comparison").first())
    first = chosen.row(0, named=True)
    cells = [
        (
            str(row["ep"]),
            str(row["nodes_per_ep_group"]),
            *(
                f"{row[f'all_to_all_{name}'] / per:.4g}"
                for name, per in (("wire_bytes", 2**30), ("seconds", 1))
            ),
            *(f"{row[f'{name}_seconds']:.4g}" for name in ("expert_sort", "edp_comm", "iteration")),
            *(f"{row[f'{name}_bytes'] / 2**30:.4g}" for name in ("state", "peak_memory")),
        )
        for row in chosen.iter_rows(named=True)
    ]
    headers = ("ep", "nodes", "sent GiB", "sent s", "sort s", "edp s", "total s", "state GiB", "peak GiB")
    same = f"{first['model']} ws{first['world_size']} tp{first['tp']} pp{first['pp']}"
    return [
        f"Worked example: {same}, dp {first['dp']}, global batch {first['global_batch_size']}",
        *refused(first["workload"], tables),
        "",
        *columns(headers, cells),
        "",
    ]


def _dense_equivalent(inputs: Inputs, tables: Tables) -> list[str]:
    pairs = tables["moe_against_dense"]
    if pairs.is_empty():
        return ["• The sweep has no dense equivalents."]
    same_dp, same_edp = (int((pairs[name] == pairs[f"dense_{name}"]).sum()) for name in ("dp", "edp"))
    added = inputs.workloads.filter(pl.col("workload").is_in(pairs["twin"].implode()), listed=0).height
    return [
        '• The non-MOE ("Densed") equivalent:',
        "  - Has ep=1 (no expert parallelism)",
        "  - Uses standard MLP layers instead of MOE layers",
        *bullet(
            "Same TP, PP, DP configuration otherwise: Megatron's dp is the same in "
            f"{same_dp} of {pairs.height} pairs, the copies of each expert (edp) in {same_edp}"
        ),
        *bullet(
            f"{count(pairs['twin'].n_unique(), 'distinct equivalent')} for "
            f"{count(pairs.height, 'MoE workload')} ({added} not listed by the sweep itself): those that "
            "differ in ep alone share one"
        ),
    ]
