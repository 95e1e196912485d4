"""Sums in one order every time, worked out by hand: what attention loses, and which way collectives go.

Sources: Megatron-Core 0.19 (`training/determinism.py`), docs/costs.md "Attention" and "Collectives".
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

import foreign_files
from costing import cluster, costs, seconds
from moesweep.cost.model import Costs
from moesweep.cost.uncertainty import farther_ends
from moesweep.evaluate.costs import costed_on
from moesweep.export.simai_aicb import inexpressible
from moesweep.study.importers.bridge import read_recipe
from moesweep.study.importers.known import read_file
from moesweep.study.names import UNMODELLED
from moesweep.trace.programs import programs
from small import DENSE, small

ORDERED: dict[str, Any] = {"deterministic_mode": True}
WIDE: dict[str, Any] = {
    **DENSE,
    **{"hidden_size": 1024, "seq_length": 1024, "num_attention_heads": 16, "num_query_groups": 16},
    **{"tp": 4, "etp": 4, "world_size": 16, "pp": 1, "vocab_size": 51200, "global_batch_size": 16},
    **{"micro_batch_size": 1, "flash_attention": True},
}
HALF = {"deterministic_attention_fraction": 0.5, "flash_backward_efficiency": 0.8}


def attention(found: Costs, phase: str) -> float:
    return seconds(found, "core_attention", phase)


def test_attention_backward_loses_a_share() -> None:
    plain, ordered = costs(WIDE, **HALF), costs(WIDE | ORDERED, **HALF)
    # Of 2 b s^2 h/t flops forward five halves, at 0.8 of 100 Tflop/s; q, k, v, output and their gradients.
    flops = 5 * 1024**2 * 256
    memory = 2 * 2 * 1024 * 1024
    assert attention(plain, "backward") == pytest.approx(flops / 80e12 + memory / 1e12)
    assert attention(ordered, "backward") == pytest.approx(flops / 40e12 + memory / 1e12)
    assert attention(ordered, "forward") == attention(plain, "forward")


def test_whole_scores_lose_nothing() -> None:
    unfused = WIDE | {"flash_attention": False}
    plain, ordered = costs(unfused, **HALF), costs(unfused | ORDERED, **HALF)
    for phase in ("forward", "backward"):
        assert attention(plain, phase) == attention(ordered, phase)


def test_what_runs_again_is_a_forward_kernel() -> None:
    again = WIDE | {"recompute": "selective"}
    plain, ordered = costs(again, **HALF), costs(again | ORDERED, **HALF)
    for found in (plain, ordered):
        assert seconds(found, "recompute_core_attention", "backward") == attention(found, "forward")
    assert attention(plain, "backward") < attention(ordered, "backward")


def test_no_switch_adds() -> None:
    # 4 x 4 bytes for each of 1024 tokens over 4 ranks of a node: 2 x 3/4 of it at 100 GB/s, or 200 GB/s
    adding = {"nvls_bytes_per_second": 200e9}
    for changes, rate in ((WIDE, 200e9), (WIDE | ORDERED, 100e9)):
        found = seconds(costs(changes | {"sequence_parallel": False}, **adding), "attention_reduce")
        assert found == pytest.approx(2 * 3 / 4 * 2 * 1024 * 1024 / rate)


def test_no_tree_is_taken() -> None:
    # tp 16 on two nodes: a ring has 2 steps between nodes of 1 ms and 28 inside of as much; a tree 2 between
    # nodes, and 14 inside of 10 us.
    steps = {"network_hop_seconds": 1e-3, "node_hop_seconds": 1e-3, "tree_node_hop_seconds": 1e-5}
    steps |= {"tree_efficiency": 1.0}
    changes = WIDE | {"tp": 16, "etp": 16, "sequence_parallel": False}
    transfer = 2 * 15 / 16 * 2 * 1024 * 1024 / 80e9
    tree = seconds(costs(changes, **steps), "attention_reduce")
    assert tree == pytest.approx(2 * (7 * 1e-5 + 1e-3) + transfer)
    ring = seconds(costs(changes | ORDERED, **steps), "attention_reduce")
    assert ring == pytest.approx(2 * 1e-3 + 28 * 1e-3 + transfer)


@pytest.mark.parametrize("changes", [WIDE, {}, {"flash_attention": True, "recompute": "full"}])
def test_it_never_makes_faster_and_moves_nothing(changes: dict[str, Any]) -> None:
    plain, ordered = small(**changes), small(**changes | ORDERED)
    assert programs(plain).equals(programs(ordered))
    rows = [costed_on(frame, [cluster("dgx-h100-80gb-8xndr400")]) for frame in (plain, ordered)]
    before, after = (row.row(0, named=True) for row in rows)
    assert after["iteration_seconds"] >= before["iteration_seconds"]
    assert after["peak_memory_bytes"] == before["peak_memory_bytes"]


def test_what_nobody_measured_is_in_the_sensitivities() -> None:
    known = cluster().constants["deterministic_attention_fraction"]
    assert (known.tag, known.low, known.value, known.high) == ("assumed", 0.62, 0.81, 1.0)
    ends = farther_ends(cluster().constants)
    assert ends["deterministic_attention_fraction"] in (0.62, 1.0)


def test_what_can_be_written() -> None:
    assert "deterministic_mode" not in UNMODELLED
    problems = inexpressible(small(**DENSE | ORDERED).row(0, named=True))
    assert "deterministic_mode" in {problem.path for problem in problems}


@pytest.mark.parametrize("said", ["", "--deterministic-mode"])
def test_what_a_script_says(tmp_path: Path, said: str) -> None:
    script = foreign_files.MIXTRAL_SCRIPT.replace("--bf16", f"--bf16 {said}")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    assert draft.row.get("deterministic_mode", (False,))[0] is bool(said)
    assert "deterministic_mode" not in draft.unread


def test_what_a_recipe_says() -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    recipe["model"] |= {"deterministic_mode": True}
    assert read_recipe(recipe, "recipe.yaml").row["deterministic_mode"][0] is True
