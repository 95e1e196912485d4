"""The committed constants predict the measured runs as docs/validation.md says."""

from pathlib import Path

import polars as pl
import pytest

from moesweep.calibration.fit import PRIORS, errors, to_fit
from moesweep.calibration.measured import TARGETS, Measured, read_measured, thinned
from moesweep.calibration.report import error_rows
from moesweep.evaluate.costs import constants_frame, costed
from moesweep.predict import cluster_names
from moesweep.study.catalog import Cluster, load_cluster

ON_A100 = (
    "Korthikanti2022",
    "Narayanan2021",
    "vTrain-multi",
    "vTrain-single",
    "BLOOM",
    "SimuMax dense",
)


@pytest.fixture(scope="module")
def clusters(root: Path) -> list[Cluster]:
    return [load_cluster(root, name) for name in cluster_names(root)]


@pytest.fixture(scope="module")
def measured(root: Path, clusters: list[Cluster]) -> Measured:
    lists = [root / "tests/data" / name for name in ("measured_runs.csv", "measured_runs_gpus.csv")]
    return read_measured(lists, [cluster.name for cluster in clusters])


def test_every_set_stays_below_its_goal(measured: Measured, clusters: list[Cluster]) -> None:
    rows = error_rows(measured, errors(measured, clusters, to_fit(clusters)))
    assert sum(row["n"] for row in rows.values()) == 1201 + 36
    missed = {group for group, goal in TARGETS.items() if rows[group]["mape"] > goal}
    # Its cells scatter without a smooth cause (docs/validation.md).
    assert missed == {"vTrain-single"}
    assert rows["vTrain-single"]["mape"] <= 7.2
    assert rows["vTrain-multi"]["median"] <= 3.5


def test_few_constants_are_fitted_and_none_sits_on_a_bound(clusters: list[Cluster]) -> None:
    constants = to_fit(clusters)
    assert len(constants) == len(PRIORS) <= 12
    assert not [constant.name for constant in constants if constant.on_bound]


def test_the_band_holds_four_runs_in_five(measured: Measured, clusters: list[Cluster]) -> None:
    costs = costed(measured.runs, constants_frame(clusters))
    seconds = measured.runs["measured"]
    inside = (costs["iteration_seconds_low"] <= seconds) & (seconds <= costs["iteration_seconds_high"])
    by_group = (
        measured.runs.select("group")
        .with_columns(inside=inside)
        .group_by("group")
        .agg(pl.col("inside").mean())
    )
    # In sample, of the sets whose spreads are fitted, those on A100s; the band of others is assumed.
    fitted = by_group.filter(pl.col("group").is_in(ON_A100))
    assert fitted.height == len(ON_A100)
    assert 0.75 <= fitted["inside"].mean() <= 0.87
    assert by_group["inside"].min() >= 0.5


def test_weights_count_cells_alike(measured: Measured) -> None:
    runs = measured.runs.filter(pl.col("group") == "vTrain-single")
    assert runs["cell"].n_unique() == 28
    by_cell = runs.group_by("cell").agg(pl.col("weight").sum())["weight"]
    assert by_cell.max() == pytest.approx(by_cell.min())
    thin = thinned(measured, 4).runs
    assert thin.group_by("group", "cell").len()["len"].max() == 4
    assert set(thin["group"]) == set(TARGETS)


def test_predictions_do_not_depend_on_what_was_measured(measured: Measured, clusters: list[Cluster]) -> None:
    few = measured.where(pl.col("group") == "BLOOM")
    other = Measured(few.runs.with_columns(measured=pl.lit(1.0)))
    ours, theirs = (
        costed(runs.runs, constants_frame(clusters))["iteration_seconds"] for runs in (few, other)
    )
    assert ours.equals(theirs)
