"""The rules of context parallelism: of ranks that share the sequences of a micro-batch."""

from math import gcd

import polars as pl

from moesweep.study.rule import (
    CP_FITS,
    MLA,
    STAGE_RANKS,
    TP_FITS,
    WINDOWED,
    error,
    nearest_divisors,
    nearest_is,
    nearest_multiples,
)

_c = pl.col
_SIZES = "hierarchical_context_parallel_sizes"
_shared = _c("cp") > 1
_by_ring, _by_heads = _c("cp_comm_type") == "p2p", _c("cp_comm_type") == "a2a"
_in_steps, _told = _c("cp_comm_type") == "a2a+p2p", _c(_SIZES) != "none"
_heads, _groups = _c("num_attention_heads"), _c("num_query_groups")
_sequence_ranks = pl.when(TP_FITS).then(STAGE_RANKS // _c("tp")).otherwise(0)
# Heads and key heads of a tp rank; of parts of heads there is nothing to exchange.
_own_heads = pl.when(_heads % _c("tp") == 0).then(_heads // _c("tp")).otherwise(1)
_own_groups = pl.when(_groups % _c("tp") == 0).then(_groups // _c("tp")).otherwise(1)

_second = _c(_SIZES).str.extract(r",(\d+)\]$").cast(pl.Int64).fill_null(1)
_has_product = _told & (_c("cp_a2a") * _second == _c("cp"))


def _nearest_steps() -> pl.Expr:
    """Return as text the two steps whose first is the largest that divides cp and a tp rank's heads."""

    def nearest(row: dict[str, int]) -> str:
        exchanging = gcd(row["cp"], row["heads"], row["groups"])
        return f"nearest: [{exchanging},{row['cp'] // exchanging}]"

    fields = pl.struct("cp", heads=_own_heads, groups=_own_groups)
    return fields.map_elements(nearest, return_dtype=pl.String)


# fmt: off
CONTEXT_RULES = (
    error("world_by_cp", "cp", TP_FITS & ~CP_FITS,
        "tp {tp} * cp {cp} * pp {pp} does not divide world_size {world_size}",
        nearest_divisors("cp", _sequence_ranks)),
    error("sequence_by_cp", "seq_length", _shared & (_c("seq_length") % (2 * _c("cp")) != 0),
        "seq_length {seq_length} has no 2 * cp {cp} equal chunks",
        nearest_multiples("seq_length", 2 * _c("cp"))),
    error("sequence_by_tp_and_cp", "seq_length",
        _shared & _c("sequence_parallel") & (_c("seq_length") % _c("tp") == 0)
        & (_c("seq_length") % (_c("tp") * _c("cp")) != 0),
        "sequence parallelism splits what each of cp {cp} ranks has of seq_length {seq_length} over tp {tp}, "
        "which does not divide it", nearest_multiples("seq_length", _c("tp") * _c("cp"))),
    error("comm_type_of_cp", "cp_comm_type", ~_shared & ~_by_ring,
        "cp_comm_type {cp_comm_type} with cp 1 has no effect: no ranks share a sequence",
        nearest_is("p2p")),
    error("heads_by_cp", "cp",
        _shared & _by_heads & ~MLA & ((_own_heads % _c("cp") != 0) | (_own_groups % _c("cp") != 0)),
        "cp_comm_type a2a gives each of cp {cp} ranks as many of a tp rank's heads: cp does not divide "
        "num_attention_heads {num_attention_heads} or num_query_groups {num_query_groups} over tp {tp}",
        nearest_divisors("cp", _own_heads, _own_groups, _sequence_ranks)),
    error("steps_of_cp", _SIZES, _shared & _in_steps & ~_has_product,
        "cp_comm_type a2a+p2p shares sequences in two steps: hierarchical_context_parallel_sizes "
        "{hierarchical_context_parallel_sizes} have no product of cp {cp}", _nearest_steps()),
    error("one_step_of_cp", "cp_comm_type", _told & ~_in_steps,
        "hierarchical_context_parallel_sizes {hierarchical_context_parallel_sizes} have no effect with "
        "cp_comm_type {cp_comm_type}", nearest_is("a2a+p2p")),
    error("heads_by_steps_of_cp", _SIZES,
        _shared & _in_steps & _has_product & ~MLA
        & ((_own_heads % _c("cp_a2a") != 0) | (_own_groups % _c("cp_a2a") != 0)),
        "the first of hierarchical_context_parallel_sizes {hierarchical_context_parallel_sizes} is of ranks "
        "that each get as many of a tp rank's heads: it does not divide num_attention_heads "
        "{num_attention_heads} or num_query_groups {num_query_groups} over tp {tp}", _nearest_steps()),
    error("flash_of_cp", "flash_attention", _shared & ~_c("flash_attention"),
        "cp {cp} needs fused attention: Transformer Engine shares no sequence otherwise", nearest_is("true")),
    error("framework_of_cp", "framework", _shared & (_c("framework") != "megatron-core"),
        "framework {framework} has no context parallelism", nearest_is("megatron-core")),
    error("mla_of_cp", "cp_comm_type", _shared & MLA & ~_by_ring,
        "cp_comm_type {cp_comm_type} of mla attention is not modelled", nearest_is("p2p")),
    error("window_of_cp", "cp_comm_type", _shared & WINDOWED & ~_by_heads,
        "windows beside cp_comm_type {cp_comm_type} are not modelled", nearest_is("a2a")),
    error("sinks_of_cp", "cp_comm_type", _shared & (_c("softmax_type") != "vanilla") & ~_by_heads,
        "softmax_type {softmax_type} beside cp_comm_type {cp_comm_type} is not modelled", nearest_is("a2a")),
    error("prediction_of_cp", "mtp_num_layers", _shared & (_c("mtp_num_layers") > 0),
        "multi-token prediction beside cp {cp} is not modelled", nearest_is(0)),
)
# fmt: on
"""Rules as in moesweep.study.rules. What Transformer Engine refuses, and what is not modelled."""
