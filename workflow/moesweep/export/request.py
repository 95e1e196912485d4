"""What an export is asked for, checked as a whole before anything is written."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.argument_numbers import is_index
from moesweep.edge.outputs import among_results
from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
from moesweep.shapes.schedule import GROUP, makes_groups
from moesweep.store.layout import Results
from moesweep.store.tablefile import read_table
from moesweep.study.configured import Configuration, configured

FORMATS = ("simai", "chakra", "perfetto", "goal", "htsim", "simai-topology", "astra-network")
OF_NETWORKS = ("simai-topology", "astra-network")
"""Formats of which workloads say the number of GPUs alone."""
UNROLLED = "unrolled"
"""The linear trace, which is `trace --unroll` and no format of `export`."""
FLAVORS = ("megatron", "aicb")
PHASES = ("forward", "backward", "optimizer")
TIME_UNITS = ("ns", "ps")
TAKES = {
    "simai": ("stage",),
    "chakra": ("ranks", "microbatches"),
    "perfetto": ("ranks", "microbatches"),
    "goal": ("ranks", "microbatches", "time_unit"),
    "htsim": ("network", "op", "layer", "phase"),
    "simai-topology": ("network",),
    "astra-network": ("network",),
    UNROLLED: ("ranks", "microbatches"),
}
"""The options that only some formats have."""

_RANKS = re.compile(r"[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*")

Workload = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """The options of one export.

    `ranks` as written (`0,4,8-15`), None for the format's default; `stage` a number, `all`, or None for the
    slowest; `microbatches` None for all. `op`, `layer` and `phase` say what of a workload htsim is to send,
    `all` a whole micro-batch; `time_unit` is that of GOAL, ns or ps.
    """

    format: str
    out: Path
    flavor: str = "megatron"
    workloads: tuple[str, ...] = ()
    sweep: str | None = None
    stage: str | None = None
    ranks: str | None = None
    microbatches: int | None = None
    network: str | None = None
    op: str | None = None
    layer: int | None = None
    phase: str | None = None
    time_unit: str | None = None
    overwrite: bool = False
    configuration: Configuration = field(default_factory=Configuration)

    @property
    def results(self) -> Results:
        """The results folder."""
        return self.configuration.results()


def catalogue(request: Request) -> pl.DataFrame:
    """Return the workloads of the named sweep, else those of the results, else of the configured sweep."""
    if request.sweep is None and request.results.workloads.exists():
        return read_table(request.results.workloads, "workloads")
    return configured(request.configuration, request.sweep).workloads


def chosen(request: Request) -> pl.DataFrame:
    """Return the workloads to export, in the catalogue's order; raise BadInput with all that is wrong."""
    everything = catalogue(request)
    known = everything["workload"].to_list()
    problems = [
        *_option_problems(request),
        *folder_problems(request.out, request.overwrite),
        *among_results(request.out, request.results.root),
    ]
    problems += [
        Problem(
            "", "--workload", "known", id_, f"there is no workload {shown(id_)}", did_you_mean(id_, known)
        )
        for id_ in request.workloads
        if id_ not in known
    ]
    frame = everything
    if request.workloads:
        frame = everything.filter(pl.col("workload").is_in(request.workloads))
    rows = frame.iter_rows(named=True)
    problems += [problem for row in rows for problem in _workload_problems(request, row)]
    if problems:
        raise BadInput(problems)
    return frame


def needed(options: Mapping[str, Any], by: str) -> None:
    """Raise BadInput naming every option that is not given although `by` needs it."""
    missing = [option for option, value in options.items() if not value]
    if missing:
        raise BadInput(
            Problem("", option, "missing_option", "", f"{by} needs {option}", f"add {option}")
            for option in missing
        )


def without_effect(options: Mapping[str, Any], why: str) -> None:
    """Raise BadInput naming every option that is given although nothing would heed it."""
    given = [option for option, value in options.items() if value not in (None, False, [])]
    if given:
        raise BadInput(
            Problem("", option, "no_effect", "", f"has no effect {why}", "leave it out") for option in given
        )


def folder_problems(folder: Path, overwrite: bool) -> list[Problem]:
    """Return a problem if the output folder is a file, or holds something and may not be overwritten."""
    if folder.exists() and not folder.is_dir():
        return [Problem("", "--out", "folder", str(folder), f"{folder} is not a folder", "name a new folder")]
    if overwrite or not folder.exists() or next(folder.iterdir(), None) is None:
        return []
    return [
        Problem(
            "",
            "--out",
            "empty",
            str(folder),
            f"{folder} is not empty",
            "add --overwrite, or name a new folder",
        )
    ]


def chosen_ranks(request: Request) -> list[int] | None:
    """Return the ranks asked for in ascending order, None if the option is not given."""
    return None if request.ranks is None else parsed_ranks(request.ranks)


def parsed_ranks(text: str) -> list[int]:
    """Return the ranks of `0,4,8-15` in ascending order, each once."""
    ranks: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        ranks.update(range(int(first), int(last or first) + 1))
    return sorted(ranks)


def _option_problems(request: Request) -> list[Problem]:
    formats = FORMATS if request.format != UNROLLED else (UNROLLED,)
    words: list[tuple[str, str, tuple[str, ...]]] = [
        ("--format", request.format, formats),
        ("--flavor", request.flavor, FLAVORS),
    ]
    words += [("--phase", request.phase, PHASES)] if request.phase is not None else []
    words += [("--time-unit", request.time_unit, TIME_UNITS)] if request.time_unit is not None else []
    problems = [
        Problem(
            "", option, "known", word, f"there is no {option[2:]} {shown(word)}", did_you_mean(word, known)
        )
        for option, word, known in words
        if word not in known
    ]
    problems += _foreign_options(request)
    if request.stage is not None and request.stage != "all" and not is_index(request.stage):
        message = f"{shown(request.stage)} is not a pipeline stage"
        problems.append(Problem("", "--stage", "stage", request.stage, message, "a number from 0, or all"))
    if request.ranks is not None and not _RANKS.fullmatch(request.ranks):
        message = f"{shown(request.ranks)} is not a list of ranks"
        problems.append(Problem("", "--ranks", "ranks", request.ranks, message, "such as 0,4,8-15"))
    if request.microbatches is not None and request.microbatches < 1:
        message = f"{request.microbatches} micro-batches make no iteration"
        problems.append(
            Problem("", "--microbatches", "range", str(request.microbatches), message, "nearest: 1")
        )
    return problems


def _foreign_options(request: Request) -> list[Problem]:
    """Return the options that the format would not heed."""
    takes = TAKES.get(request.format)
    if takes is None:
        return []
    options = {option for taken in TAKES.values() for option in taken}
    given = {name: getattr(request, name) for name in sorted(options)}
    if request.format == "htsim" and request.op == "all":
        takes = ("network", "op")
    foreign = {name: value for name, value in given.items() if value is not None and name not in takes}
    by = f"format {request.format}"
    if request.format != "simai" and request.flavor != "megatron":
        foreign["flavor"] = request.flavor
    if request.format == "simai" and request.flavor == "aicb" and request.stage is not None:
        foreign["stage"], by = request.stage, "flavor aicb"
    return [
        Problem("", f"--{name}", "option", str(value), f"{by} has no --{name}", "leave it out")
        for name, value in ((name.replace("_", "-"), value) for name, value in foreign.items())
    ]


def _workload_problems(request: Request, workload: Workload) -> list[Problem]:
    """Return what the options ask of a workload that it does not have."""
    id_, problems = workload["workload"], []

    def problem(option: str, value: str, message: str, suggestion: str) -> None:
        problems.append(Problem(id_, option, "range", value, message, suggestion, workload=id_))

    if request.stage is not None and is_index(request.stage) and int(request.stage) >= workload["pp"]:
        last = workload["pp"] - 1
        problem("--stage", request.stage, f"there is no stage {request.stage}", f"nearest: {last}")
    if request.ranks is not None and _RANKS.fullmatch(request.ranks):
        highest = max(int(number) for number in re.findall(r"\d+", request.ranks))
        if highest >= workload["world_size"]:
            problem(
                "--ranks",
                str(highest),
                f"there is no rank {highest}",
                f"nearest: {workload['world_size'] - 1}",
            )
        elif not chosen_ranks(request):
            problem("--ranks", request.ranks, f"{request.ranks} names no rank", "write the lower rank first")
    wanted, available = request.microbatches, workload["num_microbatches"]
    if wanted is not None and wanted > available:
        problem(
            "--microbatches",
            str(wanted),
            f"an iteration has {available} micro-batches",
            f"nearest: {available}",
        )
    elif (
        wanted is not None
        and workload["virtual_pipeline"] > 1
        and not makes_groups(workload[GROUP], workload["pp"], wanted)
    ):
        size = workload[GROUP]
        of = "pp" if size == workload["pp"] else f"{GROUP} {size}"
        nearest = max(wanted // size, 1) * size
        problem(
            "--microbatches",
            str(wanted),
            f"an interleaved pipeline takes multiples of {of}",
            f"nearest: {nearest}",
        )
    return problems + [p for judge in _judges(request) for p in judge(workload)]


def _judges(request: Request) -> Iterable[Callable[[Workload], list[Problem]]]:
    """Return the functions that say what a format cannot express of a workload."""
    from moesweep.export import fused_exchanges, overlaps, shared_sequences, simai_aicb, simai_megatron

    judging = (shared_sequences, overlaps, fused_exchanges)
    of_all = [partial(each.inexpressible, request.format) for each in judging]
    if request.format != "simai":
        return of_all
    return [*of_all, simai_aicb.inexpressible if request.flavor == "aicb" else simai_megatron.inexpressible]
