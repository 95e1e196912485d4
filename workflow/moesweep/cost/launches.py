"""How long a framework's host takes to launch the kernels of a pass through a layer."""

import polars as pl

from moesweep.cost.timing import constant
from moesweep.shapes import sizes as s


def launches_of_a_pass() -> pl.Expr:
    """Return how long the host takes to launch a layer's pass; of a backward one also what it runs again.

    A layer with experts has several times the kernels of a dense one (router, counts, permutations,
    exchanges); biases are added expert by expert (Megatron `TEGroupedMLP._apply_bias`). Today's modules
    launch gradients from Python too (`host_backward_ratio`), those of 2021 from C++. What CUDA graphs hold
    takes no time: of a dense layer both of its parts, or nothing is saved; of one with experts attention, and
    the experts as a whole.
    """
    modern = pl.col("framework") == "megatron-core"
    routed = pl.col("layer_kind").str.contains("moe", literal=True)
    biases = pl.when(pl.col("add_bias_linear")).then(s.local_experts).otherwise(0)
    of_experts = constant("host_experts_seconds") + constant("host_expert_seconds") * biases
    more = pl.when(routed & ~s.graphs("moe")).then(of_experts).otherwise(0.0)
    plain = pl.when(modern).then(constant("host_seconds")).otherwise(constant("host_2021_seconds"))
    held = s.graphs("attn") & (routed | s.graphs("mlp"))
    forward = pl.when(held).then(0.0).otherwise(plain) + more
    ratio = (
        pl.when(modern).then(constant("host_backward_ratio")).otherwise(constant("host_2021_backward_ratio"))
    )
    again = pl.when(pl.col("recomputes")).then(forward).otherwise(0.0)
    return pl.when(pl.col("phase") == "forward").then(forward).otherwise(ratio * forward + again)
