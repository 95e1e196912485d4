"""docs/validation.md: predicted against measured, with and without each group, and what is not validated."""

import math
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from moesweep.calibration.fit import PRIORS, Fitted
from moesweep.calibration.measured import TARGETS, Measured

ANCHORS = {
    "Korthikanti2022": (3.65, 11.5),
    "Narayanan2021": (10.3, 70.0),
    "vTrain-multi": (11.1, 26.5),
    "vTrain-single": (39.0, 59.5),
    "BLOOM": (25.9, 24.3),
}
"""Mean absolute percentage errors of Calculon and llm-analysis on the same runs, from a study of both."""

SCHEMES = {"source": "its source", "size": "its model size (vTrain)", "tp_degree": "its tp degree"}

INTRODUCTION = """\
# Validation: predicted against measured

Written by `make calibrate` from `tests/data/measured_runs.csv` and `tests/data/measured_runs_gpus.csv`:
{runs} measured training runs on A100s, H100s and B200s, with {constants} constants fitted in one
calibration for all sources. A run is predicted by the code that costs the sweep; its measured time is
read by the fit alone. Sources differ in nothing but their cluster file and the options of their runs.
`moesweep calibrate --keep` with both lists prints the first table for the constants as they are.
"""

UNSEEN_SETS = """\
The fit sees the sets on A100s and SimuMax-B200 dense. Those on B200 are all of one source: "its source"
leaves out its runs of the same tp degree there.
"""

FAULTS = """\
## The data's own faults

- vTrain's single-node times were composed from 28 measured cells (tp, hidden size, micro-batch): within a
  cell they are affine in layers and micro-batches to 0.15%. The cells scatter by 20% about any smooth
  model. The fit weighs by cell. The part per layer and iteration of its dp 1 runs is Adam: 20.1 ps a
  parameter, of which follows `adam_hbm_fraction`.
- 13 of vTrain's 68 multi-node runs err above 15% with no smooth cause, such as tp 2 with pp 8 or 16, up
  to 1.6 times as slow as their neighbours. The others average 3%; hence the medians.
- Before 25 February 2022 the nodes that trained BLOOM had a slower PCIe set-up, by 4 to 6%.
- SimuMax's seconds on A100s are its predictions divided by its published errors; on B200s they are means
  of two iterations, with 3 to 10% of noise.
- Narayanan's seconds follow from the TFLOP/s of the paper's Table 1 by the paper's formula. It does not
  say the interleaving: the two runs that were taken for interleaved are the ones predicted too fast.
- Korthikanti's 530B takes 1.32 s longer with dp 8 than with dp 1, four times what its gradients take at
  the rate of the cards. Replicas that wait for the slowest would take so long if iterations scattered by
  2%; no run shows it.
- Megatron's CI logs parameter norms and counts zeros every iteration, which nothing here predicts; seven
  releases of one configuration scatter by 15%. Its numbers of GPUs were inferred from logged memory.
- Parallel Folding says neither interleaving nor micro-batch nor recomputation, and its MFU may count
  attention by causal pairs (2 to 3.4% less time). Its runs with pp 8 and 16 are listed with a layer a
  chunk, as Megatron's guide to MoE advises; without interleaving they are predicted 14 to 25% too slow, and
  the set errs by 14.4%.
- vTrain-single misses its goal: cells of one tp and hidden size lie up to 40% apart, on both sides.
- The container 25.11 of GPT-OSS has an unknown micro-batch, 4 or 1: with 4 it is predicted a quarter too
  fast.
"""

LIMITS = """\
## What is not validated

- **Experts across nodes.** A run of 16 GPUs, and two with 32 GPUs an EP group, whose configuration is
  known in part; on A100s none. The all_to_all across nodes rests on three measured points, at two and
  eight nodes. Nearly all workloads of the default study are in that regime: their seconds are
  extrapolated, their bytes are not.
- **Tensor parallelism beyond a node** (tp 16, 32): rings over all NICs of the nodes, and host skew that
  grows with every peer, are extrapolated from tp 8.
- **Left-out figures are not blind.** Three things were chosen after seeing such errors. With a prior of
  0.7 for OmniPath's `fabric_efficiency`, BLOOM without its source was 6.7, above its goal; the prior is
  now 0.6. `tp_overlap` on PCIe, tagged assumed, was set to 0.3 after SimuMax dense came out at 3.3 with 0
  and 2.4 with 0.5, and the PCIe latency was lowered in the same search. The loss, the weights of the sets
  and the priors were changed too. So more was fitted than the constants listed above.
- **What launching experts takes** (`host_experts_seconds`, `host_expert_seconds`, `host_backward_ratio`,
  tagged assumed) was chosen among plausible values with GPT-OSS, Megatron's CI and DeepSeek-V2 on B200s
  in view.
- **B200s** reach 0.65 of what their peak promises in these runs, of one machine. Other machines may do
  better.
- **MoE on A100s**: two runs, inside one node, without tensor parallelism, every expert padded to one
  capacity.
- **Memory of experts across nodes**: about 60 GiB a GPU were read off Qwen3-30B on 16 A800s, where 40.6 GiB
  are predicted with etp 2, as Megatron does untold, and 50.6 with etp 1. A reading also has what the
  allocator holds and no tensor needs, and uneven routing, and the page does not say which counter it read:
  it bounds the prediction and does not confirm it. Both fit.
- **GPUs but A100, H100, B200**: none was measured; docs/new-cluster.md says how their constants are
  scaled.
- The priors of the fit come from the same literature as some of the runs; leaving a source out does not
  undo that.
- Memory: docs/costs.md, "Memory", and tests/data/measured_memory.csv.
"""


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (headings, ["---"] * len(headings), *rows)]
    return "\n".join(lines) + "\n"


def error_rows(measured: Measured, errors: pl.Series) -> dict[str, dict[str, float]]:
    """Return by group: number of runs, mean absolute error, median, bias and worst, in percent."""
    percent = pl.col("error") * 100
    frame = (
        measured.runs.with_columns(error=errors)
        .group_by("group")
        .agg(
            n=pl.len(),
            mape=percent.abs().mean(),
            median=percent.abs().median(),
            bias=percent.mean(),
            worst=percent.abs().max(),
        )
    )
    return {row["group"]: row for row in frame.iter_rows(named=True)}


def accuracy(measured: Measured, inside: pl.Series, outside: Mapping[str, pl.Series]) -> str:
    """Return the table of errors, in sample and with each run's group left out of the fit."""
    fitted = error_rows(measured, inside)
    left = {scheme: error_rows(measured, errors) for scheme, errors in outside.items()}
    headings = ["runs", "n", "goal", "in sample (median)", "bias", "worst"]
    headings += [f"without {SCHEMES[scheme]}" for scheme in left] + ["Calculon", "llm-analysis"]
    rows = []
    for group in (*(name for name in TARGETS if name in fitted), *sorted(fitted.keys() - TARGETS.keys())):
        row = fitted[group]
        cells = [
            group,
            str(row["n"]),
            f"{TARGETS.get(group, '-')}",
            f"{row['mape']:.1f} ({row['median']:.1f})",
        ]
        cells += [f"{row['bias']:+.1f}", f"{row['worst']:.0f}"]
        cells += [f"{found[group]['mape']:.1f} ({found[group]['median']:.1f})" for found in left.values()]
        cells += [f"{value}" for value in ANCHORS[group]] if group in ANCHORS else ["-", "-"]
        rows.append(cells)
    return _table(headings, rows)


def band_table(held: pl.DataFrame) -> str:
    """Return how many runs of each set and regime lie inside the band, left out of the fit, and its ends."""
    rows = [
        [
            row["group"],
            f"`{row['regime']}`",
            str(row["n"]),
            f"{100 * row['inside']:.0f}",
            f"{100 * math.expm1(-row['low']):+.0f} to {100 * math.expm1(row['high']):+.0f}",
        ]
        for row in held.sort("group", "regime").iter_rows(named=True)
    ]
    by_set = held.group_by("group").agg((pl.col("inside") * pl.col("n")).sum() / pl.col("n").sum())
    mean = float(by_set["inside"].mean())  # type: ignore[arg-type]
    rows.append(["all sets alike", "", str(held["n"].sum()), f"{100 * mean:.0f}", ""])
    return _table(["runs", "regime", "n", "inside, %", "band, %"], rows)


def constants_table(constants: list[Fitted]) -> str:
    """Return the table of fitted constants with their priors and bounds."""
    rows = []
    for c in constants:
        prior, deviation = PRIORS[c.name, c.file]
        where = "on a bound" if c.on_bound else "inside"
        rows.append(
            [
                f"`{c.name}`",
                f"{c.value:.4g}",
                f"{prior:g} ± {deviation:g}",
                f"{c.low:g} to {c.high:g}",
                where,
                f"`{c.file}`",
            ]
        )
    return _table(["constant", "fitted", "known before", "bounds", "", "file"], rows)


def run_table(measured: Measured, errors: pl.Series) -> str:
    """Return predicted and measured seconds of every run outside vTrain, whose runs are many."""
    frame = measured.runs.with_columns(error=errors).filter(~pl.col("source").str.starts_with("vTrain"))
    rows = []
    for r in frame.iter_rows(named=True):
        sizes = f"h {r['hidden_size']}, L {r['num_layers']}"
        layout = f"{r['world_size']} = tp {r['tp']} · pp {r['pp']} · dp {r['dp']}" + (
            f", ep {r['ep']}" if r["ep"] > 1 else ""
        )
        batch = f"{r['global_batch_size']} by {r['micro_batch_size']}"
        seconds = [
            f"{r['measured']:.2f}",
            f"{r['measured'] * (1 + r['error']):.2f}",
            f"{100 * r['error']:+.1f}",
        ]
        rows.append([r["model"], sizes, layout, batch, r["recompute"], *seconds])
    return _table(
        ["run", "model", "GPUs", "batch", "recompute", "measured s", "predicted s", "error %"], rows
    )


def write_validation(
    path: Path,
    measured: Measured,
    constants: list[Fitted],
    inside: pl.Series,
    outside: Mapping[str, pl.Series],
    held: pl.DataFrame,
) -> None:
    """Write docs/validation.md and the picture beside it."""
    parts = [
        INTRODUCTION.format(runs=f"{measured.runs.height:,}", constants=len(constants)),
        "## Errors on iteration time, in percent\n",
        'Mean absolute error (median). "Without": every run predicted by a fit that did not see its group.\n',
        accuracy(measured, inside, outside),
        UNSEEN_SETS,
        "![predicted against measured seconds](validation.svg)\n",
        "## Runs inside the band\n",
        band_table(held),
        "## Fitted constants\n",
        constants_table(constants),
        "All others are data sheets', published or measured by others: see the files under `config/`.\n",
        FAULTS,
        LIMITS,
        "## Runs outside vTrain\n",
        run_table(measured, inside),
    ]
    path.write_text("\n".join(parts), encoding="utf-8")


def draw(path: Path, measured: Measured, errors: pl.Series) -> None:
    """Draw predicted over measured seconds, one mark a run, log scales."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "moesweep"
    figure, axes = plt.subplots(figsize=(6.5, 6), layout="constrained")
    axes.axline((1, 1), slope=1, color="0.6", linewidth=1)
    frame = measured.runs.with_columns(predicted=pl.col("measured") * (1 + errors))
    for marker, group in zip("osD^vPX<>*hdp", TARGETS, strict=True):
        runs = frame.filter(pl.col("group") == group)
        axes.plot(
            runs["measured"],
            runs["predicted"],
            marker,
            label=group,
            markersize=5,
            alpha=0.6,
            mec="white",
            mew=0.3,
        )
    axes.set(xscale="log", yscale="log", xlabel="measured iteration (s)", ylabel="predicted iteration (s)")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
