"""`moesweep explain`: the formula of a number, the numbers put in, and their sources, as a tree."""

import argparse
import json
import math
import shutil
import sys
from typing import TYPE_CHECKING

from moesweep.edge.argument_numbers import whole_number
from moesweep.edge.problems import BadInput, Problem, one_line
from moesweep.store.layout import Results
from moesweep.study.configured import Configuration, add_options, asked, configured
from moesweep.study.naming import the_one

if TYPE_CHECKING:
    import polars as pl

    from moesweep.explain.node import Node

_HELP = "say why a number is what it is: formula, numbers put in, results, sources, as a tree"
_METRIC = (
    "a cost column (iteration_seconds, peak_memory_bytes), a column of a stage (stage:0:seconds), "
    "of an op (op:expert_fc1:forward:seconds, op:moe_dispatch:comm_bytes) or of the workload (dp)"
)


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the parser of `moesweep explain`."""
    command = commands.add_parser("explain", help=_HELP, description=_HELP)
    command.add_argument("workload", metavar="WORKLOAD", help="id of a workload of the sweep")
    command.add_argument("metric", metavar="METRIC", help=_METRIC)
    command.add_argument(
        "--depth", type=whole_number, default=4, metavar="LEVELS", help="levels shown (%(default)s)"
    )
    command.add_argument(
        "--top", type=whole_number, default=4, metavar="N", help="parts shown of a long sum (%(default)s)"
    )
    command.add_argument("--format", choices=("text", "json"), default="text", help="(%(default)s)")
    add_options(command)
    command.set_defaults(run=explain)


def explain(arguments: argparse.Namespace) -> int:
    """Print the explanation of one metric of one workload."""
    from moesweep.explain.text_tree import TextTree, as_json

    _check(arguments)
    configuration = asked(arguments)
    results = configuration.results()
    workload, node = explained(configuration, arguments.workload, arguments.metric)
    # Before anything is printed: costs that cannot be read are refused.
    made = _made(results, workload, node)
    if arguments.format == "json":
        print(json.dumps(as_json(node, arguments.depth), indent=1, ensure_ascii=False))
    else:
        width = shutil.get_terminal_size((110, 24)).columns
        print(*map(one_line, TextTree(width, arguments.depth, arguments.top).lines(node)), sep="\n")
    _compare(results, made, node)
    return 0


def explained(configuration: Configuration, word: str, name: str) -> "tuple[str, Node]":
    """Return a workload's id, and one metric of it as a tree; raise BadInput if either is not there."""
    from moesweep.evaluate.programs import programs_of
    from moesweep.explain.ledger import Ledger
    from moesweep.explain.metrics import metric
    from moesweep.explain.origins import origins

    root, cluster = configuration.root, configuration.cluster()
    workload = _workload(configuration, configuration.results(), word)
    from_sweep = origins(root, configuration.load()["sweep"], workload.row(0, named=True))
    ledger = Ledger(workload, cluster, from_sweep, programs_of(workload, root))
    return workload["workload"].item(), metric(ledger, name)


def _check(arguments: argparse.Namespace) -> None:
    """Raise BadInput with every option that makes no sense."""
    problems = [
        Problem("", name, "range", str(value), f"{value} is below {least}", f"nearest: {least}")
        for name, value, least in (("--depth", arguments.depth, 0), ("--top", arguments.top, 1))
        if value < least
    ]
    if problems:
        raise BadInput(problems)


def _workload(configuration: Configuration, results: Results, word: str) -> "pl.DataFrame":
    """Return the workload's row, from the catalogue if there is one, else from the sweep."""
    from moesweep.store.tablefile import read_table

    made = results.workloads.exists()
    known = read_table(results.workloads, "workloads") if made else configured(configuration).workloads
    return the_one(known, word, "WORKLOAD")


def _made(results: Results, workload: str, node: "Node") -> float | None:
    """Return what the results hold of a cost column, None if nothing; raise BadInput if they are broken."""
    import polars as pl

    from moesweep.store.tablefile import dtypes, read_table

    if not results.costs.exists() or node.name not in dtypes("costs") or node.where:
        return None
    costs = read_table(results.costs, "costs").filter(pl.col("workload") == workload)
    return None if costs.is_empty() else costs[node.name][0]


def _compare(results: Results, found: float | None, node: "Node") -> None:
    """Say on stderr if the results at hand were made with other inputs than this explanation."""
    if found is None or not isinstance(node.value, float | int):
        return
    if not math.isclose(found, node.value, rel_tol=1e-12, abs_tol=1e-300):
        print(
            f"{results.costs} holds {found!r}, made with other inputs: run make sweep to renew it",
            file=sys.stderr,
        )
