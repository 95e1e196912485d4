"""How far predictions are off, by regime: the band of an iteration's seconds (docs/costs.md, "The band")."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from moesweep.calibration.fit import CALIBRATION, Fitted
from moesweep.cost.uncertainty import ENDS, REGIMES
from moesweep.evaluate.costs import constants_frame, costed
from moesweep.study.catalog import Cluster

MODEL_SPREAD = 0.03
"""What no measured run shows of a model: in quadrature with what they show."""

LEAST_RUNS = 20
"""Measured runs that a regime's band needs to go by; one with fewer keeps the one that its file says."""

TAIL = 0.09
"""Share of the runs of a regime beyond each end of its band."""


def bands(
    runs: pl.DataFrame, errors: pl.Series, clusters: Sequence[Cluster]
) -> tuple[list[Fitted], pl.DataFrame]:
    """Return the spreads that runs show, and by group and regime the share of runs inside the band.

    `errors` are those of runs that their own group's were left out for. Measured over predicted, in logs:
    what on each side all but a TAIL of the weight stays within, every group of runs weighing as one, in
    quadrature with MODEL_SPREAD. They are of the A100s on which the calibration was measured; other GPUs'
    files have spreads of their own.
    """
    constants = constants_frame(clusters)
    own = {cluster.name: cluster.constants[f"band_{REGIMES[0]}_low_spread"].file for cluster in clusters}
    missed = runs.select(
        "group",
        "cluster",
        miss=-(1 + errors).log(),
        regime=costed(runs, constants)["regime"].cast(pl.String),
        file=pl.col("cluster").replace_strict(own, return_dtype=pl.String),
    )
    known: list[Fitted] = []
    for name in REGIMES:
        here = missed.filter((pl.col("regime") == name) & (pl.col("file") == CALIBRATION))
        if here.height < LEAST_RUNS:
            continue
        for end, sign in ENDS.items():
            known.append(Fitted(f"band_{name}_{end}_spread", CALIBRATION, _spread(here, sign), 0, 1))
    return known, _held(missed, known, constants)


def _spread(missed: pl.DataFrame, sign: int) -> float:
    """Return what runs miss on one side, all but a TAIL of their weight."""
    weight = (1 / missed.select(pl.len().over("group")).to_series()).to_numpy()
    miss = np.maximum(sign * missed["miss"].to_numpy(), 0.0)
    order = np.argsort(miss)
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(np.hypot(miss[order][np.searchsorted(reached, 1 - TAIL)], MODEL_SPREAD))


def _held(missed: pl.DataFrame, known: Sequence[Fitted], constants: pl.DataFrame) -> pl.DataFrame:
    """Return by group and regime the number of runs, and the share of them inside their band."""
    found = {constant.name: constant.value for constant in known}
    spreads = [
        {
            "cluster": row["cluster"],
            "regime": name,
            **{
                end: found.get(f"band_{name}_{end}_spread", row[f"band_{name}_{end}_spread"])
                if own == CALIBRATION
                else row[f"band_{name}_{end}_spread"]
                for end in ENDS
            },
        }
        for row in constants.iter_rows(named=True)
        for own in missed.filter(pl.col("cluster") == row["cluster"])["file"].unique()
        for name in REGIMES
    ]
    return (
        missed.join(pl.DataFrame(spreads), on=["cluster", "regime"], how="left", maintain_order="left")
        .with_columns(inside=(pl.col("miss") <= pl.col("high")) & (-pl.col("miss") <= pl.col("low")))
        .group_by("group", "regime", maintain_order=True)
        .agg(n=pl.len(), inside=pl.col("inside").mean(), low=pl.col("low").max(), high=pl.col("high").max())
    )
