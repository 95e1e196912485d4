"""What a value may be, as JSON Schema: numbers, words, and the keys that take more than those."""

from collections.abc import Mapping
from typing import Any

from moesweep.shapes.sizes import MODULES, OFFLOADED, SCOPES
from moesweep.study.words import worded

Schema = Mapping[str, Any]

TRUTH: Schema = {"type": "boolean"}
NAME: Schema = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
    "x-form": "letters, digits, _ . - only, at most 64, the first a letter or digit",
}
ID: Schema = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9_.+~-]{0,199}$",
    "x-form": "a workload id",
}


def whole(least: int, most: int) -> Schema:
    """A whole number between two bounds."""
    return {"type": "integer", "minimum": least, "maximum": most}


def one_of(*words: str, unmodelled: tuple[str, ...] = ()) -> Schema:
    """One of some words; `unmodelled` are what frameworks know beside them and nothing here does."""
    known: Schema = {"type": "string", "enum": list(words)}
    return {**known, "x-unmodelled": list(unmodelled)} if unmodelled else known


def below(most: float) -> Schema:
    """A number from 0 to below a bound."""
    return {"type": "number", "minimum": 0, "exclusiveMaximum": most}


def marks(least: int) -> Schema:
    """A whole number, every how many layers something is; or a list of 0 and 1, one for each layer."""
    return {
        "type": ["integer", "array"],
        "minimum": least,
        "maximum": 1 << 16,
        "items": {"description": "Whether the layer has it.", "type": "integer", "enum": [0, 1]},
        "minItems": 1,
        "maxItems": 1 << 16,
    }


MARKS_TEXT: Schema = {
    "type": "string",
    "pattern": "^([1-9][0-9]{0,4}|\\[[01](,[01])*\\])$",
    "x-form": "a whole number, or a list of 0 and 1",
}
MARKS_OR_NONE_TEXT: Schema = {
    "type": "string",
    "pattern": "^(none|[1-9][0-9]{0,4}|\\[[01](,[01])*\\])$",
    "x-form": "none, a whole number, or a list of 0 and 1",
}
WINDOW: Schema = {
    "type": "array",
    "items": {"description": "Keys before a token, and after it.", **whole(0, 1 << 24)},
    "minItems": 2,
    "maxItems": 2,
}
STEPS_OF_CP: Schema = {
    "type": "array",
    "items": {"description": "Ranks that exchange heads, and of a ring.", **whole(1, 1 << 20)},
    "minItems": 2,
    "maxItems": 2,
}
WINDOW_TEXT: Schema = {
    "type": "string",
    "pattern": "^(none|\\[[0-9]+,[0-9]+\\])$",
    "x-form": "none or a pair of whole numbers",
}


LAYOUT: Schema = {
    "type": "string",
    "pattern": "^[EtmL|()*,0-9]{1,2000}$",
    "x-form": "letters E, t, m, L with | between the parts, such as Et*3|(tt|)*29tL",
}
LAYOUT_TEXT: Schema = {**LAYOUT, "pattern": "^(none|[EtmL|()*,0-9]{1,2000})$"}


def _some_of(words: tuple[str, ...], none: str, noun: str, example: str) -> tuple[Schema, Schema]:
    """What a column and an entry say of some words: with + between, or a list; `none` for no word."""
    one = f"({'|'.join(words)})"
    text: Schema = {
        "type": "string",
        "pattern": f"^({none}|{one}(\\+{one})*)$",
        "x-form": f"{none}, or of {', '.join(words)} some with + between them",
    }
    form: Schema = {
        **text,
        "type": ["array", "string"],
        "items": {"description": f"A {noun}.", **one_of(*words)},
        "minItems": 0,
        "maxItems": len(words),
        "uniqueItems": True,
        "x-form": f"a list of {noun}s, such as {example}, or {text['x-form']}",
    }
    return text, form


MODULES_TEXT, RECOMPUTE_MODULES = _some_of(MODULES, "none", "module", "[core_attn, moe_act]")
OFFLOADED_TEXT, OFFLOAD_MODULES = _some_of(OFFLOADED, "none", "module", "[core_attn, attn_proj]")
SCOPE_TEXT, GRAPH_SCOPE = _some_of(SCOPES, "layer", "part", "[attn, moe_router]")


def _joined(value: list[str] | str, words: tuple[str, ...], none: str) -> str:
    said = value.split("+") if isinstance(value, str) else value
    return "+".join(word for word in words if word in said) or none


def joined(value: list[str] | str) -> str:
    """Modules as a column has them: each once, in the order of MODULES, with + between; `none` of none."""
    return _joined(value, MODULES, "none")


def offloaded(value: list[str] | str) -> str:
    """Modules that are offloaded as a column has them, in the order of OFFLOADED; `none` of none."""
    return _joined(value, OFFLOADED, "none")


def scoped(value: list[str] | str) -> str:
    """Parts of a layer as a column has them, in the order of SCOPES; `layer`, all of it, of none."""
    return _joined(value, SCOPES, "layer")


def as_text(value: Any) -> Any:
    """A number or a list as a column has it: `2`, `[0,1]`; text stays as it is."""
    if isinstance(value, list):
        return f"[{','.join(str(int(item)) for item in value)}]"
    return str(value) if isinstance(value, int) else value


EP: Schema = {
    "type": ["integer", "string", "object"],
    "minimum": 1,
    "maximum": 1 << 20,
    "pattern": "^largest$",
    "x-form": "a whole number, `largest`, or `largest_for_tp: [...]`",
    "properties": {
        "largest_for_tp": {
            "description": "Tensor-parallel degrees to evaluate `largest` at.",
            "type": "array",
            "items": {"description": "A tensor-parallel degree.", **whole(1, 1 << 20)},
            "minItems": 1,
            "maxItems": 64,
            "uniqueItems": True,
        }
    },
    "required": ["largest_for_tp"],
    "additionalProperties": False,
}
ETP: Schema = {
    "type": ["integer", "string"],
    "minimum": 1,
    "maximum": 1 << 20,
    "pattern": "^tp$",
    "x-form": "a whole number or `tp`",
}
GLOBAL_BATCH: Schema = {
    "type": ["integer", "object"],
    "minimum": 1,
    "maximum": 1 << 30,
    "properties": {
        "per_gpu": {"description": "Sequences per iteration and GPU.", **whole(1, 1 << 16)},
    },
    "required": ["per_gpu"],
    "additionalProperties": False,
}
ROUTING: Schema = {
    "type": ["string", "object"],
    "if": {"type": "string"},
    "then": {"enum": ["balanced", "aux_loss", "bias", "uncontrolled", "zipf", "lognormal", "table"]},
    "properties": {
        "zipf": {
            "description": "The r-th most popular expert of a layer gets a share that falls with r to "
            "this power.",
            "type": "number",
            "minimum": 0,
            "maximum": 64,
        },
        "lognormal": {
            "description": "Logarithms of the experts' popularities scatter normally with this standard "
            "deviation.",
            "type": "number",
            "minimum": 0,
            "maximum": 8,
        },
        "table": {
            "description": "Measured counts: a Parquet file inside the project with columns layer, expert, "
            "tokens.",
            "type": "string",
            "pattern": "^(?!.*\\.\\.)[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$",
            "x-form": "a path from the project's folder, of letters, digits, _ . - / only, without ..",
        },
        "seed": {"description": "Chooses which experts of a layer are popular.", **whole(0, (1 << 53) - 1)},
        "capacity_factor": {
            "description": "A rank drops the copies for an expert beyond this multiple of an even part of "
            "its copies.",
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 1000000,
        },
    },
    "additionalProperties": False,
}
ROUTING_TEXT: Schema = {
    "type": "string",
    "pattern": "^(balanced|aux_loss|bias|uncontrolled|(zipf|lognormal|table)\\([^()]+\\))$",
    "x-form": "balanced, aux_loss, bias, uncontrolled, zipf(...), lognormal(...) or table(...)",
}


def offload_word(modules: str) -> str:
    """What an id says of modules that are offloaded: `offload` and their names, joined by +."""
    if {*modules.split("+")} <= {*OFFLOADED}:
        return f"offload{modules}"
    return "nooffloadmodules" if modules == "none" else worded("offload_modules", modules)


def modules_word(modules: str) -> str:
    """What an id says of modules: their names, joined by +; of none `nomodules`."""
    if {*modules.split("+")} <= {*MODULES}:
        return modules
    return "nomodules" if modules == "none" else worded("modules", modules)
