"""Fit constants within their bounds, in groups, with robust weights (one calibration for all sources)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.optimize import least_squares

from moesweep.calibration.measured import Measured
from moesweep.store.tablefile import whole
from moesweep.study.catalog import Cluster

ROBUST = 0.03
"""Log error beyond which a run counts ever less: some measurements have no smooth cause."""

PRIOR_WEIGHT = 0.05
"""Weight of a deviation from what was known of a constant before: it decides only where runs say little."""


@dataclass(frozen=True)
class Fitted:
    """One constant to fit: the file that gives it, its value there and its bounds."""

    name: str
    file: str
    value: float
    low: float
    high: float

    @property
    def on_bound(self) -> bool:
        """Whether the value lies within a hundredth of its range of a bound: a sign of a missing term."""
        return min(self.value - self.low, self.high - self.value) < 0.01 * (self.high - self.low)


CALIBRATION, A100_SXM = "config/calibration.yaml", "config/gpus/a100-sxm-80gb.yaml"
JEAN_ZAY = "config/clusters/jeanzay-a100-80gb-4xopa100.yaml"

PRIORS = {
    ("gemm_gain", A100_SXM): (1.10, 0.03),  # best measured products: 271 TFLOP/s against 253 on PCIe, 1.07
    ("fabric_efficiency", JEAN_ZAY): (0.6, 0.12),  # other 100 Gbit/s fabrics measured: 0.4 to 0.75
    ("attention_gemm_efficiency", CALIBRATION): (
        0.46,
        0.06,
    ),  # batched products with an inner size of 64 to 128
    ("host_2021_seconds", CALIBRATION): (1.3e-3, 0.1e-3),  # about 25 launches of 50 us from Python
    ("tp_skew_seconds", CALIBRATION): (30e-6, 10e-6),  # jitter of one host beside another
    ("tp_overlap", A100_SXM): (0.5, 0.15),  # the collective takes some of the GEMM's processors
    ("dp_efficiency", CALIBRATION): (0.6, 0.1),  # eight rings share a node's NICs and switches
}
"""The constants that no source gives, by name and file: what was known of each before, and how well.

A GPU's or a cluster's constant concerns the runs on it alone."""


def to_fit(clusters: list[Cluster]) -> list[Fitted]:
    """Return the constants of FITTED as the catalogue has them."""
    known = {(name, c.file): c for cluster in clusters for name, c in cluster.constants.items()}
    return [Fitted(*key, known[key].value, known[key].low, known[key].high) for key in PRIORS]


def constants_with(clusters: list[Cluster], values: Mapping[tuple[str, str], float]) -> pl.DataFrame:
    """Return one row of constants per cluster, those in `values` (by name and file) replaced."""
    return pl.DataFrame(
        [
            {"cluster": cluster.name}
            | {name: values.get((name, c.file), c.value) for name, c in cluster.constants.items()}
            for cluster in clusters
        ]
    )


def fit(measured: Measured, clusters: list[Cluster], start: list[Fitted]) -> list[Fitted]:
    """Return the constants that fit the runs best: weighted Cauchy loss of the log error, within bounds."""
    low, high = np.array([c.low for c in start]), np.array([c.high for c in start])
    weight = np.sqrt(measured.runs["weight"].to_numpy())
    goal = np.log(measured.runs["measured"].to_numpy())
    prior, deviation = np.array(list(PRIORS.values())).T

    def residuals(scaled: np.ndarray) -> np.ndarray:
        values = dict(zip(PRIORS, low + scaled * (high - low), strict=True))
        error = np.log(measured.predicted(constants_with(clusters, values)).to_numpy()) - goal
        bent = np.sqrt(np.log1p((error / ROBUST) ** 2)) * np.sign(error)
        away = (low + scaled * (high - low) - prior) / deviation
        return np.append(weight * bent, np.sqrt(PRIOR_WEIGHT) * away)

    first = (np.array([c.value for c in start]) - low) / (high - low)
    found = least_squares(
        residuals,
        np.clip(first, 0.01, 0.99),
        bounds=(0, 1),
        diff_step=np.full(len(start), 1e-3),
        xtol=1e-4,
        ftol=1e-4,
        max_nfev=15,
    )
    best = low + found.x * (high - low)
    return [Fitted(c.name, c.file, float(v), c.low, c.high) for c, v in zip(start, best, strict=True)]


def errors(measured: Measured, clusters: list[Cluster], constants: list[Fitted]) -> pl.Series:
    """Return predicted over measured seconds, minus 1, of every run."""
    values = {(c.name, c.file): c.value for c in constants}
    predicted = measured.predicted(constants_with(clusters, values))
    return (predicted / measured.runs["measured"] - 1).alias("error")


def left_out(
    measured: Measured, thin: Measured, clusters: list[Cluster], best: list[Fitted], scheme: str
) -> pl.Series:
    """Return every run's error with its own group of a scheme (source, size, tp_degree) left out of the fit.

    Runs that the scheme puts in no group keep the error of the full fit.
    """
    outcome = errors(measured, clusters, best)
    for word in measured.runs[scheme].drop_nulls().unique().sort():
        without = fit(thin.where(pl.col(scheme).ne_missing(word)), clusters, best)
        mine = measured.runs[scheme].eq_missing(word)
        outcome = outcome.zip_with(~mine, errors(measured, clusters, without))
    return outcome


def save(constants: list[Fitted], root: Path) -> None:
    """Write the values into their YAML files, each on its `value:` line, in the unit that stands there.

    A file is replaced as a whole, and none is before the text of all is known.
    """
    files: dict[str, list[str]] = {}
    for constant in constants:
        if constant.file not in files:
            text = (root / constant.file).read_text(encoding="utf-8")
            files[constant.file] = text.splitlines(keepends=True)
        lines = files[constant.file]
        place = lines.index(f"  {constant.name}:\n") + 1
        unit = lines[place].split()[2:]
        scale = {"ms": 1e3, "us": 1e6}.get(unit[0], 1.0) if unit else 1.0
        lines[place] = " ".join([f"    value: {constant.value * scale:.4g}", *unit]) + "\n"
    for file, lines in files.items():
        with whole(root / file) as partial:
            partial.write_text("".join(lines), encoding="utf-8")
