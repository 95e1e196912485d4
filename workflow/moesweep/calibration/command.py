"""`moesweep calibrate`: fit, test the fit on what it has not seen, write constants and docs/validation.md."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    help_ = "fit the constants that no source gives to measured runs; write them and docs/validation.md"
    command = commands.add_parser("calibrate", help=help_, description=help_)
    about = "runs with source and measured time"
    command.add_argument("runs", type=Path, metavar="RUNS.csv", nargs="+", help=about)
    command.add_argument("--docs", type=Path, default=Path("docs"), help="where validation.md goes")
    keep = "leave the constants as they are: show their errors, write nothing"
    command.add_argument("--keep", action="store_true", help=keep)
    command.set_defaults(run=calibrate)
    help_ = "write a script that times kernels on a GPU, or what it printed into a GPU's file"
    command = commands.add_parser("measure", help=help_, description=help_)
    printed = "what the script printed; left out: write the script"
    command.add_argument("times", type=Path, nargs="?", metavar="TIMES.json", help=printed)
    command.add_argument("--out", required=True, metavar="FILE", help="the script, or the GPU's file")
    like = "the GPU that says what no kernel does, such as h100-sxm-80gb"
    command.add_argument("--like", default="", metavar="GPU", help=like)
    command.set_defaults(run=measure)


def measure(arguments: argparse.Namespace) -> int:
    """Write the script for a GPU, or from its output a GPU's file. Raises BadInput with every fault."""
    from moesweep.calibration import on_gpu
    from moesweep.calibration.gpu_file import write_gpu
    from moesweep.edge.outputs import folders_only_if_written, output_file
    from moesweep.edge.problems import BadInput, Problem
    from moesweep.store.tablefile import whole

    times, like = arguments.times, arguments.like
    out = output_file(arguments.out, [times] if times else [])
    if bool(like) != bool(times):
        rule, message = ("missing", "no kernel says peak, memory and links") if times else ("no_effect", "")
        message = message or "the script is the same for every GPU"
        advice = "such as --like h100-sxm-80gb" if times else "remove it"
        raise BadInput([Problem("", "--like", rule, like, message, advice)])
    with folders_only_if_written(out):
        if times:
            print(*write_gpu(times, like, out, Path.cwd()), sep="\n")
        else:
            with whole(out) as partial:
                partial.write_text(Path(on_gpu.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{arguments.out}: " + ("a GPU" if times else "run it on a GPU, keep what it prints"))
    return 0


def calibrate(arguments: argparse.Namespace) -> int:
    """Fit, leave groups out, set the band, write all at the end; print the errors. Several minutes.

    Raises BadInput, with nothing changed, if the list is faulty or lacks a set of runs that the fit needs.
    """
    import polars as pl

    from moesweep.calibration.bands import bands
    from moesweep.calibration.fit import errors, fit, left_out, lines_about, save, to_fit
    from moesweep.calibration.measured import UNSEEN, of_every_set, read_measured, thinned
    from moesweep.calibration.report import SCHEMES, accuracy, constants_table, draw, write_validation
    from moesweep.evaluate.costs import on_networks
    from moesweep.predict import cluster_names
    from moesweep.study.catalog import load_cluster

    root = Path.cwd()
    read = read_measured(arguments.runs, cluster_names(root))
    if not arguments.keep:
        of_every_set(read, arguments.runs)
    clusters = [load_cluster(root, name) for name in read.runs["cluster"].unique().sort()]
    measured = replace(read, runs=on_networks(read.runs, clusters))
    if arguments.keep:
        print(accuracy(measured, errors(measured, clusters, []), {}))
        return 0
    thin = thinned(measured.where(~pl.col("group").is_in(UNSEEN)), 4)
    best = fit(thin, clusters, to_fit(clusters))
    inside, outside, lines = errors(measured, clusters, best), {}, lines_about(thin, clusters, best)
    print(constants_table(best))
    for scheme in SCHEMES:
        print(f"leaving groups out by {scheme}", file=sys.stderr)
        outside[scheme] = left_out(measured, thin, clusters, lines, scheme)
    known, inside_band = bands(measured.runs, outside["source"], clusters)
    save([*best, *known], root)
    print(accuracy(measured, inside, outside))
    write_validation(arguments.docs / "validation.md", measured, best, inside, outside, inside_band)
    draw(arguments.docs / "validation.svg", measured, inside)
    return 0
