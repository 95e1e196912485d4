"""Communication that runs beside computation: gradients and parameters beside passes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import foreign_files
from costing import cluster, constants, costs
from export_workloads import traced_workload
from moesweep.cost.buckets import HIDDEN_OF_THE_TAIL, LAYER_SECONDS, OF_BUCKETS, hidden_of_the_tail
from moesweep.cost.model import cost, with_constants
from moesweep.cost.validity import HIDING
from moesweep.edge.problems import BadInput
from moesweep.evaluate.costs import costed
from moesweep.export.request import Request, chosen
from moesweep.export.timeline import optimizer_ops, step_programs, steps
from moesweep.library import predict
from moesweep.study.importers.bridge import read_recipe
from moesweep.study.sweep import load_sweep
from moesweep.study.validation import findings
from moesweep.trace.programs import folded
from naive_overlap import waited_for
from overlapping import WIDE
from small import small

REDUCE = {"overlap_grad_reduce": True}
BOTH = REDUCE | {"overlap_param_gather": True}


def stage_of(changes: dict[str, Any], seconds: dict[str, float], **own: float) -> dict[str, float]:
    """What hidden_of_the_tail makes of a stage whose ops of 4 bytes a gradient take `seconds`."""
    workload = small(**BOTH | changes)
    columns = (
        dict.fromkeys((*OF_BUCKETS, *LAYER_SECONDS), 0.0) | seconds | {"stage": 0, "dp_overlap": 1.0} | own
    )
    frame = workload.with_columns(**{name: pl.lit(value) for name, value in columns.items()})
    return frame.select(**hidden_of_the_tail()).row(0, named=True)


def test_all_but_the_last_bucket_of_the_first_stage_hides() -> None:
    """100 M gradients in 1 s: buckets of 40, 40 and 20 M. The last takes 0.2 s, and nothing hides it.

    A backward of 2 s fills the first bucket 1.2 s before its end, of 0.5 s 0.3 s: 0.7 s are then waited for.
    """
    op = {"grad_reduce_dense_seconds": 1.0, "grad_reduce_dense_bytes": 400e6}
    assert stage_of({}, op | {"backward_seconds": 2.0})["grad_reduce_dense_hidden"] == pytest.approx(0.8)
    assert stage_of({}, op | {"backward_seconds": 0.5})["grad_reduce_dense_hidden"] == pytest.approx(0.3)
    # Everywhere else there is one bucket; and beside 85% of the passes.
    assert stage_of({}, op | {"backward_seconds": 2.0}, stage=1)["grad_reduce_dense_hidden"] == 0
    found = stage_of({}, op | {"backward_seconds": 2.0}, dp_overlap=0.85)
    assert found["grad_reduce_dense_hidden"] == pytest.approx(0.68)


def test_buckets_grow_with_those_who_reduce() -> None:
    """Of 64 ranks a bucket has 64 M: 100 M gradients are 64 and 36 M."""
    op = {"grad_reduce_dense_seconds": 1.0, "grad_reduce_dense_bytes": 400e6, "backward_seconds": 9.0}
    many = {"world_size": 256, "global_batch_size": 64}
    assert small(**many)["dp"].item() == 64
    assert stage_of(many, op)["grad_reduce_dense_hidden"] == pytest.approx(0.64)
    # cp ranks reduce too: 32 of dp and 2 of cp.
    shared = many | {"cp": 2, "flash_attention": True}
    assert stage_of(shared, op)["grad_reduce_dense_hidden"] == pytest.approx(0.64)


def test_a_last_bucket_of_few_parameters_leaves_the_one_before_it() -> None:
    """81 M gradients in 0.81 s: 40, 40 and 1 M. The second is full when all but 1/81 of the pass is over.

    A pass of 8.1 s: the 0.4 s of the second and 0.01 s of the third start 0.1 s before its end.
    """
    op = {"grad_reduce_dense_seconds": 0.81, "grad_reduce_dense_bytes": 324e6, "backward_seconds": 8.1}
    assert stage_of({}, op)["grad_reduce_dense_hidden"] == pytest.approx(0.81 - 0.31)


def test_chunks_hide_behind_those_before_them() -> None:
    """Two chunks of two stages: one chunk's 0.5 s beside the two last passes of the other, 0.2 s each.

    The second stage waits for 0.6 s; the first too, though its chunk is cut: the link is not free for it.
    """
    op = {"grad_reduce_dense_seconds": 1.0, "grad_reduce_dense_bytes": 400e6, "backward_seconds": 0.4}
    for stage in (0, 1):
        found = stage_of({"virtual_pipeline": 2}, op, stage=stage)
        assert found["grad_reduce_dense_hidden"] == pytest.approx(0.4)
    # Slower passes: only the first stage's last bucket of 10 of 50 M, or the second one's last chunk.
    op["backward_seconds"] = 4.0
    hidden = [
        stage_of({"virtual_pipeline": 2}, op, stage=stage)["grad_reduce_dense_hidden"] for stage in (0, 1)
    ]
    assert hidden == pytest.approx([0.9, 0.5])


def test_groups_of_micro_batches_hide_more() -> None:
    """Two chunks of two stages, 5 micro-batches in groups of 3: the last group of 2, and 3 in the first one.

    One chunk's 0.5 s of reductions are beside 2 passes of 0.1 s, of gathers beside 3 of them.
    """
    changes = {"virtual_pipeline": 2, "microbatch_group_size_per_vp_stage": 3, "global_batch_size": 20}
    op = {"grad_reduce_dense_seconds": 1.0, "grad_reduce_dense_bytes": 400e6, "backward_seconds": 0.2}
    assert stage_of(changes, op, stage=1)["grad_reduce_dense_hidden"] == pytest.approx(0.2)
    op = {"param_gather_dense_seconds": 1.0, "param_gather_dense_bytes": 200e6, "forward_seconds": 0.2}
    op["backward_seconds"] = 9.0
    assert stage_of(changes, op, stage=1)["param_gather_dense_hidden"] == pytest.approx(0.3)


def test_gathers_are_mirrored_beside_forward_passes() -> None:
    """2 bytes a parameter, whatever gradients take: 100 M in 0.5 s, beside a forward of 0.5 s 0.3 s."""
    op = {"param_gather_dense_seconds": 0.5, "param_gather_dense_bytes": 200e6, "backward_seconds": 9.0}
    assert stage_of({}, op | {"forward_seconds": 0.5})["param_gather_dense_hidden"] == pytest.approx(0.3)
    assert stage_of({}, op | {"forward_seconds": 2.0})["param_gather_dense_hidden"] == pytest.approx(0.4)


def test_experts_take_what_dense_gradients_leave() -> None:
    """100 M dense and 100 M expert gradients, a second each, beside 1.2 s of a backward of 2 s."""
    op = {f"grad_reduce_{kind}_seconds": 1.0 for kind in ("dense", "expert")}
    op |= {f"grad_reduce_{kind}_bytes": 400e6 for kind in ("dense", "expert")} | {"backward_seconds": 2.0}
    found = stage_of({}, op)
    assert found["grad_reduce_dense_hidden"] == pytest.approx(0.8)
    assert found["grad_reduce_expert_hidden"] == pytest.approx(0.4)


@settings(max_examples=200, deadline=None)
@given(
    pp=st.sampled_from([1, 2, 4]),
    chunks=st.integers(1, 4),
    stage=st.integers(0, 3),
    parameters=st.floats(1e6, 3e9),
    seconds=st.floats(1e-3, 10.0),
    backward=st.floats(1e-3, 10.0),
    group=st.sampled_from([None, 4, 5, 6]),
)
def test_the_closed_form_is_what_buckets_do_one_by_one(
    pp: int,
    chunks: int,
    stage: int,
    parameters: float,
    seconds: float,
    backward: float,
    group: int | None,
) -> None:
    changes = {"pp": pp, "virtual_pipeline": chunks if pp > 1 else 1, "num_layers": 16, "world_size": 32}
    # 64 sequences over 16/pp replicas are 4 pp micro-batches: of 8 in groups of 5 the last has 3
    changes |= {} if group is None or pp == 1 else {"microbatch_group_size_per_vp_stage": group}
    stage = min(stage, pp - 1)
    w = small(**changes, global_batch_size=64).row(0, named=True)
    op = {"grad_reduce_dense_seconds": seconds, "grad_reduce_dense_bytes": 4 * parameters}
    found = stage_of(changes | {"global_batch_size": 64}, op | {"backward_seconds": backward}, stage=stage)
    waits = waited_for(w, stage, parameters, seconds, backward)
    assert seconds - found["grad_reduce_dense_hidden"] == pytest.approx(waits, rel=1e-9, abs=1e-8)


def test_an_iteration_waits_for_what_its_passes_do_not_cover() -> None:
    """One stage of 4 layers and two tables; 8 ranks of one node, 100 GB/s between them.

    P = 4·(12·4096² + 13·4096) + 2·128·4096 + 2·4096, with norms and biases 806 M. Gradients take 7/8·4P over
    100 GB/s, 28.2 ms, parameters half of that. Buckets of 40 M: 20, and a last one of 6 M.
    """
    plain, hidden = (costs(WIDE | option, dp_overlap=1.0) for option in ({}, BOTH))
    parameters = plain.ops.filter(op="adam")["m"].item()
    before, after = (found.workloads.row(0, named=True) for found in (plain, hidden))
    reduce, gather = (7 / 8 * bytes_ * parameters / 100e9 for bytes_ in (4, 2))
    assert before["dp_comm_seconds"] == after["dp_comm_seconds"] == pytest.approx(reduce + gather)
    assert 20 * 40e6 < parameters < 21 * 40e6
    stage, w = hidden.stages.row(0, named=True), small(**WIDE).row(0, named=True)
    waits = [
        waited_for(w, 0, parameters, seconds, stage[f"{phase}_seconds"])
        for seconds, phase in ((reduce, "backward"), (gather, "forward"))
    ]
    assert all(0 < wait < seconds / 4 for wait, seconds in zip(waits, (reduce, gather), strict=True))
    assert after["dp_hidden_seconds"] == pytest.approx(reduce + gather - sum(waits))
    assert before["dp_hidden_seconds"] == before["edp_hidden_seconds"] == after["edp_hidden_seconds"] == 0
    saved = before["iteration_seconds"] - after["iteration_seconds"]
    assert saved == pytest.approx(after["dp_hidden_seconds"])
    assert after["exposed_comm_seconds"] == pytest.approx(
        before["exposed_comm_seconds"] - after["dp_hidden_seconds"]
    )
    assert [row["bubble_seconds"] for row in (before, after)] == pytest.approx([0, 0], abs=1e-12)


CASES: dict[str, dict[str, Any]] = {
    "both": WIDE | BOTH,
    "gradients": WIDE | REDUCE | {"distributed_optimizer": False},
    "interleaved": WIDE | BOTH | {"pp": 2, "virtual_pipeline": 2, "world_size": 16},
    "experts": WIDE
    | BOTH
    | {
        "num_experts": 8,
        "moe_router_topk": 2,
        "ep": 4,
        "moe_ffn_hidden_size": 8192,
    },
    "experts, fp16": WIDE
    | REDUCE
    | {"num_experts": 4, "moe_router_topk": 1, "ep": 2, "dtype": "fp16", "world_size": 16, "pp": 2}
    | {"pp": 4, "world_size": 32, "num_layers": 8},
    "skewed": WIDE
    | BOTH
    | {"num_experts": 8, "moe_router_topk": 2, "ep": 4, "world_size": 8}
    | {"routing": "zipf(alpha=1,seed=1)"},
}


def test_both_forms_hide_the_same_and_never_lengthen() -> None:
    values = cluster().values
    on, off = (
        pl.concat(small(**case | option).with_columns(workload=pl.lit(name)) for name, case in CASES.items())
        for option in ({}, dict.fromkeys(BOTH, False))
    )
    rows = {
        name: costed(frame, pl.DataFrame([values])).rows_by_key("workload", named=True, unique=True)
        for name, frame in (("on", on), ("off", off))
    }
    even = on.filter(routing="balanced")
    expected = cost(folded(even), with_constants(even, values)).workloads
    for name, case in CASES.items():
        beside, after = rows["on"][name], rows["off"][name]
        assert beside["iteration_seconds"] <= after["iteration_seconds"], name
        # Where chunks are not interleaved, the first stage alone hides anything.
        hides = case["pp"] == 1 or case.get("virtual_pipeline", 1) > 1
        assert beside["dp_hidden_seconds"] + beside["edp_hidden_seconds"] > 0 or not hides, name
        for kind in ("dp", "edp"):
            whole = beside[f"{kind}_comm_seconds"]
            assert 0 <= beside[f"{kind}_hidden_seconds"] <= whole == after[f"{kind}_comm_seconds"]
        for by_rows in expected.filter(workload=name).iter_rows(named=True):
            for column in ("iteration", "exposed_comm", "bubble", "dp_hidden", "edp_hidden"):
                both = [row[f"{column}_seconds"] for row in (beside, by_rows)]
                assert both[0] == pytest.approx(both[1], rel=1e-11, abs=1e-12), (name, column)


def test_no_op_of_the_trace_changes() -> None:
    for case in CASES.values():
        if "routing" not in case:
            plain = small(**case | dict.fromkeys(BOTH, False)).with_columns(workload=pl.lit("w"))
            assert folded(small(**case).with_columns(workload=pl.lit("w"))).equals(folded(plain))


def test_ids_and_rules_of_a_sweep(root: Path, tmp_path: Path) -> None:
    text = """
description: Gradients beside passes.
twins: true
grids:
  - {model: mixtral_8x7B, world_size: 64, tp: 2, pp: 2, ep: 8, etp: 1, seq_length: 4096,
     global_batch_size: 64, overlap_grad_reduce: [false, true]}
  - {model: mixtral_8x7B, world_size: 64, tp: 2, pp: 2, ep: 8, etp: 1, seq_length: 4096,
     global_batch_size: 64, overlap_grad_reduce: true, overlap_param_gather: true}
"""
    path = tmp_path / "beside.yaml"
    path.write_text(text, encoding="utf-8")
    workloads = load_sweep(root, path).workloads
    words = [id_.partition("-moe")[2] for id_ in workloads.filter(kind="moe")["workload"]]
    assert words == ["-etp1", "-etp1-overlapgradreduce", "-etp1-overlapgradreduce-overlapparamgather"]
    assert findings(workloads).filter(severity="error").is_empty()


def test_runs_take_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    cells = {"model": "mixtral_8x7B", "world_size": 64, "tp": 2, "ep": 8, "global_batch_size": 64}
    cells |= {"seq_length": 4096, "flash_attention": True, "routing": "balanced"}
    frame = predict(pl.DataFrame([cells | {"overlap_grad_reduce": on} for on in (False, True)]))
    plain, beside = frame["iteration_seconds"]
    assert 0 < plain - beside == pytest.approx(frame["dp_hidden_seconds"][1] + frame["edp_hidden_seconds"][1])


def test_a_recipe_s_overlaps_are_read() -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    draft = read_recipe(recipe, "recipe.yaml")
    assert draft.row["overlap_grad_reduce"][0] is True
    assert "overlap_grad_reduce" not in draft.unread
    recipe["comm_overlap"] = dict.fromkeys(("overlap_moe_expert_parallel_comm", "delay_wgrad_compute"), True)
    draft = read_recipe(recipe, "recipe.yaml")
    assert all(draft.row[name][0] is True for name in recipe["comm_overlap"])
    del recipe["model"]["num_moe_experts"]
    draft = read_recipe(recipe, "recipe.yaml")
    assert set(recipe["comm_overlap"]) <= {*draft.idle} - {*draft.row}


@pytest.mark.parametrize("format_", ["simai", "chakra", "goal"])
@pytest.mark.parametrize("option", [*HIDING])
def test_formats_that_run_one_after_the_other_refuse_them(
    option: str, format_: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workloads = small(**{option: True})
    monkeypatch.setattr("moesweep.export.request.catalogue", lambda request: workloads)
    with pytest.raises(BadInput) as caught:
        chosen(Request(format_, tmp_path / "out"))
    assert [problem.path for problem in caught.value.problems] == [option]


def test_a_timeline_shows_reductions_before_the_end_and_gathers_beyond_it() -> None:
    each = traced_workload("interleaved")
    stepped = steps(each, step_programs(each))
    plain = optimizer_ops(each, stepped)
    some = pl.col("op").is_in(["grad_reduce_dense", "param_gather_dense"])
    early = replace(
        each,
        program=each.program.with_columns(
            hidden_seconds=pl.when(some).then(pl.col("seconds") / 4).otherwise(0.0)
        ),
    )
    found = optimizer_ops(early, stepped)
    for stage in (0, 1):
        rows = {
            op: [
                frame.filter((pl.col("stage") == stage) & (pl.col("op") == op)).row(0, named=True)
                for frame in (plain, found)
            ]
            for op in ("grad_reduce_dense", "adam", "param_gather_dense")
        }
        before, after = rows["grad_reduce_dense"]
        assert (
            before["start"] - after["start"]
            == before["end"] - after["end"]
            == round(before["nanoseconds"] / 4)
        )
        before, after = rows["param_gather_dense"]
        assert (
            after["start"] == rows["adam"][1]["end"]
            if after["op_index"] == rows["adam"][1]["op_index"] + 1
            else True
        )
        assert after["end"] - after["start"] == before["nanoseconds"]


def test_hidden_columns_are_those_of_the_ops() -> None:
    found = costs(WIDE | BOTH, dp_overlap=0.5)
    stage = found.stages.row(0, named=True)
    assert found.workloads["dp_hidden_seconds"].item() == pytest.approx(
        sum(stage[name] for name in HIDDEN_OF_THE_TAIL if "dense" in name)
    )
    assert constants()["dp_overlap"] == 0.85
