"""`moesweep export`: the trace in the formats of other tools."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesweep.edge.argument_numbers import whole_number
from moesweep.study.configured import add_options

if TYPE_CHECKING:
    import polars as pl

    from moesweep.export.request import Request
    from moesweep.export.source import Traced

_HELP = (
    "write workloads in the form of SimAI, Chakra (ASTRA-sim), Perfetto, GOAL or htsim, or networks in theirs"
)


_OF_WRITING = (
    *("format", "workload", "sweep", "stage", "ranks", "microbatches", "overwrite"),
    *("network", "op", "layer", "phase", "time_unit"),
)
"""The options that `--check` does not heed."""

_FORMS = ("simai", "chakra", "perfetto", "goal", "htsim", "simai-topology", "astra-network")


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `export`."""
    command = commands.add_parser("export", help=_HELP, description=_HELP)
    add = command.add_argument
    add("--format", metavar="FORM", help=f"the form to write: {', '.join(_FORMS)}")
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
    add(
        "--microbatches",
        type=whole_number,
        metavar="N",
        help="write the first N micro-batches of an iteration",
    )
    add("--time-unit", metavar="ns|ps", help="GOAL: unit of time, ns for ATLAHS (default), ps for LogGOPSim")
    add("--network", metavar="NAME|FILE.yaml", help="htsim and networks: which (default: non-blocking)")
    add("--op", metavar="OP|all", help="htsim: op to send (default: moe_dispatch), all for a micro-batch")
    add(
        "--layer",
        type=whole_number,
        metavar="N",
        help="htsim: layer of the op (default: the first that has it)",
    )
    add("--phase", metavar="forward|backward", help="htsim: pass of the op (default: forward)")
    add("--overwrite", action="store_true", help="replace files in a folder that is not empty")
    add("--check", action="store_true", help="write nothing: validate what is in DIR")
    add_options(command)
    command.set_defaults(run=export)


def add_unroll_options(command: argparse.ArgumentParser) -> None:
    """Add to `trace` the options of `trace --unroll`."""
    group = command.add_argument_group("one row per executed op, with its time (Parquet)")
    group.add_argument("--unroll", action="store_true", help="write the linear order instead of the trace")
    group.add_argument("--out", type=Path, metavar="DIR", help="folder to write to, new or empty")
    group.add_argument("--ranks", metavar="0,4,8-15", help="ranks to write (default: all)")
    group.add_argument(
        "--microbatches", type=whole_number, metavar="N", help="only the first N micro-batches"
    )
    group.add_argument("--overwrite", action="store_true", help="replace files in a folder that is not empty")


def unroll(arguments: argparse.Namespace) -> int:
    """Write the linear order of the named workloads."""
    from moesweep.export.request import chosen, needed, without_effect

    without_effect({"--resolved": arguments.resolved, "--chunk": arguments.chunk}, "with --unroll")
    needed({"--out": arguments.out, "--workload": arguments.workload}, "--unroll")
    request = _request(arguments, format="unrolled")
    _write_traced(chosen(request), request)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write the chosen workloads, or check what is there."""
    from moesweep.export.request import OF_NETWORKS, chosen, needed, without_effect

    if arguments.check:
        given = {name: value for name, value in vars(arguments).items() if name in _OF_WRITING}
        without_effect(
            {f"--{name.replace('_', '-')}": value for name, value in given.items()}, "with --check"
        )
        return _check(arguments.out)
    needed({"--format": arguments.format}, "export")
    request = _request(
        arguments,
        format=arguments.format,
        flavor=arguments.flavor,
        sweep=arguments.sweep,
        stage=arguments.stage,
        network=arguments.network,
        op=arguments.op,
        layer=arguments.layer,
        phase=arguments.phase,
        time_unit=arguments.time_unit,
    )
    workloads = chosen(request)
    if request.format in OF_NETWORKS:
        _write_networks(workloads, request)
    elif request.format == "simai" and request.flavor == "aicb":
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
    """Print what the exports in a folder hold; raise BadInput with their faults."""
    from moesweep.edge.problems import BadInput, Problem
    from moesweep.export.chakra_check import SHOWN_PROBLEMS, check_folder, folders
    from moesweep.export.check import check_files

    sets = [check_folder(each) for each in folders(folder)]
    files = check_files(folder)
    if not sets and not files:
        message = f"{folder} holds no .et, .goal, .cm, .topo or .yml files"
        raise BadInput([Problem("", "--out", "traces", str(folder), message)])
    for each in sets:
        verdict = "valid" if not each.problems else f"faults: {len(each.problems)}"
        if each.absent or each.unjudged_messages:
            verdict += (
                f"; for reading only, ASTRA-sim runs whole sets: {each.absent} ranks are not here, "
                f"and {each.unjudged_messages} messages have an end there"
            )
        print(f"{each.folder}: {each.ranks} ranks, {each.nodes} nodes: {verdict}")
    for file in files:
        verdict = "valid" if not file.problems else f"faults: {len(file.problems)}"
        print(f"{file.path}: {file.content}: {verdict}")
    faults = [each.problems for each in sets] + [each.problems for each in files]
    problems = [problem for each in faults for problem in each[:SHOWN_PROBLEMS]]
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


def _write_networks(workloads: "pl.DataFrame", request: "Request") -> None:
    """A network's files follow from the number of GPUs alone."""
    from moesweep.export import astra_network, simai_topology
    from moesweep.export.folder import failures_named

    write = {"simai-topology": simai_topology.export, "astra-network": astra_network.export}[request.format]
    with failures_named(request.out):
        for world_size in workloads["world_size"].unique().sort():
            write(world_size, request)


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
    from moesweep.export import chakra, goal, htsim, perfetto, simai_megatron, unroll

    return {
        "simai": simai_megatron.export,
        "chakra": chakra.export,
        "perfetto": perfetto.export,
        "goal": goal.export,
        "htsim": htsim.export,
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
