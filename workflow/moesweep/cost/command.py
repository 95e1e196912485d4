"""`moesweep collectives`: predicted times of collectives, in the form of nccl-tests."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moesweep.edge.argument_numbers import whole_number
from moesweep.edge.problems import BadInput, Problem, collect, did_you_mean, shown

if TYPE_CHECKING:
    import polars as pl

    from moesweep.study.catalog import Cluster

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
LARGEST = 1 << 50
"""Bytes beyond which a buffer is none."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    help_ = "predicted times of collectives on a cluster, in the form of nccl-tests"
    command = commands.add_parser("collectives", help=help_, description=help_)
    add = command.add_argument
    add("--cluster", required=True, help="a cluster of config/clusters")
    add("--nodes", type=whole_number, default=1, metavar="N", help="nodes (1)")
    add("--ranks", type=whole_number, metavar="R", help="ranks, as many on each node (all GPUs of the nodes)")
    add("--collective", action="append", metavar="NAME", help=f"{', '.join(COLLECTIVES)} (all of them)")
    add("--sizes", metavar="LIST", help='buffers, such as "1MiB,1GiB" (8 B to 8 GiB, doubling)')
    add("--csv", action="store_true", help="base units, for a program")
    command.set_defaults(run=collectives)


def collectives(arguments: argparse.Namespace) -> int:
    """Print what was asked for; raise BadInput with every fault."""
    from moesweep.cost.predicted_collectives import COLUMNS, predicted
    from moesweep.study.catalog import load_cluster

    problems: list[Problem] = []
    mention = ("", "--cluster")
    cluster = collect(problems, load_cluster, Path(), arguments.cluster, mention)
    names = list(dict.fromkeys(arguments.collective or COLLECTIVES))
    for name in names:
        if name not in COLLECTIVES:
            message = f"there is no collective {shown(name)} here"
            advice = did_you_mean(name, COLLECTIVES)
            problems.append(Problem("", "--collective", "choice", shown(name), message, advice))
    sizes = _sizes(arguments.sizes, problems)
    ranks = _ranks(arguments.nodes, arguments.ranks, cluster, problems)
    if problems or cluster is None:
        raise BadInput(problems)
    if cluster.network.blocks:
        message = "not modelled here, these are times on a network that blocks nothing"
        print(f"network {cluster.network.name}: {message}", file=sys.stderr)
    table = predicted(cluster.values, names, arguments.nodes, ranks, sizes)
    print(table.select(COLUMNS).write_csv() if arguments.csv else _text(table, cluster.name), end="")
    return 0


def _sizes(given: str | None, problems: list[Problem]) -> list[int]:
    from moesweep.edge.quantities import QuantityError, parse_quantity

    sizes = []
    for text in (given or "").split(",") if given is not None else []:
        try:
            size = int(parse_quantity(text.strip(), "byte"))
        except QuantityError as error:
            problems.append(Problem("", "--sizes", "quantity", shown(text), error.message, error.suggestion))
            continue
        if 1 <= size <= LARGEST:
            sizes.append(size)
        else:
            message = f"{shown(text)} is no buffer's size"
            problems.append(Problem("", "--sizes", "range", shown(text), message, "1 B to 1024 TiB"))
    return sizes if given is not None else [8 << step for step in range(31)]


def _ranks(nodes: int, given: int | None, cluster: "Cluster | None", problems: list[Problem]) -> int:
    """Return the number of ranks; add what is wrong with nodes and ranks."""
    if not 1 <= nodes <= 1 << 20:
        message = f"{nodes} nodes are none"
        problems.append(Problem("", "--nodes", "range", str(nodes), message, "1 to 1048576"))
        return 0
    node = int(cluster.value("gpus_per_node")) if cluster else 1
    ranks = nodes * node if given is None else given
    if cluster and (ranks % nodes or not max(nodes, 2) <= ranks <= nodes * node):
        least = nodes * -(-2 // nodes)
        legal = list(range(least, nodes * node + 1, nodes))
        nearest = sorted(sorted(legal, key=lambda each: abs(each - ranks))[:2])
        message = f"{ranks} ranks do not stand evenly on {nodes} nodes of {node} GPUs, two or more together"
        advice = f"nearest: {', '.join(map(str, nearest))}"
        problems.append(Problem("", "--ranks", "ranks_by_nodes", str(ranks), message, advice))
    return ranks


def _text(table: "pl.DataFrame", cluster: str) -> str:
    """The table as nccl-tests prints one: bytes, microseconds, GB/s."""
    lines = [f"# {cluster}: predicted, not measured"]
    for (collective,), rows in table.group_by("collective", maintain_order=True):
        first = rows.row(0, named=True)
        lines += [f"# {collective}: {first['ranks']} ranks on {first['nodes']} nodes"]
        lines += [f"#{'size':>13}{'time':>14}{'algbw':>10}{'busbw':>10}  way"]
        lines += [f"#{'(B)':>13}{'(us)':>14}{'(GB/s)':>10}{'(GB/s)':>10}"]
        for row in rows.iter_rows(named=True):
            bandwidths = (row[f"{kind}_bytes_per_second"] / 1e9 for kind in ("algbw", "busbw"))
            algorithm, bus = (f"{each:>10.2f}" for each in bandwidths)
            size, time = f"{row['buffer_bytes']:>14}", f"{row['seconds'] * 1e6:>14.2f}"
            lines.append(f"{size}{time}{algorithm}{bus}  {row['way']}")
    return "\n".join(lines) + "\n"
