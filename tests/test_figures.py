"""The figures: what eyes cannot check. Heights, signs for what does not fit, units, greys, the same bytes."""

import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import polars as pl
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from answers import make_answers
from moesweep.cli import main
from moesweep.report.evidence import Evidence, parts_of_iteration
from moesweep.report.figures import ep_scaling, memory_parts, option_ratios, style
from moesweep.report.figures.gallery import FIGURES
from moesweep.report.figures.ink import MEMORY, PARTS
from moesweep.report.pass_seconds import pass_seconds, tail_seconds
from moesweep.store.layout import Results
from naive_pipeline import makespan

ROOT = Path(__file__).resolve().parents[1]
CAPTIONS = "workflow/report/figures"
SVG = "{http://www.w3.org/2000/svg}"
UNITS = re.compile(r"second|GiB|MiB|byte|GB/s|flop|ratio|node|stage|workloads by")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make_answers(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def evidence(results: Results) -> Evidence:
    return Evidence(results)


@pytest.fixture(params=FIGURES)
def drawn(request: pytest.FixtureRequest, evidence: Evidence) -> Figure:
    with mpl.rc_context():
        mpl.rcParams.update(style.RC)
        return FIGURES[request.param](evidence)


def test_every_axis_says_what_it_measures_and_in_what(drawn: Figure) -> None:
    """Panels side by side may share a label; a label without a unit is a mistake."""
    shown = [axes for axes in drawn.axes if axes.axison]
    across, up = (
        {label for axes in shown if (label := get(axes))} for get in (Axes.get_xlabel, Axes.get_ylabel)
    )
    # Bars are labelled one by one.
    assert across or any(text.get_text() == "ep =" for axes in shown for text in axes.texts)
    assert all(UNITS.search(label) for label in across | up)
    for axes in shown:
        assert axes.get_xlabel() or axes.get_ylabel() or len(shown) > 1
        named = [text.get_text() for text in axes.get_yticklabels()]
        assert up or any(named) or axes.get_shared_y_axes().get_siblings(axes) != [axes]


def test_nothing_is_drawn_outside_the_page(drawn: Figure) -> None:
    drawn.draw_without_rendering()
    width, height = drawn.get_size_inches()
    tight = drawn.get_tightbbox()
    assert tight.x0 >= -0.02
    assert tight.y0 >= -0.02
    assert tight.x1 <= width + 0.02
    assert tight.y1 <= height + 0.02


def test_parts_of_an_iteration_sum_to_it(evidence: Evidence) -> None:
    rows = evidence.workloads.select("iteration_seconds", total=pl.sum_horizontal(parts_of_iteration()))
    assert rows["total"].to_list() == pytest.approx(rows["iteration_seconds"].to_list())
    assert evidence.workloads.select(parts_of_iteration()).columns == list(PARTS)


def test_stacks_are_as_high_as_the_iteration(evidence: Evidence) -> None:
    (axes,) = FIGURES["ep_scaling"](evidence).axes
    tops = [
        max(bar.get_y() + bar.get_height() for bar in bars) for bars in zip(*axes.containers, strict=True)
    ]
    assert tops == pytest.approx(evidence.ep_scaling["iteration_seconds"].to_list())


def test_the_band_of_every_prediction_is_drawn(evidence: Evidence) -> None:
    (axes,) = FIGURES["ep_scaling"](evidence).axes
    (lines,) = (each for each in axes.collections if isinstance(each, LineCollection))
    ends = [float(y) for line in lines.get_segments() for _, y in line]  # type: ignore[union-attr]
    costs = evidence.ep_scaling.select("workload").join(
        evidence.workloads, on="workload", maintain_order="left"
    )
    bands = costs.select("iteration_seconds_low", "iteration_seconds_high").rows()
    assert ends == pytest.approx([end for band in bands for end in band])


def test_comparisons_that_do_not_fit_a_panel_go_on_in_the_next(evidence: Evidence) -> None:
    """Of 13 and 3 comparisons of two bars: 12 beside one another, 1 below them; then the other model's."""
    one = ep_scaling.shown(evidence)["rows"].head(2)
    many = pl.concat(
        one.with_columns(comparison=pl.lit(n, one.schema["comparison"]), model=pl.lit("ab"[n > 12]))
        for n in range(16)
    )
    drawn = ep_scaling.draw(many)
    assert [len(axes.get_xticks()) for axes in drawn.axes] == [24, 2, 6]
    assert drawn.get_supxlabel() == ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ep_scaling, "MOST_PANELS", 2)
        assert ep_scaling.draw(many).get_supxlabel() == "3 more comparisons: table ep_scaling"


def test_layouts_that_megatron_would_refuse_have_a_star(results: Results) -> None:
    def starred() -> list[bool]:
        drawn = FIGURES["ep_scaling"](evidence)
        words = [text.get_text() for axes in drawn.axes for text in axes.texts] + [drawn.get_supxlabel()]
        return ["*" in text for text in words if "GPUs" in text or "refuse" in text]

    evidence = Evidence(results)
    # Megatron would refuse one workload, but that is in no comparison.
    assert [id_.split("-")[0] for id_ in evidence.refused] == ["odd", "odd"]
    assert starred() == [False]
    evidence.__dict__["refused"] = evidence.ep_scaling["workload"].to_list()
    assert starred() == [True, True]


def test_what_does_not_fit_is_hatched(evidence: Evidence) -> None:
    misfits = evidence.workloads.filter(~pl.col("fits"))
    assert 0 < misfits.height < evidence.workloads.height
    drawn = FIGURES["memory"](evidence)
    hatched = [bar for axes in drawn.axes for bar in axes.patches if bar.get_hatch() == style.MISFIT_HATCH]
    assert sorted(bar.get_height() * 2**30 for bar in hatched) == pytest.approx(
        misfits["peak_memory_bytes"].sort().to_list()
    )


def test_skew_is_drawn_a_line_an_ep_with_what_is_dropped(evidence: Evidence) -> None:
    table = evidence.table("skew_sensitivity")
    free, capped = FIGURES["skew"](evidence).axes
    limited = pl.col("capacity_factor").is_not_null()
    for axes, rows in (
        (free, table.filter(~limited)),
        (capped, table.filter(limited | (pl.col("alpha") == 0))),
    ):
        lines = {line.get_label(): line for line in axes.lines if str(line.get_label()).startswith("ep")}
        assert set(lines) == {f"ep {ep}" for ep in table["ep"]}
        for label, line in lines.items():
            own = rows.filter(pl.format("ep {}", "ep") == label)
            assert list(line.get_xdata()) == own["alpha"].to_list()
            assert list(line.get_ydata()) == own["iteration_seconds_ratio"].to_list()
    dropped = table.filter(pl.col("dropped_share") == pl.col("dropped_share").max()).row(0, named=True)
    assert f"{dropped['alpha']:g}\n{dropped['dropped_share']:.0%}" in [
        tick.get_text() for tick in capped.get_xticklabels()
    ]


class OfNodes(Evidence):
    """The same results, as if the featured workload ran on so many nodes: each sends 3 bytes to the next."""

    nodes = 2

    def matrix(self, workload: str) -> pl.DataFrame:
        src = pl.DataFrame({"src": range(self.nodes)})
        sent = src.with_columns(
            dst=(pl.col("src") + 1) % self.nodes, group_kind=pl.lit("pp"), bytes=pl.lit(3)
        )
        within = src.with_columns(dst=pl.col("src"), group_kind=pl.lit("tp"), bytes=pl.lit(5))
        return pl.concat([sent, within])


def drawn_for(results: Results, nodes: int) -> Figure:
    evidence = OfNodes(results)
    size = pl.lit(nodes * evidence.gpus_per_node).alias("world_size")
    evidence.__dict__ |= {"nodes": nodes, "workloads": evidence.workloads.with_columns(size)}
    return FIGURES["traffic"](evidence)


@pytest.mark.parametrize(("nodes", "side"), [(2, 2), (256, 256), (257, 129), (8192, 256)])
def test_nodes_share_squares_where_they_are_many(results: Results, nodes: int, side: int) -> None:
    drawn = drawn_for(results, nodes)
    panels = {axes.get_title(loc="left") or axes.get_title(): axes for axes in drawn.axes if axes.images}
    for kind, total in (("pp", 3 * nodes), ("tp", 5 * nodes)):
        (image,) = panels[kind].images
        assert image.get_array().shape == (side, side)
        assert image.get_array().sum() == total
    each = -(-nodes // side)
    labels = " ".join(axes.get_ylabel() for axes in drawn.axes)
    assert (f"a square: {each} × {each} nodes" in labels) == (nodes > 256)
    assert panels["tp"].get_xlim() == (-0.5, each * side - 0.5)


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_ticks_are_whole_nodes(results: Results, nodes: int) -> None:
    for axes in drawn_for(results, nodes).axes:
        if axes.images:
            assert all(tick == round(tick) for tick in [*axes.get_xticks(), *axes.get_yticks()])


def test_a_lone_pair_lies_on_its_models_line(results: Results) -> None:
    evidence = Evidence(results)
    evidence.__dict__["pairs"] = evidence.pairs.unique("model", keep="first", maintain_order=True)
    for axes in FIGURES["moe_against_dense"](evidence).axes:
        heights = [y for points in axes.collections for _, y in points.get_offsets()]
        assert sorted(heights) == [0, 1, 2]


def lightness(colour: str) -> float:
    """Return CIE L*, 0 to 100: what is left of a colour on a grey printer."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


@pytest.mark.parametrize("look", [PARTS, MEMORY], ids=["parts", "memory"])
def test_neighbours_in_a_stack_differ_in_grey(look: dict[str, str]) -> None:
    for (name, colour), (other, next_colour) in pairwise(look.items()):
        assert abs(lightness(colour) - lightness(next_colour)) > 15, (name, other)


def test_the_timeline_is_the_schedule_run_step_by_step(evidence: Evidence) -> None:
    row = evidence.workloads.row(0, named=True)
    ops = evidence.ops.filter(pl.col("workload") == row["workload"])
    schedule = evidence.schedule(row["workload"])
    starts, ends = pass_seconds(ops, pl.DataFrame([row]), schedule)
    steps = schedule.with_columns(start=pl.Series(starts[:, 0]), end=pl.Series(ends[:, 0]))
    assert steps["end"].max() == pytest.approx(row["iteration_seconds"] - tail_seconds(ops)["tail"].item())
    lengths = steps.with_columns(seconds=pl.col("end") - pl.col("start")).group_by("phase", "stage").first()
    seconds = {
        (phase, stage): s for phase, stage, s in lengths.select("phase", "stage", "seconds").iter_rows()
    }
    forward, backward = ([seconds[phase, p] for p in range(2)] for phase in ("forward", "backward"))
    assert steps["end"].max() == pytest.approx(makespan(forward, backward, row["num_microbatches"], 1))
    # Nobody does two things at a time.
    ordered = steps.sort("stage", "start").with_columns(before=pl.col("end").shift(1).over("stage"))
    assert ordered.filter(pl.col("before") > pl.col("start") + 1e-12).is_empty()


def test_files_are_whole_light_and_the_same_every_time(results: Results, tmp_path: Path) -> None:
    at = ["--results", str(results.root)]
    assert main(["figures", *at]) == 0
    assert main(["figures", *at, "--png", "memory"]) == 0
    drawn = [results.figure(name, "svg") for name in FIGURES] + [results.figure("memory", "png")]
    first = {(file.stem, file.suffix): file.read_bytes() for file in drawn}
    command = [sys.executable, "-c", "import sys; from moesweep.cli import main; sys.exit(main())"]
    # Another process, another hash seed, somebody's own matplotlibrc.
    (tmp_path / "matplotlibrc").write_text("font.size: 20\naxes.facecolor: red\n")
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "MATPLOTLIBRC": str(tmp_path)}
    for png in ([], ["--png", "memory"]):
        subprocess.run([*command, "figures", *at, *png], check=True, env=environment, cwd=ROOT)
    for file, content in zip(drawn, first.values(), strict=True):
        assert file.read_bytes() == content, file.name
        assert len(content) < 500_000
    for name in FIGURES:
        tree = ElementTree.fromstring(first[name, ".svg"])
        assert tree.tag == f"{SVG}svg"
        # Text is text: it can be searched, read aloud and takes the page's colour.
        assert len(tree.findall(f".//{SVG}text")) > 3
    assert first["memory", ".png"].startswith(b"\x89PNG")


def test_every_figure_has_a_caption_and_every_caption_a_figure() -> None:
    captions = {file.stem: file.read_text(encoding="utf-8") for file in (ROOT / CAPTIONS).glob("*.rst")}
    assert set(captions) == set(FIGURES)
    assert all(len(text) > 80 for text in captions.values())


def test_a_sweep_without_experts_says_what_it_cannot_show(tmp_path: Path) -> None:
    results = make_answers(tmp_path, only_dense=True)
    assert main(["figures", "--results", str(tmp_path)]) == 0
    assert "no two workloads that differ in ep" in results.figure("ep_scaling", "svg").read_text()
    assert "no MoE workload" in results.figure("moe_against_dense", "svg").read_text()
    assert "no MoE workload" in results.figure("skew", "svg").read_text()


def test_missing_results_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures", "--results", str(tmp_path)]) == 2
    assert "workloads.parquet: readable: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("command", ["figures", "report", "tables"])
def test_costs_of_another_sweep_are_refused(
    command: str, results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Results(tmp_path / "other")
    shutil.copytree(results.root, other.root)
    costs = pl.read_parquet(other.costs)
    known = pl.read_parquet_metadata(other.costs)
    before = {path: path.read_bytes() for path in other.root.rglob("*") if path.is_file()}
    costs[1:].with_columns(pl.col("workload") + "x").write_parquet(other.costs, metadata=known)
    before[other.costs] = other.costs.read_bytes()
    assert main([command, "--results", str(other.root)]) == 2
    said = capsys.readouterr().err
    assert f"{other.costs}: workload: costs a workload that is not in workloads.parquet: " in said
    assert f"{other.costs}: workload: has no costs of a workload of workloads.parquet: " in said
    assert {path: path.read_bytes() for path in other.root.rglob("*") if path.is_file()} == before


def test_a_comparison_says_the_options_and_batches_that_tell_it_from_others(evidence: Evidence) -> None:
    shown = ep_scaling.shown(evidence)["rows"]
    assert set(shown["words"]) == {""}
    workloads = evidence.workloads.head(1)
    ids = [f"x-ws8-tp1-pp1-ep{ep}-gbs8-mbs1-seq64-moe{more}" for more in ("", "-cp2-full") for ep in (1, 2)]
    told = [ids[at] for at in (0, 1, 0, 1, 2, 3)]
    rows = pl.concat([workloads] * 6).with_columns(
        pl.Series("workload", told), global_batch_size=pl.Series([8, 8, 16, 16, 8, 8])
    )
    words = rows.select(ep_scaling._words())["words"].to_list()
    assert words == ["gbs 8", "gbs 8", "gbs 16", "gbs 16", "cp2 full", "cp2 full"]


@pytest.mark.parametrize("ends", [(0.84, 1.0), (1.0, 1.0), (0.2, 9.0)])
def test_an_axis_of_ratios_has_ticks_to_read_it_by(ends: tuple[float, float]) -> None:
    axes = Figure().subplots()
    style.ratio_axis(axes, pl.DataFrame({"least": [ends[0]], "most": [ends[1]]}), "seconds")
    low, high = axes.get_xlim()
    assert low < ends[0] <= ends[1] < high
    assert len([tick for tick in axes.get_xticks() if low <= tick <= high]) >= 3


def test_an_option_s_line_goes_from_the_least_ratio_to_the_most(evidence: Evidence) -> None:
    rows = pl.DataFrame(
        {
            "axis": ["cp", "recompute", "recompute"],
            "value": ["2", "selective", "full"],
            "iteration_seconds": [[0.9, 1.0, 1.3], [1.1], [1.2, 1.4]],
            "peak_memory_bytes": [[0.5, 0.6, 0.7], [0.8], [0.2, 0.3]],
        }
    )
    drawn = option_ratios.draw(rows)
    seconds, memory = drawn.axes
    assert [text.get_text() for text in seconds.get_yticklabels()] == [
        "cp 2",
        "recompute selective",
        "recompute full",
    ]
    lines = [line for line in seconds.collections if isinstance(line, LineCollection)]
    assert [[x for x, _ in ends] for ends in lines[0].get_segments()] == [[0.9, 1.3], [1.1, 1.1], [1.2, 1.4]]
    assert [x for x, _ in memory.collections[1].get_offsets()] == pytest.approx([0.6, 0.8, 0.25])
    assert memory.get_xlim()[0] < 0.2 < 1 < memory.get_xlim()[1]
    # The first line is on top, and neither it nor the last lies on the frame.
    lowest, highest = seconds.get_ylim()
    assert highest < -0.5 < 0 < seconds.get_yticks()[-1] + 0.5 < lowest
    # The lowest value of an option is what others are held against, and no line of its own.
    compared = evidence.table("options_compared")
    lowest = compared.group_by("axis", "comparison").first().select("axis", "value").unique()
    assert option_ratios.shown(evidence)["rows"].join(lowest, on=["axis", "value"]).is_empty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(option_ratios, "MOST_ROWS", 2)
        assert option_ratios.draw(rows).get_supxlabel() == "1 more values: table options_compared"


@pytest.mark.parametrize("name", FIGURES)
def test_legends_lie_within_the_figure(name: str, evidence: Evidence) -> None:
    alone = {"memory": {"rows": FIGURES["memory"].shown(evidence)["rows"].filter(pl.col("model") == "small")}}
    with mpl.rc_context():
        mpl.rcParams.update(style.RC)
        drawn = FIGURES[name].draw(**FIGURES[name].shown(evidence) | alone.get(name, {}))
    drawn.draw_without_rendering()
    width, _ = drawn.get_size_inches() * drawn.dpi
    for legend in drawn.legends:
        box = legend.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= width


def test_many_stacks_are_steps_of_the_same_heights(evidence: Evidence) -> None:
    shown = FIGURES["memory"].shown(evidence)
    rows = shown["rows"].filter(kind="moe").sort("peak_memory_bytes", maintain_order=True)
    rows = rows.with_columns(model=pl.lit("one"), fits=pl.int_range(pl.len()) != 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_parts, "MOST_BARS", 0)
        axes = FIGURES["memory"].draw(rows, shown["hbm_bytes"]).axes[0]
    outlines = [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]
    *outlines, over = outlines
    assert len(outlines) == len(MEMORY)
    peaks = (rows["peak_memory_bytes"] / 2**30).to_list()
    assert over.values.tolist() == pytest.approx([0, peaks[1], *[0] * (rows.height - 2)])
    assert outlines[0].values.tolist() == pytest.approx(peaks)
    # The first part is drawn last, over the others.
    assert outlines[-1].values.tolist() == pytest.approx((rows["weights_bytes"] / 2**30).to_list())
