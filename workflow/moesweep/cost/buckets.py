"""What of reducing gradients and gathering parameters runs beside the passes of a micro-batch.

Megatron cuts a chunk's gradients into buckets (`distributed_data_parallel.py`): of max(40 M, 1 M · dp · cp)
parameters in the first chunk of the first stage, one bucket in every other chunk. With `overlap_grad_reduce`
a bucket is reduced as soon as the last micro-batch's backward has filled it; with `overlap_param_gather` the
next iteration's first forward begins once its first bucket is there. Both are one picture, mirrored in time.
"""

import polars as pl

from moesweep.cost.timing import constant
from moesweep.shapes import sizes as s
from moesweep.shapes.schedule import group, last_group

LEAST_BUCKET, BUCKET_OF_A_REPLICA = 40e6, 1e6
"""Parameters of a bucket: so many, or so many for each rank that reduces."""

BUCKETED = {
    "grad_reduce_dense": ("backward", s.gradient_bytes),
    "grad_reduce_expert": ("backward", s.gradient_bytes),
    "param_gather_dense": ("forward", pl.lit(s.ELEMENT_BYTES)),
    "param_gather_expert": ("forward", pl.lit(s.ELEMENT_BYTES)),
}
"""Ops that run bucket by bucket, the passes beside them, and the bytes of a parameter on the wire."""

BUCKETS_OF = {
    "dp": ("grad_reduce_dense", "param_gather_dense"),
    "edp": ("grad_reduce_expert", "param_gather_expert"),
}
"""The ops of BUCKETED by kind of communicator."""

_QUANTITIES = {"seconds": "seconds", "bytes": "comm_bytes"}

OF_BUCKETS = tuple(f"{op}_{name}" for op in BUCKETED for name in _QUANTITIES)
"""Columns of a stage that say of each op of BUCKETED how long it takes and how much it moves."""

LAYER_SECONDS = ("forward_seconds", "backward_seconds")
"""Columns of a stage: what a micro-batch takes in its layers."""

HIDDEN_OF_THE_TAIL = tuple(f"{op}_hidden" for op in BUCKETED)
"""Columns of a stage: what of each op of BUCKETED nothing waits for."""

_chunks = pl.col("virtual_pipeline")
_bucket = pl.max_horizontal(pl.lit(LEAST_BUCKET), BUCKET_OF_A_REPLICA * s.replicas).alias("bucket_parameters")


def bucketed_ops() -> dict[str, pl.Expr]:
    """Return OF_BUCKETS over the op rows of a pass; 0 where it has none of them."""
    return {
        f"{op}_{name}": (pl.col(own) * (pl.col("op") == op)).sum()
        for op in BUCKETED
        for name, own in _QUANTITIES.items()
    }


def layer_seconds() -> dict[str, pl.Expr]:
    """Return LAYER_SECONDS over the passes of a stage: what it has around its layers fills no bucket."""
    in_layers = pl.col("seconds") * pl.col("repeats") * pl.col("layer_kind").is_not_null()
    return {f"{phase}_seconds": (in_layers * (pl.col("phase") == phase)).sum() for phase in _phases()}


def hidden_of_the_tail() -> dict[str, pl.Expr]:
    """Return HIDDEN_OF_THE_TAIL, over OF_BUCKETS and LAYER_SECONDS of a stage.

    Both kinds of gradients go one after the other: what the dense ones leave of the passes is the experts'.
    """
    found: dict[str, pl.Expr] = {}
    for op in ("grad_reduce", "param_gather"):
        dense, beside = _hidden(f"{op}_dense")
        expert, beside_experts = _hidden(f"{op}_expert")
        left = pl.max_horizontal(beside, beside_experts) - dense
        share = pl.when(pl.col(f"overlap_{op}")).then(constant("dp_overlap")).otherwise(0.0)
        found[f"{op}_dense_hidden"] = share * dense
        found[f"{op}_expert_hidden"] = share * pl.min_horizontal(expert, left)
    return found


def _hidden(op: str) -> tuple[pl.Expr, pl.Expr]:
    """Return what of an op of BUCKETED could be hidden, and how long the passes are that may hide it.

    Of v chunks of T/v seconds and P/v parameters, whose backward takes b a micro-batch, chunk c is filled
    c · N · b before the first chunk, of N micro-batches in the last group (gathers mirror it: in the first
    one). The buckets of the first chunk, of B parameters, are filled one by one from b · (1 - B/(P/v)) before
    its end on. Buckets go one after the other, so some bucket is the last that its link stood idle for; what
    is waited for is the most over all buckets of what is left from that one on, less the time since it was
    full: of the last bucket; of the last one that is as large as the others; of the first chunk's first; and
    of whole chunks, (c + 1) · T/v - c · N · b, most for c = 1 or c = v - 1.
    """
    phase, bytes_ = BUCKETED[op]
    together = last_group if phase == "backward" else group
    seconds = pl.col(f"{op}_seconds")
    parameters = pl.max_horizontal(pl.col(f"{op}_bytes") / bytes_ / _chunks, 1.0)
    buckets = pl.when(pl.col("stage") == 0).then((parameters / _bucket).ceil()).otherwise(1.0)
    chunk, pass_ = seconds / _chunks, pl.col(f"{phase}_seconds") / _chunks
    share = _bucket / parameters
    last = 1 - (buckets - 1) * share
    before_last = pl.when(buckets > 1).then((last + share) * chunk - last * pass_).otherwise(0.0)
    beside = pl.when(buckets > 1).then(pass_ * (1 - share)).otherwise(0.0)
    later = (_chunks - 1) * together * pass_
    several = pl.max_horizontal(2 * chunk - together * pass_, seconds - later)
    of_chunks = pl.when(_chunks > 1).then(several).otherwise(0.0)
    waited = pl.max_horizontal(last * chunk, before_last, chunk - beside, of_chunks)
    return seconds - waited, pl.when(_chunks > 1).then(later).otherwise(beside)


def _phases() -> tuple[str, ...]:
    return tuple(name.removesuffix("_seconds") for name in LAYER_SECONDS)
