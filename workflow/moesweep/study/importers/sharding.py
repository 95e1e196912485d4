"""What Megatron's options say of Megatron-FSDP, older names of it among them.

Sources: Megatron-Core 0.16.1 and Megatron-FSDP 0.6.1, `distributed_data_parallel_config.py`;
megatron/training/arguments.py.
"""

from typing import Any

from moesweep.study.importers.draft import Draft, Told
from moesweep.study.keys import KEYS

FSDP, STRATEGY, COPIES = "use_megatron_fsdp", "data_parallel_sharding_strategy", "outer_dp_sharding_strategy"
_FORMATS = ("megatron_fsdp_main_grads_dtype", "megatron_fsdp_grad_comm_dtype")
_NAMES, _UNSHARDED = (FSDP, "use_custom_fsdp"), "no_shard"


def read_sharding(draft: Draft, told: Told, switches: bool) -> None:
    """Put into a draft what is sharded; nothing where that is not modelled: no_shard, shards within shards.

    Left out, the command line (`switches`) shards all, a configuration nothing.
    """
    on, said = [name for name in _NAMES if told.take(name, False)], told.take(STRATEGY)
    strategy = said or (KEYS[STRATEGY].default if switches else _UNSHARDED)
    formats = {name: told.take(name) for name in _FORMATS}
    copies, outer = told.take("num_distributed_optimizer_instances", 1), told.take(COPIES, _UNSHARDED)
    if not on:
        draft.idle += [] if said is None else [STRATEGY]
        if copies != 1:
            draft.unread["num_distributed_optimizer_instances"] = copies
    elif strategy not in KEYS[STRATEGY].form["enum"]:
        draft.unread |= {on[0]: True, STRATEGY: strategy}
    elif copies != 1 or outer != _UNSHARDED:
        draft.unread |= {on[0]: True, "num_distributed_optimizer_instances": copies}
    elif formats[_FORMATS[1]] not in (None, formats[_FORMATS[0]]):
        draft.unread |= {on[0]: True, _FORMATS[1]: formats[_FORMATS[1]]}
    else:
        _gradients(draft, formats[_FORMATS[0]])
        draft.say(FSDP, True, draft.at(on[0]))
        if said is not None:
            draft.say(STRATEGY, said, draft.at(STRATEGY))


def _gradients(draft: Draft, format_: Any) -> None:
    """Say the format of gradients, where it has a word of its own."""
    if format_ is not None:
        fp32 = str(format_).removeprefix("torch.") in ("float32", "fp32")
        draft.say("grad_reduce_in_fp32", fp32, draft.at(_FORMATS[0]))
