"""The stages as commands: what `moesweep enumerate`, `validate`, `trace`, `cost` and `tables` do."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moesweep.edge.said import say, spoken_for
from moesweep.export.command import add_unroll_options, unroll
from moesweep.study.configured import add_options, asked
from moesweep.study.naming import named
from moesweep.study.planned import add_planned_option, of_cluster, refuse_edited

if TYPE_CHECKING:
    import polars as pl

    from moesweep.run.plan import Plan

_MEMORY = "memory of a GPU that recomputation is to fit, such as 40GiB (default: the cluster's)"


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
                "--resolved", type=Path, metavar="FILE", help="workloads that the workflow has resolved"
            )
            command.add_argument("--chunk", metavar="NAME", help="which of them to trace")
            add_unroll_options(command)
        else:
            add_planned_option(command)
        if name == "tables":
            command.add_argument("--memory", metavar="SIZE", help=_MEMORY)
        command.set_defaults(run=run)
    _add_predict(commands)


def enumerate_(arguments: argparse.Namespace) -> int:
    """Write the catalogue, and say what grids leave out and how large models are.

    Results of workloads not listed are removed.
    """
    from moesweep.run.clean import forget_others
    from moesweep.store.tablefile import write_table
    from moesweep.study.claims import as_facts
    from moesweep.tables.numbers import whole_spread

    plan = _plan(arguments)
    refuse_edited(arguments, lambda: plan.reads("enumerate"))
    results = plan.configuration.written()
    write_table(plan.workloads, results.workloads, "workloads", as_facts(plan.claims))
    for entry, reason, points in plan.skipped.iter_rows():
        print(f"{plan.config['sweep']}: {entry}: {reason}: {points} points left out", file=sys.stderr)
    # Between the lines of a run's progress they would be noise; its page and summary have them.
    models = plan.workloads.clear() if spoken_for() else plan.workloads
    for (model, kind), rows in models.group_by("model", "kind", maintain_order=True):
        held, passed = (whole_spread(rows[name]) for name in ("parameters", "active_parameters"))
        print(f"{model} {kind}: {held} parameters, of which a token passes {passed}")
    forget_others(plan)
    say(f"{results.workloads}: {plan.workloads.height} workloads")
    return 0


def validate_(arguments: argparse.Namespace) -> int:
    """Write what validation found, and say how much it is."""
    from moesweep.store.tablefile import write_table

    plan = _plan(arguments)
    refuse_edited(arguments, lambda: plan.reads("validate"))
    results = plan.configuration.written()
    write_table(plan.findings, results.validation, "validation")
    say(f"{results.validation}: {plan.findings.height} warnings")
    return 0


def trace(arguments: argparse.Namespace) -> int:
    """Write the traces of the named workloads of the sweep; or unroll them.

    They are resolved anew, not read from the catalogue: that may still be the one of another sweep.
    """
    if arguments.unroll:
        return unroll(arguments)
    from moesweep.export.request import needed, without_effect
    from moesweep.trace.files import write_index_of, write_traces

    names = ("out", "ranks", "microbatches", "overwrite")
    without_effect({f"--{name}": getattr(arguments, name) for name in names}, "without --unroll")
    if arguments.resolved is None:
        without_effect({"--chunk": arguments.chunk}, "without --resolved")
    else:
        needed({"--chunk": arguments.chunk}, "--resolved")
        without_effect({"--workload": arguments.workload}, "with --resolved")
    results = asked(arguments).written()
    if arguments.resolved is not None:
        workloads = _of_job(arguments.resolved, arguments.chunk)
        jobs = {arguments.chunk: workloads["workload"].to_list()}
    else:
        plan = _plan(arguments)
        chosen = arguments.workload
        workloads = plan.workloads if chosen is None else named(plan.workloads, chosen)
        traced = set(workloads["workload"])
        jobs = {chunk: ids for chunk, ids in plan.trace_jobs.items() if not traced.isdisjoint(ids)}
    write_traces(workloads, results)
    for chunk, ids in jobs.items():
        write_index_of(results, chunk, ids)
    say(f"{results.root / 'traces'}: {workloads.height} workloads traced")
    return 0


def _of_job(resolved: Path, chunk: str) -> "pl.DataFrame":
    """Return the workloads of one trace job, as the plan has written them; raise BadInput if it has not."""
    import polars as pl

    from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
    from moesweep.store.tablefile import readable

    with readable(resolved):
        written = pl.read_parquet(resolved, glob=False)
        found = written.filter(pl.col("chunk") == chunk).drop("chunk")
    if found.is_empty():
        message, known = f"{resolved} has no trace job {shown(chunk)}", written["chunk"].unique().to_list()
        raise BadInput([Problem("", "--chunk", "known", shown(chunk), message, did_you_mean(chunk, known))])
    return found


def cost(arguments: argparse.Namespace) -> int:
    """Cost every workload of the catalogue on the configured cluster."""
    from moesweep.evaluate.files import write_costs

    results, cluster = asked(arguments).written(), asked(arguments).cluster()
    refuse_edited(arguments, lambda: of_cluster(cluster))
    write_costs(results, cluster)
    say(f"{results.costs}: every workload costed on {cluster.name}")
    return 0


def tables(arguments: argparse.Namespace) -> int:
    """Write the tables and the summary."""
    from moesweep.tables.files import write_tables

    refuse_edited(arguments, lambda: of_cluster(asked(arguments).cluster()))
    results = asked(arguments).written()
    write_tables(results, arguments.memory)
    say(f"{results.summary}: the answers; as Parquet, CSV and Markdown: {results.root / 'tables'}")
    return 0


def manifest(arguments: argparse.Namespace) -> int:
    """Write the manifest of a finished sweep."""
    from moesweep.archive.manifest import write_manifest
    from moesweep.archive.origin import origin

    plan = _plan(arguments)
    refuse_edited(arguments, lambda: plan.reads("manifest"))
    results = plan.configuration.written()
    made_from = origin(Path.cwd(), plan.config, plan.cluster, plan.models, plan.config_files, plan.sources)
    paths = [Path(file).relative_to(results.root).as_posix() for file in plan.recorded]
    write_manifest(results, paths, made_from)
    say(f"{results.manifest}: {len(paths)} files, with checksums")
    return 0


def predict(arguments: argparse.Namespace) -> int:
    """Predict a list of runs; exit 1 if some could not be modelled and --keep-going wrote the others."""
    from moesweep.predict import predict

    faulty = predict(arguments.runs, arguments.out, Path.cwd(), arguments.keep_going)
    say(f"{arguments.out}: every run with its cost columns{f'; {faulty} without' if faulty else ''}")
    return 1 if faulty else 0


def _add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    help_ = "predict any list of training runs: a CSV file in, its rows with all cost columns out"
    loads = "Experts are taken to be loaded unevenly, as in measured runs; a sweep says how it routes."
    command = commands.add_parser("predict", help=help_, description=f"{help_}. {loads}")
    command.add_argument("runs", type=Path, metavar="RUNS.csv", help="columns: docs/runs.md")
    command.add_argument("--out", required=True, metavar="OUT.csv", help="file to write")
    command.add_argument("--keep-going", action="store_true", help="predict the sound rows, list the others")
    command.add_argument("--template", action=_Template, nargs=0, help="print a list of one run, and end")
    command.set_defaults(run=predict)


class _Template(argparse.Action):
    """Prints a list of one run with every column that is read."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from moesweep.predict import template

        print(template(Path.cwd()), end="")
        parser.exit()


def _plan(arguments: argparse.Namespace) -> "Plan":
    """Return the plan that a command's options ask for."""
    from moesweep.run.plan import load_plan

    return load_plan(asked(arguments))
