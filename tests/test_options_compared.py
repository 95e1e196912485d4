"""What each option of a sweep does: a sweep of Mixtral over cp, etp, recomputation and routing."""

from collections import defaultdict
from itertools import product
from statistics import median

import polars as pl
import pytest

from costing import ROOT, cluster
from moesweep.evaluate.costs import costed_on
from moesweep.report.answer import in_one_sentence
from moesweep.report.evidence import Evidence
from moesweep.report.options import options
from moesweep.report.overview import COLUMNS, columns, overview
from moesweep.store.layout import Results
from moesweep.store.tablefile import conform, dictionary
from moesweep.store.values import check_rows
from moesweep.study.sweep import load_sweep
from moesweep.study.validation import findings
from moesweep.study.varying import varying
from moesweep.tables.options_compared import options_compared
from moesweep.tables.results import Inputs
from small import small

SWEEP = """\
description: Mixtral over what ranks share, what is recomputed, and how tokens fall.
twins: false
options: {sequence_parallel: true, distributed_optimizer: true, flash_attention: true, seq_length: 4096}
grids:
  - model: mixtral_8x7B
    world_size: 32
    tp: 2
    pp: 2
    ep: 2
    cp: [1, 2]
    etp: [1, 2]
    recompute: [full, none, selective]
    routing: [balanced, {zipf: 1.2}]
    global_batch_size: 32
"""
AXES = {
    "cp": ("1", "2"),
    "etp": ("1", "2"),
    "recompute": ("none", "selective", "full"),
    "routing": ("balanced", "zipf(alpha=1.2,seed=0)"),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    file = tmp_path_factory.mktemp("sweep") / "mixtral.yaml"
    file.write_text(SWEEP, encoding="utf-8")
    workloads = load_sweep(ROOT, file).workloads
    costs = costed_on(workloads, [cluster()])
    nothing = pl.DataFrame()
    return Inputs(Results(file.parent), workloads, nothing, costs, nothing, nothing, cluster())


@pytest.fixture(scope="module")
def compared(inputs: Inputs) -> pl.DataFrame:
    frame = conform(options_compared(inputs).lazy(), "options_compared").collect()
    check_rows(frame, dictionary("options_compared"), "compared")
    return frame


def test_a_sweep_of_four_options_is_under_twenty_lines(inputs: Inputs) -> None:
    assert len(SWEEP.splitlines()) < 20
    assert inputs.workloads.height == 24
    assert findings(inputs.workloads).filter(severity="error").is_empty()
    assert varying(inputs.workloads) == list(AXES)


def test_every_pair_that_differs_in_one_option_alone_is_compared(
    inputs: Inputs, compared: pl.DataFrame
) -> None:
    seconds = dict(inputs.costs.select("workload", "iteration_seconds").iter_rows())
    by_options = {
        tuple(str(row[name]) for name in AXES): row["workload"]
        for row in inputs.workloads.iter_rows(named=True)
    }
    expected = defaultdict(list)
    for point in product(*AXES.values()):
        for place, (axis, values) in enumerate(AXES.items()):
            base = by_options[(*point[:place], values[0], *point[place + 1 :])]
            own = by_options[point]
            expected[axis].append((own, point[place], seconds[own] / seconds[base]))
    for axis, rows in expected.items():
        found = compared.filter(axis=axis)
        assert sorted(found.select("workload", "value", "iteration_seconds_ratio").rows()) == sorted(rows)
        assert found["comparison"].n_unique() == 24 // len(AXES[axis])
        assert found.group_by("comparison").agg(pl.col("iteration_seconds_ratio").first())[
            "iteration_seconds_ratio"
        ].to_list() == pytest.approx([1.0] * (24 // len(AXES[axis])))


def test_a_twin_and_another_model_are_not_compared(inputs: Inputs) -> None:
    """Two kinds of workload that differ in nothing else, and two models, are no comparison of an option."""
    one = inputs.workloads.head(1)
    others = [
        one.with_columns(workload=pl.lit("twin"), kind=pl.lit("dense"), ep=pl.lit(1, pl.Int64)),
        one.with_columns(workload=pl.lit("more"), model=pl.lit("m"), num_layers=pl.lit(8, pl.Int64)),
    ]
    assert varying(pl.concat([one, *others], how="vertical_relaxed")) == []


def test_a_sweep_without_workloads_that_compare_has_an_empty_table(inputs: Inputs) -> None:
    alone = Inputs(**{**vars(inputs), "workloads": inputs.workloads.head(1)})
    frame = conform(options_compared(alone).lazy(), "options_compared").collect()
    assert frame.is_empty()


def test_the_page_has_a_column_an_option_and_a_row_a_value(inputs: Inputs, compared: pl.DataFrame) -> None:
    evidence = Evidence(inputs.results)
    joined = inputs.workloads.join(inputs.costs, on="workload", maintain_order="left")
    validation = pl.DataFrame(schema={"workload": pl.String})
    vars(evidence).update(workloads=joined, validation=validation, refused=[])
    object.__setattr__(evidence, "table", lambda name: compared)
    shown = columns(evidence)
    assert [column.name for column in shown[len(COLUMNS) :]] == list(AXES)
    first = overview(evidence, shown)[0]["cells"][len(COLUMNS) :]
    assert [text for text, _ in first] == [str(joined[name][0]) for name in AXES]
    rows = options(evidence)
    assert [(row["axis"], row["value"]) for row in rows] == [
        (axis, value) for axis, values in AXES.items() for value in values
    ]
    ratios = compared.filter(axis="recompute", value="full")["iteration_seconds_ratio"].sort().to_list()
    (full,) = (row for row in rows if row["value"] == "full")
    assert full["workloads"] == len(ratios) == 8
    assert full["ratios"][0].split()[0] == f"{median(ratios):.3g}"
    assert ratios[0] > 1
    vars(evidence).update(ep_scaling=pl.DataFrame(), pairs=pl.DataFrame())
    said = in_one_sentence(evidence)
    assert "Of the options that it varies, recompute moves iterations most: full takes " in said
    assert (
        f" times as long as none, all else equal ({ratios[0]:.3g} to {ratios[-1]:.3g}; 8 comparisons)" in said
    )


GROUP = "microbatch_group_size_per_vp_stage"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"pp": [1, 2], "virtual_pipeline": [1, 2]}, ["pp", "virtual_pipeline"]),
        ({"pp": [1, 2], GROUP: [4]}, ["pp"]),
        ({"pp": [2], "virtual_pipeline": [2], GROUP: [2, 4]}, [GROUP]),
        ({"pp": [1, 2], "virtual_pipeline": [2], GROUP: [2, 4]}, ["pp", GROUP]),
    ],
)
def test_what_follows_from_options_does_not_vary(said: dict[str, list[int]], found: list[str]) -> None:
    rows = [small(num_layers=8, **dict(zip(said, values, strict=True))) for values in product(*said.values())]
    assert varying(pl.concat(rows)) == found
