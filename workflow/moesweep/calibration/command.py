"""`moesweep calibrate`: fit, test the fit on what it has not seen, write constants and docs/validation.md."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from moesweep.study.catalog import Cluster


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    help_ = "fit the constants that no source gives to measured runs; write them and docs/validation.md"
    command = commands.add_parser("calibrate", help=help_, description=help_)
    command.add_argument("runs", type=Path, metavar="RUNS.csv", help="runs with source and measured time")
    command.add_argument("--docs", type=Path, default=Path("docs"), help="where validation.md goes")
    command.set_defaults(run=calibrate)


def calibrate(arguments: argparse.Namespace) -> int:
    """Fit, leave groups out, set the band, write; print the errors. Several minutes."""
    from moesweep.calibration.fit import errors, fit, left_out, save, to_fit
    from moesweep.calibration.measured import read_measured, thinned
    from moesweep.calibration.report import SCHEMES, accuracy, constants_table, draw, write_validation
    from moesweep.predict import cluster_names
    from moesweep.study.catalog import load_cluster

    root = Path.cwd()
    clusters = [load_cluster(root, name) for name in cluster_names(root)]
    measured = read_measured(arguments.runs, [cluster.name for cluster in clusters])
    thin = thinned(measured, 4)
    best = fit(thin, clusters, to_fit(clusters))
    inside, outside = errors(measured, clusters, best), {}
    print(constants_table(best))
    for scheme in SCHEMES:
        print(f"leaving groups out by {scheme}", file=sys.stderr)
        outside[scheme] = left_out(measured, thin, clusters, best, scheme)
    save(best, root)
    share = _set_band(measured.runs, [load_cluster(root, cluster.name) for cluster in clusters], root)
    print(accuracy(measured, inside, outside))
    write_validation(arguments.docs / "validation.md", measured, best, inside, outside, share)
    draw(arguments.docs / "validation.svg", measured, inside)
    return 0


def _set_band(runs: "pl.DataFrame", clusters: "list[Cluster]", root: Path) -> float:
    """Set `band_scale` to what holds 80% of the runs, every group alike; return the share inside."""
    import numpy as np
    import polars as pl

    from moesweep.calibration.fit import Fitted, save
    from moesweep.evaluate.costs import costed_with_band

    costs = costed_with_band(runs, clusters)
    own = costs["band_scale"].to_numpy()
    width = np.log((costs["iteration_seconds_high"] / costs["iteration_seconds"]).to_numpy()) / own
    miss = np.abs(np.log((costs["iteration_seconds"] / runs["measured"]).to_numpy())) / width
    weight = (1 / runs.select(pl.len().over("group")).to_series()).to_numpy()
    order = np.argsort(miss)
    reached = np.cumsum(weight[order]) / weight.sum()
    scale = float(miss[order][np.searchsorted(reached, 0.8)])
    save([Fitted("band_scale", "config/calibration.yaml", scale, 0, 2)], root)
    return float(weight[miss <= scale].sum() / weight.sum())
