"""The stages as commands: what `moesweep enumerate`, `validate`, `trace`, `cost` and `tables` do."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moesweep.export.command import add_unroll_options, unroll
from moesweep.study.configured import add_options, asked
from moesweep.study.naming import named

if TYPE_CHECKING:
    import polars as pl


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add one parser a stage."""
    stages = {
        "enumerate": (enumerate_, "write the sweep's resolved workloads: results/workloads.parquet"),
        "validate": (validate_, "check every workload: results/validation.parquet"),
        "trace": (trace, "write the op traces of workloads: results/traces"),
        "cost": (cost, "cost every traced workload: results/costs.parquet"),
        "tables": (tables, "write the answers: results/tables and results/summary.txt"),
        "manifest": (manifest, "record every result's checksum and origin: results/manifest.json"),
    }
    for name, (run, help_) in stages.items():
        command = commands.add_parser(name, help=help_, description=help_)
        add_options(command)
        if name == "trace":
            command.add_argument(
                "--workload", nargs="+", metavar="ID", help="workloads to trace (default: all)"
            )
            command.add_argument(
                "--validated", action="store_true", help="skip the validation: the workflow has done it"
            )
            add_unroll_options(command)
        command.set_defaults(run=run)
    _add_predict(commands)


def enumerate_(arguments: argparse.Namespace) -> int:
    """Write the catalogue; results of workloads that it does not list are removed."""
    from moesweep.run.clean import forget_others, unmade
    from moesweep.run.plan import load_plan
    from moesweep.store.tablefile import write_table

    plan = load_plan(asked(arguments))
    write_table(plan.workloads, plan.results.workloads, "workloads")
    forget_others(plan.results.root, plan.ids, unmade(plan))
    return 0


def validate_(arguments: argparse.Namespace) -> int:
    """Write what validation found; warnings are counted on stderr."""
    from moesweep.run.plan import load_plan
    from moesweep.store.tablefile import write_table

    plan = load_plan(asked(arguments))
    write_table(plan.findings, plan.results.validation, "validation")
    if plan.findings.height:
        print(f"{plan.findings.height} warnings: see {plan.results.summary}", file=sys.stderr)
    return 0


def trace(arguments: argparse.Namespace) -> int:
    """Write the traces of the named workloads of the sweep; or unroll them.

    They are resolved anew, not read from the catalogue: that may still be the one of another sweep.
    """
    if arguments.unroll:
        return unroll(arguments)
    from moesweep.trace.files import write_traces

    workloads = _resolved(arguments)
    if arguments.workload is not None:
        workloads = named(workloads, arguments.workload)
    write_traces(workloads, asked(arguments).results())
    return 0


def cost(arguments: argparse.Namespace) -> int:
    """Cost every workload of the catalogue on the configured cluster."""
    from moesweep.cost.files import write_costs

    configuration = asked(arguments)
    write_costs(configuration.results(), configuration.cluster())
    return 0


def tables(arguments: argparse.Namespace) -> int:
    """Write the tables and the summary."""
    from moesweep.tables.files import write_tables

    write_tables(asked(arguments).results())
    return 0


def manifest(arguments: argparse.Namespace) -> int:
    """Write the manifest of a finished sweep."""
    from moesweep.archive.manifest import write_manifest
    from moesweep.archive.origin import origin
    from moesweep.run.plan import load_plan

    plan = load_plan(asked(arguments))
    made_from = origin(Path.cwd(), plan.config, plan.cluster, plan.models, plan.config_files, plan.sources)
    paths = [Path(file).relative_to(plan.results.root).as_posix() for file in plan.recorded]
    write_manifest(plan.results, paths, made_from)
    return 0


def predict(arguments: argparse.Namespace) -> int:
    """Predict a list of runs; exit 1 if some could not be modelled and --keep-going wrote the others."""
    from moesweep.predict import predict

    return 1 if predict(arguments.runs, arguments.out, Path.cwd(), arguments.keep_going) else 0


def _add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    help_ = "predict any list of training runs: a CSV file in, its rows with all cost columns out"
    loads = "Experts are taken to be loaded unevenly, as in measured runs; a sweep says how it routes."
    command = commands.add_parser("predict", help=help_, description=f"{help_}. {loads}")
    command.add_argument("runs", type=Path, metavar="RUNS.csv", help="columns: schemas/tables/runs.json")
    command.add_argument("--out", required=True, metavar="OUT.csv", help="file to write")
    command.add_argument("--keep-going", action="store_true", help="predict the sound rows, list the others")
    command.set_defaults(run=predict)


def _resolved(arguments: argparse.Namespace) -> "pl.DataFrame":
    configuration = asked(arguments)
    if not arguments.validated:
        from moesweep.run.plan import load_plan

        return load_plan(configuration).workloads
    return configuration.workloads()
