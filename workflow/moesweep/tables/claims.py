"""The seed's claims about expert parallelism, each with the evidence of the matched comparisons."""

import polars as pl

from moesweep.tables.comparison import ep_scaling
from moesweep.tables.inputs import Inputs

CLAIMS = (
    ("Higher EP = more fine-grained expert distribution", "experts_per_ep_rank", "falls"),
    ("Higher EP → more ALLTOALL communication", "all_to_all_comm_bytes", "rises"),
    ("Higher EP → more ALLTOALL communication", "all_to_all_wire_bytes", "rises"),
    ("Higher EP → more ALLTOALL communication", "all_to_all_seconds", "rises"),
    ("Lower EP → more computation per EP rank", "expert_flops", "falls"),
    ("Lower EP → more computation per EP rank", "expert_gemm_seconds", "falls"),
    ("Lower EP → more computation per EP rank", "compute_seconds", "falls"),
    ("(not in the seed) Higher EP → slower iterations", "iteration_seconds", "rises"),
    ("(not in the seed) Higher EP → less memory for parameters", "state_bytes", "falls"),
    ("(not in the seed) Higher EP → less memory at the peak", "peak_memory_bytes", "falls"),
)
"""Claim, the quantity that it is about, what the quantity does with rising ep if the claim holds."""

SAME = 0.001
"""Ratios closer to 1 than this count as unchanged."""


def seed_claims(inputs: Inputs) -> pl.DataFrame:
    """Return each claim with the ratios of its quantity, highest ep of a comparison over its lowest.

    supported: every comparison moves as claimed; contradicted: every one moves the other way; no effect:
    none moves; mixed: the rest; untested: the sweep has no comparison.
    """
    highest = ep_scaling(inputs).group_by("comparison", maintain_order=True).last()
    return pl.DataFrame(
        [
            {"claim": claim, "quantity": quantity, "expected": expected}
            | _evidence(highest[f"{quantity}_ratio"].drop_nulls(), expected)
            for claim, quantity, expected in CLAIMS
        ],
        infer_schema_length=None,
    )


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
