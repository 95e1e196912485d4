"""The unrolled trace: the folded one's sums, the schedule's order, the pipeline's waits."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from export_workloads import (
    APART,
    BESIDE,
    CLUSTER,
    MICROBATCHES,
    RINGS,
    SMALL,
    SWEEP,
    traced_workload,
    workload,
)
from moesweep.cli import main
from moesweep.cost.model import cost, with_constants
from moesweep.export.source import traced
from moesweep.export.timeline import optimizer_ops, step_programs, steps
from moesweep.export.unroll import executed, unrolled
from moesweep.shapes.parallelism import ranks
from moesweep.shapes.schedule import makes_groups, schedules
from moesweep.store.layout import Results
from moesweep.store.tablefile import read_table
from moesweep.study.catalog import load_cluster
from moesweep.study.sweep import enumerate_sweep
from moesweep.trace.programs import folded

KEY = ["stage", "op_index"]
SEND = pl.col("collective").eq_missing(pl.lit("send"))


@pytest.mark.parametrize("name", [*SMALL, *RINGS])
def test_folded_and_unrolled_sums_are_equal(name: str) -> None:
    each = traced_workload(name)
    per_stage = each.workload["world_size"] // each.workload["pp"]
    runs = pl.col("num_microbatches") * per_stage
    nanoseconds = (pl.col("seconds") * 1e9).round().cast(pl.Int64)
    folded = each.program.select(
        *KEY,
        "op",
        runs=runs,
        **{name: pl.col(name) * runs for name in ("flops", "comm_bytes")},
        time=nanoseconds * runs,
    )
    linear = (
        unrolled(each, None)
        .group_by(*KEY, "op")
        .agg(
            runs=pl.len().cast(pl.Int64),
            flops=pl.sum("flops"),
            comm_bytes=pl.sum("comm_bytes"),
            time=(pl.col("end_nanoseconds") - pl.col("start_nanoseconds")).sum(),
        )
    )
    assert_frame_equal(linear.collect().sort(KEY), folded.sort(KEY))


@pytest.mark.parametrize("name", APART)
def test_a_prediction_travels_beside_the_hidden_state_in_one_message(name: str) -> None:
    """From stage 2 to the loss in the second chunk, T/t of each; gradients go back alike."""
    each = traced_workload(name)
    ops = executed(each).filter(pl.col("group_kind") == "pp")
    both = {("send_forward", 2), ("recv_forward", 3), ("send_backward", 3), ("recv_backward", 2)}
    sizes = ops.group_by("op", "stage", "chunk").agg(pl.col("comm_bytes").unique())
    one = each.program.filter(pl.col("op") == "send_forward")["comm_bytes"].min()
    wanted = {row[:3]: [2 * one if row[:2] in both and row[2] == 1 else one] for row in sizes.iter_rows()}
    assert {row[:3]: row[3] for row in sizes.iter_rows()} == wanted
    sums = ops.group_by(KEY).agg(pl.col("comm_bytes").sum()).sort(KEY)
    runs = pl.col("comm_bytes") * pl.col("num_microbatches")
    assert sums.equals(each.program.filter(pl.col("group_kind") == "pp").select(*KEY, runs).sort(KEY))
    # An overlapped one takes no longer for both.
    lasting = ops.with_columns(time=pl.col("end_nanoseconds") - pl.col("start_nanoseconds"))
    (single,), (double,) = (
        lasting.filter(op="recv_forward", stage=3, chunk=chunk)["time"].unique() for chunk in (0, 1)
    )
    assert double == (1 if each.workload["overlap_p2p_comm"] else 2) * single


@pytest.mark.parametrize("name", [*SMALL, *RINGS, *APART])
def test_a_stage_runs_its_steps_in_schedule_order_one_at_a_time(name: str) -> None:
    each = traced_workload(name)
    ops = executed(each)
    in_steps = ops.filter(pl.col("step") >= 0)
    # Interleaved messages arrive while the stage runs another chunk, but before the step that needs them.
    between = (pl.col("collective") == "recv") & (pl.col("group_kind") == "pp")
    overlapped = between.fill_null(False) & (each.workload["virtual_pipeline"] > 1)
    computed = ~SEND & ~overlapped
    bounds = in_steps.group_by("stage", "step", maintain_order=True).agg(
        pl.col("phase").first().cast(pl.String), pl.col("microbatch", "chunk").first(),
        start=pl.col("start_nanoseconds").filter(computed).min(),
        end=pl.col("end_nanoseconds").filter(~SEND).max(),
        arrived=pl.col("end_nanoseconds").filter(overlapped).max(),
    )  # fmt: skip
    assert (bounds["arrived"].drop_nulls() <= bounds.drop_nulls("arrived")["start"]).all()
    schedule = schedules(pl.DataFrame([each.workload])).drop("workload")
    assert_frame_equal(bounds.select(schedule.columns), schedule)
    assert bounds.select((pl.col("start") >= pl.col("end").shift(1).over("stage")).all()).item()
    after = ops.filter(pl.col("step") < 0).group_by("stage").agg(pl.col("start_nanoseconds").min())
    last = bounds.group_by("stage").agg(pl.col("end").max())
    assert after.join(last, on="stage").select((pl.col("start_nanoseconds") >= pl.col("end")).all()).item()


@pytest.mark.parametrize("name", ["moe64", "interleaved", "interleaved_in_groups", "leading_dense"])
def test_what_is_received_has_been_sent(name: str) -> None:
    each = traced_workload(name)
    pp, chunks = each.workload["pp"], each.workload["virtual_pipeline"]
    messages = (
        executed(each)
        .filter(pl.col("kind") == "p2p")
        .with_columns(virtual=pl.col("chunk") * pp + pl.col("stage"), forward=pl.col("phase") == "forward")
    )
    columns = ["forward", "microbatch", "virtual", "start_nanoseconds"]
    step = pl.when("forward").then(1).otherwise(-1)
    sent = messages.filter(SEND).select(columns).with_columns(pl.col("virtual") + step)
    received = messages.filter(~SEND).select(columns)
    pairs = received.join(sent, on=["forward", "microbatch", "virtual"], how="full", suffix="_sent")
    assert pairs.height == 2 * MICROBATCHES * (pp * chunks - 1)
    assert pairs.null_count().sum_horizontal().item() == 0
    assert pairs.select((pl.col("start_nanoseconds") >= pl.col("start_nanoseconds_sent")).all()).item()


def test_a_step_starts_as_soon_as_its_waits_are_over() -> None:
    """The earliest times of 1F1B by another way: relaxed over and over until nothing moves."""
    each = traced_workload("moe64")
    programs = step_programs(each)
    found = steps(each, programs)
    length = dict(zip(found.select("stage", "step").iter_rows(), found["end"] - found["start"], strict=True))
    place = {row[:3]: row[3] for row in found.select("stage", "phase", "microbatch", "step").iter_rows()}
    ends = dict.fromkeys(length, 0)
    moved = True
    while moved:
        moved = False
        for stage, phase, microbatch, step in found.select(
            "stage", "phase", "microbatch", "step"
        ).iter_rows():
            peer = stage - 1 if phase == "forward" else stage + 1
            waits = [ends.get((stage, step - 1), 0)]
            if 0 <= peer < each.workload["pp"]:
                waits.append(ends[peer, place[peer, phase, microbatch]])
            end = max(waits) + length[stage, step]
            moved |= end != ends[stage, step]
            ends[stage, step] = end
    assert found["end"].to_list() == list(ends.values())


def test_the_last_op_ends_when_the_costs_say_that_the_iteration_does(root: Path) -> None:
    frame, cluster = enumerate_sweep(root, SWEEP).gather_every(5), load_cluster(root, CLUSTER)
    costed = cost(folded(frame), with_constants(frame, cluster.values)).workloads
    seconds = dict(costed.select("workload", "iteration_seconds").iter_rows())
    for each in traced(frame, Results(Path("none")), cluster):
        end = optimizer_ops(each, steps(each, step_programs(each)))["end"].max()
        assert end == pytest.approx(seconds[each.workload["workload"]] * 1e9, rel=0.001)


@pytest.mark.parametrize(
    "name",
    [
        "interleaved",
        "interleaved_in_groups",
        "interleaved_with_waits",
        "two_stages_interleaved",
        *RINGS,
        *BESIDE,
    ],
)
def test_an_interleaved_pipeline_ends_when_the_costs_say(root: Path, name: str) -> None:
    frame, cluster, each = workload(name), load_cluster(root, CLUSTER), traced_workload(name)
    costed = cost(folded(frame), with_constants(frame, cluster.values)).workloads
    end = optimizer_ops(each, steps(each, step_programs(each)))["end"].max()
    assert end / 1e9 == pytest.approx(costed["iteration_seconds"][0], rel=0.001)


def test_a_slow_host_leaves_a_gap_after_each_layer() -> None:
    each = traced_workload("moe16")
    waiting = each.program.with_columns(
        wait_seconds=pl.when(pl.col("op") == "mlp_residual").then(1.0).otherwise(0.0)
    )
    ops = executed(replace(each, program=waiting)).filter((pl.col("stage") == 0) & (pl.col("step") == 0))
    gaps = ops.with_columns(gap=pl.col("start_nanoseconds").shift(-1) - pl.col("end_nanoseconds"))
    assert set(gaps.filter(pl.col("op") == "mlp_residual")["gap"]) == {1_000_000_000}
    assert set(gaps.filter(pl.col("op") != "mlp_residual")["gap"].drop_nulls()) == {0}


def test_a_collective_that_a_gemm_hides_starts_before_it_ends() -> None:
    each = traced_workload("moe64")
    ops = executed(each).filter((pl.col("stage") == 0) & (pl.col("step") == 6)).sort("op_index")
    hidden = ops.with_columns(overlap=pl.col("end_nanoseconds").shift(1) - pl.col("start_nanoseconds"))
    beside = hidden.filter(pl.col("overlap") > 0)
    assert set(beside["op"]) == {"qkv_dgrad", "qkv_wgrad"}
    regather = ops.filter(pl.col("op") == "attention_regather")
    gemm = beside.filter(pl.col("op") == "qkv_dgrad")
    lengths = [(each_["end_nanoseconds"] - each_["start_nanoseconds"])[0] for each_ in (regather, gemm)]
    assert gemm["overlap"][0] == round(each.tp_overlap * min(lengths))


def test_the_next_block_of_keys_arrives_while_attention_runs() -> None:
    """Of 4 blocks 3 arrive beside a kernel."""
    each = traced_workload("ring")
    ops = executed(each).filter((pl.col("stage") == 0) & (pl.col("step") == 0)).sort("op_index")
    lasts = pl.col("end_nanoseconds") - pl.col("start_nanoseconds")
    timed = ops.with_columns(lasts=lasts, overlap=pl.col("end_nanoseconds").shift(1) - "start_nanoseconds")
    arrival, kernel = (timed.filter(op=op).row(0, named=True) for op in ("kv_ring_recv", "core_attention"))
    beside = round(each.tp_overlap * min(arrival["lasts"], kernel["lasts"] * 3 / 4))
    assert kernel["overlap"] == beside > 0


def test_the_first_and_last_stage_meet_for_the_tied_embeddings_and_all_for_the_norm() -> None:
    ops = executed(traced_workload("moe64"))
    for name, stages in (("embedding_grad_reduce", [0, 3]), ("grad_norm", [0, 1, 2, 3])):
        rows = ops.filter(pl.col("op") == name)
        assert rows["stage"].to_list() == stages
        assert rows["start_nanoseconds"].n_unique() == 1


def test_each_rank_names_its_own_groups() -> None:
    each = traced_workload("etp1")
    rows = unrolled(each, [0, 5, 15], 1).collect()
    assert rows["rank"].unique().sort().to_list() == [0, 5, 15]
    groups = ranks(each.workload)
    for rank, kind, id_ in rows.select("rank", "group_kind", "group_id").unique().iter_rows():
        assert id_ == (groups[f"{kind}_group"][rank] if kind else 0)


def test_the_command_writes_a_declared_table_the_same_each_time(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    id_ = "gpt_7B-ws512-tp4-pp2-ep16-gbs1024-mbs1-seq4096-moe"
    command = ["trace", "--unroll", "--workload", id_, "--ranks", "0,256-258", "--microbatches", "3"]
    for folder in ("a", "b"):
        assert main([*command, "--results", str(tmp_path / "none"), "--out", str(tmp_path / folder)]) == 0
    files = [tmp_path / folder / f"{id_}.parquet" for folder in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    frame = read_table(files[0], "unrolled")
    assert frame["rank"].unique(maintain_order=True).to_list() == [0, 256, 257, 258]
    assert frame["microbatch"].max() == 2
    assert frame.schema["start_nanoseconds"] == frame.schema["end_nanoseconds"] == pl.Int64
    assert not list(tmp_path.rglob("*.partial"))


def test_unknown_workloads_ranks_and_full_folders_are_refused_together(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    (tmp_path / "something").touch()
    id_ = "gpt_7B-ws512-tp4-pp2-ep16-gbs1024-mbs1-seq4096-moe"
    ids = [id_, id_.replace("ws512", "ws513")]
    command = ["export", "--sweep", SWEEP, "--format", "chakra", "--out", str(tmp_path)]
    options = [word for each in ids for word in ("--workload", each)]
    assert main([*command, *options, "--ranks", "3,512", "--microbatches", "33"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "is not empty; add --overwrite" in lines[0]
    assert "there is no workload" in lines[1]
    assert f"did you mean {id_}" in lines[1]
    assert lines[2].endswith("there is no rank 512; nearest: 511")
    assert lines[3].endswith("an iteration has 16 micro-batches; nearest: 16")


@pytest.mark.parametrize(
    ("microbatches", "legal"),
    [(1, False), (2, False), (3, True), (4, False), (5, True), (6, True), (7, False)],
)
def test_an_iteration_is_cut_where_groups_of_micro_batches_are_whole(microbatches: int, legal: bool) -> None:
    # of 4 in groups of 3 one is left, fewer than pp 2
    assert makes_groups(3, 2, microbatches) is legal
