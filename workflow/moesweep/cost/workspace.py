"""What a backward pass needs in device memory besides what the forward kept: buffers and passing gradients.

Transformer Engine adds weight gradients to the main ones inside its GEMMs, and hands autograd a buffer of
the weight's shape instead, which it keeps: one a distinct shape (`module/base.py`, `get_dummy_wgrad`).
"""

from functools import reduce
from operator import or_

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.shapes.expressions import Part
from moesweep.shapes.weights import gradient_shapes

LOGIT_BYTES = 6
"""Of a logit when the loss is computed: 16 bits beside fp32."""


def gradient_buffers(part: Part) -> pl.Expr:
    """Return the bytes of the buffers for weight gradients, over a stage's layers and its workload.

    2 bytes for each element of every distinct shape of a linear layer's weight; of older frameworks, which
    free each gradient, those of the largest.
    """
    shapes = [(there, n.cast(pl.Float64), k) for there, n, k in gradient_shapes(part)]
    kept, sizes = [], []
    for place, (there, n, k) in enumerate(shapes):
        before = [
            also & part(f"shapes {other} and {place}", (rows == n) & (columns == k))
            for other, (also, rows, columns) in enumerate(shapes[:place])
        ]
        new = there & ~reduce(or_, before) if before else there
        size = part(f"shape {place}", n * k)
        kept.append(pl.when(new).then(size).otherwise(0.0))
        sizes.append(pl.when(there).then(size).otherwise(0.0))
    modern = pl.col("framework") == "megatron-core"
    elements = pl.when(modern).then(pl.sum_horizontal(kept)).otherwise(pl.max_horizontal(sizes))
    return (s.ELEMENT_BYTES * elements).alias("gradient_buffer_bytes")


def _of_an_mlp(rows: pl.Expr, width: pl.Expr) -> pl.Expr:
    """Return the gradients of an MLP's output and of fc1's output: 2·rows·(h + f), gated 2f."""
    return s.ELEMENT_BYTES * rows * (s.hidden + s.gate * width)


def _of_wide_results(rows: pl.Expr) -> pl.Expr:
    """Return the gradient of experts' results as gathered over etp in the router's format, and in 16 bits."""
    wide = (s.router_bytes + s.ELEMENT_BYTES) * rows * s.hidden
    return pl.when(s.widens_router & ~s.flex & (s.etp > 1)).then(wide).otherwise(0.0)


def _of_shared_sequences() -> pl.Expr:
    """Return what the backward of attention holds of the other cp ranks' positions, or for them.

    p2p: two blocks of keys and values with their gradients, one at work and one on its way. a2a: queries,
    keys, values and output in the order of the exchange, or their gradients; in two steps both. all_gather:
    all keys and values, and their gradients.
    """
    keys = s.rank_key_width + s.rank_value_width
    exchanged = s.rank_query_width + keys + s.value_width / s.tp
    blocks = pl.when(s.passes_keys).then(4 * keys).when(s.gathers_keys).then(s.cp * 2 * keys).otherwise(0)
    held = s.tokens * (blocks + pl.when(s.exchanges_heads).then(exchanged).otherwise(0))
    return (s.ELEMENT_BYTES * held).alias("shared_sequence_bytes")


_CHUNK_TOKENS = ((8, 256), (64, 288), (128, 560), (1 << 20, 720))
"""Group sizes, and the tokens that DeepEP's channels hold for a peer inside a node (`deep_ep/buffer.py`)."""
_NODE_PEERS, _NETWORK_TOKENS, _OF_A_TOKEN = 8, 128, 8 + 128 * (8 + 4 + 4)


def dispatcher_buffer_bytes() -> pl.Expr:
    """Return the flex dispatcher's buffers for an etp × ep group of n ranks, one set for all layers.

    DeepEP (`csrc/config.hpp`): a channel for each two multiprocessors, in it room for tokens of each of up to
    8 peers inside a node and, twice, of each node; beside a token's 2h bytes up to 128 experts with
    probabilities and scales. HybridEP: whatever could come, all tokens of all ranks, to and from experts.
    """
    ranks = s.etp * s.ep
    channels = s.dispatcher_processors // 2
    tokens: pl.Expr = pl.lit(0)
    for most, most_tokens in reversed(_CHUNK_TOKENS):
        tokens = pl.when(ranks <= most).then(most_tokens).otherwise(tokens)
    nodes = pl.when(ranks > _NODE_PEERS).then(ranks // _NODE_PEERS).otherwise(0)
    token = s.ELEMENT_BYTES * s.hidden + _OF_A_TOKEN
    kept = pl.min_horizontal(ranks, _NODE_PEERS) * tokens + 2 * nodes * _NETWORK_TOKENS
    worst = 2 * s.ELEMENT_BYTES * s.hidden * s.local_tokens * ranks
    held = pl.when(s.hybrid).then(worst).otherwise(channels * kept * token)
    return pl.when(s.flex).then(held).otherwise(0).cast(pl.Float64).alias("dispatcher_buffer_bytes")


def workspace_bytes(dense: pl.Expr, moe: pl.Expr, rows: pl.Expr, part: Part) -> pl.Expr:
    """Return the bytes at the fullest moment beyond those that the forward keeps.

    `dense` and `moe` say whether the stage has such layers, `rows` are the expert rows of a rank. On the last
    stage either the loss is that moment, with all its logits (which count as activations); or the backward of
    the head: 2 bytes a logit, the head's weight gradient, its gathered input and that input's gradient; or
    that of the last layer, when the logits are gone. Elsewhere it is the latter: its MLP's, or where cp ranks
    share sequences its attention's.
    """
    of_dense = part("dense gradients", _of_an_mlp(s.tokens, s.ffn / s.tp))
    of_experts = part("expert gradients", _of_an_mlp(rows, s.expert_ffn / s.etp))
    in_layers = pl.max_horizontal(
        pl.when(dense).then(of_dense).otherwise(0.0),
        pl.when(moe).then(of_experts).otherwise(0.0),
        pl.when(moe).then(part("wide results", _of_wide_results(rows))).otherwise(0.0),
        part("shared sequences", _of_shared_sequences()),
    ).alias("layer_gradient_bytes")
    logits = part("logits", (LOGIT_BYTES * s.tokens * s.vocabulary).cast(pl.Float64))
    whole = s.activation_bytes * pl.when(s.sequence_parallel).then(2).otherwise(1)
    of_head = s.ELEMENT_BYTES * s.vocabulary * (s.tokens + s.hidden) + whole
    of_head = part("head gradients", of_head.alias("head_gradient_bytes"))
    last = pl.max_horizontal(of_head, in_layers) - logits
    beyond = pl.when(pl.col("stage") == s.pp - 1).then(pl.max_horizontal(last, 0.0)).otherwise(in_layers)
    buffers = part("dispatcher buffers", dispatcher_buffer_bytes())
    return gradient_buffers(part) + beyond + pl.when(moe).then(buffers).otherwise(0.0)
