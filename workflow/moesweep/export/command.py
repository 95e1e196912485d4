"""`moesweep export`: the trace in the formats of other tools."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesweep.study.configured import add_options

if TYPE_CHECKING:
    import polars as pl

    from moesweep.export.request import Request
    from moesweep.export.source import Traced

_HELP = "write workloads in the form of SimAI, Chakra (ASTRA-sim) or Perfetto"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `export`."""
    command = commands.add_parser("export", help=_HELP, description=_HELP)
    add = command.add_argument
    add("--format", metavar="simai|chakra|perfetto", help="the form to write")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write to, new or empty")
    add(
        "--workload",
        action="append",
        default=[],
        metavar="ID",
        help="a workload; repeat for more (default: all)",
    )
    add(
        "--sweep",
        metavar="SWEEP.yaml",
        help="workloads of this sweep (default: the results, or the config's)",
    )
    add(
        "--flavor", default="megatron", metavar="megatron|aicb", help="SimAI: what the rows say (%(default)s)"
    )
    add("--stage", metavar="N|all", help="SimAI: pipeline stage to write (default: the slowest)")
    add("--ranks", metavar="0,4,8-15", help="ranks to write (default: Chakra all, Perfetto one pipeline)")
    add("--microbatches", type=int, metavar="N", help="write the first N micro-batches of an iteration")
    add("--overwrite", action="store_true", help="replace files in a folder that is not empty")
    add("--check", action="store_true", help="write nothing: validate the Chakra traces in DIR")
    add_options(command)
    command.set_defaults(run=export)


def add_unroll_options(command: argparse.ArgumentParser) -> None:
    """Add to `trace` the options of `trace --unroll`."""
    group = command.add_argument_group("one row per executed op, with its time (Parquet)")
    group.add_argument("--unroll", action="store_true", help="write the linear order instead of the trace")
    group.add_argument("--out", type=Path, metavar="DIR", help="folder to write to, new or empty")
    group.add_argument("--ranks", metavar="0,4,8-15", help="ranks to write (default: all)")
    group.add_argument("--microbatches", type=int, metavar="N", help="only the first N micro-batches")
    group.add_argument("--overwrite", action="store_true", help="replace files in a folder that is not empty")


def unroll(arguments: argparse.Namespace) -> int:
    """Write the linear order of the named workloads."""
    from moesweep.export.request import chosen, needed

    needed({"--out": arguments.out, "--workload": arguments.workload}, "--unroll")
    request = _request(arguments, format="unrolled")
    _write_traced(chosen(request), request)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write the chosen workloads, or check what is there."""
    from moesweep.export.request import chosen, needed

    if arguments.check:
        return _check(arguments.out)
    needed({"--format": arguments.format}, "export")
    request = _request(
        arguments,
        format=arguments.format,
        flavor=arguments.flavor,
        sweep=arguments.sweep,
        stage=arguments.stage,
    )
    workloads = chosen(request)
    if request.format == "simai" and request.flavor == "aicb":
        _write_aicb(workloads, request)
    else:
        _write_traced(workloads, request)
    return 0


def _request(arguments: argparse.Namespace, **own: Any) -> "Request":
    """Return the request that the options of both commands describe, and `own` of one of them."""
    from moesweep.export.request import Request
    from moesweep.study.configured import asked

    return Request(
        out=arguments.out,
        workloads=tuple(arguments.workload),
        ranks=arguments.ranks,
        microbatches=arguments.microbatches,
        overwrite=arguments.overwrite,
        configuration=asked(arguments),
        **own,
    )


def _check(folder: Path) -> int:
    """Print what the Chakra sets in a folder hold; raise BadInput with their faults."""
    from moesweep.edge.problems import BadInput, Problem
    from moesweep.export.chakra_check import SHOWN_PROBLEMS, check_folder, folders

    sets = [check_folder(each) for each in folders(folder)]
    if not sets:
        raise BadInput([Problem("", "--out", "traces", str(folder), f"{folder} holds no .et files")])
    for each in sets:
        verdict = "valid" if not each.problems else f"faults: {len(each.problems)}"
        if each.absent or each.unjudged_messages:
            verdict += (
                f"; for reading only, ASTRA-sim runs whole sets: {each.absent} ranks are not here, "
                f"and {each.unjudged_messages} messages have an end there"
            )
        print(f"{each.folder}: {each.ranks} ranks, {each.nodes} nodes: {verdict}")
    problems = [problem for each in sets for problem in each.problems[:SHOWN_PROBLEMS]]
    if problems:
        raise BadInput(problems)
    return 0


def _write_aicb(workloads: "pl.DataFrame", request: "Request") -> None:
    """AICB's files follow from the workload's columns alone."""
    from moesweep.export import simai_aicb
    from moesweep.export.folder import failures_named

    progress = Progress(workloads.height)
    with failures_named(request.out):
        for row in workloads.iter_rows(named=True):
            simai_aicb.export(row, request.out)
            progress.step()


def _write_traced(workloads: "pl.DataFrame", request: "Request") -> None:
    from moesweep.export.folder import failures_named
    from moesweep.export.source import traced

    write = _writer(request.format)
    cluster = request.configuration.cluster()
    progress = Progress(workloads.height)
    with failures_named(request.out):
        for each in traced(workloads, request.results, cluster, request.configuration.root):
            write(each, request)
            progress.step()


def _writer(format_: str) -> "Callable[[Traced, Request], None]":
    from moesweep.export import chakra, perfetto, simai_megatron, unroll

    return {
        "simai": simai_megatron.export,
        "chakra": chakra.export,
        "perfetto": perfetto.export,
        "unrolled": unroll.export,
    }[format_]


class Progress:
    """`3/216 workloads` on stderr, where that is a terminal."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.shown = sys.stderr.isatty()

    def step(self) -> None:
        """Count one more."""
        self.done += 1
        if self.shown:
            end = "\n" if self.done == self.total else "\r"
            print(f"{self.done}/{self.total} workloads", end=end, file=sys.stderr, flush=True)
