"""One micro-batch through one stage, and the stage's work after the last micro-batch.

A layer lasts as long as its kernels and the communication that nothing hides, or as long as the
host needs to launch them. Part of a backward tp collective hides behind the GEMM that Megatron
issues with it (`HIDES_BEHIND`), and of a ring of cp ranks behind attention.
"""

from collections.abc import Mapping
from functools import reduce
from operator import add

import polars as pl

from moesweep.cost.buckets import bucketed_ops
from moesweep.cost.launches import launches_of_a_pass
from moesweep.cost.offloading import waits_for_copies
from moesweep.cost.pairs import ops_of_turns, turns_of_a_pass
from moesweep.cost.sharding import SHARDED, beside_passes, sharded_ops
from moesweep.cost.timing import constant
from moesweep.cost.words import ROWS, Truth, Words, among, ends, expression, missing, negated, starts
from moesweep.shapes import sizes as s
from moesweep.shapes.communication import (
    BESIDE_EXCHANGES,
    BESIDE_LINEARS,
    COMM_KINDS,
    HIDES_BEHIND,
    OTHER,
    RING_ARRIVALS,
    STEPS_OF_CP,
    share_beside_ring,
)
from moesweep.shapes.expressions import total
from moesweep.shapes.offloading import COPIES
from moesweep.shapes.sharding import shards_gradients

PASS_KEY = ("workload", "stage", "phase", "layer_kind")
"""What tells passes apart."""

COMM = tuple(f"{kind}_comm" for kind in COMM_KINDS)
COPIED = "copied"
PARTS = ("compute", COPIED, *COMM)
"""What the seconds of an op are part of; `copied` are copies of activations to the host and back."""


def counts_as(op: Words, part: str) -> Truth:
    """Return whether an op's seconds are of a part; a send is waited for where it arrives, so of none."""
    copies = among(op.op, *COPIES)
    if part == COPIED:
        return copies
    if part == "compute":
        return missing(op.collective) & negated(copies)
    kind = part.removesuffix("_comm")
    kinds = {"other": OTHER, "cp": ("cp", *STEPS_OF_CP)}.get(kind, (kind,))
    return negated(among(op.collective, "send")) & among(op.group_kind, *kinds)


def meets_peers(op: Words) -> Truth:
    """Return whether ranks of a tp or etp group meet at an op: they issue their kernels alone."""
    return among(op.group_kind, "tp", "etp") & negated(missing(op.collective))


def dispatches(op: Words) -> Truth:
    """Return whether the host waits at an op for the counts of tokens that experts get."""
    onward = negated(among(op.phase, "backward")) | starts(op.op, "recompute_")
    return ends(op.op, "token_counts") | (ends(op.op, "fused_dispatch") & onward)


def repeats_forward(op: Words) -> Truth:
    """Return whether an op shows that a backward pass runs the layer's forward again, not a module of it."""
    return starts(op.op, "recompute_attention_residual")


def arrives(op: Words) -> Truth:
    """Return whether an op is part of a message's arrival from another stage."""
    return starts(op.op, "recv_")


def _of(op: str, column: str = "seconds") -> pl.Expr:
    return (pl.col(column) * (pl.col("op") == op)).sum()


def _hidden(ops: Mapping[str, str]) -> pl.Expr:
    """Return how long communication runs beside the kernels that it may hide behind."""
    beside = []
    for op, kernel in ops.items():
        seconds = _of(kernel)
        if op in RING_ARRIVALS:
            seconds *= share_beside_ring(pl.max_horizontal(_of(op, "group_size"), 1))
        beside.append(pl.min_horizontal(_of(op), seconds))
    return reduce(add, beside)


def _beside_linears() -> pl.Expr:
    """Return how long tp collectives could run beside linears: one of t parts has nothing beside it."""
    return reduce(add, (_beside_parts(collective, linear) for collective, linear in BESIDE_LINEARS))


def _beside_parts(collective: str, linear: str) -> pl.Expr:
    share = share_beside_ring(pl.max_horizontal(_of(collective, "group_size"), 1))
    return pl.min_horizontal(_of(collective), _of(linear) * share)


def _beside_exchanges() -> pl.Expr:
    """Return how long exchanges of tokens could run beside shared experts."""
    return total(
        pl.min_horizontal(_of(exchange), total(map(_of, kernels)))
        for exchange, kernels in BESIDE_EXCHANGES.items()
    )


def runs() -> pl.Expr:
    """Return how often an op runs per micro-batch: 1, or v for messages of an interleaved pipeline."""
    per_pass = pl.when(pl.col("phase") == "optimizer").then(1).otherwise(pl.col("microbatches"))
    return pl.col("num_microbatches") / per_pass


def parts_of_a_pass() -> dict[str, pl.Expr]:
    """Return what the op rows of one layer's pass add up to: seconds by part, over the rows of the pass.

    `compute`, `copied`, `<kind>_comm`, `arrivals` of messages, `hidden` communication, of it that of rings
    (`ring_hidden`), what `tp_comm_overlap` and `moe_shared_expert_overlap` hide besides (`linears_hidden`,
    `exchanges_hidden`), `peers` in all collectives, `dispatches` of tokens to experts, `repeats` layers,
    OF_TURNS, OF_BUCKETS and SHARDED. Rows outside the layers are a pass of their own (layer_kind null,
    repeats 1).
    """
    return {
        "repeats": pl.col("repeats").first(),
        **{part: (pl.col("seconds") * pl.col("runs") * counts_as(ROWS, part)).sum() for part in COMM},
        **{part: (pl.col("seconds") * counts_as(ROWS, part)).sum() for part in ("compute", COPIED)},
        "arrivals": (pl.col("seconds") * pl.col("runs") * expression(arrives(ROWS))).sum(),
        "hidden": _hidden(HIDES_BEHIND),
        "ring_hidden": _hidden(RING_ARRIVALS),
        "linears_hidden": _beside_linears(),
        "exchanges_hidden": _beside_exchanges(),
        "peers": ((pl.col("group_size") - 1) * meets_peers(ROWS)).sum(),
        "dispatches": expression(dispatches(ROWS)).sum(),
        "recomputes": expression(repeats_forward(ROWS)).any(),
        **ops_of_turns(),
        **bucketed_ops(),
        **sharded_ops(),
    }


def seconds_of_a_pass() -> dict[str, pl.Expr]:
    """Return what `busy_seconds` says, and of sharded parameters and gradients what `beside_passes` adds."""
    sharded = total(SHARDED)
    comm = total(COMM)
    busy = busy_seconds(pl.when(shards_gradients).then(comm - sharded).otherwise(comm))
    return {"comm": comm, **busy, **beside_passes(busy)}


def busy_seconds(comm: pl.Expr) -> dict[str, pl.Expr]:
    """Return `exposed`, `cp_hidden`, `ep_hidden`, `seconds`, `spare` and OF_A_PAIR of a pass, over its parts.

    `comm` is its communication without what sharded parameters and gradients take.

    kernels = compute + comm - tp_overlap · hidden + dispatch_wait_seconds · dispatches, and with
    `tp_comm_overlap` less userbuffers_overlap · linears_hidden, with `moe_shared_expert_overlap` less
    ep_overlap · exchanges_hidden. A layer's host time is the framework's launch time of the pass
    (`launches_of_a_pass`) plus `tp_skew_seconds` for every peer in every tp or etp collective: ranks wait
    for the slowest host. seconds = max(kernels, host), or their sum with blocking launches, and what it waits
    for copies (`waits_for_copies`); what the host takes longer than kernels is `spare`. Time beyond the
    exposed communication counts as compute.
    """
    in_parts = pl.when(pl.col("tp_comm_overlap")).then(constant("userbuffers_overlap")).otherwise(0.0)
    exposed = comm - constant("tp_overlap") * pl.col("hidden") - in_parts * pl.col("linears_hidden")
    shared = pl.when(pl.col("moe_shared_expert_overlap")).then(constant("ep_overlap")).otherwise(0.0)
    exchanges = shared * pl.col("exchanges_hidden")
    exposed -= exchanges
    skew = constant("tp_skew_seconds") * pl.col("peers")
    in_layer = pl.col("layer_kind").is_not_null()
    host = pl.when(in_layer).then(launches_of_a_pass() + skew).otherwise(0.0).alias("launching_seconds")
    # Padded experts' rows are known beforehand.
    waits = pl.when(s.padded).then(0.0).otherwise(constant("dispatch_wait_seconds")) * pl.col("dispatches")
    kernels = (pl.col("compute") + exposed + waits).alias("kernels_seconds")
    blocking = pl.col("blocking_launches")
    seconds = pl.when(blocking).then(kernels + host).otherwise(pl.max_horizontal(kernels, host))
    spare = pl.when(blocking).then(0.0).otherwise(pl.max_horizontal(host - kernels, 0.0))
    seconds += waits_for_copies(seconds)
    ring = constant("tp_overlap") * pl.col("ring_hidden")
    hidden = {"exposed": exposed, "cp_hidden": ring, "ep_hidden": exchanges}
    return {**hidden, "seconds": seconds, "spare": spare, **turns_of_a_pass(host)}


def with_more(busy: Mapping[str, pl.Expr], more: pl.Expr) -> dict[str, pl.Expr]:
    """Return `seconds` and `exposed` of a pass that is `busy`, with `more` communication beside nothing.

    It is waited for, but for what the host takes longer than the kernels anyway (`spare`).
    """
    longer = pl.max_horizontal(more - busy["spare"], 0.0)
    return {"seconds": busy["seconds"] + longer, "exposed": busy["exposed"] + more}


def passes(costed: pl.DataFrame, workloads: pl.DataFrame) -> pl.DataFrame:
    """Return the parts and the seconds of one layer's pass, one row per PASS_KEY."""
    return (
        costed.with_columns(runs=runs())
        .group_by(PASS_KEY, maintain_order=True)
        .agg(**parts_of_a_pass())
        .join(workloads, on="workload", maintain_order="left")
        .with_columns(**seconds_of_a_pass())
    )
