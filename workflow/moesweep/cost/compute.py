"""Seconds of one execution of a compute op, as polars expressions over an op, its workload and its cluster.

GEMM efficiencies with tile and wave quantisation were fitted to 183 measured A100 GEMMs
(docs/costs.md, "GEMM"); attention and memory-bound ops follow Dao 2023 (arXiv:2307.08691) and the
bytes that the trace declares.
"""

import polars as pl

from moesweep.cost.offloading import host_copy_seconds
from moesweep.cost.timing import Timing, constant
from moesweep.cost.words import Words, among, choose, ends, expression, starts
from moesweep.shapes import sizes as s
from moesweep.shapes.offloading import COPIES
from moesweep.shapes.precision import (
    HOST_DOWN_BYTES,
    HOST_UP_BYTES,
    UNQUANTISED_OPS,
    fp8,
    mxfp8,
    quantised_bytes,
)

TILES = ((256, 128), (128, 256), (128, 128), (128, 64))
LOSSES = ("cross_entropy", "mtp_cross_entropy")
ROUTER_PRODUCTS = ("router", "router_dgrad", "router_wgrad")
PERMUTATIONS = ("permute", "unpermute", "expert_sort", "expert_unsort")

is_flash = pl.col("flash_attention")

attention_kernels = pl.when(s.gathers_keys).then(2).otherwise(s.ring)
"""Kernels of a flash attention: with cp one for each block of keys, or for each of a rank's two chunks."""

in_order = (
    pl.when(pl.col("deterministic_mode")).then(constant("deterministic_attention_fraction")).otherwise(1.0)
)
"""What a flash attention's backward keeps of its rate where it adds up in one order every time."""

forward_efficiency = constant("gemm_forward_efficiency")
dgrad_efficiency = constant("gemm_dgrad_efficiency")
wgrad_efficiency = constant("gemm_wgrad_efficiency")


def wave_efficiency(m: pl.Expr, n: pl.Expr, batch: pl.Expr) -> pl.Expr:
    """Return the best tile's share of useful work: batch·m·n over the area of its full waves.

    A wave is one tile on each streaming multiprocessor. Tiles of a batch share waves. The two
    smaller tiles reach a lower peak.
    """
    processors = constant("streaming_multiprocessors")
    peak = {
        (128, 128): constant("gemm_tile_128x128_efficiency"),
        (128, 64): constant("gemm_tile_128x64_efficiency"),
    }

    def share(rows: int, columns: int) -> pl.Expr:
        tiles = batch * (m / rows).ceil() * (n / columns).ceil()
        useful = batch * m * n / ((tiles / processors).ceil() * processors * rows * columns)
        share = useful * peak.get((rows, columns), pl.lit(1.0))
        return share.alias(f"tile_{rows}x{columns}_share")

    return pl.max_horizontal(*(share(rows, columns) for rows, columns in TILES)).alias("wave_efficiency")


_fp8_rate = (
    pl.when(mxfp8)
    .then(constant("mxfp8_matrix_flops_per_second"))
    .otherwise(constant("fp8_matrix_flops_per_second"))
)

peak_flops_per_second = pl.when(fp8).then(_fp8_rate).otherwise(constant("matrix_flops_per_second"))
"""The peak rate of a workload's linears."""

fp8_speedup = (
    pl.when(fp8)
    .then(_fp8_rate / constant("matrix_flops_per_second") * constant("fp8_gemm_efficiency"))
    .otherwise(1.0)
    .alias("fp8_speedup")
)
"""How much faster than in 16 bits a tile's products are once it has begun."""

fp64_speedup = (
    pl.when(s.fp64_router)
    .then(constant("fp64_matrix_flops_per_second") / constant("matrix_flops_per_second"))
    .otherwise(1.0)
    .alias("fp64_speedup")
)
"""The same of a router of fp64, over 16 bits: far below 1."""


def matmul_seconds(
    m: pl.Expr, n: pl.Expr, k: pl.Expr, batch: pl.Expr, efficiency: pl.Expr, speedup: pl.Expr | None = None
) -> pl.Expr:
    """Return 2·batch·mnk flops over peak · efficiency · wave share · k/(k + half): the arithmetic time.

    `speedup` raises the peak, and half as much: a tile takes as long to start and to end.
    """
    faster = pl.lit(1.0) if speedup is None else speedup
    half = constant("gemm_half_inner_dimension") * faster
    reached = efficiency * wave_efficiency(m, n, batch) * k / (k + half)
    rate = constant("matrix_flops_per_second") * faster * constant("gemm_gain") * reached
    return (2.0 * batch * m * n * k / rate.alias("gemm_flops_per_second")).alias("matmul_seconds")


def _hbm_seconds(hbm_bytes: pl.Expr, fraction: pl.Expr) -> pl.Expr:
    return (hbm_bytes / (fraction * constant("hbm_bytes_per_second"))).alias("memory_seconds")


def gemm(op: Words) -> Timing:
    """Return the larger of arithmetic and memory time, plus one kernel launch.

    Grouped GEMMs are a batch of their experts' products at `grouped_gemm_efficiency` of a plain
    one's rate. Frameworks of fp16 runs add each weight gradient to the main gradient separately. In fp8 the
    declared bytes are also those of a kernel that quantises the first operand before, but of a weight
    gradient's, which was quantised for the gradient of the input. Routers of fp64 multiply at the GPU's rate
    of fp64, and two operands, or an operand and the result, are cast by kernels of their own.
    """
    in_16_bits = among(op.base, *UNQUANTISED_OPS)
    grouped, is_wgrad = among(op.kind, "grouped_gemm"), ends(op.op, "_wgrad")
    batch = pl.col("groups").cast(pl.Float64)
    m = choose(grouped, choose(is_wgrad, pl.col("m"), pl.col("m") / batch), pl.col("m"))
    k = choose(grouped, choose(is_wgrad, pl.col("k") / batch, pl.col("k")), pl.col("k"))
    backward = choose(ends(op.op, "_dgrad"), dgrad_efficiency, forward_efficiency)
    direction = choose(is_wgrad, wgrad_efficiency, backward)
    factor = choose(grouped, constant("grouped_gemm_efficiency"), pl.lit(1.0))
    routes = among(op.base, *ROUTER_PRODUCTS)
    speedup = choose(routes, fp64_speedup, choose(in_16_bits, pl.lit(1.0), fp8_speedup))
    arithmetic = matmul_seconds(m, pl.col("n").cast(pl.Float64), k, batch, direction * factor, speedup)
    no, operand = pl.lit(0), quantised_bytes * pl.col("m") * pl.col("k")
    own = choose(ends(op.op, "router"), pl.col("m") * pl.col("k"), pl.col("m") * pl.col("n"))
    cast = s.router_cast_bytes * (pl.col("k") * pl.col("n") + own)
    quantising = choose(routes, cast, choose(in_16_bits, no, choose(is_wgrad, no, operand)))
    memory = _hbm_seconds(pl.col("hbm_bytes") - quantising, constant("elementwise_hbm_fraction"))
    weights = batch * pl.col("m") * pl.col("n")
    accumulate = _hbm_seconds(
        constant("fp16_accumulation_bytes") * weights, constant("elementwise_hbm_fraction")
    ).alias("accumulation_seconds")
    separate = pl.when(pl.col("dtype") == "fp16").then(accumulate).otherwise(0.0)
    before = _hbm_seconds(quantising, constant("elementwise_hbm_fraction")).alias("quantising_seconds")
    extra = choose(is_wgrad, separate + choose(routes, before, pl.lit(0.0)), before)
    of_router = choose(routes, pl.when(s.fp64_router).then(3).otherwise(1), pl.lit(1))
    kernels = choose(in_16_bits, of_router, choose(is_wgrad, pl.lit(1), pl.when(fp8).then(2).otherwise(1)))
    return Timing.roofline(arithmetic, memory, constant("kernel_seconds") * kernels, extra)


def attention(op: Words) -> Timing:
    """Return flash attention's fused kernel or unfused attention's batched GEMMs, and memory traffic.

    Flash: flops over a share of peak that falls with few heads, x/(x + half) for x heads a rank; backward
    with `deterministic_mode` over `deterministic_attention_fraction` of it, as blocks of keys add to a
    query's gradient in turns.
    Unfused: two products forward and four backward, of batch·heads matrices whose tiles share
    waves, at `attention_gemm_efficiency` of a plain GEMM. The declared bytes (scores, and q, k, v and
    output for rotation and transposition) pass through memory between the products, not beside them.
    """
    heads = pl.col("num_attention_heads") / pl.col("tp") / s.heads_split
    head_width = pl.col("k") / heads
    batch, rows = pl.col("groups") * heads, pl.col("m").cast(pl.Float64)

    def flash(direction: str, share: pl.Expr | None = None) -> pl.Expr:
        """Return the fused kernel's seconds, at a share of the rate that it reaches otherwise."""
        few_heads = heads / (heads + constant(f"flash_{direction}_half_heads"))
        reached = constant(f"flash_{direction}_efficiency") * few_heads
        share = reached if share is None else reached * share
        rate = constant("matrix_flops_per_second") * constant("gemm_gain") * share
        return (pl.col("flops") / rate).alias("flash_attention_seconds")

    def products(scores: int, outputs: int, efficiency: pl.Expr) -> pl.Expr:
        """Return the seconds of the products that make scores, and of those that make outputs of them."""
        rate = efficiency * constant("attention_gemm_efficiency")
        score_seconds = matmul_seconds(rows, rows, head_width, batch, rate).alias("score_product_seconds")
        output_seconds = matmul_seconds(rows, head_width, rows, batch, rate).alias("output_product_seconds")
        return scores * score_seconds + outputs * output_seconds

    forward = pl.when(is_flash).then(flash("forward")).otherwise(products(1, 1, forward_efficiency))
    fused = flash("backward", in_order)
    backward = pl.when(is_flash).then(fused).otherwise(products(1, 3, dgrad_efficiency))
    memory = _hbm_seconds(pl.col("hbm_bytes"), constant("elementwise_hbm_fraction"))
    recomputed = starts(op.op, "recompute_")
    arithmetic = choose(among(op.phase, "backward"), choose(recomputed, forward, backward), forward)
    launches = constant("kernel_seconds") * attention_kernels
    return Timing.roofline(arithmetic, pl.lit(0.0), launches, memory)


def memory_bound(op: Words) -> Timing:
    """Return declared bytes over the reached share of memory bandwidth, plus one kernel launch.

    Token permutations gather and scatter rows and reach far less (`permute_hbm_fraction`), but for those that
    HybridEP does in kernels of its own, and the sorting of padded experts, which is a transposition. A fused
    one is taken to reach what other kernels do. Copies to the host and back go over its link.
    """
    plain = constant("elementwise_hbm_fraction")
    other = choose(among(op.base, *LOSSES), constant("cross_entropy_hbm_fraction"), plain)
    sorts = expression(among(op.base, "expert_sort", "expert_unsort"))
    in_order = s.fuses_permutation | (s.flex & s.hybrid) | (s.padded & sorts)
    moved = pl.when(in_order).then(plain).otherwise(constant("permute_hbm_fraction"))
    fraction = choose(among(op.base, *PERMUTATIONS), moved, other)
    memory = _hbm_seconds(pl.col("hbm_bytes"), fraction)
    seconds = choose(among(op.op, *COPIES), host_copy_seconds(), memory)
    return Timing.roofline(pl.lit(0.0), seconds, constant("kernel_seconds"), pl.lit(0.0))


HOST_ADAM_BYTES = 34
"""What the host moves in its memory for a parameter: reads gradient, weight and moments of fp32, writes the
last three; then reads the weight and writes 16 bits of it."""


def optimizer(op: Words) -> Timing:
    """Return Adam: declared bytes over the share of memory bandwidth that its kernels reach together.

    Unscaling and clipping pass over gradients that the declared bytes count once, hence a share of its own.
    The host's part: its bytes over its link down and up, and what it moves in its own memory, one after the
    other (Megatron without `overlap_cpu_optimizer_d2h_h2d`).
    """
    memory = _hbm_seconds(pl.col("hbm_bytes"), constant("adam_hbm_fraction"))
    link = constant("host_link_fraction") * constant("host_link_bytes_per_second")
    travelling = pl.col("m") * (HOST_DOWN_BYTES + HOST_UP_BYTES) / link
    at_work = (
        HOST_ADAM_BYTES * pl.col("m") / (constant("host_adam_fraction") * constant("host_bytes_per_second"))
    )
    host = (travelling.alias("host_link_seconds") + at_work.alias("host_adam_seconds")).alias(
        "host_step_seconds"
    )
    seconds = choose(among(op.op, "host_adam"), host, memory)
    return Timing.roofline(pl.lit(0.0), seconds, constant("kernel_seconds"), pl.lit(0.0))
