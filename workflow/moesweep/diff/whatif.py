"""What if a constant, or an option, were another one: finished results costed again, in memory."""

from argparse import ArgumentTypeError
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.diff.changes import NETWORK
from moesweep.diff.comparison import Comparison
from moesweep.diff.effects import SCHEMA as EFFECTS
from moesweep.diff.folder import Folder
from moesweep.edge.argument_numbers import plain_number
from moesweep.edge.problems import BadInput, Problem, collect, shown
from moesweep.edge.quantities import QuantityError, parse_quantity
from moesweep.edge.schema import check
from moesweep.evaluate.costs import costed
from moesweep.network.slowed import slowed
from moesweep.store.provenance import Inputs
from moesweep.study.assigned import values
from moesweep.study.catalog import Cluster
from moesweep.study.catalog_files import unit_of
from moesweep.study.keys import KEYS, SCHEMA
from moesweep.study.networks import Network, named_network
from moesweep.study.routing import with_texts
from moesweep.study.validation import findings
from moesweep.study.workload import GIVEN, unnamed


@dataclass(frozen=True)
class WhatIf(Comparison):
    """Results as they are (A) and as they would be (B).

    notes   what else there is to say: constants out of their bounds, workloads left out or made illegal
    asked   what is another: constants, options, the network
    """

    notes: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()

    @cached_property
    def effects(self) -> pl.DataFrame:
        """What each of several asked for does alone; nothing where one is, the only cause."""
        return super().effects if len(self.asked) > 1 else pl.DataFrame(schema=EFFECTS)


def what_if(
    folder: Folder, cluster: Cluster, given: Mapping[str, str], tolerance: float, root: Path = Path()
) -> WhatIf:
    """Return how the workloads of a folder would change; raise BadInput with all that cannot be.

    `given` are NAME=VALUE: constants of the cluster that the results are for, keys of a workload, and
    `network`, one of the catalogue below `root` or a file.
    """
    problems: list[Problem] = []
    of_constants = {name: text for name, text in given.items() if name in cluster.constants}
    others = {name: text for name, text in given.items() if name not in (*of_constants, NETWORK)}
    moved = collect(problems, _constants, of_constants, cluster.values)
    other = collect(problems, _other_network, root, cluster, given)
    changed = collect(problems, values, others, (*cluster.constants, NETWORK))
    if "model" in others:
        message = "another model is another sweep: a what-if keeps the model's sizes"
        advice = "best, predict and a sweep take any model; here its keys can be set, such as num_layers=16"
        problems.append(Problem("", "model", "no_effect", shown(others["model"]), message, advice))
    if moved is None or changed is None or other is None or problems:
        raise BadInput(problems)
    moved |= {
        name: value
        for name, value in other.values.items()
        if value != cluster.value(name) and name not in moved
    }
    here, notes = _concerned(folder.workloads, changed)
    changed_rows = _changed(here, changed)
    legal, illegal = _judged(changed_rows, cluster.values | moved)
    if legal.is_empty() and folder.workloads.height:
        raise BadInput(_none_left(given, notes, illegal))
    before = here.filter(pl.col("workload").is_in(legal["workload"].implode()))
    a = _costed(folder, before, cluster.network, cluster.values, "as they are")
    b = _costed(folder, legal, other.network, cluster.values | moved, "what if")
    b = replace(b, inputs=_moved(a.inputs, moved, other.network))
    return WhatIf(a, b, tolerance, (*_out_of_bounds(cluster, moved), *notes, *illegal), tuple(given))


def _other_network(root: Path, cluster: Cluster, given: Mapping[str, str]) -> Cluster:
    """Return the cluster on the network that is asked for, if one is; its islands are its nodes."""
    if NETWORK not in given:
        return cluster
    network = named_network(root, given[NETWORK], ("", NETWORK))
    if network.island_gpus is not None and "gpus_per_node" in given:
        message = f"the islands of network {network.name} say it: {network.island_gpus} GPUs"
        raise BadInput([Problem("", "gpus_per_node", "given_twice", given["gpus_per_node"], message)])
    return cluster.on(network)


def _constants(given: Mapping[str, str], known: Mapping[str, float]) -> dict[str, float]:
    """Return constants in base units: `400 Gbit/s`, `400Gbit/s` or a plain number, as the constant has it.

    Neither calibration nor a share's 1 bounds them, but what is counted is whole, and 0 is no rate.
    """
    problems, found = [], {}
    for name, text in given.items():
        unit = unit_of(name)
        try:
            found[name] = parse_quantity(text if unit else _number(text), unit)
        except QuantityError as error:
            problems.append(Problem("", name, "quantity", shown(text), error.message, error.suggestion))
    of_kind = check({**known, **found}, "cluster", "", key="constants")
    problems += [each for each in of_kind if each.rule == "multiple" or not found.get(each.path)]
    if problems:
        raise BadInput(problems)
    return found


def _number(text: str) -> float | str:
    """Return the number that a text is, or the text: what has no unit must be one."""
    try:
        return plain_number(text)
    except ArgumentTypeError:
        return text


def _concerned(workloads: pl.DataFrame, changed: Mapping[str, Any]) -> tuple[pl.DataFrame, list[str]]:
    """Return the workloads that the options concern: those of experts leave dense ones out."""
    of_experts = sorted(name for name in changed if KEYS[name].without is not None or name == "ep")
    if not of_experts:
        return workloads, []
    dense = workloads.filter(kind="dense").height
    note = [f"{', '.join(of_experts)}: {dense} dense workloads are left out, which have no experts"]
    return workloads.filter(kind="moe"), note if dense else []


def _changed(workloads: pl.DataFrame, changed: Mapping[str, Any]) -> pl.DataFrame:
    """Return workloads with keys changed and what follows from them, under their old ids."""
    if not changed:
        return workloads
    texts, problems = with_texts({"what if": dict(changed)}, Path(), "")
    if problems:
        raise BadInput(problems)
    columns = {name: _column(name, value) for name, value in texts["what if"].items()}
    found = unnamed(workloads.select(GIVEN).with_columns(**columns))
    return found.with_columns(workloads["workload"], workloads["twin"]).select(*SCHEMA)


def _column(name: str, value: Any) -> pl.Expr:
    key = KEYS[name]
    if (name, value) == ("etp", "tp"):
        return pl.col("tp")
    if name == "global_batch_size" and isinstance(value, dict):
        return pl.col("world_size") * int(value["per_gpu"])
    if name == "ep" and not isinstance(value, int):
        message = f"{shown(value)} follows from a grid; here a number is needed"
        raise BadInput([Problem("", name, "form", shown(value), message, "write ep=8, for example")])
    written = key.text(value) if key.text is not None and not isinstance(value, str) else value
    return pl.lit(written, dtype=SCHEMA[name])


def _judged(workloads: pl.DataFrame, constants: Mapping[str, float]) -> tuple[pl.DataFrame, list[str]]:
    """Return the workloads that stay legal on a cluster, and what to say of the others."""
    found = findings(workloads, int(constants["gpus_per_node"]), clusters={"": constants})
    errors = found.filter(severity="error")
    illegal = errors.unique("workload", keep="first", maintain_order=True)
    notes = [
        f"becomes illegal: {row['workload']}: {row['rule']}: {row['message']}"
        + (f"; {row['suggestion']}" if row["suggestion"] else "")
        for row in illegal.iter_rows(named=True)
    ]
    return workloads.filter(~pl.col("workload").is_in(illegal["workload"].implode())), notes


def _none_left(given: Mapping[str, str], left_out: Iterable[str], illegal: Iterable[str]) -> list[Problem]:
    """Return why there is nothing to compare: each workload that becomes illegal, or is left out."""
    name = ", ".join(given)
    value = shown(", ".join(given.values()))
    return [Problem("", name, "empty", value, f"no workload is left: {why}") for why in (*left_out, *illegal)]


def _costed(
    folder: Folder, workloads: pl.DataFrame, network: Network, constants: Mapping[str, float], name: str
) -> Folder:
    slower = slowed(workloads, network, constants)
    costs = costed(slower, pl.DataFrame([dict(constants)])).select(folder.costs.columns)
    return replace(folder, path=folder.path / f"({name})", workloads=workloads, costs=costs)


def _moved(inputs: Inputs, moved: Mapping[str, float], network: Network) -> Inputs:
    entries = {name: inputs.constants.get(name, {}) | {"value": value} for name, value in moved.items()}
    return replace(inputs, constants=inputs.constants | entries, network=asdict(network))


def _out_of_bounds(cluster: Cluster, moved: Mapping[str, float]) -> list[str]:
    bounds = {name: cluster.constants[name] for name in moved}
    return [
        f"{name}: {moved[name]:g} lies outside {known.low:g} to {known.high:g}, within which it is calibrated"
        for name, known in bounds.items()
        if not known.low <= moved[name] <= known.high
    ]
