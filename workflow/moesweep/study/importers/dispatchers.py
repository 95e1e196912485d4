"""What Megatron's options say of dispatchers, older names of them among them.

Sources: megatron/core/transformer/transformer_config.py, `moe_enable_deepep`, `moe_deepep_num_sms`,
`moe_hybridep_num_sms`.
"""

from moesweep.study.importers.draft import Draft, Told
from moesweep.study.keys import KEYS

TYPE, BACKEND, SMS = (
    f"moe_{key}" for key in ("token_dispatcher_type", "flex_dispatcher_backend", "flex_dispatcher_num_sms")
)
FACTOR, PADS = "moe_expert_capacity_factor", "moe_pad_expert_input_to_capacity"
LOSS = "moe_router_load_balancing_type"
_OF_DEEPEP = "moe_enable_deepep"


def read_dispatcher(draft: Draft, told: Told) -> None:
    """Put into a draft how tokens get to their experts; what is said of kernels not in use says nothing."""
    _known(draft, told, TYPE)
    flex = draft.row.get(TYPE, ("",))[0] == "flex"
    sms = {"deepep": "moe_deepep_num_sms", "hybridep": "moe_hybridep_num_sms"}
    if flex:
        if told.take(_OF_DEEPEP, False):
            draft.say(BACKEND, "deepep", draft.at(_OF_DEEPEP))
        _known(draft, told, BACKEND)
        backend = draft.row.get(BACKEND, ("deepep",))[0]
        draft.copy(told, SMS, SMS, sms[backend])
    for name in (_OF_DEEPEP, BACKEND, SMS, *sms.values()):
        if name in told.left():
            told.taken.add(name)
            draft.idle.append(name)


def read_capacity(draft: Draft, told: Told) -> None:
    """Put the capacity that experts are padded to into a draft; below 0 it is none, unpadded not modelled."""
    factor, pads = told.take(FACTOR), told.take(PADS, False)
    if not isinstance(factor, int | float) or factor < 0:
        draft.idle += [name for name in (FACTOR, PADS) if name in told]
    elif pads:
        draft.say(FACTOR, factor, draft.at(FACTOR))
        draft.say(PADS, True, draft.at(PADS))
    else:
        draft.unread[FACTOR] = factor


def read_balancing(draft: Draft, told: Told) -> None:
    """Put the loss that balances experts into a draft: the one that Megatron has left out, or an only one."""
    said = told.take(LOSS)
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if said in KEYS[LOSS].form["enum"]:
        draft.say(LOSS, said, draft.at(LOSS))
    elif said is not None:
        draft.unread[LOSS] = said


def _known(draft: Draft, told: Told, name: str) -> None:
    """Give a key its value, or note one that is not modelled."""
    said = told.take(name)
    if said in KEYS[name].form["enum"]:
        draft.say(name, said, draft.at(name))
    elif said is not None:
        draft.unread[name] = said
