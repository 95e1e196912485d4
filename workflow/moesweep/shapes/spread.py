"""Over how many ranks and nodes the experts of a token are spread: expected, where tokens fall evenly.

Closed forms over a workload's columns. C(n, k) choices of k experts among n are all as likely.
"""

import math

import polars as pl

from moesweep.shapes import sizes as s

FUSED_EXCHANGES = ("fused_dispatch", "fused_combine")
"""Exchanges that send a token once to each rank that has any of its experts (Megatron `fused_a2a.py`)."""

_ALMOST = 1e-10
"""What rounding may have left a share short of."""

_SHIFT = 8


def _ln_factorial(number: pl.Expr) -> pl.Expr:
    """Return ln n! of a number of at least 0, whole or not, to about 1e-12.

    Stirling's series of ln Γ(z) at z = n + 1 + 8, less ln of the eight factors that lie between.
    """
    z = number + 1.0 + _SHIFT
    series = 1 / (12 * z) - 1 / (360 * z.pow(3)) + 1 / (1260 * z.pow(5)) - 1 / (1680 * z.pow(7))
    between = sum(((number + 1.0 + place).log() for place in range(_SHIFT)), start=pl.lit(0.0))
    return (z - 0.5) * z.log() - z + 0.5 * math.log(2 * math.pi) + series - between


def _none_of(number: pl.Expr, chosen: pl.Expr, among: pl.Expr) -> pl.Expr:
    """Return how likely it is that k chosen of n are none of m: C(n - m, k) / C(n, k)."""
    n, m, k = (each.cast(pl.Float64) for each in (among, number, chosen))
    left = n - m - k
    logarithm = (
        _ln_factorial((n - m).clip(0.0))
        + _ln_factorial((n - k).clip(0.0))
        - _ln_factorial(left.clip(0.0))
        - _ln_factorial(n)
    )
    return pl.when(left < 0).then(0.0).otherwise(logarithm.exp())


def share_of_tokens(experts: pl.Expr) -> pl.Expr:
    """Return the share of all tokens that have any of m neighbouring experts: 1 - C(E - m, k)/C(E, k).

    Of G groups of E/G experts a token takes M, any as likely, and k/M experts of each: a group is taken for
    its best k/M experts (Megatron `group_limited_topk`), nearly always among the k. Of one group that makes
    M/G · (1 - C(E/G - m, k/M)/C(E/G, k/M)), of several whole ones 1 - C(G - m·G/E, M)/C(G, M).
    """
    groups = pl.when(s.in_groups).then(s.expert_groups).otherwise(1).cast(pl.Float64)
    taken = pl.when(s.in_groups).then(pl.max_horizontal(s.taken_groups, 1)).otherwise(1).cast(pl.Float64)
    of_group = s.experts / groups
    within = taken / groups * (1.0 - _none_of(experts, s.topk / taken, of_group))
    across = 1.0 - _none_of(experts / of_group, taken, groups)
    return pl.when(experts <= of_group).then(within).otherwise(across)


def copies(experts: pl.Expr, tokens: pl.Expr = s.local_tokens) -> pl.Expr:
    """Return how many of a rank's tokens go where so many experts are, each once: whole tokens."""
    share = share_of_tokens(experts) + _ALMOST
    return pl.min_horizontal(tokens.cast(pl.Float64) * share, tokens).floor().cast(pl.Int64)


def experts_of(members: pl.Expr) -> pl.Expr:
    """Return the experts of neighbouring members of an etp × ep group: etp ranks share the same ones."""
    return s.experts / s.ep * pl.max_horizontal(members // s.etp, 1)
