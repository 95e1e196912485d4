"""The rules: each broken once by hand, all at once, and the warnings about the study."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broken import BROKEN, SOUND
from moesweep.edge.problems import BadInput, Problem
from moesweep.evaluate.recost import recosted
from moesweep.shapes.states import least_state_bytes
from moesweep.study.catalog import load_cluster
from moesweep.study.rules import RULES
from moesweep.study.sweep import Sweep, load_sweep
from moesweep.study.validation import COLUMNS, findings, validate
from moesweep.study.workload import GIVEN, resolve


def found(changes: dict[str, Any]) -> pl.DataFrame:
    return findings(resolve([SOUND | changes]), usable_hbm_bytes=80 * 2**30)


def sweep_of(root: Path, tmp_path: Path, sweep: dict[str, Any]) -> Sweep:
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(sweep), encoding="utf-8")
    return load_sweep(root, path)


def problems_of(sweep: Sweep) -> list[Problem]:
    with pytest.raises(BadInput) as caught:
        validate(sweep)
    return caught.value.problems


def test_the_sound_workload_breaks_no_rule() -> None:
    assert set(SOUND) == set(GIVEN)
    assert found({}).is_empty()


@pytest.mark.parametrize(("rule", "changes", "value", "suggestion"), BROKEN)
def test_each_rule(rule: str, changes: dict[str, Any], value: str, suggestion: str) -> None:
    frame = found(changes).filter(rule=rule)
    assert frame["value"].to_list() == [value]
    assert frame["suggestion"][0].startswith(suggestion)
    assert "{" not in frame["message"][0]


@pytest.mark.parametrize(("rule", "changes", "value", "suggestion"), BROKEN)
def test_the_first_suggestion_mends_it(
    rule: str, changes: dict[str, Any], value: str, suggestion: str
) -> None:
    row = found(changes).filter(rule=rule).row(0, named=True)
    if not row["suggestion"].startswith("nearest: "):
        return
    nearest = row["suggestion"].removeprefix("nearest: ").split(", ")
    for legal in nearest:
        value = {"true": True, "false": False}.get(legal, legal)
        text = isinstance(SOUND[row["key"]], str)
        mended = SOUND | changes | {row["key"]: value if text or isinstance(value, bool) else int(value)}
        assert rule not in set(findings(resolve([mended]))["rule"])


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(("rule", "changes", "value", "suggestion"), BROKEN)
def test_each_rule_on_many_workloads_and_their_twins(
    rule: str, changes: dict[str, Any], value: str, suggestion: str, count: int
) -> None:
    """Words are found for every workload that breaks a rule, also where they end a frame."""
    rows = [
        SOUND | changes | {"global_batch_size": (SOUND | changes)["global_batch_size"] * (at + 1)}
        for at in range(count)
    ]
    # Twins lie in a chunk of their own, as they are enumerated after all others.
    workloads = pl.concat([resolve(rows), resolve(rows)])
    broken = findings(workloads, usable_hbm_bytes=80 * 2**30).filter(rule=rule)
    assert broken.height
    assert all(broken["message"])


def test_every_rule_has_a_case() -> None:
    names = [rule.name for rule in RULES]
    # Those of a cluster, which a workload alone does not have, are broken in test_fp8.py, test_offload.py and
    # test_activation_offload.py.
    of_clusters = {"fp8_of_gpu", "mxfp8_of_gpu", "offload_of_host", "activations_of_host"}
    assert set(names) - of_clusters == {case[0] for case in BROKEN}
    assert max(Counter(names).values()) == 1
    assert {rule.key for rule in RULES} <= set(GIVEN)


def test_the_study_has_no_errors_and_known_warnings(root: Path) -> None:
    sweep = load_sweep(root, "config/sweeps/moe-a100-123.yaml")
    warnings = validate(sweep)
    assert warnings.columns == list(COLUMNS)
    kinds = sweep.workloads.select("workload", "kind", "model", "tp", "pp")
    moe = warnings.join(kinds, on="workload").filter(kind="moe")
    assert moe["severity"].unique().to_list() == ["warning"]
    counts = {"heads_by_tp": 19, "layers_by_pp": 9, "tp_within_node": 37, "vocabulary_padding": 18}
    assert dict(moe.group_by("rule").len().iter_rows()) == counts
    assert moe.filter(rule="heads_by_tp").select("model").unique().rows() == [("gpt_13B",)]
    assert moe.filter(rule="layers_by_pp").select("model", "pp").unique().rows() == [("gpt_7B", 8)]


def test_what_memory_is_warned_of_does_not_fit(root: Path) -> None:
    sweep = load_sweep(root, "config/sweeps/moe-a100-123.yaml")
    cluster = load_cluster(root, "dgx-a100-80gb-8xhdr200")
    costs = recosted(sweep.workloads, cluster)
    least = sweep.workloads.select("workload", least=least_state_bytes())
    both = costs.join(least, on="workload").select("peak_memory_bytes", "least")
    assert (both["least"] <= both["peak_memory_bytes"]).all()
    usable = cluster.value("hbm_bytes") - cluster.value("reserved_hbm_bytes")
    warned = validate(sweep, 8, usable).filter(rule="memory")
    assert warned.height == 25
    assert not costs.join(warned, on="workload")["fits"].any()


def test_the_dense_sweep_has_no_errors(root: Path) -> None:
    validate(load_sweep(root, "config/sweeps/dense-a100-184.yaml"))


def test_node_size_decides_what_crosses_nodes() -> None:
    frame = resolve([SOUND | {"tp": 16, "etp": 1}])
    assert "tp_within_node" in findings(frame, 8)["rule"].to_list()
    assert "tp_within_node" not in findings(frame, 16)["rule"].to_list()


def test_all_errors_come_at_once_with_their_places(root: Path, tmp_path: Path) -> None:
    options = {"model": "gpt_7B", "seq_length": 4096, "global_batch_size": 60, "moe_router_topk": 2}
    grids = [{"world_size": 64, "tp": [4, 16], "pp": 1, "num_experts": 12, "ep": 8}]
    rows = [{"world_size": 64, "tp": 4, "pp": 64, "global_batch_size": 64}]
    sweep = sweep_of(root, tmp_path, {"options": options, "grids": grids, "rows": rows})
    problems = problems_of(sweep)
    assert {(p.path, p.rule, p.value) for p in problems} == {
        ("options.global_batch_size", "global_batch", "60"),
        ("grids[0].ep", "experts_by_ep", "8"),
        ("grids[0].ep", "ep_within_dp", "8"),
        ("rows[0].tp", "world_by_tp", "4"),
        ("rows[0].pp", "layer_per_stage", "64"),
    }
    assert {p.file for p in problems} == {str(tmp_path / "sweep.yaml")}
    assert all(p.suggestion.startswith("nearest: ") for p in problems if p.rule != "ep_within_dp")


def test_a_model_s_own_fault_names_the_model_s_file(root: Path, tmp_path: Path) -> None:
    models = tmp_path / "config" / "models"
    models.mkdir(parents=True)
    text = (root / "config/models/gpt_7B.yaml").read_text(encoding="utf-8")
    (models / "odd.yaml").write_text(text.replace("value: 32", "value: 33"), encoding="utf-8")
    row = {"model": "odd", "world_size": 8, "tp": 1, "pp": 1, "global_batch_size": 8, "seq_length": 128}
    (problem,) = problems_of(sweep_of(tmp_path, tmp_path, {"rows": [row]}))
    assert (problem.file, problem.path) == ("config/models/odd.yaml", "num_attention_heads")
    assert problem.rule == "hidden_by_heads"


def test_one_fault_of_a_grid_is_reported_once(root: Path, tmp_path: Path) -> None:
    grid = {"model": "gpt_7B", "world_size": 64, "tp": 4, "pp": [1, 2, 4], "global_batch_size": 64}
    more = {"num_experts": 12, "moe_router_topk": 2, "ep": 8, "seq_length": 128}
    problems = problems_of(sweep_of(root, tmp_path, {"grids": [grid | more]}))
    assert [p.rule for p in problems].count("experts_by_ep") == 1


def test_a_problem_is_one_line() -> None:
    problem = Problem("x.yaml", "grids[0].tp", "divides", "3", "3 does not\ndivide 512", "nearest: 2, 4")
    assert problem.line() == r"x.yaml: grids[0].tp: divides: 3 does not\ndivide 512; nearest: 2, 4"


@given(
    st.fixed_dictionaries({}, optional={key: st.integers(1, 16) for key in ("tp", "pp", "cp", "ep", "etp")})
)
def test_what_passes_divides_exactly(degrees: dict[str, int]) -> None:
    frame = resolve([SOUND | degrees | {"flash_attention": True}])
    row = frame.row(0, named=True)
    batches = row["num_microbatches"] * row["micro_batch_size"] * row["dp"]
    sound = (
        row["tp"] * row["cp"] * row["pp"] * row["dp"] == row["etp"] * row["ep"] * row["edp"] * row["pp"] == 64
        and batches == row["global_batch_size"]
        and row["num_experts"] % row["ep"] == 0
    )
    errors = findings(frame).filter(severity="error")
    assert sound or errors.height
