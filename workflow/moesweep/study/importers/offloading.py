"""What Megatron's options say of an optimizer and of activations on the host.

`optimizer_config.py`, `transformer_config.py`, `arguments.py`.
"""

from moesweep.study.importers.draft import DEFAULT, Draft, Told

OFFLOAD, FRACTION = "optimizer_cpu_offload", "optimizer_offload_fraction"

NOTHING = 0.0
"""What a configuration offloads that does not say how much; a launch script all."""


def read_offload(draft: Draft, told: Told, switches: bool) -> None:
    """Put offloading and its share into a draft; a share of nothing has no effect.

    switches   whether options are those of a command line, which leaves out other things than a configuration
    """
    offloads, share = told.take(OFFLOAD, False), told.take(FRACTION)
    if not offloads:
        draft.idle += [] if share is None else [FRACTION]
        return
    draft.say(OFFLOAD, True, draft.at(OFFLOAD))
    if share is not None:
        draft.say(FRACTION, float(share), draft.at(FRACTION))
    elif not switches:
        draft.say(FRACTION, NOTHING, f"{DEFAULT}: {FRACTION}")


ACTIVATIONS, MODULES, SIZE = (
    *("fine_grained_activation_offloading", "offload_modules"),
    "min_offloaded_tensor_size",
)
_SHARES = {"activation_offload_fraction": 1.0, "delta_offload_bytes_across_pp_ranks": 0}
"""How much of it, with the values that change nothing."""


def read_activations(draft: Draft, told: Told) -> None:
    """Put what modules offload into a draft; without offloading the rest has no effect."""
    on, modules, size = told.take(ACTIVATIONS, False), told.take(MODULES), told.take(SIZE)
    shares = {name: told.take(name) for name in _SHARES}
    if not on:
        said = {MODULES: modules or None, SIZE: None if size == LEAST else size, **shares}
        draft.idle += [name for name, value in said.items() if value not in (None, _SHARES.get(name))]
        return
    draft.say(ACTIVATIONS, True, draft.at(ACTIVATIONS))
    if modules:
        named = modules if isinstance(modules, list) else str(modules).split()
        draft.say(MODULES, named, draft.at(MODULES))
    if size is not None:
        draft.say(SIZE, size, draft.at(SIZE))
    draft.unread |= {name: value for name, value in shares.items() if value not in (None, _SHARES[name])}


LEAST = 1 << 20
"""Megatron's least number of elements, which changes nothing."""
