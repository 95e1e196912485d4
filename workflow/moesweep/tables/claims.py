"""Claims about expert parallelism, each with the evidence of the matched comparisons."""

import polars as pl

from moesweep.tables.comparison import ep_scaling
from moesweep.tables.results import Inputs

GRAIN = "Higher EP = More fine-grained expert distribution"
TRAFFIC = "Higher EP → More ALLTOALL communication between experts"
WORK = "Lower EP → More computation per EP rank"
TIME = "Higher EP → Longer iterations"
MEMORY = "Higher EP → Less memory per rank"

CLAIMS = (
    (GRAIN, True, "experts_per_ep_rank", "falls"),
    (TRAFFIC, True, "all_to_all_comm_bytes", "rises"),
    (TRAFFIC, True, "all_to_all_wire_bytes", "rises"),
    (TRAFFIC, True, "all_to_all_seconds", "rises"),
    (WORK, True, "expert_flops", "falls"),
    (WORK, True, "expert_gemm_seconds", "falls"),
    (WORK, True, "compute_seconds", "falls"),
    (TIME, False, "iteration_seconds", "rises"),
    (MEMORY, False, "state_bytes", "falls"),
    (MEMORY, False, "activations_bytes", "falls"),
    (MEMORY, False, "peak_memory_bytes", "falls"),
)
"""Claim, whether the study's source makes it, a quantity, where that goes with rising ep if it holds."""

SAME = 0.001
"""Ratios closer to 1 than this count as unchanged."""


def ep_claims(inputs: Inputs) -> pl.DataFrame:
    """Return each claim with the ratios of its quantity, highest ep of a comparison over its lowest.

    The lowest that has any: without expert parallelism nothing is exchanged, so of ep 1, 2 and 4 the exchange
    of 4 is compared with that of 2.
    supported: every comparison moves as claimed; contradicted: every one moves the other way; no effect:
    none moves; mixed: the rest; untested: the sweep has no comparison.
    """
    quantities = dict.fromkeys(quantity for _, _, quantity, _ in CLAIMS)
    ratios = ep_scaling(inputs).group_by("comparison", maintain_order=True).agg(map(_ends_ratio, quantities))
    return pl.DataFrame(
        [
            {"claim": claim, "by_source": by_source, "quantity": quantity, "expected": expected}
            | _evidence(ratios[quantity].drop_nulls(), expected)
            for claim, by_source, quantity, expected in CLAIMS
        ],
        infer_schema_length=None,
    )


def _ends_ratio(quantity: str) -> pl.Expr:
    there = pl.col(quantity).filter(pl.col(quantity) > 0)
    return pl.when(there.len() > 1).then(there.last() / there.first()).alias(quantity)


def _evidence(ratios: pl.Series, expected: str) -> dict[str, object]:
    rises, falls = int((ratios > 1 + SAME).sum()), int((ratios < 1 - SAME).sum())
    return {
        "comparisons": ratios.len(),
        "lowest_ratio": ratios.min(),
        "median_ratio": ratios.median(),
        "highest_ratio": ratios.max(),
        "rises": rises,
        "falls": falls,
        "verdict": _verdict(ratios.len(), *((rises, falls) if expected == "rises" else (falls, rises))),
    }


def _verdict(comparisons: int, as_claimed: int, opposite: int) -> str:
    if not comparisons:
        return "untested"
    if not as_claimed and not opposite:
        return "no effect"
    if as_claimed == comparisons:
        return "supported"
    return "contradicted" if opposite == comparisons else "mixed"
