"""Megatron's options of which one value is modelled: with another one they are named, not passed over.

Sources: megatron/training/arguments.py, megatron/core/transformer/transformer_config.py.
"""

from typing import Any

from moesweep.study.importers.draft import Draft, Told

MODELLED: dict[str, Any] = {
    "optimizer": "adam",
    "transformer_impl": "transformer_engine",
    "make_vocab_size_divisible_by": 128,
}
"""The value of each that is what is modelled."""


def read_beyond(draft: Draft, told: Told) -> None:
    """Note what of a run's options has another value than the one that is modelled."""
    for name, value in told.left().items():
        if name in MODELLED and value not in (None, False, MODELLED[name]):
            draft.unread[name] = told.take(name)
