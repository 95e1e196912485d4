"""A cluster's file from what nccl-tests measured on it, and from another cluster what no log says."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from moesweep.edge.problems import BadInput, Problem, collect, one_line
from moesweep.store.tablefile import whole
from moesweep.study.catalog import Cluster, load_cluster
from moesweep.study.catalog_files import Constant
from moesweep.study.nccl_fit import Found, fitted
from moesweep.study.nccl_log import Run, read_log

_UNITS = {
    "byte/second": (1e9, " GB/s"),
    "second": (1e-6, " us"),
    "flop/second": (1e12, " TFLOP/s"),
    "": (1.0, ""),
}
_HEADER = (
    "# yaml-language-server: $schema=../../schemas/cluster.schema.json\n"
    "# Keys: schemas/cluster.schema.json, whose $defs/constants also says what each constant means.\n"
)


def import_cluster(files: Sequence[Path], out: Path | None, like: str, root: Path = Path()) -> list[str]:
    """Write a cluster's file; return what was fitted, a line each. Raises BadInput with every fault.

    out    the file; None where the name is a fault already: then nothing is written
    like   the cluster that gives the GPU, the node, the cards' rate and all that no log says
    """
    problems: list[Problem] = []
    if not like:
        message = "logs say neither GPU nor the cards' rate: name a cluster that has them"
        problems.append(
            Problem("", "--like", "missing", "", message, "such as --like dgx-h100-80gb-8xndr400")
        )
    base = collect(problems, load_cluster, root, like, ("", "--like")) if like else None
    logs = [runs for file in files if (runs := collect(problems, read_log, file)) is not None]
    runs = [run for log in logs for run in log]
    if base is not None:
        problems += _contradictions(runs, base)
    if problems or base is None:
        raise BadInput(problems)
    found = fitted(runs, base.values)
    problems = _beyond(found, base)
    if not found:
        problems.append(Problem(str(files[0]), "", "nothing", "", "no log says a constant of the model"))
    if problems:
        raise BadInput(problems)
    if out is None:
        raise BadInput([])
    with whole(out) as partial:
        partial.write_text(_yaml(base, found, runs), encoding="utf-8")
    return [
        f"{name}: {_amount(each.value, base.constants[name].unit)}, {_missed(each)}"
        for name, each in found.items()
    ]


def _missed(found: Found) -> str:
    return f"the line misses no point by more than {100 * found.error:.1f}%"


def _contradictions(runs: Sequence[Run], base: Cluster) -> list[Problem]:
    """What logs and the other cluster say differently."""
    problems = []
    node = int(base.value("gpus_per_node"))
    for run in runs:
        if run.nodes and run.ranks // run.nodes > node:
            message = f"{run.ranks // run.nodes} ranks on a host, where a node of {base.name} has {node} GPUs"
            problems.append(
                Problem(run.file, f"line {run.line}", "gpus_per_node", "", message, "another --like")
            )
    return problems


def _beyond(found: Mapping[str, Found], base: Cluster) -> list[Problem]:
    """Values that no such machine has: a rate beyond what links and cards can carry."""
    problems = []
    for name, each in found.items():
        constant = base.constants[name]
        low, high = _bounds(name, each.value, constant)
        if not low <= each.value <= high:
            amount, limit = (_amount(value, constant.unit) for value in (each.value, high))
            message = f"{name} would be {amount}, beyond {limit}, the most that {base.name} allows"
            advice = "are the sizes bytes, the times us, and the GPU and the cards those of --like?"
            problems.append(Problem(each.file, name, "bounds", amount, message, advice))
    return problems


def _bounds(name: str, value: float, constant: Constant) -> tuple[float, float]:
    """Bounds of a fitted constant: rates and shares keep the greatest value that physics allows."""
    if constant.unit == "second":
        return value / 4, max(4 * value, 1e-6)
    return min(value / 4, constant.low), 1.0 if constant.unit == "" else constant.high


def _amount(value: float, unit: str) -> str:
    scale, word = _UNITS[unit]
    return f"{value / scale:.4g}{word}"


def _yaml(base: Cluster, found: Mapping[str, Found], runs: Sequence[Run]) -> str:
    """The file: the other cluster's own constants, and the fitted ones instead of or beside them."""
    own = f"config/clusters/{base.name}.yaml"
    constants = {name: each for name, each in base.constants.items() if each.file == own or name in found}
    gpus = sorted({run.gpu for run in runs if run.gpu})
    said = f"Measured with nccl-tests ({', '.join(gpus) or 'GPU not said'}); what no log says as {base.name}."
    lines = [f"\ndescription: {quoted(said)}", f"gpu: {base.gpu}", "\nconstants:"]
    for name, constant in constants.items():
        if name in found:
            each = found[name]
            source = f"nccl-tests, {Path(each.file).name}: {_missed(each)}"
            low, high = _bounds(name, each.value, constant)
            one = replace(constant, value=each.value, tag="measured", low=low, high=high)
            lines += entry_lines(name, one, source)
        else:
            lines += entry_lines(name, constant, f"as {base.name}: {constant.source}")
    return _HEADER + "\n".join(lines) + "\n"


def entry_lines(name: str, constant: Constant, source: str = "") -> list[str]:
    """Return the lines of a constant in a cluster's or a GPU's file, with its own source unless given."""
    amounts = [_written(each, constant.unit) for each in (constant.value, constant.low, constant.high)]
    return [
        f"  {name}:",
        f"    value: {amounts[0]}",
        f"    tag: {constant.tag}",
        f"    source: {quoted((source or constant.source)[:500])}",
        f"    bounds: [{amounts[1]}, {amounts[2]}]",
    ]


def _written(value: float, unit: str) -> str:
    if unit == "byte":
        return f"{value:.0f} byte"
    scale, word = _UNITS[unit]
    return f"{value / scale:.6g}{word}"


def quoted(text: str) -> str:
    """Return text as YAML and JSON write it, on one line."""
    return json.dumps(one_line(text), ensure_ascii=False)
