"""Experts that are padded to a capacity: rows, seconds, memory and what a model needs of them, by hand."""

from typing import Any

import polars as pl
import pytest
import yaml

import foreign_files
from costing import constants, costs
from moesweep.cost.model import OF_THE_WORKLOAD, with_constants
from moesweep.cost.ops import timed
from moesweep.study.importers.bridge import read_recipe
from moesweep.trace.programs import folded, programs
from naive_trace import naive_program
from small import small

# 32 tokens a rank, 2 of 8 experts each: 64 copies, 8 an expert, 13 rows of them with 1.6 times as many.
PADDED: dict[str, Any] = {
    **{"moe_expert_capacity_factor": 1.6, "moe_pad_expert_input_to_capacity": True, "num_experts": 8},
    **{"ep": 2, "etp": 2},
}
ROWS = 8 * 13


def columnar(**changes: Any) -> dict[str, dict[str, Any]]:
    """The first layer's forward rows as the library makes them, by op."""
    return _of_layer(programs(small(**changes)).filter(stage=0).to_dicts())


def naive(**changes: Any) -> dict[str, dict[str, Any]]:
    """The same as plain loops do."""
    return _of_layer(naive_program(small(**changes).row(0, named=True), 0))


def _of_layer(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["op"]: row for row in rows if (row["phase"], row["layer"]) == ("forward", 0)}


both = pytest.mark.parametrize("trace", [columnar, naive])


@both
def test_every_expert_gets_as_many_rows(trace: Any) -> None:
    found = trace(**PADDED)
    assert "token_counts" not in found
    # A rank sends 13 rows of 128 B to each of 8 experts, and its own have those of 2 x 2 ranks.
    assert found["moe_dispatch"]["comm_bytes"] == ROWS * 128
    assert found["expert_gather"]["comm_bytes"] == 2 * ROWS * 128
    assert (found["expert_fc1"]["m"], found["expert_fc1"]["groups"]) == (2 * ROWS, 4)
    assert found["expert_fc1"]["m"] // 4 == 13 * PADDED["ep"] * PADDED["etp"]
    assert found["permute"]["hbm_bytes"] == 4 * 64 * ROWS


@both
def test_fewer_rows_than_copies_drop_some(trace: Any) -> None:
    # 4 rows an expert
    assert trace(**PADDED | {"moe_expert_capacity_factor": 0.5})["expert_fc1"]["m"] == 2 * 8 * 4


@both
def test_the_flex_dispatcher_pads_where_tokens_arrive(trace: Any) -> None:
    flex = {"moe_token_dispatcher_type": "flex", "moe_flex_dispatcher_backend": "hybridep", "tp": 1, "etp": 1}
    found = trace(**PADDED | flex | {"seq_length": 32})
    # 1 - C(4, 2)/C(8, 2) = 11/14 of 32 tokens go to each of 2 ranks.
    assert found["fused_dispatch"]["comm_bytes"] == 2 * 25 * 128
    assert (found["expert_fc1"]["m"], found["permute"]["hbm_bytes"]) == (ROWS, 4 * 64 * ROWS)


def seconds(op: str, **changes: Any) -> float:
    """Seconds of one op with round constants, unfused permutations at half the bandwidth."""
    values = constants(permute_hbm_fraction=0.5, expert_load_variation=0.5)
    workloads = with_constants(small(**changes), values).rename(OF_THE_WORKLOAD)
    found = timed(folded(small(**changes)).filter(op=op, phase="forward").head(1), workloads)
    return float(found["seconds"].item())


def test_sorting_is_a_transposition_and_no_rank_is_busier() -> None:
    uneven = PADDED | {"routing": "uncontrolled"}
    assert seconds("expert_sort", **uneven) == pytest.approx(2 * ROWS * 256 / 1e12)
    assert seconds("permute", **uneven) == pytest.approx(2 * ROWS * 256 / 1e12)
    assert seconds("moe_dispatch", **uneven) == pytest.approx(ROWS * 64 / 100e9)


def test_needs_waits_and_memory() -> None:
    plain = {key: value for key, value in PADDED.items() if not key.startswith("moe_")}
    waiting, padded = (costs(changes, dispatch_wait_seconds=1.0) for changes in (plain, PADDED))
    # Nobody waits for counts.
    assert waiting.workloads["iteration_seconds"].item() > 8 > padded.workloads["iteration_seconds"].item()
    # A model needs 64 of the 104 rows, so as many flops as without padding.
    needed = [each.workloads["model_flops"].item() for each in (waiting, padded)]
    assert needed[0] == pytest.approx(needed[1])
    # Experts keep 2h + 6f a row: 80 more rows of 2 x 64 + 6 x 128 B of 2 layers, 2 micro-batches in flight.
    kept = [each.memory.filter(stage=0)["activations_bytes"].item() for each in (waiting, padded)]
    assert kept[1] - kept[0] == 2 * 2 * 80 * (2 * 64 + 6 * 128)
    dropping = costs(PADDED | {"moe_expert_capacity_factor": 0.5}).workloads["model_flops"].item()
    assert dropping < needed[0]


@pytest.mark.parametrize(
    ("said", "row", "unread"),
    [
        ({"moe_expert_capacity_factor": 1.5, "moe_pad_expert_input_to_capacity": True}, [1.5, True], []),
        ({"moe_expert_capacity_factor": 1.5}, [], ["moe_expert_capacity_factor"]),
        ({"moe_expert_capacity_factor": -1.0}, [], []),
    ],
)
def test_a_recipe_s_capacity_is_read(said: dict[str, Any], row: list[Any], unread: list[str]) -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    recipe["model"] |= said
    draft = read_recipe(recipe, "recipe.yaml")
    assert [value for key, (value, _) in draft.row.items() if "capacity" in key] == row
    assert [name for name in draft.unread if "capacity" in name] == unread


def test_without_padding_nothing_changes() -> None:
    said = small(moe_expert_capacity_factor=0.0, moe_pad_expert_input_to_capacity=False)
    assert folded(small()).rows() == folded(said).rows()
    assert small()["workload"].item() == said["workload"].item()
    assert pl.Float64() == said["moe_expert_capacity_factor"].dtype
