"""Windows of attention, as config.json of transformers says them."""

from typing import Any

from moesweep.study.importers.draft import Draft, Told, layers_of, whole


def window(draft: Draft, told: Told) -> None:
    """One window in all layers; Qwen's MoE models' is off if use_sliding_window says so."""
    if told.take("use_sliding_window", True) is True and "sliding_window" in told:
        draft.copy(told, "window_size", "sliding_window", value=pair)
    told.taken.add("sliding_window")


_FULL_BELOW = 28
"""What max_window_layers is where a configuration does not say it (`Qwen2Config`, `Qwen3Config`)."""


def upper_window(draft: Draft, told: Told) -> None:
    """Dense Qwen's window, off unless use_sliding_window.

    Layers from max_window_layers on have it, or those that layer_types lists (`Qwen2Config`, `Qwen3Config`).
    """
    on, first = told.take("use_sliding_window", False), whole(draft, told, "max_window_layers", _FULL_BELOW)
    layers, kinds = layers_of(draft, told, "num_hidden_layers"), told.take("layer_types")
    marks = [int(i >= first) for i in layers]
    source = "max_window_layers"
    if isinstance(kinds, list):
        marks, source = [int(kind == "sliding_attention") for kind in kinds], "layer_types"
    if on is True and any(marks):
        there = draft.copy(told, "window_size", "sliding_window", value=pair)
        if there and not all(marks):
            draft.say("window_attn_skip_freq", marks, draft.at(source))
    told.taken.add("sliding_window")


def pair(keys: Any) -> Any:
    """Megatron's pair of a window of so many keys, the token itself among them."""
    return [keys - 1, 0] if isinstance(keys, int) and not isinstance(keys, bool) else keys
