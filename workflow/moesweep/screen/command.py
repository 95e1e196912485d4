"""`moesweep screen` and `moesweep best`: layouts searched."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moesweep.edge.argument_numbers import is_index, whole_number
from moesweep.edge.outputs import folders_only_if_written, output_file
from moesweep.edge.problems import BadInput, Problem, collect, did_you_mean, shown
from moesweep.study.configured import add_options, asked

if TYPE_CHECKING:
    from moesweep.screen.choice import Choice
    from moesweep.screen.run import Screened

SHOWN_POINTS = 50
"""Most points that are shown beside being written."""

MOST_SHARDS = 10_000


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `screen` and `best`."""
    help_ = "cost every legal point of a space: a sweep file, of which illegal points are left out"
    command = commands.add_parser("screen", help=help_, description=help_)
    add = command.add_argument
    add("space", metavar="SPACE.yaml", help="the space: docs/sweeps.md")
    add("--out", required=True, metavar="OUT.parquet", help="file to write: workload, cluster, costs")
    add("--refused", metavar="FILE", help="write the points that break a rule, with the rule, as Parquet")
    add("--top", type=whole_number, metavar="N", help="keep the best N points")
    add("--by", metavar="COLUMN", help="what is best: the least, of tokens, flops and MFU the most")
    add("--fits", action="store_true", help="keep what fits the GPU's memory")
    add("--pareto", action="store_true", help="keep what no point betters in time, memory and price at once")
    add("--sweep", metavar="OUT.yaml", help="write the points that are kept as a sweep, to trace them")
    add("--shard", default="1/1", metavar="I/N", help="do a part of the work: the I-th of N (%(default)s)")
    add("--points", type=whole_number, metavar="N", help="allow a space of so many points")
    add_options(command)
    command.set_defaults(run=screen)
    add_best(commands)


def screen(arguments: argparse.Namespace) -> int:
    """Screen a space; say on stderr what was left out."""
    from moesweep.screen.kept import Kept
    from moesweep.screen.run import clusters_of, made_from, parts_of
    from moesweep.screen.run import screen as run
    from moesweep.study.space import MAX_POINTS, load_space

    problems: list[Problem] = []
    out = collect(problems, output_file, arguments.out, [Path(arguments.space)])
    also = [
        name and collect(problems, output_file, name, [Path(arguments.space)])
        for name in (arguments.refused, arguments.sweep)
    ]
    problems += _not_parquet(arguments)
    choice = collect(problems, _choice, arguments)
    shard = collect(problems, _shard, arguments.shard)
    configuration = asked(arguments)
    most = MAX_POINTS if arguments.points is None else arguments.points
    space = collect(problems, load_space, configuration.root, arguments.space, most)
    clusters = None if space is None else collect(problems, clusters_of, space, configuration)
    if out is None or choice is None or shard is None or space is None or clusters is None or problems:
        raise BadInput(problems)
    refused, sweep = also
    parts = parts_of(space, shard[1])
    made = made_from(space, clusters, choice, parts, refused is not None)
    with folders_only_if_written(out):
        found = run(space, clusters, choice, Kept(out, made, refused), parts, shard)
    _say(found, out)
    points = found.points
    if points is not None and "workload" in points.columns and points.height <= SHOWN_POINTS:
        from moesweep.screen.shown import table

        print(table(points, ["workload", "cluster"]))
    if points is not None and sweep is not None:
        from moesweep.screen.chosen import write_sweep

        write_sweep(space, points, sweep)
        print(f"{sweep}: {points.height} workloads; trace them with moesweep run --set sweep={sweep}")
    return 0


def _not_parquet(arguments: argparse.Namespace) -> list[Problem]:
    """Return a problem for each file of points that another form's name says."""
    files = {"--out": arguments.out, "--refused": arguments.refused}
    others = {
        option: shown(name) for option, name in files.items() if name and Path(name).suffix != ".parquet"
    }
    message, advice = "points are written as Parquet", "end the name with .parquet"
    return [
        Problem("", option, "form", name, f"{name}: {message}", advice) for option, name in others.items()
    ]


def _choice(arguments: argparse.Namespace) -> "Choice":
    """Return what is to be kept; raise BadInput with all that makes no sense."""
    from moesweep.screen.choice import RANKED, Choice

    problems = []
    by = arguments.by or "iteration_seconds"
    if by not in RANKED:
        message = f"points cannot be ranked by {shown(by)}"
        problems.append(Problem("", "--by", "known", shown(by), message, did_you_mean(by, RANKED)))
    if arguments.by is not None and arguments.top is None:
        message = "without --top nothing is ranked"
        problems.append(Problem("", "--by", "without_effect", by, message, "add --top 10"))
    if arguments.top is not None and arguments.top < 1:
        message = f"{arguments.top} points are none"
        problems.append(Problem("", "--top", "range", str(arguments.top), message, "nearest: 1"))
    if arguments.points is not None and arguments.points < 1:
        message = f"a space of {arguments.points} points is none"
        problems.append(Problem("", "--points", "range", str(arguments.points), message, "nearest: 1"))
    if problems:
        raise BadInput(problems)
    return Choice(arguments.top, by, arguments.fits, arguments.pareto)


def _shard(text: str) -> tuple[int, int]:
    first, slash, last = text.partition("/")
    if slash and is_index(first) and is_index(last) and 1 <= int(first) <= int(last) <= MOST_SHARDS:
        return int(first), int(last)
    message = f"{shown(text)} is no shard"
    raise BadInput([Problem("", "--shard", "form", shown(text), message, "write 1/4 for the first of four")])


def _say(found: "Screened", out: Path) -> None:
    """Say on stderr what was left out, and what was made."""
    for reason, count in found.left_out.items():
        print(f"{reason}: {count} points left out", file=sys.stderr)
    if found.missing:
        print(f"{out}: {found.missing} parts are still to be made by other shards", file=sys.stderr)
        return
    kept = 0 if found.points is None else found.points.height
    # Of a point with a twin two workloads are legal.
    twins = found.legal + sum(found.left_out.values()) > found.space
    legal = f"{found.legal} legal ones{', twins among them' if twins else ''}"
    print(f"{out}: {kept} kept of {legal}, of {found.space} points", file=sys.stderr)


def add_best(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `best`."""
    help_ = "find the best layouts of a model on some GPUs, and say why others fall out"
    command = commands.add_parser("best", help=help_, description=help_)
    add = command.add_argument
    add("model", metavar="MODEL", help="a model of the catalogue")
    add(
        "given",
        nargs="*",
        metavar="NAME=VALUE",
        help="keys of a sweep to take as they are, such as num_experts=16 or tp=8",
    )
    add("--gpus", type=whole_number, required=True, metavar="N", help="number of GPUs")
    add("--cluster", metavar="NAME", help="a cluster of the catalogue (default: the configured one)")
    add("--memory", metavar="SIZE", help="memory of a GPU, such as 40GiB (default: the cluster's)")
    add("--top", type=whole_number, default=10, metavar="N", help="layouts shown (%(default)s)")
    add("--sweep", metavar="OUT.yaml", help="write the layouts shown as a sweep, to trace them")
    add_options(command)
    command.set_defaults(run=best)


def best(arguments: argparse.Namespace) -> int:
    """Print the best layouts; 1 if nothing fits."""
    from moesweep.screen.advice import advice
    from moesweep.screen.best import best, searched
    from moesweep.study.assigned import assignments, values
    from moesweep.study.catalog import load_cluster, with_memory

    problems: list[Problem] = []
    for option, number in (("--gpus", arguments.gpus), ("--top", arguments.top)):
        if number < 1:
            problems.append(Problem("", option, "range", str(number), f"{number} is below 1", "nearest: 1"))
    given = collect(problems, lambda: values(assignments(arguments.given)))
    configuration = asked(arguments)
    place, name = ("", "--cluster"), arguments.cluster
    cluster = collect(
        problems,
        lambda: configuration.cluster() if name is None else load_cluster(configuration.root, name, place),
    )
    if cluster is not None and arguments.memory is not None:
        cluster = collect(problems, with_memory, cluster, arguments.memory)
    # Its options are what is not said otherwise.
    configured = configuration.root / str(configuration.sound()[0].get("sweep", ""))
    sweep = arguments.sweep and collect(problems, output_file, arguments.sweep, [configured])
    if given is None or cluster is None or problems:
        raise BadInput(problems)
    space = searched(configuration, arguments.model, arguments.gpus, given)
    found = best(space, cluster, arguments.top)
    print(*advice(found, cluster), sep="\n")
    if found.best.is_empty():
        return 1
    if sweep is None:
        print(
            "to trace them: add --sweep best.yaml, then moesweep run --set sweep=best.yaml --results out/best"
        )
    else:
        from moesweep.screen.chosen import write_sweep

        write_sweep(space, found.best, sweep)
        print(f"{sweep}: trace them with moesweep run --set sweep={sweep} --results out/{sweep.stem}")
    return 0
