"""Fit constants within their bounds, in groups, with robust weights (one calibration for all sources)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.optimize import least_squares

from moesweep.calibration.measured import Measured, weighted
from moesweep.store.tablefile import whole
from moesweep.study.catalog import Cluster

ROBUST = 0.03
"""Log error beyond which a run counts ever less: some measurements have no smooth cause."""

ROUNDS = 3
"""How often the runs' seconds are taken for lines in the constants, each time about better ones."""

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
B200 = "config/gpus/b200-sxm-180gb.yaml"
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
    ("gemm_gain", B200): (0.8, 0.15),  # best product measured 0.957; clocks under a lasting load are lower
    ("host_seconds", CALIBRATION): (1.0e-3, 0.4e-3),  # as many launches as in 2021, from faster hosts
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


@dataclass(frozen=True)
class Lines:
    """Logs of predicted seconds about some constants, a row a run.

    at       the constants
    logs     of the runs' seconds there
    slopes   their change with each constant over its whole range
    """

    at: list[Fitted]
    logs: np.ndarray
    slopes: np.ndarray


def lines_about(measured: Measured, clusters: list[Cluster], constants: list[Fitted]) -> Lines:
    """Return the runs' seconds at some constants, and with each of them moved alone."""

    def logs(moved: Fitted | None = None) -> np.ndarray:
        step = 0.0 if moved is None else _step(moved)
        values = {(c.name, c.file): c.value + (step if c is moved else 0.0) for c in constants}
        return np.asarray(np.log(measured.predicted(constants_with(clusters, values)).to_numpy()))

    base = logs()
    slopes = [(logs(c) - base) / _step(c) * (c.high - c.low) for c in constants]
    return Lines(constants, base, np.stack(slopes, axis=1))


def _step(constant: Fitted) -> float:
    """A move by a thousandth of the range, away from the nearer bound."""
    middle = (constant.low + constant.high) / 2
    return 1e-3 * (constant.high - constant.low) * (1 if constant.value <= middle else -1)


def solved(runs: pl.DataFrame, lines: Lines) -> list[Fitted]:
    """Return the constants that fit runs best, by their lines: weighted Cauchy loss, within bounds."""
    low, high = np.array([c.low for c in lines.at]), np.array([c.high for c in lines.at])
    weight = np.sqrt(runs["weight"].to_numpy())
    goal = np.log(runs["measured"].to_numpy())
    prior, deviation = np.array(list(PRIORS.values())).T
    start = (np.array([c.value for c in lines.at]) - low) / (high - low)

    def residuals(scaled: np.ndarray) -> np.ndarray:
        error = lines.logs + lines.slopes @ (scaled - start) - goal
        bent = np.sqrt(np.log1p((error / ROBUST) ** 2)) * np.sign(error)
        away = (low + scaled * (high - low) - prior) / deviation
        return np.append(weight * bent, np.sqrt(PRIOR_WEIGHT) * away)

    found = least_squares(residuals, np.clip(start, 0.01, 0.99), bounds=(0, 1))
    best = low + found.x * (high - low)
    return [Fitted(c.name, c.file, float(v), c.low, c.high) for c, v in zip(lines.at, best, strict=True)]


def fit(
    measured: Measured, clusters: list[Cluster], start: list[Fitted], rounds: int = ROUNDS
) -> list[Fitted]:
    """Return the constants that fit the runs best: lines about the last ones are solved, again and again."""
    for _ in range(rounds):
        start = solved(measured.runs, lines_about(measured, clusters, start))
    return start


def errors(measured: Measured, clusters: list[Cluster], constants: list[Fitted]) -> pl.Series:
    """Return predicted over measured seconds, minus 1, of every run."""
    values = {(c.name, c.file): c.value for c in constants}
    predicted = measured.predicted(constants_with(clusters, values))
    return (predicted / measured.runs["measured"] - 1).alias("error")


def left_out(
    measured: Measured, thin: Measured, clusters: list[Cluster], lines: Lines, scheme: str
) -> pl.Series:
    """Return every run's error with its own group of a scheme (source, size, tp_degree) left out of the fit.

    `lines` are those of the thinned runs about the full fit: without a group the constants move little. Runs
    that the scheme puts in no group keep the error of the full fit.
    """
    outcome = errors(measured, clusters, lines.at)
    for word in thin.runs[scheme].drop_nulls().unique().sort():
        others = thin.runs[scheme].ne_missing(word)
        kept = others.to_numpy()
        without = solved(
            weighted(thin.runs.filter(others)), Lines(lines.at, lines.logs[kept], lines.slopes[kept])
        )
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
