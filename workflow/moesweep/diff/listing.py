"""A comparison as text: the inputs that differ, then the workloads that moved, each with terms and causes."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from moesweep.diff.changes import TERMS, InputChange, plain
from moesweep.diff.comparison import Comparison
from moesweep.diff.effects import BOTH, MODEL, PARAMETERS, REST
from moesweep.diff.models import MEASURES

_UNITS = {"_seconds": "s", "_bytes": "byte", "_per_billion_tokens": "USD", "mfu": ""}
_WORDS = {
    MODEL: "changed numbers of the model",
    PARAMETERS: "changed parameters of the workload",
    BOTH: "changed numbers of the model and parameters of the workload",
}


def lines(found: Comparison, top: int) -> Iterator[str]:
    """Yield the lines of a report: of each list of workloads the first `top`, those first that moved most."""
    yield f"A {found.a.path}: {len(found.a.ids)} workloads; B {found.b.path}: {len(found.b.ids)} workloads"
    yield from _inputs(found.inputs)
    for name, ids in (("A", found.only_a), ("B", found.only_b)):
        if ids:
            yield f"only in {name}: {len(ids)} workload{'s' if len(ids) > 1 else ''}"
            yield from (f"  {id_}" for id_ in ids[:top])
            if len(ids) > top:
                yield f"  and {len(ids) - top} more: --top {len(ids)} shows all"
    if not found.moved_ids:
        yield f"no cost differs in the {found.in_both} workloads that both have"
        return
    yield f"{len(found.moved_ids)} of the {found.in_both} workloads that both have moved"
    moved = found.moved.partition_by("workload", as_dict=True)
    effects = found.effects.partition_by("workload", as_dict=True)
    rest = "inputs that act together" if found.same_code else "other code, or inputs that act together"
    for id_ in found.moved_ids[:top]:
        columns = {row["column"]: row for row in moved[id_,].to_dicts()}
        caused = effects[id_,].to_dicts() if (id_,) in effects else []
        yield from _workload(id_, columns, caused, _WORDS | {REST: rest})
    total = len(found.moved_ids)
    if total > top:
        yield f"{total - top} more workloads moved: --top {total} shows all"


def _inputs(changes: list[InputChange]) -> Iterator[str]:
    yield "inputs that differ:" if changes else "no recorded input differs"
    for each in changes:
        if not each.workload:
            unit, tag = (f" {each.unit}" if each.unit else ""), (f" ({each.tag})" if each.tag else "")
            yield f"  {each.kind} {each.name}: {_recorded(each.a)} → {_recorded(each.b)}{unit}{tag}"
    own = sorted((each for each in changes if each.workload), key=_what)
    for what, same in groupby(own, key=_what):
        ids = [each.workload for each in same]
        yield f"  {what} of {ids[0] if len(ids) == 1 else f'{len(ids)} workloads'}"


def _what(each: InputChange) -> str:
    return f"{each.kind} {each.name}: {plain(each.a)} → {plain(each.b)}"


def _recorded(value: Any) -> str:
    return "not recorded" if value is None else plain(value)


def _workload(
    id_: str, columns: dict[str, Any], effects: list[dict[str, Any]], words: dict[str, str]
) -> Iterator[str]:
    yield id_
    shown = [name for name in (*TERMS, "fits") if name in columns and name != "exposed_comm_seconds"]
    for name in shown:
        yield f"  {_change(name, columns[name])}"
        for term in TERMS.get(name, ()):
            if term in columns:
                yield f"    {_change(term, columns[term])}"
                yield from (
                    f"      {_change(part, columns[part])}" for part in TERMS.get(term, ()) if part in columns
                )
        if name in MEASURES:
            yield from _causes(name, columns[name]["a"], effects, words)
    rest = [name for name in columns if not any(name in (top, *terms) for top, terms in TERMS.items())]
    other = [name for name in rest if name != "fits"]
    if other:
        yield f"  also: {', '.join(other)}"


def _causes(name: str, before: float, effects: list[dict[str, Any]], words: dict[str, str]) -> Iterator[str]:
    caused = sorted((row for row in effects if row[name]), key=lambda row: -abs(row[name]))
    for row in caused:
        share = f" ({row[name] / before:+.2%})" if before else ""
        yield f"    because of {words.get(row['input'], row['input'])}: {row[name]:+.6g}{_unit(name)}{share}"


def _change(name: str, row: dict[str, Any]) -> str:
    if name == "fits":
        return f"fits: {bool(row['a'])} → {bool(row['b'])}".lower()
    share = "" if row["share"] is None else f" ({row['share']:+.2%})"
    return f"{name}: {row['a']:.6g} → {row['b']:.6g}{_unit(name)}, {row['change']:+.6g}{share}"


def _unit(name: str) -> str:
    unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    unit = "GPU h" if name.startswith("gpu_hours") else unit
    return f" {unit}" if unit else ""
