"""What kind each layer of a model is: dense or with experts, windowed or not, of the decoder or of MTP.

And whether it stands among layers that full recomputation leaves alone.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

import polars as pl

_DECODER = ("dense", "moe", "dense_window", "moe_window")
KEPT = "_kept"
"""Ends the kind of a layer that is not recomputed, though others are (`recompute_method` block)."""

DECODER, PREDICTING = (*_DECODER, *(f"{kind}{KEPT}" for kind in _DECODER)), ("mtp_dense", "mtp_moe")
KINDS = (*DECODER, *PREDICTING)
"""Every kind of layer. `mtp_…` are those of multi-token prediction, which stand behind the decoder's."""

KIND_READS = (
    *("kind", "num_layers", "first_k_dense", "moe_layer_freq", "mtp_num_layers"),
    *("window_keys", "window_attn_skip_freq"),
)
"""The columns of a workload that `layer_kinds` reads."""

EVERY, NONE = "1", "none"
"""Texts of a `moe_layer_freq` and a `window_attn_skip_freq` that leave no layer out."""


def has_experts(kind: str) -> bool:
    """Return whether layers of a kind have experts."""
    return "moe" in kind


def is_windowed(kind: str) -> bool:
    """Return whether the queries of a kind of layer see a window of the keys only."""
    return "_window" in kind


def is_kept(kind: str) -> bool:
    """Return whether full recomputation leaves layers of a kind alone, which keep all that they make."""
    return kind.endswith(KEPT)


def is_predicting(kind: str) -> bool:
    """Return whether layers of a kind are of multi-token prediction."""
    return kind.startswith("mtp_")


def layer_kinds(workload: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the kind of each layer, the decoder's first; an MTP layer is like the decoder's last one.

    Megatron's `get_gpt_decoder_block_spec` and `get_gpt_mtp_block_spec`.
    """
    return _kinds(*(workload[name] for name in KIND_READS))


@cache
def _kinds(
    kind: str, layers: int, dense: int, freq: str, mtp: int, window: int, skip: str
) -> tuple[str, ...]:
    experts = [kind == "moe" and layer >= dense and _is_on(freq, layer) for layer in range(layers)]
    windows = [window > 0 and _has_window(skip, layer) for layer in range(layers)]
    decoder = [
        f"{'moe' if routed else 'dense'}{'_window' if windowed else ''}"
        for routed, windowed in zip(experts, windows, strict=True)
    ]
    return *decoder, *([f"mtp_{'moe' if experts[-1] else 'dense'}"] * mtp)


def _is_on(freq: str, layer: int) -> bool:
    """Whether a `moe_layer_freq` gives a layer experts: every n-th from the first on, or as its list says."""
    return _listed(freq, layer) if freq.startswith("[") else layer % int(freq) == 0


def _has_window(skip: str, layer: int) -> bool:
    """Whether a layer keeps its window: all but every n-th, counted from 1, or as the list says."""
    if skip == NONE:
        return True
    return _listed(skip, layer) if skip.startswith("[") else (layer + 1) % int(skip) != 0


def _listed(text: str, layer: int) -> bool:
    """Whether a list such as `[0,1]` has a 1 for a layer; validation refuses one that is too short."""
    return text[1 + 2 * layer : 2 + 2 * layer] == "1"


def moe_layers(workload: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the numbers of the layers that have experts, those of multi-token prediction among them."""
    return tuple(layer for layer, kind in enumerate(layer_kinds(workload)) if has_experts(kind))


def number_of_moe_layers() -> pl.Expr:
    """Return how many of the decoder's layers have experts, over a workload's columns."""
    freq, layers, dense = pl.col("moe_layer_freq"), pl.col("num_layers"), pl.col("first_k_dense")
    every = freq.cast(pl.Int64, strict=False)
    counted = pl.max_horizontal((layers + every - 1) // every - (dense + every - 1) // every, 0)
    listed = freq.str.count_matches("1", literal=True).cast(pl.Int64)
    of_moe = pl.when(freq.str.starts_with("[")).then(listed).otherwise(counted)
    return pl.when(pl.col("kind") == "moe").then(of_moe).otherwise(0)


def predicts_with_experts() -> pl.Expr:
    """Return whether layers of multi-token prediction have experts, as the decoder's last layer does."""
    freq, last = pl.col("moe_layer_freq"), pl.col("num_layers") - 1
    on = (last % freq.cast(pl.Int64, strict=False) == 0) & (last >= pl.col("first_k_dense"))
    has = pl.when(freq.str.starts_with("[")).then(freq.str.ends_with("1]")).otherwise(on)
    return (pl.col("kind") == "moe") & has
