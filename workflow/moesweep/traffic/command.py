"""`moesweep traffic`: who sends how much to whom, between ranks, nodes or rails."""

import argparse
from pathlib import Path

from moesweep.layout import Results
from moesweep.outputs import folders_only_if_written, output_file
from moesweep.problems import BadInput, Problem, collect, did_you_mean

_HELP = "write traffic matrices: of every workload between nodes, or of one between ranks, nodes or rails"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the parser of `moesweep traffic`."""
    command = commands.add_parser("traffic", help=_HELP, description=_HELP)
    command.add_argument(
        "--config", default="config/config.yaml", help="configuration of the workflow (%(default)s)"
    )
    command.add_argument(
        "--results", type=Path, default=Path("results"), help="folder of the results (%(default)s)"
    )
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
    from moesweep.catalog import configured_cluster
    from moesweep.traffic.files import write_matrix, write_traffic
    from moesweep.traffic.matrices import LEVELS

    results = Results(arguments.results)
    out = _check(arguments, results, LEVELS)
    cluster = configured_cluster(Path.cwd(), arguments.config)
    gpus_per_node = int(cluster.value("gpus_per_node"))
    if out is None:
        write_traffic(results, gpus_per_node)
    else:
        with folders_only_if_written(out):
            write_matrix(results, arguments.workload, arguments.level, gpus_per_node, out)
    return 0


def _check(arguments: argparse.Namespace, results: Results, levels: tuple[str, ...]) -> Path | None:
    """Return the file of the one matrix, None for all; raise BadInput with all that is wrong."""
    from moesweep.tablefile import read_table

    problems: list[Problem] = []
    level, workload, out = arguments.level, arguments.workload, None
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
        known = read_table(results.workloads, "workloads")["workload"].to_list()
        if workload not in known:
            message = f"there is no workload {workload} in the sweep"
            advice = did_you_mean(workload, known)
            problems.append(Problem("", "--workload", "known", workload, message, advice))
        if arguments.out is None:
            # Not among the results: those are what the workflow makes, and what it does not make is cleaned.
            message, advice = "one workload's matrix needs a file", "add --out OUT.parquet"
            problems.append(Problem("", "--out", "missing", "", message, advice))
        else:
            out = collect(problems, output_file, arguments.out)
    if problems:
        raise BadInput(problems)
    return out
