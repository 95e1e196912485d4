"""Attention to a sequence that cp ranks share: what travels between them, and what their kernels read.

Of the 2c chunks of a sequence a rank has the i-th from either end, so that under a causal mask all have as
many pairs. Transformer Engine `dot_product_attention/context_parallel.py`:

p2p         blocks of keys and values go round a ring, a kernel to each; backward they do again, the other
            way, and their gradients with them
a2a         ranks exchange positions for heads: whole sequences of 1/c of the heads
all_gather  everyone gathers all keys and values, and runs a kernel for each of its two chunks
a2a+p2p     neighbours exchange positions for heads; of the longer parts of sequences that they have then, and
            fewer heads, keys and values go round a ring of those with the same heads
"""

import polars as pl

from moesweep.shapes import sizes as s
from moesweep.trace.vocabulary import Op, all_gather, all_to_all, elementwise, recv, reduce_scatter, send

COPY = 2 * s.ELEMENT_BYTES  # read and write
ADD = 3  # read two, write one

_key_value_width = s.rank_key_width + s.rank_value_width
_output_width = s.value_width // s.tp


def _own(width: pl.Expr) -> pl.Expr:
    """Return the bytes of the rank's own positions at a width: 2·b·s/c·width."""
    return s.ELEMENT_BYTES * s.tokens * width


def _gathered(width: pl.Expr) -> pl.Expr:
    """Return the bytes of all positions at a width: 2·b·s·width."""
    return s.ELEMENT_BYTES * s.batch * s.sequence * width


def _prefixes() -> pl.Expr:
    """Return the bytes of the keys and values that two chunks see, the i-th from either end.

    i and 2c + 1 - i chunks, together 2c + 1 of them.
    """
    chunk = s.own_sequence // 2
    return s.ELEMENT_BYTES * s.batch * chunk * (2 * s.cp + 1) * _key_value_width


def moved_forward() -> pl.Expr:
    """Return the bytes of device memory of the forward kernels, scores apart.

    Query, key, value and output once. On a ring those of each of c blocks, taken as whole although a mask
    hides half of either side; the first part of the output is corrected (read and write), the others are
    corrected and added. What is exchanged before is as many bytes as after.
    """
    query, keys, output = _own(s.rank_query_width), _own(_key_value_width), _own(_output_width)
    once = query + keys + output
    ring = s.ring * once + (2 + ADD * (s.ring - 1)) * output
    return (
        pl.when(s.passes_keys)
        .then(ring)
        .when(s.gathers_keys)
        .then(query + output + _prefixes())
        .otherwise(once)
    )


def moved_backward() -> pl.Expr:
    """Return the same of the backward kernels, which read and write gradients of all that forward moves.

    Gradients of the queries of c blocks are added, and those of keys to what arrives; of gathered keys those
    of both chunks to the gradients of all.
    """
    query, keys, output = _own(s.rank_query_width), _own(_key_value_width), _own(_output_width)
    once = 2 * (query + keys + output)
    ring = s.ring * once + ADD * (s.ring - 1) * (query + keys)
    return (
        pl.when(s.passes_keys)
        .then(ring)
        .when(s.gathers_keys)
        .then(2 * (query + output) + (2 + ADD) * _prefixes())
        .otherwise(once)
    )


def _exchanges() -> list[Op]:
    """Return the all_to_alls of queries, keys and values: positions for heads, or back."""
    widths = {"q": s.rank_query_width, "k": s.rank_key_width, "v": s.rank_value_width}
    return [op for name, width in widths.items() for op in _exchange(f"{name}_exchange", width)]


def _exchange(name: str, width: pl.Expr) -> list[Op]:
    """Return an exchange among all cp ranks, or among those that have it as the first of two steps."""
    return [
        all_to_all(name, "cp", _own(width)).only(s.exchanges_heads & ~s.in_two_steps),
        all_to_all(name, "cp_a2a", _own(width)).only(s.exchanges_heads & s.in_two_steps),
    ]


def _output_exchange() -> list[Op]:
    """Return the all_to_all of the output, or of its gradient, and its copies."""
    return [
        *_exchange("output_exchange", _output_width),
        elementwise("output_reorder", COPY * s.tokens * _output_width * 2).only(s.exchanges_heads),
    ]


def _gathers(name: str) -> list[Op]:
    widths = {"k": s.rank_key_width, "v": s.rank_value_width}
    return [
        all_gather(f"{each}_context_{name}", "cp", _gathered(width)).only(s.gathers_keys)
        for each, width in widths.items()
    ]


def _scatters() -> list[Op]:
    """Return the reduce_scatters of the gradients of all keys and values."""
    widths = {"k": s.rank_key_width, "v": s.rank_value_width}
    return [
        reduce_scatter(f"{each}_context_gather", "cp", _gathered(width)).only(s.gathers_keys)
        for each, width in widths.items()
    ]


def _reorder(gathered_copies: int) -> Op:
    """Return the copies that put chunks in order: of what is exchanged before and after, of what is gathered.

    Backward puts the keys and values that it gathers again in order, and their gradients.
    """
    exchanged = 2 * s.tokens * (s.rank_query_width + _key_value_width)
    gathered = gathered_copies * s.batch * s.sequence * _key_value_width
    elements = pl.when(s.exchanges_heads).then(exchanged).otherwise(gathered)
    return elementwise("context_reorder", COPY * elements).only(s.exchanges_heads | s.gathers_keys)


def _ring(tensors: int) -> list[Op]:
    """Return the messages of a ring of n, n-1 of a block's keys and values to the next rank, as one.

    2·(n-1)·b·s/c·(key and value width)/t bytes, n = c, or the second of two steps, whose blocks are longer by
    what they have fewer heads; backward their gradients too, so twice that.
    """
    size = tensors * (s.ring - 1) * _own(_key_value_width)
    return [
        make(f"kv_ring_{end}", kind, size).only(s.passes_keys & there)
        for kind, there in (("cp", ~s.in_two_steps), ("cp_p2p", s.in_two_steps))
        for end, make in _ENDS
    ]


_ENDS = (("send", send), ("recv", recv))


def shared_forward(core: Op) -> list[Op]:
    """Return core attention with what travels before and after it; alone with cp 1."""
    return [
        *_exchanges(),
        *_gathers("gather"),
        _reorder(gathered_copies=1),
        *_ring(tensors=1),
        core,
        *reversed(_output_exchange()),
    ]


def shared_backward(core: Op) -> list[Op]:
    """Return the mirror of `shared_forward`; keys and values come again, only the rank's own were kept."""
    return [
        *_output_exchange(),
        *_gathers("regather"),
        *_ring(tensors=2),
        core,
        _reorder(gathered_copies=2),
        *_exchanges(),
        *_scatters(),
    ]
