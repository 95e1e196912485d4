"""What a run with --keep-going goes on without: workloads whose traces failed.

`moesweep run` names them in the environment, so that Snakemake, its jobs and the commands that these start
all plan for the same workloads. The next run without that environment plans for the whole sweep again; what
is left of another run's environment is refused, as it would drop workloads and their results.
"""

import os
from typing import TYPE_CHECKING

from moesweep.edge.problems import BadInput, Problem
from moesweep.run.lock import holder

if TYPE_CHECKING:
    import polars as pl

ALONE = "MOESWEEP_ALONE"
"""The run, a colon, and workloads that get a trace job of their own, separated by commas."""

WITHOUT = "MOESWEEP_WITHOUT"
"""The run, a colon, and workloads that are left out, separated by commas."""


def alone() -> frozenset[str]:
    """Return the workloads that get a trace job of their own."""
    return _listed(ALONE)


def left_out() -> frozenset[str]:
    """Return the workloads that are left out."""
    return _listed(WITHOUT)


def said(alone: set[str], without: set[str]) -> dict[str, str]:
    """Return the environment that says so for as long as this run holds the directory."""
    run, lists = holder(), {ALONE: alone, WITHOUT: without}
    return {name: f"{run}:{','.join(sorted(ids))}" if ids else "" for name, ids in lists.items()}


def _listed(variable: str) -> frozenset[str]:
    text = os.environ.get(variable, "")
    run, _, ids = text.partition(":")
    if text and run != holder():
        message = "is set, but by no run that is at work in this directory"
        raise BadInput([Problem("", variable, "no_effect", text, message, f"unset {variable}")])
    return frozenset(filter(None, ids.split(",")))


def without(
    workloads: "pl.DataFrame", findings: "pl.DataFrame", ids: frozenset[str]
) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """Return the catalogue without some workloads, and the findings with an error for each of them.

    A MoE workload whose dense twin is left out has no twin any more.
    """
    import polars as pl

    from moesweep.study.rules import TRACE_FAILED

    if not ids:
        return workloads, findings
    failed = pl.col("twin").is_in(list(ids))
    rest = workloads.filter(~pl.col("workload").is_in(list(ids))).with_columns(
        twin=pl.when(failed).then(None).otherwise("twin")
    )
    gone = workloads.filter(pl.col("workload").is_in(list(ids))).select(
        "workload",
        severity=pl.lit("error"),
        rule=pl.lit(TRACE_FAILED),
        message=pl.lit("the trace failed, so costs and tables are made without this workload"),
        value=pl.lit(""),
        suggestion=pl.lit("see the log of the run, and run make sweep again"),
    )
    return rest, pl.concat([findings, gone.select(findings.columns)])
