"""Cells of a list of runs: what a text means for a key, and what is wrong with one that means nothing."""

import math
import re
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.problems import BadInput, shown
from moesweep.edge.schema import check
from moesweep.edge.yaml_reader import read_yaml_text
from moesweep.study.axes import encoded
from moesweep.study.column import Key
from moesweep.study.forms import Schema
from moesweep.study.keys import KEYS, SCHEMA
from moesweep.study.routing import PARAMETERS, WORDS, with_texts

TRUTH = {"0": False, "1": True, "false": False, "true": True, "False": False, "True": True}
ROUTINGS = (*reversed(WORDS),)
"""Routings of a list beside those drawn from a seed; the first where it says none."""

PADDED = {"routing": "balanced", "moe_expert_capacity_factor": 1.0, "moe_pad_expert_input_to_capacity": True}
"""What `padded` says, a list's word for experts that each get as many rows as the mean one has tokens."""

LATENT = {
    "q_lora": "q_lora_rank",
    "kv_lora": "kv_lora_rank",
    "qk_nope": "qk_nope_head_dim",
    "qk_rope": "qk_rope_head_dim",
    "v": "v_head_dim",
}
"""Words of mla(...), and the keys that they stand for."""

KINDS = {"attention": tuple(LATENT.values()), "routing": tuple(PADDED)[1:]}
"""Keys whose cells may say others, and which."""

SAID_BY = {other: key for key, others in KINDS.items() for other in others}
"""Which key's cell may say a key."""

_ATTENTION = "mha, gqa, or mla(q_lora=1536,kv_lora=512,qk_nope=128,qk_rope=64,v=128), q_lora where it has one"
_NEEDED_OF_MLA = {"kv_lora_rank", "qk_nope_head_dim", "v_head_dim"}
_WHOLE = re.compile(r"[-+]?[0-9]{1,20}")
_NUMBER = re.compile(r"[-+]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][-+]?[0-9]{1,3})?")
_FORM = re.compile(r"(mha|gqa)|mla(?:\s*\((.*)\))?")
_WIDTH = re.compile(r"\s*(\w+)\s*=\s*([0-9]{1,18})\s*")


class Meaningless(Exception):
    """A cell that means nothing: its message says what is needed instead."""


def parsed(key: Key, text: pl.Series) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the columns that cells of a key say, null where empty or meaningless; why cells are so."""
    faults: dict[str, str] = {}
    distinct = text.drop_nulls().unique(maintain_order=True).to_list()
    values: list[Any] = []
    for cell in distinct:
        try:
            values.append(_value(key, cell.strip()))
        except Meaningless as fault:
            faults[cell] = str(fault)
    sound = [cell for cell in distinct if cell not in faults]
    columns = _kinds(key, values) if key.name in KINDS else encoded(key.name, values)
    if columns.height != len(sound):
        # A rule of ep that names several degrees lists several workloads: a run is one.
        faults |= dict.fromkeys(sound, f"one {key.name} is needed")
        sound, columns = [], columns.clear()
    at = text.replace_strict(sound, range(len(sound)), default=None, return_dtype=pl.Int64)
    return pl.DataFrame([column.gather(at).alias(column.name) for column in columns]), faults


def _value(key: Key, cell: str) -> Any:
    form = key.form
    if key.name == "attention":
        return _attention(cell)
    if key.name == "routing":
        return PADDED if cell == "padded" else {"routing": cell if cell in ROUTINGS else _drawn(key, cell)}
    if key.name == "window_size" and _WHOLE.fullmatch(cell) and int(cell) > 0:
        return [int(cell) - 1, 0]  # as config.json says it: so many keys, the token's own among them
    if form["type"] == "boolean":
        if cell not in TRUTH:
            raise Meaningless(f"{shown(cell)} where 0 or 1 is needed")
        return TRUTH[cell]
    if form["type"] in ("integer", "number"):
        return _number(form, cell)
    return _one_of(cell, form) if "enum" in form else _as_written(key, cell)


def _drawn(key: Key, cell: str) -> str:
    """The text of a routing drawn from a seed, such as zipf:1.2 or a mapping; tables are a sweep's alone."""
    form, _, rest = cell.partition(":")
    if "{" not in cell and (form not in PARAMETERS or not rest):
        words = ", ".join((*ROUTINGS, "padded"))
        raise Meaningless(f"{shown(cell)} where {words}, zipf:1.2 or lognormal:0.5 is needed")
    value = _as_written(key, cell if "{" in cell else f"{{{form}: {rest}}}")
    if "table" in value:
        raise Meaningless(f"{shown(cell)}: measured tables are not modelled in a list; a sweep takes them")
    texts, problems = with_texts({"": {"routing": value}}, Path(), "")
    if problems:
        raise Meaningless(problems[0].message)
    return str(texts[""]["routing"])


def _one_of(cell: str, form: Schema) -> str:
    if cell not in form["enum"]:
        why = " is not modelled," if cell in form.get("x-unmodelled", ()) else ""
        raise Meaningless(f"{shown(cell)}{why} where {' or '.join(form['enum'])} is needed")
    return cell


def _number(form: Schema, cell: str) -> float:
    whole = form["type"] == "integer"
    least, most = form.get("minimum", -math.inf), form.get("maximum", math.inf)
    if (_WHOLE if whole else _NUMBER).fullmatch(cell):
        number = int(cell) if whole else float(cell)
        if least <= number <= most and number < form.get("exclusiveMaximum", math.inf):
            return number
    kind = "a whole number" if whole else "a number"
    end = f"at most {most}" if "maximum" in form else f"below {form.get('exclusiveMaximum')}"
    raise Meaningless(f"{shown(cell)} where {kind} of at least {least} and {end} is needed")


def _as_written(key: Key, cell: str) -> Any:
    """What a cell says in the form that a sweep would: YAML, or text where the key is text."""
    try:
        value = cell if key.form["type"] == "string" else read_yaml_text(cell, key.name)
    except BadInput as bad:
        raise Meaningless(f"{shown(cell)}: {bad.problems[0].message}") from bad
    if problems := check({key.name: value}, "sweep", "", key="row"):
        advice = f"; {problems[0].suggestion}" if problems[0].suggestion else ""
        raise Meaningless(f"{problems[0].message}{advice}")
    return value


def _attention(cell: str) -> dict[str, Any]:
    """The columns that a kind of attention says, with the widths of mla."""
    found = _FORM.fullmatch(cell)
    if not found:
        raise Meaningless(f"{shown(cell)} where {_ATTENTION} is needed")
    if found[1]:
        return {"attention": found[1]}
    said = [_WIDTH.fullmatch(part) for part in found[2].split(",")] if found[2] else []
    widths = {LATENT[part[1]]: int(part[2]) for part in said if part and part[1] in LATENT}
    wide = [key for key, width in widths.items() if width > KEYS[key].form["maximum"]]
    if len(widths) < len(said) or wide or (found[2] and not widths.keys() >= _NEEDED_OF_MLA):
        raise Meaningless(f"{shown(cell)} where {_ATTENTION} is needed")
    return {"attention": "mla", **widths}


def _kinds(key: Key, said: list[dict[str, Any]]) -> pl.DataFrame:
    """A row for each cell of a key that may say others too: attention its widths; null where it says none."""
    schema = {name: SCHEMA[name] for name in (key.name, *KINDS[key.name])}
    return pl.DataFrame([{name: kind.get(name) for name in schema} for kind in said], schema=schema)
