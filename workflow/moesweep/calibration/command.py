"""`moesweep calibrate`: fit, test the fit on what it has not seen, write constants and docs/validation.md."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from moesweep.calibration.fit import Fitted
    from moesweep.study.catalog import Cluster


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    help_ = "fit the constants that no source gives to measured runs; write them and docs/validation.md"
    command = commands.add_parser("calibrate", help=help_, description=help_)
    command.add_argument("runs", type=Path, metavar="RUNS.csv", help="runs with source and measured time")
    command.add_argument("--docs", type=Path, default=Path("docs"), help="where validation.md goes")
    keep = "leave the constants as they are: show their errors, write nothing"
    command.add_argument("--keep", action="store_true", help=keep)
    command.set_defaults(run=calibrate)


def calibrate(arguments: argparse.Namespace) -> int:
    """Fit, leave groups out, set the band, write all at the end; print the errors. Several minutes.

    Raises BadInput, with nothing changed, if the list is faulty or lacks a set of runs that the fit needs.
    """
    from moesweep.calibration.fit import errors, fit, left_out, save, to_fit
    from moesweep.calibration.measured import of_every_set, read_measured, thinned
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
    thin = thinned(measured, 4)
    best = fit(thin, clusters, to_fit(clusters))
    inside, outside = errors(measured, clusters, best), {}
    print(constants_table(best))
    for scheme in SCHEMES:
        print(f"leaving groups out by {scheme}", file=sys.stderr)
        outside[scheme] = left_out(measured, thin, clusters, best, scheme)
    bands, share = _bands(measured.runs, outside["source"], clusters)
    save([*best, *bands], root)
    print(accuracy(measured, inside, outside))
    write_validation(arguments.docs / "validation.md", measured, best, inside, outside, share)
    draw(arguments.docs / "validation.svg", measured, inside)
    return 0


MODEL_SPREAD = 0.03
"""What no measured run shows of a model: in quadrature with what they show."""

LEAST_RUNS = 20
"""Measured runs that a regime's band needs to go by; one with fewer keeps the assumed one."""


def _bands(
    runs: "pl.DataFrame", errors: "pl.Series", clusters: "list[Cluster]"
) -> "tuple[list[Fitted], float]":
    """Return each regime's spread by the errors of its runs, every group alike, and the share inside.

    `errors` are those of runs that their own source's runs were left out for. The spread is the log error
    that 80% of the weight stays within, in quadrature with MODEL_SPREAD.
    """
    import numpy as np
    import polars as pl

    from moesweep.calibration.fit import Fitted
    from moesweep.cost.uncertainty import REGIMES
    from moesweep.evaluate.costs import constants_frame, costed

    regime = costed(runs, constants_frame(clusters))["regime"]
    missed = runs.select("group", miss=(1 + errors).log().abs(), regime=regime)
    known, inside = [], []
    for name in REGIMES:
        here = missed.filter(pl.col("regime") == name)
        if here.height < LEAST_RUNS:
            continue
        weight = (1 / here.select(pl.len().over("group")).to_series()).to_numpy()
        miss = here["miss"].to_numpy()
        order = np.argsort(miss)
        reached = np.cumsum(weight[order]) / weight.sum()
        spread = float(np.hypot(miss[order][np.searchsorted(reached, 0.8)], MODEL_SPREAD))
        known.append(Fitted(f"band_{name}_spread", "config/calibration.yaml", spread, 0, 1))
        inside.append(here.with_columns(inside=pl.col("miss") <= spread))
    by_group = pl.concat(inside).group_by("group", maintain_order=True).agg(pl.col("inside").mean())
    return known, float(by_group["inside"].mean())  # type: ignore[arg-type]
