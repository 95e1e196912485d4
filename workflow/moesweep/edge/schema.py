"""JSON Schema (2020-12) validation of configuration data, reported as Problems with suggestions."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from moesweep.edge.paths import SHIPPED
from moesweep.edge.problems import Problem, did_you_mean, shown

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

SCHEMA_DIRECTORY = SHIPPED / "schemas"

MAX_PROBLEMS = 200

_TYPE_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}
_FORMS = _TYPE_WORDS | {
    "array": "a list, such as [1, 2]",
    "object": "a mapping, such as {key: value}",
}
_NUMBER = re.compile(r"\s*[-+]?[0-9]{1,18}(\.[0-9]{0,18})?\s*")
_BOUNDS = {
    "minimum": "below the least allowed value",
    "maximum": "above the greatest allowed value",
    "exclusiveMinimum": "not above",
    "exclusiveMaximum": "not below",
    "minLength": "shorter than",
    "maxLength": "longer than",
    "minItems": "an empty list: the least number of items is",
    "maxItems": "a longer list than the greatest allowed length",
}


@cache
def load_schema(name: str) -> dict[str, Any]:
    """The schema `schemas/<name>.schema.json`."""
    with (SCHEMA_DIRECTORY / f"{name}.schema.json").open(encoding="utf-8") as file:
        schema: dict[str, Any] = json.load(file)
    return schema


def definition(name: str, key: str) -> dict[str, Any]:
    """The part `$defs/<key>` of a schema."""
    part: dict[str, Any] = load_schema(name)["$defs"][key]
    return part


@cache
def _validator(name: str, key: str | None) -> "Validator":
    # Imported here: it takes 0.1 s, which commands that read no configuration need not spend.
    import jsonschema
    import referencing

    files = {f"{part}.schema.json": load_schema(part) for part in (name, "constant")}
    resources = [(uri, referencing.Resource.from_contents(part)) for uri, part in files.items()]
    registry: referencing.Registry[Any] = referencing.Registry().with_resources(resources)
    schema = load_schema(name)
    if key is not None:
        schema = {"$schema": schema["$schema"], "$ref": f"{name}.schema.json#/$defs/{key}"}
    draft = jsonschema.Draft202012Validator
    # JSON Schema counts 2.0 as an integer; here a count written with a decimal point is a mistake.
    strict = draft.TYPE_CHECKER.redefine(
        "integer", lambda _, x: isinstance(x, int) and not isinstance(x, bool)
    )
    # No bound refuses a nan: it is neither below nor above one.
    strict = strict.redefine("number", lambda _, x: draft.TYPE_CHECKER.is_type(x, "number") and x == x)
    extend: Any = jsonschema.validators.extend
    validator: Validator = extend(draft, type_checker=strict)(schema, registry=registry)
    return validator


def check(data: Any, schema: str, file: str, *, key: str | None = None, prefix: str = "") -> list[Problem]:
    """Every violation of a schema (or of its `$defs/<key>`) in `data`, ordered by place; empty if none.

    Of more than MAX_PROBLEMS only the first are looked for: that many have one cause.

    `file` and `prefix` say where the data stands; a problem's path is the prefix followed by the place in the
    data.
    """
    errors = _validator(schema, key).iter_errors(data)
    found = (problem for error in errors for problem in _problems(error, file, prefix))
    problems = list(islice(found, MAX_PROBLEMS))
    # Of a value of the wrong type, its type is all there is to say.
    mistyped = {problem.path for problem in problems if problem.rule == "type"}
    kept = {problem for problem in problems if problem.rule == "type" or problem.path not in mistyped}
    return sorted(kept, key=lambda problem: (problem.path, problem.rule, problem.message))


def place(prefix: str, parts: Iterable[str | int]) -> str:
    """A path within a file: keys joined by dots, list positions in brackets, as in `grids[0].tp[1]`."""
    path = prefix
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def first_key(path: str) -> str:
    """The key of the top level that a path within a file begins with."""
    return re.split(r"[.\[]", path)[0]


def _problems(error: "ValidationError", file: str, prefix: str) -> Iterator[Problem]:
    path = place(prefix, error.absolute_path)
    rule = str(error.validator)
    if rule == "additionalProperties":
        yield from _unknown_keys(error, file, path)
    elif rule == "required":
        yield from _missing_keys(error, file, path)
    else:
        name, message, suggestion = _explain(error, rule)
        yield Problem(file, path, name, shown(error.instance), message, suggestion)


def _unknown_keys(error: "ValidationError", file: str, path: str) -> Iterator[Problem]:
    schema: Any = error.schema if isinstance(error.schema, Mapping) else {}
    known, names = schema.get("properties", {}), schema.get("x-names", {})
    unmodelled = frozenset(schema.get("x-unmodelled", ()))
    instance = error.instance if isinstance(error.instance, dict) else {}
    for key in instance:
        if key in unmodelled:
            where = place(path, [key])
            yield Problem(file, where, "not_modelled", key, f"{key} is not modelled", "leave it out")
        elif key not in known:
            suggestion = (
                f"did you mean {names[key]}?"
                if key in names
                else did_you_mean(key, set(known) - set(instance), apart=0.15)
            )
            yield Problem(
                file, place(path, [key]), "unknown_key", key, f"unknown key {shown(key)}", suggestion
            )


def _missing_keys(error: "ValidationError", file: str, path: str) -> Iterator[Problem]:
    needed: Any = error.validator_value
    instance: Any = error.instance
    for key in needed:
        if key not in instance:
            yield Problem(
                file, place(path, [key]), "missing_key", "", f"the key {key} is missing", f"add {key}"
            )


def _explain(error: "ValidationError", rule: str) -> tuple[str, str, str]:
    """(rule name, message, suggestion) of one violated keyword."""
    limit: Any = error.validator_value
    value = shown(error.instance)
    if rule == "type":
        kinds = [limit] if isinstance(limit, str) else limit
        wanted = " or ".join(_TYPE_WORDS[kind] for kind in kinds)
        advice = _of_type(error.instance, kinds, error.schema)
        return "type", f"{_kind(error.instance)} {value} where {wanted} is needed", advice
    if rule in ("enum", "const"):
        known = [str(choice) for choice in (limit if rule == "enum" else [limit])]
        stated: Any = error.schema
        if error.instance in stated.get("x-unmodelled", ()):
            return "not_modelled", f"{value} is not modelled", f"known: {', '.join(known)}"
        return "choice", f"{value} is not one of the choices", did_you_mean(str(error.instance), known)
    if rule == "minItems" and error.instance:
        return "range", f"{value} is a shorter list than the {limit} items needed", ""
    if rule in _BOUNDS:
        # The limit itself is not legal where it excludes itself.
        nearest = "" if rule.startswith("exclusive") else f"nearest: {limit}"
        return "range", f"{value} is {_BOUNDS[rule]} {limit}", nearest
    if rule == "pattern":
        schema: Any = error.schema
        return (
            "pattern",
            f"{value} does not have the form needed here",
            f"needed: {schema.get('x-form', limit)}",
        )
    if rule == "multipleOf":
        return "multiple", f"{value} is not a multiple of {limit}", _multiples(error)
    if rule == "uniqueItems":
        return "duplicate", f"{value} lists a value twice", "list each value once"
    if rule in ("minProperties", "anyOf"):
        schema = error.schema
        return "empty", str(schema.get("x-need", error.message)), ""
    return rule, error.message, ""


def _of_type(value: object, kinds: list[str], schema: Any) -> str:
    """What to write instead of a value of the wrong type: the nearest of the right one, or its form."""
    number = _number(value)
    if number is not None and "integer" in kinds:
        near = sorted({_within(schema, whole) for whole in (math.floor(number), math.ceil(number))})
        return f"write {near[0]}" if near == [number] else f"nearest: {', '.join(map(str, near))}"
    if number is not None and kinds == ["number"]:
        return f"write {_within(schema, float(number))}"
    if "enum" in schema:
        return did_you_mean(str(value), map(str, schema["enum"]))
    if kinds == ["string"] and number is not None:
        return f'write "{value}"'
    if "boolean" in kinds:
        return _truth(value)
    if kinds == ["array"] and value is not None and not isinstance(value, dict):
        least = schema.get("minItems", 0)
        return f"write [{shown(value)}]" if least < 2 else f"needed: a list of {least} or more items"
    form = schema.get("x-form") or _range(schema) or ", or ".join(_FORMS[kind] for kind in kinds)
    return f"needed: {form}"


def _multiples(error: "ValidationError") -> str:
    """The nearest multiples that a schema allows, of a number that is none."""
    number: Any = error.instance
    schema: Any = error.schema
    step = schema["multipleOf"]
    near = {_within(schema, whole * step) for whole in (math.floor(number / step), math.ceil(number / step))}
    legal = sorted(each for each in near if each > schema.get("exclusiveMinimum", -math.inf))
    return f"nearest: {', '.join(f'{each:g}' for each in legal)}" if legal else ""


def _number(value: object) -> Fraction | None:
    """A number, or text that holds one, exactly; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        return Fraction(value) if _NUMBER.fullmatch(value) else None
    return Fraction(value) if math.isfinite(value) else None


def _within(schema: Mapping[str, float], number: float) -> float:
    """The nearest number that a schema's bounds allow."""
    return min(max(number, schema.get("minimum", number)), schema.get("maximum", number))


def _range(schema: Mapping[str, float]) -> str:
    """The numbers that a schema allows, in words; empty where it has no least one."""
    if "minimum" not in schema:
        return ""
    return (
        f"{schema['minimum']} to {schema['maximum']}"
        if "maximum" in schema
        else f"{schema['minimum']} or more"
    )


def _truth(value: object) -> str:
    """`write true` for what means that elsewhere."""
    word = str(value).strip().lower()
    meant = {"true": ("1", "true", "yes", "on"), "false": ("0", "false", "no", "off")}
    return next(
        (f"write {truth}" for truth, words in meant.items() if word in words), "needed: true or false"
    )


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "the truth value"
    if isinstance(value, int | float):
        return "the number"
    if isinstance(value, str):
        return "the text"
    if isinstance(value, list | dict):
        return "the list" if isinstance(value, list) else "the mapping"
    return "the value"
