"""Points of a sweep's grids: conditions, ranges, what is illegal, listed twice or too much."""

import json
from pathlib import Path
from typing import Any

import pytest

from moesweep.edge.problems import BadInput, Problem
from moesweep.study.sweep import Sweep, enumerate_sweep, load_sweep
from moesweep.study.validation import validate
from sweep_files import write

LISTED = {"model": "gpt_7B", "world_size": 16, "seq_length": 128, "global_batch_size": {"per_gpu": 1}}


def sweep_of(root: Path, folder: Path, *grids: dict[str, Any], **more: Any) -> Sweep:
    return load_sweep(root, write(folder, json.dumps({"options": LISTED, "grids": [*grids], **more})))


def refusals(root: Path, folder: Path, *grids: dict[str, Any], **more: Any) -> list[Problem]:
    with pytest.raises(BadInput) as caught:
        sweep_of(root, folder, *grids, **more)
    return caught.value.problems


def test_illegal_points_are_skipped_where_a_grid_says_so(root: Path, tmp_path: Path) -> None:
    sweep = sweep_of(root, tmp_path, {"tp": [1, 2, 3], "pp": [1, 2, 5], "illegal": "skip"})
    assert sweep.workloads.select("tp", "pp").rows() == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert sweep.left_out.rows() == [("grids[0]", "world_by_pp", 3), ("grids[0]", "world_by_tp", 2)]
    validate(sweep)
    with pytest.raises(BadInput):
        validate(sweep_of(root, tmp_path, {"tp": [1, 2, 3], "pp": [1, 2, 5]}))


def test_conditions_and_ranges_in_a_sweep(root: Path, tmp_path: Path) -> None:
    grid = {"tp": {"from": 1, "to": 8, "times": 2}, "pp": "all", "where": "tp * pp = 16"}
    sweep = sweep_of(root, tmp_path, grid, {"tp": 1, "pp": 1})
    assert sweep.workloads.select("tp", "pp").rows() == [(1, 16), (2, 8), (4, 4), (8, 2), (1, 1)]
    assert sweep.origins["entry"].to_list() == ["grids[0]"] * 4 + ["grids[1]"]
    assert sweep.left_out.rows() == [("grids[0]", "where tp * pp = 16", 16)]


def test_a_grid_of_which_nothing_is_left(root: Path, tmp_path: Path) -> None:
    grid = {"tp": [3, 5, 7], "pp": 1, "where": "tp < 7", "illegal": "skip"}
    (problem,) = refusals(root, tmp_path, grid, {"tp": 1, "pp": 1})
    assert (problem.path, problem.rule) == ("grids[0]", "empty")
    assert problem.message == (
        "of 3 points none is left: where tp < 7 leaves out 1, world_by_tp removes the last 2"
    )


def test_points_of_one_grid_that_a_rule_makes_the_same_count_once(root: Path, tmp_path: Path) -> None:
    grid = {"tp": [1, 2], "pp": 1, "num_experts": 4, "moe_router_topk": 1, "etp": [1, "tp"]}
    grid |= {"ep": [4, "largest"], "global_batch_size": [16, {"per_gpu": 1}]}
    sweep = sweep_of(root, tmp_path, grid)
    assert sweep.workloads.select("tp", "etp", "ep").rows() == [(1, 1, 4), (2, 1, 4), (2, 2, 4)]
    assert sweep.left_out.is_empty()


def test_what_two_grids_list_is_refused_in_one_line(root: Path, tmp_path: Path) -> None:
    grid = {"tp": [1, 2], "pp": [1, 2], "dtype": ["bf16", "fp16"]}
    (problem,) = refusals(root, tmp_path, grid, grid)
    assert (problem.path, problem.rule) == ("grids[1]", "duplicate")
    assert problem.message.endswith("is listed at grids[0] already (and 7 more)")


def test_clusters_are_for_spaces(root: Path, tmp_path: Path) -> None:
    grid = {"tp": 1, "pp": 1, "cluster": ["a", "b"]}
    (problem,) = refusals(root, tmp_path, grid)
    assert (problem.path, problem.rule) == ("grids[0].cluster", "space_only")
    (problem,) = refusals(root, tmp_path, {"tp": 1, "pp": 1}, rows=[{"tp": 2, "pp": 1, "cluster": "a"}])
    assert problem.path == "rows[0].cluster"


def test_a_file_of_100000_rows(root: Path, tmp_path: Path) -> None:
    rows = "\n".join(
        f"- {{model: gpt_7B, world_size: 8, tp: {tp}, pp: 1, global_batch_size: {8 * n}, seq_length: 128}}"
        for tp in (1, 2)
        for n in range(1, 50_001)
    )
    frame = enumerate_sweep(root, write(tmp_path, f"rows:\n{rows}\n"))
    assert (frame.height, frame["workload"].n_unique()) == (100_000, 100_000)
    assert frame["global_batch_size"].to_list() == [8 * n for n in range(1, 50_001)] * 2


def test_rows_of_many_mistakes_are_each_named(root: Path, tmp_path: Path) -> None:
    rows = [{"tp": 1, "pp": 1, "seq_length": n} for n in (128, "128", 128, True, 0)]
    found = refusals(root, tmp_path, {"tp": 1, "pp": 2}, rows=rows)
    assert [(p.path, p.rule) for p in found] == [
        ("rows[1].seq_length", "type"),
        ("rows[3].seq_length", "type"),
        ("rows[4].seq_length", "range"),
        ("rows[2]", "duplicate"),
    ]
