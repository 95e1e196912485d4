"""`moesweep network`: what topologies do to workloads, which links carry what, what a card needs."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moesweep.edge.outputs import among_results
from moesweep.edge.problems import BadInput, Problem, collect, did_you_mean, shown
from moesweep.edge.said import say, spoken_for
from moesweep.study.configured import Configuration, add_options, asked
from moesweep.study.planned import add_planned_option, digest, refuse_edited

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

    from moesweep.store.layout import Results
    from moesweep.study.catalog import Cluster
    from moesweep.topologies.compared import Compared

_HELP = "say what networks do to workloads: slowdowns and seconds, parts and prices, and loads of links"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the parser of `moesweep network`."""
    command = commands.add_parser("network", help=_HELP, description=_HELP)
    add_options(command)
    add_planned_option(command)
    command.add_argument(
        "--topology",
        action="append",
        metavar="NAME|FILE.yaml",
        help="a network of config/networks, or a file (default: all whose flows are not hashed)",
    )
    command.add_argument(
        "--workload", action="append", metavar="ID", help="these workloads alone, by id, beginning or glob"
    )
    command.add_argument(
        "--order",
        action="append",
        metavar="AXES",
        help="also this placement of ranks, such as tp-pp-dp or ep-etp-edp-pp: axes, the fastest first",
    )
    command.add_argument(
        "--links", action="store_true", help="also write the loads of links, from traces and costs"
    )
    command.add_argument("--out", metavar="DIR", help="new folder for the tables (default: print a summary)")
    command.set_defaults(run=network)


def network(arguments: argparse.Namespace) -> int:
    """Write the stage's table, or answer what is asked, into files if a folder is named; print a summary."""
    from moesweep.topologies.summary import lines

    asked_for = ("topology", "workload", "order", "links", "out")
    is_question = any(getattr(arguments, name) for name in asked_for)
    table = _answered(arguments) if is_question else _staged(arguments)
    # Amid the progress lines of a run it would be noise; the page has it.
    if not spoken_for():
        print(*lines(table), sep="\n")
    return 0


def _staged(arguments: argparse.Namespace) -> "pl.DataFrame":
    """Write results/network; return its table. Networks that hold a world of the sweep are all compared."""
    from moesweep.edge.line_numbers import numbered
    from moesweep.store.tablefile import read_table
    from moesweep.topologies.files import read_of, write_topologies

    configuration = asked(arguments)
    root, cluster = configuration.root, configuration.cluster()
    refuse_edited(arguments, lambda: digest([read_of(cluster, root)]))
    results = configuration.written()
    for line in numbered(write_topologies(results, cluster, root)):
        print(f"left out: {line}", file=sys.stderr)
    say(f"{results.topologies}: every workload on every network that holds it")
    return read_table(results.topologies, "topologies")


def _answered(arguments: argparse.Namespace) -> "pl.DataFrame":
    """Return what the networks asked for do to the workloads asked for; write the tables into a folder."""
    from moesweep.report.figures import oversubscription
    from moesweep.report.figures import topologies as by_network
    from moesweep.report.networks import slower
    from moesweep.store.tablefile import write_table
    from moesweep.study.networks import load_parts
    from moesweep.topologies.compared import compared, topologies
    from moesweep.topologies.needs import nic_need
    from moesweep.topologies.thinned import thinned

    configuration = asked(arguments)
    workloads, clusters, out = _check(arguments, configuration)
    found = compared(workloads, clusters, configuration.root)
    slowdowns = found.slowdowns(orders=arguments.order or ())
    prices = {name: part.value for name, part in load_parts(configuration.root).items()}
    table = topologies(found, slowdowns, prices)
    if out is not None:
        write_table(table, out / "topologies.parquet", "topologies")
        write_table(found.kinds(slowdowns), out / "network_kinds.parquet", "network_kinds")
        _draw(out / "topologies.svg", by_network.draw, rows=slower(table))
        _draw(
            out / "oversubscription.svg",
            oversubscription.draw,
            rows=thinned(found, prices, configuration.root),
        )
        write_table(nic_need(workloads, configuration.cluster()), out / "nic_need.parquet", "nic_need")
        if arguments.links:
            _write_links(found, configuration.results(), out)
        say(f"{out}: what these networks do")
    return table


def _draw(file: Path, draw: "Callable[..., Figure]", **showing: object) -> None:
    from moesweep.report.figures.style import as_svg
    from moesweep.store.tablefile import whole

    with whole(file) as partial:
        partial.write_text(as_svg(file.stem, draw, showing), encoding="utf-8")


def _write_links(found: "Compared", results: "Results", out: Path) -> None:
    """Write a table of links for each workload and network, the busiest of all of them, and their bursts.

    Drawn is what they carry of the first of the largest workloads.
    """
    import polars as pl

    from moesweep.network.links import by_kind, link_table, matrix_of
    from moesweep.report.figures import link_loads
    from moesweep.store.tablefile import read_table, write_table
    from moesweep.topologies.demand import demand

    loads, largest = [], []
    shown_id = found.workloads.sort("world_size", descending=True, maintain_order=True)["workload"][0]
    for row in found.workloads.iter_rows(named=True):
        matrices: dict[int, pl.DataFrame] = {}
        for name in found.clusters:
            built = found.topologies[name, row["world_size"]]
            if built.island not in matrices:
                matrices[built.island] = matrix_of(results, row, built.island, None)
            links = link_table(built, matrices[built.island])
            names = {"workload": row["workload"], "network": name}
            file = out / f"links/network={name}/workload={row['workload']}.parquet"
            write_table(links, file, "network_links", names)
            if row["workload"] == shown_id:
                largest.append(links.with_columns(network=pl.lit(name)))
            loads.append(by_kind(links).with_columns(pl.lit(word).alias(key) for key, word in names.items()))
    write_table(pl.concat(loads), out / "network_loads.parquet", "network_loads")
    of_links = pl.concat(largest)
    _draw(out / "link_loads.svg", link_loads.draw, workload=shown_id, rows=link_loads.by_class(of_links))
    _draw(
        out / "worst_layer.svg",
        link_loads.draw_layer,
        workload=shown_id,
        rows=link_loads.worst_layer(of_links),
    )
    ids = found.workloads["workload"].implode()
    ops, costs = read_table(results.distinct_ops, "distinct_ops"), read_table(results.costs, "costs")
    rows = demand(
        found, ops.filter(pl.col("workload").is_in(ids)), costs.select("workload", "iteration_seconds")
    )
    write_table(rows, out / "network_demand.parquet", "network_demand")


def _check(
    arguments: argparse.Namespace, configuration: Configuration
) -> "tuple[pl.DataFrame, list[Cluster], Path | None]":
    """Return workloads, the cluster on each network, the folder; raise BadInput with all that is wrong."""
    from moesweep.store.tablefile import read_table
    from moesweep.study.naming import named

    problems: list[Problem] = []
    results = configuration.results()
    workloads = collect(problems, read_table, results.workloads, "workloads")
    if workloads is not None and arguments.workload is not None:
        workloads = collect(problems, named, workloads, arguments.workload)
    clusters = collect(problems, _clusters, arguments.topology, configuration)
    problems += _order_problems(arguments.order or ())
    if arguments.planned is not None:
        message = "nothing that the workflow makes is asked for"
        problems.append(
            Problem("", "--planned", "no_effect", shown(arguments.planned), message, "leave it out")
        )
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None:
        problems += among_results(out, results.root)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            message = "is there already and is no empty folder"
            problems.append(Problem("", "--out", "not_empty", str(out), f"{out} {message}", "name a new one"))
    elif arguments.links:
        message = "the loads of links are files, and no --out is given"
        problems.append(Problem("", "--links", "no_effect", "", message, "add --out DIR"))
    if problems or workloads is None or clusters is None:
        raise BadInput(problems)
    return workloads, clusters, out


def _clusters(words: Sequence[str] | None, configuration: Configuration) -> "list[Cluster]":
    """Return the configured cluster on the default network and on each that is asked for."""
    from moesweep.study.networks import DEFAULT_NETWORK, NON_BLOCKING, named_network
    from moesweep.topologies.chosen import catalogue_networks

    root, problems, cluster = configuration.root, list[Problem](), configuration.cluster()
    if words is None:
        return [cluster.on(each) for each in catalogue_networks(root, cluster)]
    loaded = [collect(problems, named_network, root, name, ("", "--topology")) for name in words]
    found = [each for each in loaded if each is not None]
    of_name = {each.name: each for each in [NON_BLOCKING, *found]}
    twice = [each for each in found if of_name[each.name] is not each]
    problems += [
        Problem("", "--topology", "duplicate", each.name, f"two networks are called {each.name}")
        for each in twice
        if each.name != DEFAULT_NETWORK
    ]
    if problems:
        raise BadInput(problems)
    return [cluster.on(each) for each in of_name.values()]


def _order_problems(orders: Iterable[str]) -> list[Problem]:
    from moesweep.network.order import ORDERS

    return [
        Problem("", "--order", "known", order, f"there is no order {order}", did_you_mean(order, ORDERS))
        for order in orders
        if order not in ORDERS
    ]
