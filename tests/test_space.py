"""Spaces: every point enumerated, judged and counted as one by one, in parts of any size; twins; codes."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import naive_space
from moesweep.edge.problems import BadInput, Problem
from moesweep.shapes.distinct import Distinct
from moesweep.study.blocks import Block
from moesweep.study.conditions import Alike, checks, removed
from moesweep.study.entries import points
from moesweep.study.models import given_by_model
from moesweep.study.of_clusters import with_constants_of_rules
from moesweep.study.space import TWIN, Space, load_space, nothing_left
from moesweep.study.sweep import enumerate_sweep

OPTIONS = {"model": "gpt_7B", "num_experts": 8, "moe_router_topk": 2, "seq_length": 128}
GRID: dict[str, Any] = {
    "world_size": {"from": 8, "to": 32, "times": 4},
    "tp": "all",
    "pp": [1, 3],
    "ep": ["largest", 1, 3],
    "etp": [1, "tp"],
    "global_batch_size": [{"per_gpu": 1}, 48],
    "num_layers": {"from": 8, "to": 12, "step": 4},
}


def space(root: Path, folder: Path, content: dict[str, Any], **more: int) -> Space:
    path = folder / "space.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return load_space(root, path, **more)


def problems(root: Path, folder: Path, content: dict[str, Any], **more: int) -> list[Problem]:
    with pytest.raises(BadInput) as caught:
        space(root, folder, content, **more)
    return caught.value.problems


def everything(found: Space, most: int = 200_000) -> tuple[pl.DataFrame, Counter[str]]:
    """All that is legal, with codes, and what was left out for what reason."""
    frames, counts = [], Counter[str]()
    for part in found.parts(most):
        batch = found.batch(part)
        codes = batch.codes.rename(lambda name: f"code {name}")
        frames.append(pl.concat([batch.workloads, codes, batch.positions.to_frame()], how="horizontal"))
        counts.update(batch.left_out)
    return pl.concat(frames, how="diagonal"), counts


def test_every_point_is_judged_as_alone(root: Path, tmp_path: Path) -> None:
    found = space(root, tmp_path, {"options": OPTIONS, "grids": [GRID]})
    legal, counts = everything(found)
    wanted, broken = [], Counter[str]()
    for point in naive_space.points(GRID, OPTIONS, given_by_model(root, "gpt_7B")):
        row, rule = naive_space.judged(point)
        broken.update([rule] if rule else [])
        wanted += [row] if row else []
    assert found.size == len(wanted) + counts.total() == 2 * 6 * 2 * 3 * 2 * 2 * 2
    assert counts.pop("said again") > 0
    assert counts == broken
    assert len(broken) >= 5
    columns = [name for name in wanted[0] if name != "workload"]
    rows = pl.DataFrame(wanted, schema_overrides={"twin": pl.String}).select(columns)
    assert legal.select(columns).sort(columns).equals(rows.sort(columns))


@pytest.mark.parametrize("most", [pytest.param(1, marks=[pytest.mark.slow, pytest.mark.endurance]), 100])
def test_parts_of_any_size_are_the_same_points(root: Path, tmp_path: Path, most: int) -> None:
    content = {"options": OPTIONS, "grids": [GRID], "rows": [GRID | ROW], "twins": True}
    found = space(root, tmp_path, content)
    whole, counts = everything(found)
    parts, again = everything(found, most)
    columns, order = parts.columns, ["position", f"code {TWIN}"]
    assert whole.select(columns).sort(order).equals(parts.sort(order))
    assert counts == again


ROW = {"world_size": 8, "tp": 2, "pp": 1, "ep": 2, "etp": 1, "global_batch_size": 8, "num_layers": 4}
ROW |= {"recompute": "full"}


def test_equal_codes_are_equal_values(root: Path, tmp_path: Path) -> None:
    grid = GRID | {"model": ["gpt_7B", "gpt_13B"], "num_experts": [4, 8], "pp": 1}
    options = {key: value for key, value in OPTIONS.items() if key not in ("model", "num_experts")}
    found = space(root, tmp_path, {"options": options, "grids": [grid], "twins": True})
    (part,) = found.parts()
    legal, _ = everything(found)
    varying = 0
    for column, axes in found.axes_of(part).items():
        if column == "twin":  # An id says more than the axes of the other columns.
            continue
        codes = [f"code {axis}" for axis in axes]
        alike = legal.group_by(codes or pl.lit(0)).agg(pl.col(column).n_unique())
        assert alike[column].max() == 1, column
        varying += bool(axes)
    assert varying > 10
    assert legal["code is_twin"].sum() > 0


def test_each_twin_is_there_once(root: Path, tmp_path: Path) -> None:
    content = {"options": OPTIONS, "grids": [GRID | {"pp": [1, 2]}], "twins": True}
    legal, counts = everything(space(root, tmp_path, content), 50)
    twins = legal.filter(pl.col(f"code {TWIN}") == 1)
    moe = legal.filter(pl.col(f"code {TWIN}") == 0)
    assert twins["workload"].is_unique().all()
    assert set(moe["twin"].drop_nulls()) == set(twins["workload"])
    assert twins.select("ep", "num_experts", "listed").unique().rows() == [(1, 0, 0)]
    assert not any(reason.endswith("(of a twin)") for reason in counts)


def test_a_space_is_what_a_sweep_lists(root: Path, tmp_path: Path) -> None:
    legal, counts = everything(space(root, tmp_path, study := _study(root)))
    (tmp_path / "sweep.yaml").write_text(json.dumps(study), encoding="utf-8")
    listed = enumerate_sweep(root, tmp_path / "sweep.yaml")
    assert set(counts) == {"said again"}  # `largest_for_tp` names degrees with one answer
    assert legal.select(listed.columns).sort("workload").equals(listed.sort("workload"))


def _study(root: Path) -> dict[str, Any]:
    from moesweep.edge.yaml_reader import read_yaml

    data: dict[str, Any] = read_yaml(root / "config/sweeps/moe-a100-123.yaml")
    return data


def test_points_become_rows_of_a_sweep(root: Path, tmp_path: Path) -> None:
    content = {
        "options": OPTIONS,
        "grids": [GRID],
        "rows": [ROW, ROW | {"routing": {"zipf": 1.2, "seed": 3}}],
    }
    found = space(root, tmp_path, content)
    legal, _ = everything(found)
    rows = found.rows(legal["position"].to_list())
    (tmp_path / "sweep.yaml").write_text(json.dumps({"options": OPTIONS, "rows": rows}), encoding="utf-8")
    assert enumerate_sweep(root, tmp_path / "sweep.yaml")["workload"].equals(legal["workload"])


def test_clusters_are_an_axis(root: Path, tmp_path: Path) -> None:
    content = {"options": OPTIONS, "grids": [ROW | {"cluster": ["a", "b"], "tp": [1, 2]}]}
    legal, _ = everything(space(root, tmp_path, content))
    assert legal.select("cluster", "tp").rows() == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_conditions_leave_points_out(root: Path, tmp_path: Path) -> None:
    where = ["tp * ep <= 4 AND kind = 'moe'", "dp >= 4"]
    found = space(root, tmp_path, {"options": OPTIONS, "grids": [GRID | {"where": where}]})
    legal, counts = everything(found)
    plain, _ = everything(space(root, tmp_path, {"options": OPTIONS, "grids": [GRID]}))
    kept = plain.filter((pl.col("tp") * pl.col("ep") <= 4) & (pl.col("dp") >= 4))
    assert 0 < kept.height < plain.height
    assert set(legal["workload"]) == set(kept["workload"])
    assert [*counts][1:4] == ["ep_rule", *(f"where {text}" for text in where)]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("tp >", "unable to parse"),
        ("tq > 1", "there is no column tq"),
        ("tp + 1", "gives Int64"),
        ("sum(tp) > 3", "sum is not asked here"),
        ("(select 1) = 1", "a query is not asked here"),
        ("row_number() over (order by tp) > 3", "row_number is not asked here"),
        ("tp > 1; drop table x", "cannot be asked"),
        ("model > 3", "cannot be asked"),
        ("x" * 3000, "longer than"),
        ("", "shorter than"),
    ],
)
def test_a_condition_that_is_none(root: Path, tmp_path: Path, where: str, said: str) -> None:
    (problem,) = problems(root, tmp_path, {"options": OPTIONS, "grids": [GRID | {"where": where}]})
    assert problem.path == "grids[0].where"
    assert said in problem.message


def test_a_condition_that_fails_on_a_value(root: Path, tmp_path: Path) -> None:
    found = space(root, tmp_path, {"options": OPTIONS, "grids": [GRID | {"where": "cast(model as int) > 1"}]})
    with pytest.raises(BadInput, match=r"grids\[0\].where: where: .* cannot be asked"):
        everything(found)


RANGE = {"from": 1, "to": 8}


@pytest.mark.parametrize(
    ("axis", "path", "said"),
    [
        (RANGE, "grids[0].tp", "either times or step"),
        (RANGE | {"times": 2, "step": 1}, "grids[0].tp", "either times or step"),
        (RANGE | {"times": 1}, "grids[0].tp.times", "below the least"),
        (RANGE | {"step": 0}, "grids[0].tp.step", "below the least"),
        (RANGE | {"step": -1}, "grids[0].tp.step", "below the least"),
        (RANGE | {"step": 1.5}, "grids[0].tp.step", "the number 1.5 where a whole number"),
        ({"from": 8, "to": 1, "step": 1}, "grids[0].tp", "has no value"),
        ({"from": 0, "to": 8, "step": 1}, "grids[0].tp", "leaves what tp may be"),
        ({"from": 1, "to": 2**30, "times": 2}, "grids[0].tp", "leaves what tp may be"),
        ({"from": 1, "times": 2}, "grids[0].tp.to", "is missing"),
        ({"from": 1, "to": 8, "by": 2}, "grids[0].tp.by", "unknown key"),
        ("every", "grids[0].tp", "where a whole number"),
        ({}, "grids[0].tp", "the mapping {} where a whole number"),
    ],
)
def test_a_range_that_is_none(root: Path, tmp_path: Path, axis: Any, path: str, said: str) -> None:
    found = problems(root, tmp_path, {"options": OPTIONS, "grids": [ROW | {"tp": axis}]})
    assert [(problem.path, said in problem.message) for problem in found] == [(path, True)]


def test_an_axis_has_an_end(root: Path, tmp_path: Path) -> None:
    axis = {"from": 1, "to": 2**24, "step": 1}
    (problem,) = problems(root, tmp_path, {"options": OPTIONS, "grids": [ROW | {"seq_length": axis}]})
    assert "a range of 16777216 values" in problem.message


def test_all_of_what_has_no_divisors(root: Path, tmp_path: Path) -> None:
    (problem,) = problems(root, tmp_path, {"options": OPTIONS, "grids": [ROW | {"hidden_size": "all"}]})
    assert (problem.path, problem.rule) == ("grids[0].hidden_size", "type")


def test_ranges_and_all_are_for_grids(root: Path, tmp_path: Path) -> None:
    found = problems(root, tmp_path, {"options": OPTIONS | {"pp": "all"}, "rows": [ROW | {"tp": "all"}]})
    assert [problem.path for problem in found] == ["options.pp", "rows[0].tp"]


def test_a_space_too_large(root: Path, tmp_path: Path) -> None:
    thousand = {"from": 1, "to": 1000, "step": 1}
    grid = ROW | {
        "seq_length": thousand,
        "global_batch_size": thousand,
        "micro_batch_size": thousand,
        "tp": [1, 2],
    }
    (problem,) = problems(root, tmp_path, {"options": OPTIONS, "grids": [grid]})
    assert problem.value == "2000000000"
    assert "--points 2000000000" in problem.suggestion
    assert space(root, tmp_path, {"options": OPTIONS, "grids": [grid]}, most=2 * 10**9).size == 2 * 10**9


def test_what_removed_the_last_point(root: Path, tmp_path: Path) -> None:
    grid = ROW | {"tp": [1, 2, 3], "where": "tp > 1", "global_batch_size": 7}
    found = space(root, tmp_path, {"options": OPTIONS, "grids": [grid]})
    legal, counts = everything(found)
    assert legal.is_empty()
    problem = nothing_left(found, counts)
    assert problem.rule == "empty"
    assert problem.message == (
        "of 3 points none is legal: where tp > 1 leaves out 1, world_by_tp leaves out 1, "
        "global_batch removes the last 1"
    )


def test_refused_points_have_their_rule(root: Path, tmp_path: Path) -> None:
    found = space(root, tmp_path, {"options": OPTIONS, "grids": [GRID | {"where": "tp > 1"}]})
    (part,) = found.parts()
    batch = found.batch(part, with_refused=True)
    rules = {
        name: count
        for name, count in batch.left_out.items()
        if not name.startswith(("said", "where", "ep_rule"))
    }
    assert dict(batch.refused["rule"].value_counts().iter_rows()) == rules
    assert batch.refused["workload"].null_count() == 0


def test_a_million_points_are_legal_or_counted(root: Path, tmp_path: Path) -> None:
    grid = {"world_size": {"from": 64, "to": 4096, "times": 2}, "tp": "all", "pp": "all", "ep": "all"}
    grid |= {"global_batch_size": [{"per_gpu": n} for n in (1, 2, 4)], "micro_batch_size": [1, 2, 4, 8]}
    grid |= {"etp": [1, "tp"], "recompute": ["none", "selective", "full"], "flash_attention": [True, False]}
    found = space(root, tmp_path, {"options": OPTIONS, "grids": [grid]})
    legal, counts = everything(found)
    assert found.size == legal.height + counts.total() == 7 * 13 * 13 * 4 * 3 * 4 * 2 * 3 * 2


def test_points_alike_are_judged_once(root: Path, tmp_path: Path) -> None:
    grid = GRID | {
        "model": ["gpt_7B", "gpt_13B"],
        "virtual_pipeline": [1, 2, 4],
        "micro_batch_size": [1, 2, 3],
        "recompute": ["none", "selective", "full"],
        "recompute_modules": [["core_attn"], ["moe"], ["mla_up_proj"]],
        "seq_length": [128, 4096],
        "where": ["tp * ep < 24", "global_batch_size % 5 <> 1"],
    }
    found = space(root, tmp_path, {"options": OPTIONS, "grids": [grid]})
    for part in found.parts(9000):
        block = found.blocks[part.block]
        at = pl.int_range(part.start, part.stop, eager=True)
        frame = with_constants_of_rules(points(block, at), {})
        sizes = {axis.name: axis.size for axis in block.axes}
        alike = Alike(block.codes(at), sizes, found.axes_of(part), frame.__getitem__)
        assert removed(alike, block.where, True).equals(removed(frame, block.where, True))
        asked = dict(enumerate(checks(block.where, legal=True).values()))
        groups = list(alike.shared_out(asked))
        together = max(groups, key=lambda group: len(group.checks))
        assert len(together.checks) > 40
        assert 16 * together.rows.height <= frame.height
        assert {group.index is None for group in groups} == {True, False}
        assert sorted(number for group in groups for number in group.checks) == list(asked)


def test_no_point_is_made_but_legal_ones_and_those_that_checks_look_at(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"model": ["gpt_7B", "gpt_13B", "gpt_22B"], "world_size": [16, 32], "tp": "all", "pp": [1, 2, 3]}
    grid |= {"micro_batch_size": [1, 2], "seq_length": [1024, 2048, 4096], "etp": ["tp", 1, 2]}
    grid |= {"global_batch_size": 48, "ep": [1, 2], "recompute": ["none", "selective", "full"]}
    found = space(root, tmp_path, {"options": OPTIONS, "grids": [grid]})
    (part,) = found.parts()
    made: list[int] = []

    def counted(block: Block, at: pl.Series, models: Distinct | None = None) -> pl.DataFrame:
        frame = points(block, at, models)
        made.append(frame.height)
        return frame

    monkeypatch.setattr("moesweep.study.space.points", counted)
    batch = found.batch(part)
    assert "said again" in batch.left_out
    assert made[-1] == batch.workloads.height
    assert sum(made[:-1]) < part.stop - part.start
