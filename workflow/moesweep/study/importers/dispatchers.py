"""What Megatron's options say of dispatchers, older names of them among them.

Sources: megatron/core/transformer/transformer_config.py, `moe_enable_deepep`, `moe_deepep_num_sms`,
`moe_hybridep_num_sms`.
"""

from moesweep.study.importers.draft import DEFAULT, Draft, Told
from moesweep.study.keys import KEYS

TYPE, BACKEND, SMS = (
    f"moe_{key}" for key in ("token_dispatcher_type", "flex_dispatcher_backend", "flex_dispatcher_num_sms")
)
FACTOR, PADS = "moe_expert_capacity_factor", "moe_pad_expert_input_to_capacity"
LOSS, COEFFICIENT = "moe_router_load_balancing_type", "moe_aux_loss_coeff"
_OF_DEEPEP = "moe_enable_deepep"
_WEIGHTED = ("aux_loss", "seq_aux_loss", "global_aux_loss")
"""Losses that a coefficient weighs."""


def read_dispatcher(draft: Draft, told: Told, switches: bool) -> None:
    """Put into a draft how tokens get to their experts; what is said of kernels not in use says nothing.

    A command line (`switches`) that leaves it out means allgather, which is not modelled.
    """
    if switches and TYPE not in told:
        draft.unread[TYPE] = f"allgather, {DEFAULT}"
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


def read_balancing(draft: Draft, told: Told, switches: bool) -> None:
    """Put the loss that balances experts into a draft: the one that is said, or an only one.

    With a coefficient of 0, as it is where a command line (`switches`) leaves it out, there is none; the kind
    that is left out is aux_loss (`router.py`, `is_aux_loss_enabled`).
    """
    said, coefficient = told.take(LOSS), told.take(COEFFICIENT, 0 if switches else None)
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if isinstance(coefficient, list) and len(coefficient) == 1:
        coefficient = coefficient[0]
    if coefficient == 0 and said in _WEIGHTED:
        draft.idle.append(LOSS)
    elif said is None and isinstance(coefficient, int | float) and coefficient > 0:
        draft.say(LOSS, "aux_loss", f"{DEFAULT}: {LOSS}")
    elif said in KEYS[LOSS].form["enum"]:
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
