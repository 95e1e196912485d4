"""How much each changed input moved each workload: the model run again with that input alone changed.

A workload's own options are inputs one by one, with what follows from each; those that are not legal alone
(another world without its batch) are one cause together.

All runs use the code at hand, so what they leave over is interaction of the inputs, or other code.
"""

import polars as pl

from moesweep.diff.changes import NETWORK, InputChange
from moesweep.diff.folder import Folder
from moesweep.diff.models import MEASURES, Model, chosen, has_traces, resolved, traced
from moesweep.edge.schema import definition
from moesweep.study.routing import given
from moesweep.study.validation import findings
from moesweep.study.workload import GIVEN, unnamed

NEEDED = set(definition("cluster", "constants")["required"])
MODEL, PARAMETERS, BOTH, REST = "model", "parameters", "model and parameters", "interaction"
SCHEMA = {"workload": pl.String, "input": pl.String} | dict.fromkeys(MEASURES, pl.Float64)


def effects(a: Folder, b: Folder, changes: list[InputChange], ids: list[str]) -> pl.DataFrame:
    """Return workload, input and the change of each measure by that input alone, from A's side.

    `model` stands for all changed numbers of a workload's model, an option's name for that option, and
    `parameters` for options that cannot be told apart; the input `interaction` is what remains of the whole
    change. Empty if a constant is not known. Workloads whose routing is given on either side go by their
    traces (`_routed`); without them, those of a measured table are left out.
    """
    names = [change.name for change in changes if change.kind == "constant"]
    old, new = _values(a, b), _values(b, a)
    skewed, measured = (
        {id_ for folder in (a, b) for id_ in folder.workloads.filter(which)["workload"]}
        for which in (given, given & pl.col("routing").str.starts_with("table"))
    )
    routed = [id_ for id_ in ids if id_ in skewed and all(has_traces(folder, id_) for folder in (a, b))]
    even = [id_ for id_ in ids if id_ not in measured and id_ not in routed]
    if not (even or routed) or not (old.keys() >= NEEDED and new.keys() >= NEEDED):
        return pl.DataFrame(schema=SCHEMA)
    parts = []
    for some, sides in ((even, _even), (routed, _routed)):
        if some:
            before, changed = sides(a, b, changes, some)
            base = before(old)
            runs = {name: before(old | {name: new[name]}) for name in names}
            runs |= {word: model(old) for word, model in changed.items()}
            parts += [_effect(word, after, base) for word, after in runs.items()]
    found = pl.concat([pl.DataFrame(schema=SCHEMA), *parts])
    rest = _rest(a, b, [*even, *routed], found).select(*SCHEMA)
    effective = pl.any_horizontal(pl.col(name) != 0 for name in MEASURES)
    return pl.concat([found, rest]).filter(effective)


def _even(a: Folder, b: Folder, changes: list[InputChange], ids: list[str]) -> tuple[Model, dict[str, Model]]:
    """Return the model of A's workloads, and those with some of their columns as B has them."""
    workloads, others = (chosen(folder, ids) for folder in (a, b))
    columns = {
        kind: {change.name for change in changes if change.kind == kind} for kind in ("model", "parameter")
    }
    changed = {}
    if columns["model"]:
        as_in_b = workloads.with_columns(others[name] for name in columns["model"])
        changed[MODEL] = resolved(as_in_b, a.network)
    for word, frame in _options(workloads, others, columns["parameter"]).items():
        changed[word] = resolved(frame, a.network)
    if a.network != b.network:
        changed[NETWORK] = resolved(workloads, b.network)
    return resolved(workloads, a.network), changed


def _options(workloads: pl.DataFrame, others: pl.DataFrame, names: set[str]) -> dict[str, pl.DataFrame]:
    """Return the workloads that an option changes, with it alone as the others have it, by its name.

    Workloads one of whose options breaks a rule alone, or of which none is an option that a sweep gives,
    stand below PARAMETERS, with all that changed.
    """
    alone: dict[str, pl.DataFrame] = {}
    for name in (name for name in GIVEN if name in names):
        differs = workloads[name].ne_missing(others[name])
        frame = unnamed(workloads.select(GIVEN).with_columns(others[name]))
        alone[name] = frame.with_columns(workloads["workload"], workloads["twin"]).filter(differs)
    apart = {id_ for frame in alone.values() for id_ in frame["workload"]}
    for frame in alone.values():
        apart -= set(findings(frame).filter(severity="error")["workload"])
    said = pl.col("workload").is_in(sorted(apart))
    found = {name: frame.filter(said).select(workloads.columns) for name, frame in alone.items()}
    differ = pl.any_horizontal(False, *(workloads[name].ne_missing(others[name]) for name in sorted(names)))
    found[PARAMETERS] = workloads.with_columns(others[name] for name in names).filter(differ & ~said)
    return {word: frame for word, frame in found.items() if not frame.is_empty()}


def _routed(
    a: Folder, b: Folder, changes: list[InputChange], ids: list[str]
) -> tuple[Model, dict[str, Model]]:
    """Return the model of A's traces, and of B's traces of the workloads that changed.

    There are no traces of a change of the model alone where a workload's own parameters changed as well:
    these are one cause then.
    """
    kinds = {id_: {change.kind for change in changes if change.workload == id_} for id_ in ids}
    words = {MODEL: {"model"}, PARAMETERS: {"parameter"}, BOTH: {"model", "parameter"}}
    of_word = {word: [id_ for id_ in ids if kinds[id_] == which] for word, which in words.items()}
    changed = {word: traced(b, some, a.network) for word, some in of_word.items() if some}
    if a.network != b.network:
        changed[NETWORK] = traced(a, ids, b.network)
    return traced(a, ids, a.network), changed


def _values(folder: Folder, other: Folder) -> dict[str, float]:
    """Return a folder's constants; those that it does not know as the other folder has them."""
    both = other.inputs.constants | folder.inputs.constants
    return {name: float(entry["value"]) for name, entry in both.items()}


def _effect(name: str, after: pl.DataFrame, base: pl.DataFrame) -> pl.DataFrame:
    both = after.join(base, on="workload", suffix=" before", maintain_order="left")
    return both.select(
        "workload", input=pl.lit(name), **{m: pl.col(m) - pl.col(f"{m} before") for m in MEASURES}
    )


def _rest(a: Folder, b: Folder, ids: list[str], found: pl.DataFrame) -> pl.DataFrame:
    """Return what the effects leave of the whole change; 0 where that is below a billionth of it."""
    summed = found.group_by("workload").agg(pl.col(measure).sum() for measure in MEASURES)
    frame = pl.DataFrame({"workload": ids})
    for part, suffix in ((a.costs, " in a"), (b.costs, " in b"), (summed, "")):
        named = part.select(
            "workload", *(pl.col(measure).alias(f"{measure}{suffix}") for measure in MEASURES)
        )
        frame = frame.join(named, on="workload", how="left", maintain_order="left")

    def rest(measure: str) -> pl.Expr:
        old, new = pl.col(f"{measure} in a"), pl.col(f"{measure} in b")
        left = new - old - pl.col(measure).fill_null(0.0)
        noise = 1e-9 * pl.max_horizontal(old.abs(), new.abs())
        return pl.when(left.abs() > noise).then(left).otherwise(0.0)

    return frame.select("workload", input=pl.lit(REST), **{measure: rest(measure) for measure in MEASURES})
