"""Given routing as whole token copies: who sends how many to which expert, and what that makes of each rank.

Popularity belongs to a layer and an expert: every micro-batch, every EP group and every etp rank routes
alike. The members of an EP group route N = e·k·b·s/t copies in all. Laid out by expert, expert i has
those from ⌊N·P(i)⌋ to ⌊N·P(i+1)⌋, P the running sum of the popularities: its popularity to within one
copy. `sent_between` deals them out to the members.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import polars as pl

from moesweep.shapes.layer_kinds import moe_layers
from moesweep.study.routing import Routing, parsed, read_counts, sent_between

RESOLUTION = 1 << 40
"""Popularities are whole numbers up to this, so that their sums are exact."""

MEMBER = ("workload", "layer", "ep_rank")


def _draw(*words: object) -> int:
    """Return 64 random bits that depend on the words alone, on every machine alike."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "big")


@cache
def popularity(
    routing: Routing, layers: tuple[int, ...], experts: int, topk: int, root: Path
) -> pl.DataFrame:
    """Return layer, expert, weight: popularities as whole numbers, ordered by layer and expert.

    zipf: (r+1)^-alpha for the expert of rank r, experts ranked by SHA-256 of seed, layer and expert.
    lognormal: exp(sigma·z), z the normal quantile of the same bits. Of either no expert gets more than every
    token. table: the counts themselves.
    """
    if routing.form == "table":
        counts = read_counts(root, routing.file, routing.digest)
        return counts.filter(pl.col("layer").is_in(layers)).rename({"tokens": "weight"})
    drawn = {layer: _of_every_token(_weights(routing, layer, experts), topk) for layer in layers}
    return pl.DataFrame(
        {
            "layer": [layer for layer in layers for _ in range(experts)],
            "expert": list(range(experts)) * len(layers),
            "weight": [weight for layer in layers for weight in drawn[layer]],
        },
        schema=dict.fromkeys(("layer", "expert", "weight"), pl.Int64),
    )


def _weights(routing: Routing, layer: int, experts: int) -> list[int]:
    """Return the popularities of a layer's experts, the greatest being RESOLUTION, the least at least 1."""
    bits = [_draw(routing.seed, layer, expert) for expert in range(experts)]
    if routing.form == "zipf":
        rank = {expert: r for r, expert in enumerate(sorted(range(experts), key=lambda i: (bits[i], i)))}
        shares = [(rank[expert] + 1) ** -routing.parameter for expert in range(experts)]
    else:
        normal = NormalDist()
        scores = [routing.parameter * normal.inv_cdf(((b >> 12) + 0.5) / 2**52) for b in bits]
        shares = [math.exp(score - max(scores)) for score in scores]
    return [max(1, round(share * RESOLUTION)) for share in shares]


def _of_every_token(weights: list[int], topk: int) -> list[int]:
    """Return popularities of which none is above 1/k of the sum; the others share the rest as before.

    The k experts of a token differ, so the most that one can get is every token, a k-th of the copies.
    """
    rest, full = sum(weights), 0
    for weight in sorted(weights, reverse=True):
        if weight * (topk - full) <= rest:
            break
        rest, full = rest - weight, full + 1
    least_full = sorted(weights, reverse=True)[full - 1] if full else math.inf
    return [rest if weight >= least_full else weight * (topk - full) for weight in weights]


def given_routing(workload: Mapping[str, Any], root: Path) -> pl.DataFrame:
    """Return layer, expert, ep_rank, rows, share, dropped: every expert's rows on each of its etp ranks.

    The share is that of the copies routed, the dropped ones among them. With a capacity factor f a member
    sends at most ⌈f·(k·b·s/(c·t))/E⌉ copies to an expert (Megatron `moe_expert_capacity_factor`).
    """
    routing, experts, ep, etp = (
        parsed(workload["routing"]),
        workload["num_experts"],
        workload["ep"],
        workload["etp"],
    )
    split = workload["cp"] * (workload["tp"] if workload["sequence_parallel"] else 1)
    copies = workload["moe_router_topk"] * (workload["micro_batch_size"] * workload["seq_length"] // split)
    layers = moe_layers(workload)
    most = copies if routing.capacity is None else math.ceil(routing.capacity * copies / experts)
    wide = pl.col("weight").cast(pl.Int128)
    until = wide.cum_sum().over("layer") * (ep * copies) // wide.sum().over("layer")
    kept = pl.min_horizontal("routed", pl.lit(ep * most, dtype=pl.Int64))
    return (
        popularity(routing, layers, experts, workload["moe_router_topk"], root)
        .with_columns(until=until.cast(pl.Int64))
        .with_columns(routed=pl.col("until") - pl.col("until").shift(1, fill_value=0).over("layer"))
        .select(
            "layer",
            "expert",
            ep_rank=pl.col("expert") // (experts // ep),
            rows=etp * kept,
            share=pl.col("routed") / (ep * copies),
            dropped=etp * (pl.col("routed") - kept),
        )
    )


Routed = Callable[[Mapping[str, Any]], pl.DataFrame]
"""From a workload to its table of `given_routing`."""


def by_tables_in(root: Path) -> Routed:
    """Return how a workload is routed, measured tables read from `root`."""
    return lambda workload: given_routing(workload, root)


def loads(workloads: pl.DataFrame, routed: Routed) -> pl.DataFrame:
    """Return MEMBER, sent, received, own: the copies of each ep rank in each MoE layer, per micro-batch."""
    return pl.concat(_loads(row, routed(row)) for row in workloads.iter_rows(named=True))


def _loads(workload: Mapping[str, Any], table: pl.DataFrame) -> pl.DataFrame:
    exchanged = sent_between(table, workload["ep"], workload["etp"])
    total, stays = pl.col("copies").sum(), pl.col("source") == pl.col("ep_rank")
    received = exchanged.group_by("layer", "ep_rank", maintain_order=True).agg(
        received=total, own=pl.col("copies").filter(stays).sum()
    )
    sent = exchanged.group_by("layer", pl.col("source").alias("ep_rank")).agg(sent=total)
    return received.join(sent, on=["layer", "ep_rank"], maintain_order="left").select(
        pl.lit(workload["workload"]).alias("workload"), *MEMBER[1:], "sent", "received", "own"
    )
