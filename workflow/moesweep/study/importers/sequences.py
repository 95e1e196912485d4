"""What Megatron's options say of ranks that share sequences.

Sources: megatron/core/model_parallel_config.py, `hierarchical_context_parallel_sizes`;
megatron/core/transformer/transformer_config.py, `cp_comm_type`.
"""

from typing import Any

from moesweep.study.importers.draft import Draft, Told
from moesweep.study.keys import KEYS

CP, WAY, STEPS = "context_parallel_size", "cp_comm_type", "hierarchical_context_parallel_sizes"


def read_sequences(draft: Draft, told: Told) -> None:
    """Leave out that one rank has whole sequences, and note a way to share them that is not modelled.

    Both steps of a way that has two are put into the draft; of other ways they say nothing.
    """
    way, steps = told.values.get(WAY), told.take(STEPS)
    if told.values.get(CP, 1) == 1:
        told.taken.update((CP, WAY))
    elif way not in (None, *KEYS[WAY].form["enum"]):
        draft.unread[WAY] = told.take(WAY)
    elif steps is not None and way == "a2a+p2p":
        _both(draft, steps)
        return
    draft.idle += [] if steps is None else [STEPS]


def _both(draft: Draft, said: Any) -> None:
    """Put two sizes into a draft, as a list or as a command line has them: 2 4."""
    words = said.split() if isinstance(said, str) else said
    sizes = [int(word) for word in words if str(word).isdecimal()] if isinstance(words, list) else []
    if len(sizes) == 2 == len(words):
        draft.say(STEPS, sizes, draft.at(STEPS))
    else:
        draft.unread[STEPS] = said
