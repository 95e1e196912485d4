"""A layer's forward pass beside another micro-batch's backward pass: what of their exchanges that hides.

With `overlap_moe_expert_parallel_comm` one of both computes while the other exchanges tokens, in four turns
(Megatron `TransformerLayerSchedulePlan.run`): attention forward beside the combining exchange backward;
experts backward beside the dispatching one forward; experts forward beside the dispatching one backward;
attention backward beside the combining one forward. A turn lasts as long as the longer of the two. With
`delay_wgrad_compute` the next exchange does not wait for weight gradients, which run beside either.
"""

from collections.abc import Callable

import polars as pl

from moesweep.cost.timing import constant
from moesweep.cost.words import ROWS, Truth, Words, among, ends, missing, negated, starts
from moesweep.shapes import sizes as s
from moesweep.shapes.schedule import in_pairs

PHASES = ("forward", "backward")


def _of_experts(op: Words) -> Truth:
    """Return whether an op is part of the routed or shared experts; their sum follows the exchange."""
    shared = starts(op.base, "shared_") & negated(among(op.base, "shared_sum"))
    return starts(op.base, "expert_") | shared


def _weight_gradient(op: Words) -> Truth:
    """Return whether an op is a weight gradient that Megatron may delay: not the router's or prediction's."""
    return ends(op.op, "_wgrad") & negated(among(op.op, "router_wgrad") | starts(op.op, "mtp_"))


OF_TURNS: dict[str, Callable[[Words], Truth]] = {
    "experts": lambda op: missing(op.collective) & _of_experts(op),
    "experts_wgrad": lambda op: _of_experts(op) & _weight_gradient(op),
    "attention_wgrad": lambda op: negated(_of_experts(op)) & _weight_gradient(op),
    "permutations": lambda op: among(op.base, "permute", "unpermute"),
    "predicting": lambda op: missing(op.collective) & starts(op.base, "mtp_"),
    "dispatched": lambda op: among(op.base, "moe_dispatch", "fused_dispatch"),
    "combined": lambda op: among(op.base, "moe_combine", "fused_combine"),
}
"""What the turns of a pass are made from: seconds of the ops that each is true of."""


def ops_of_turns() -> dict[str, pl.Expr]:
    """Return OF_TURNS over the op rows of a pass."""
    return {name: (pl.col("seconds") * counts(ROWS)).sum() for name, counts in OF_TURNS.items()}


def _turns() -> dict[str, pl.Expr]:
    # The flex dispatcher permutes what it has brought, the other one what it sends.
    permuted = pl.when(s.flex).then("permutations").otherwise(0.0)
    experts = pl.col("experts") + permuted
    attention = pl.col("compute") - experts - pl.col("predicting")
    delayed = pl.when(pl.col("delay_wgrad_compute")).then(1.0).otherwise(0.0)
    return {
        "pair_share": constant("ep_overlap"),
        "pair_attention": attention,
        "pair_attention_first": attention - delayed * pl.col("attention_wgrad"),
        "pair_experts": experts,
        "pair_experts_first": experts - delayed * pl.col("experts_wgrad"),
        "pair_dispatch": pl.col("dispatched"),
        "pair_combine": pl.col("combined"),
    }


def turns_of_a_pass(host: pl.Expr) -> dict[str, pl.Expr]:
    """Return OF_A_PAIR of a pass, over OF_TURNS and `compute`; 0 where passes do not run in pairs.

    `_first` are the kernels that the next exchange waits for.
    """
    turns = _turns() | {"pair_host": host}
    return {name: pl.when(in_pairs).then(turn).otherwise(0.0) for name, turn in turns.items()}


OF_A_PAIR = (*_turns(), "pair_host")
"""Columns of a pass that its pairs are made from."""


def _hidden(exchange: str, first: str, kernels: str, next_kernels: str, next_exchange: str) -> pl.Expr:
    """Return what two turns save: kernels of a backward pass, then kernels of a forward pass.

    x, k, n and y of x beside k, then n beside y; y waits for x and the first part k' of k. Both turns last
    max(max(x, k) + n, max(x, k') + y).
    """
    x, first_k, k, n, y = map(pl.col, (exchange, first, kernels, next_kernels, next_exchange))
    lasts = pl.max_horizontal(pl.max_horizontal(x, k) + n, pl.max_horizontal(x, first_k) + y)
    return k + n + x + y - lasts


def hidden_of_a_pair() -> dict[str, pl.Expr]:
    """Return the seconds that a layer's forward and backward pass save as a pair: no more than hosts leave.

    pair_share · (what turns about experts save + what turns about attention do); the next layer's attention
    and combining exchange are taken to be as long as this one's.
    """
    experts = _hidden(
        *("forward_pair_dispatch", "backward_pair_experts_first", "backward_pair_experts"),
        *("forward_pair_experts", "backward_pair_dispatch"),
    )
    attention = _hidden(
        *("forward_pair_combine", "backward_pair_attention_first", "backward_pair_attention"),
        *("forward_pair_attention", "backward_pair_combine"),
    )
    saved = pl.col("backward_pair_share") * (experts + attention)
    # A pass that its host is the slower one for leaves nothing, not a rounding error.
    forward, backward = (pl.col(f"{phase}_seconds") - pl.col(f"{phase}_pair_host") for phase in PHASES)
    left = forward + backward
    return {"paired": pl.max_horizontal(pl.min_horizontal(saved, left), 0.0)}


PAIR_KEY = ("workload", "stage", "layer_kind")
"""What tells pairs apart."""


def passes_of_a_pair() -> dict[str, pl.Expr]:
    """Return the columns of both passes of a kind of layer, over them, and how many layers are of it."""
    both = {
        f"{phase}_{name}": (pl.col(name) * (pl.col("phase") == phase)).sum()
        for phase in PHASES
        for name in ("seconds", *OF_A_PAIR)
    }
    return {"repeats": (pl.col("repeats") * (pl.col("phase") == "forward")).sum(), **both}


def pairs(passes: pl.DataFrame) -> pl.DataFrame:
    """Return one row per PAIR_KEY: what a layer's passes save where they run beside one another's."""
    layers = passes.filter(pl.col("layer_kind").is_not_null())
    return (
        layers.group_by(PAIR_KEY, maintain_order=True)
        .agg(**passes_of_a_pair())
        .with_columns(**hidden_of_a_pair())
    )


def pairs_of_a_stage() -> dict[str, pl.Expr]:
    """Return what a micro-batch's passes through all layers of a stage save as pairs, over these."""
    return {"paired": (pl.col("paired") * pl.col("repeats")).sum()}
