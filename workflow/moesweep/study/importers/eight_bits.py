"""What Megatron's options say of fp8, by their names in configurations and on the command line.

Sources: megatron/core/transformer/transformer_config.py, `fp8`, `fp8_recipe`, `fp8_param`; Megatron-Bridge,
`training/mixed_precision.py`.
"""

from typing import Any

from moesweep.study.importers.draft import Draft, Told
from moesweep.study.keys import KEYS

FORMAT, RECIPE, GATHER = "fp8", "fp8_recipe", "fp8_param_gather"
EDGES = "first_last_layers_bf16"
_FORMATS, _GATHERS = (FORMAT, "fp8_format"), (GATHER, "fp8_param")
_OFF = (None, False, "none")

_NAMED: dict[str, dict[str, Any]] = {
    "fp8_delayed_scaling": {FORMAT: "hybrid", RECIPE: "delayed", GATHER: True},
    "fp8_current_scaling": {FORMAT: "hybrid", RECIPE: "tensorwise", GATHER: True, EDGES: True},
    "fp8_subchannel_scaling": {FORMAT: "hybrid", RECIPE: "blockwise"},
    "mxfp8": {FORMAT: "e4m3", RECIPE: "mxfp8", GATHER: True},
}
"""What Megatron-Bridge's names of a precision say, by a part of them."""

_BRIDGE_RECIPE = "tensorwise"


def fp8_of_precision(precision: Any) -> dict[str, Any]:
    """Return what Megatron-Bridge's `mixed_precision`, a name or a mapping, says of fp8 besides its keys."""
    if isinstance(precision, dict):
        return {} if precision.get(FORMAT) in _OFF else {RECIPE: precision.get(RECIPE, _BRIDGE_RECIPE)}
    name = str(precision)
    said = next((said for part, said in _NAMED.items() if name[5:] == f"with_{part}_mixed"), None)
    return ({FORMAT: name} if "fp8" in name else {}) if said is None else said


def read_fp8(draft: Draft, told: Told) -> None:
    """Put format, recipe and kept parameters into a draft; where a word of them is not modelled, none."""
    said = {name: told.take(name) for name in _FORMATS}
    name, format_ = next(((name, word) for name, word in said.items() if word not in _OFF), (FORMAT, None))
    recipe, gathers = told.take(RECIPE), [name for name in _GATHERS if told.take(name, False)]
    if format_ is None:
        draft.idle += [key for key in (*_FORMATS, RECIPE, *_GATHERS) if key in told]
    elif format_ not in KEYS[FORMAT].form["enum"] or recipe not in (None, *KEYS[RECIPE].form["enum"]):
        draft.unread |= {name: format_} | ({} if recipe is None else {RECIPE: recipe})
    else:
        draft.say(FORMAT, format_, draft.at(name))
        if recipe is not None:
            draft.say(RECIPE, recipe, draft.at(RECIPE))
        if gathers:
            draft.say(GATHER, True, draft.at(gathers[0]))
