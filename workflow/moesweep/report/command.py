"""`moesweep figures` and `moesweep report`: results to look at."""

import argparse

from moesweep.edge.said import say
from moesweep.study.configured import add_options, asked
from moesweep.study.planned import add_planned_option, of_cluster, refuse_edited


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the parsers."""
    described = {
        "figures": (figures, "draw the figures: results/figures as SVG"),
        "report": (report, "write the page that shows it all: results/report.html"),
    }
    for name, (run, help_) in described.items():
        command = commands.add_parser(name, help=help_, description=help_)
        add_options(command)
        add_planned_option(command)
        if name == "figures":
            command.add_argument("--png", nargs="+", metavar="NAME", help="only these figures, as PNG")
        command.set_defaults(run=run)


def figures(arguments: argparse.Namespace) -> int:
    """Draw the figures."""
    from moesweep.report.figures.files import write_figures, write_pngs

    refuse_edited(arguments, lambda: of_cluster(asked(arguments).cluster()))
    results = asked(arguments).written()
    if arguments.png is None:
        write_figures(results)
    else:
        write_pngs(results, arguments.png)
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Write the page."""
    from moesweep.report.page import write_report

    refuse_edited(arguments, lambda: of_cluster(asked(arguments).cluster()))
    results = asked(arguments).written()
    write_report(results)
    say(f"{results.report}: open it in a browser")
    return 0
