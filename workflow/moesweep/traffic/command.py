"""`moesweep traffic`: who sends how much to whom, between ranks, nodes or rails."""

import argparse
from pathlib import Path

from moesweep.edge.outputs import folders_only_if_written, output_file
from moesweep.edge.problems import BadInput, Problem, collect, did_you_mean
from moesweep.edge.said import say
from moesweep.store.layout import Results
from moesweep.study.configured import add_options, asked
from moesweep.study.naming import the_one
from moesweep.study.planned import add_planned_option, digest, refuse_edited

_HELP = "write traffic matrices: of every workload between nodes, or of one between ranks, nodes or rails"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the parser of `moesweep traffic`."""
    command = commands.add_parser("traffic", help=_HELP, description=_HELP)
    add_options(command)
    add_planned_option(command)
    command.add_argument("--workload", metavar="ID", help="this workload alone (default: all)")
    command.add_argument(
        "--level", default="node", help="between what: rank, node or rail (%(default)s); needs --workload"
    )
    command.add_argument(
        "--out",
        metavar="OUT.parquet",
        help="where to write the one matrix",
    )
    command.set_defaults(run=traffic)


def traffic(arguments: argparse.Namespace) -> int:
    """Write the matrices that are asked for."""
    from moesweep.traffic.files import write_matrix, write_traffic
    from moesweep.traffic.matrices import LEVELS

    configuration = asked(arguments)
    results = configuration.results()
    asked_for = _check(arguments, results, LEVELS)
    gpus_per_node = int(configuration.cluster().value("gpus_per_node"))
    refuse_edited(arguments, lambda: digest([str(gpus_per_node)]))
    if asked_for is None:
        write_traffic(configuration.written(), gpus_per_node)
        say(f"{results.links}: bytes on links; between nodes: {results.root / 'traffic/node'}")
    else:
        workload, out = asked_for
        with folders_only_if_written(out):
            write_matrix(results, workload, arguments.level, gpus_per_node, out)
        say(f"{out}: {workload}, {arguments.level} level")
    return 0


def _check(
    arguments: argparse.Namespace, results: Results, levels: tuple[str, ...]
) -> tuple[str, Path] | None:
    """Return workload and file of the one matrix, None for all; raise BadInput with all that is wrong."""
    from moesweep.store.tablefile import read_table

    problems: list[Problem] = []
    level, workload = arguments.level, arguments.workload
    row = out = None
    if level not in levels:
        advice = did_you_mean(level, levels)
        problems.append(Problem("", "--level", "known", level, f"there is no level {level}", advice))
    if workload is None:
        given = {"--level": level != "node", "--out": arguments.out is not None}
        message, advice = "is for one workload's matrix, and no --workload is given", "add --workload ID"
        problems += [
            Problem("", name, "needs_workload", "", message, advice)
            for name, is_given in given.items()
            if is_given
        ]
    else:
        row = collect(problems, the_one, read_table(results.workloads, "workloads"), workload)
        if arguments.out is None:
            # Not among the results: those are what the workflow makes, and what it does not make is cleaned.
            message, advice = "one workload's matrix needs a file", "add --out OUT.parquet"
            problems.append(Problem("", "--out", "missing", "", message, advice))
        else:
            out = collect(problems, output_file, arguments.out)
    if problems:
        raise BadInput(problems)
    return None if out is None or row is None else (row["workload"].item(), out)
