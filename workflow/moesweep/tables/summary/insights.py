"""What is said of expert parallelism, each claim with the evidence of the matched comparisons."""

from typing import Any

import polars as pl

from moesweep.tables.claims import GRAIN, MEMORY, TIME, TRAFFIC, WORK
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
    "compute_seconds": "all compute seconds",
    "iteration_seconds": "seconds of an iteration",
    "state_bytes": "weights, gradients, optimizer",
    "activations_bytes": "activations",
    "peak_memory_bytes": "all at the peak",
}


def key_insights(inputs: Inputs, tables: Tables) -> list[str]:
    """Return the claims and what the tables say of each."""
    breakdown, scaling = tables["ep_breakdown"], tables["ep_scaling"]
    if breakdown.is_empty():
        return [NO_MOE]
    evidence = dict(tables["ep_claims"].group_by("claim", maintain_order=True))
    reasons = _reasons(scaling) if scaling.height else {}
    balanced = (inputs.workloads["routing"] == "balanced").all()
    said = [*_extremes(breakdown), *_claim(GRAIN, evidence, []), "", "• EP affects communication overhead:"]
    for claim in (TRAFFIC, WORK):
        said += [f"  - {claim}", *_claim(claim, evidence, reasons.get(claim, []) if balanced else [])]
    if scaling.height:
        said += ["", "• And:"]
        for claim in (TIME, MEMORY):
            said += [f"  - {claim}", *_claim(claim, evidence, reasons[claim])]
    return [*_basis(scaling), "", *said, "", *_worked_example(tables), *_dense_equivalent(inputs, tables)]


def _basis(scaling: pl.DataFrame) -> list[str]:
    if scaling.is_empty():
        return paragraph(
            "The sweep has no two workloads that differ in ep alone: what ep does is untested here."
        )
    pairs = count(scaling["comparison"].n_unique(), "comparison")
    return paragraph(
        f"Evidence: {pairs} of workloads that differ in ep alone ({scaling.height} workloads, table "
        "ep_scaling). Each ratio is the highest ep of a comparison over its lowest, from the least to the "
        "greatest of all comparisons; table ep_claims has them with the medians."
    )


def _extremes(breakdown: pl.DataFrame) -> list[str]:
    least, most = (breakdown.sort("ep").row(at, named=True) for at in (0, -1))
    return [
        f"• {GRAIN}",
        *(
            f"  - {'EP=' + str(row['ep']) + ':':<6} {word} distribution "
            f"({count(row['experts_per_ep_rank'], 'expert')}/rank)"
            for row, word in ((most, "Maximum"), (least, "Minimum"))
        ),
    ]


def _claim(claim: str, evidence: dict[Any, pl.DataFrame], reasons: list[str]) -> list[str]:
    """Return the verdicts on a claim's quantities, and the reasons behind them; nothing if untested."""
    if not evidence[(claim,)]["comparisons"].sum():
        return []
    rows = [
        (_WORDS[row["quantity"]], _ratios(row), row["verdict"])
        for row in evidence[(claim,)].iter_rows(named=True)
    ]
    width = max(map(len, _WORDS.values()))
    lines = [f"      {words:<{width}}  {ratios:<16}  {verdict}".rstrip() for words, ratios, verdict in rows]
    return [*lines, *(line for reason in reasons for line in bullet(reason, "→", indent=4))]


def _ratios(row: dict[str, Any]) -> str:
    return times(pl.Series([row["lowest_ratio"], row["highest_ratio"]])) if row["comparisons"] else ""


def _reasons(scaling: pl.DataFrame) -> dict[str, list[str]]:
    """Return why the quantities of a claim move as they do, with numbers from the comparisons."""
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
        TRAFFIC: [
            "A rank keeps 1/ep of its tokens at home and sends (ep-1)/ep of a buffer that does not depend on "
            "ep, so bytes level off.",
            *_nearness(ends),
        ],
        WORK: [
            "With balanced routing a rank's experts get the same rows whatever ep is: a lower ep means more "
            "experts, each with the tokens of fewer ranks. It adds weights, not products.",
            *_sorting(ends),
        ],
        TIME: [
            "Three things compete: the exchange (longer), sorting and the traffic of expert gradients and "
            "parameters among edp copies (both shorter).",
        ],
        MEMORY: ["A rank holds 1/ep of a stage's experts; its activations do not depend on ep."],
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
