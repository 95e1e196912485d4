"""Ranks numbered with stages before data-parallel ranks: by hand, from groups to seconds and exports."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

import foreign_files
from costing import costs
from moesweep.export import simai_aicb, simai_megatron
from moesweep.network.order import slots
from moesweep.shapes.parallelism import groups, pipeline_stride, ranks, stages_on
from moesweep.shapes.standing import extent, placement
from moesweep.store.layout import Results
from moesweep.store.tablefile import read_table
from moesweep.study.importers.bridge import read_recipe
from moesweep.study.importers.known import read_file
from moesweep.trace.files import write_traces
from small import small

BESIDE: dict[str, Any] = {"use_tp_pp_dp_mapping": True}

# 16 ranks, in pairs of tp: two stages side by side make four ranks, and four such blocks a world.
SIXTEEN: dict[str, Any] = {
    **{"world_size": 16, "tp": 2, "cp": 1, "pp": 2, "dp": 4, "etp": 1, "ep": 2, "edp": 4},
    **{"num_experts": 4, "moe_router_load_balancing_type": "aux_loss", "cp_a2a": 1},
    "pipeline_model_parallel_layout": "none",
    **BESIDE,
}
SHARED = SIXTEEN | {"cp": 2, "dp": 2, "etp": 2, "edp": 2}
"""The same with pairs of cp: a stage's four ranks follow one another, and blocks have eight."""


def members(world: dict[str, Any], kind: str) -> list[list[int]]:
    own = groups(world).filter(pl.col("group_kind") == kind)
    return [list(each) for each in own.group_by("group_id", maintain_order=True).agg("rank")["rank"]]


def test_sixteen_ranks_by_hand() -> None:
    assert members(SIXTEEN, "tp") == [[r, r + 1] for r in range(0, 16, 2)]
    assert members(SIXTEEN, "ep") == members(SIXTEEN, "tp")
    assert members(SIXTEEN, "pp") == [[r, r + 2] for r in (0, 1, 4, 5, 8, 9, 12, 13)]
    assert members(SIXTEEN, "embedding") == members(SIXTEEN, "pp")
    assert members(SIXTEEN, "dp") == [[r, r + 4, r + 8, r + 12] for r in range(4)]
    assert members(SIXTEEN, "edp") == members(SIXTEEN, "dp")
    assert members(SIXTEEN, "model") == [[r, r + 1, r + 2, r + 3] for r in range(0, 16, 4)]
    assert members(SIXTEEN, "expert_model") == members(SIXTEEN, "model")
    assert members(SIXTEEN, "world") == [list(range(16))]
    # 11 = 3 (tp 1 + 2 · stage 1) + 4 · dp 2
    row = ranks(SIXTEEN).row(11, named=True)
    assert (row["tp_rank"], row["stage"], row["dp_rank"]) == (1, 1, 2)
    assert (row["ep_rank"], row["edp_rank"], row["pp_group"], row["edp_group"]) == (1, 2, 5, 3)


def test_shared_sequences_stand_within_a_stage() -> None:
    assert members(SHARED, "cp") == [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11], [12, 14], [13, 15]]
    # Gradients go over both: two cp ranks here, two there.
    assert members(SHARED, "dp") == [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]
    # What holds one copy of dense parameters leaves out the other cp ranks.
    assert members(SHARED, "model") == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert members(SHARED, "expert_model") == [list(range(8)), list(range(8, 16))]


def test_without_experts_replicas_stand_in_two_pieces() -> None:
    """edp = cp · dp: of one stage's ranks both cp ranks, and so on in the next block."""
    dense = SHARED | {"num_experts": 0, "ep": 1, "edp": 4, "moe_router_load_balancing_type": "none"}
    frame = ranks(dense).filter(pl.col("stage") == 1).select("rank", "etp_rank", "edp_rank").rows()
    assert frame == [(4 + 8 * d + r, r % 2, 2 * d + r // 2) for d in range(2) for r in range(4)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # 256 ranks of tp 2, pp 4, dp 32 on nodes of 8: a node holds all stages of one pipeline.
        # size, stride, members a node, nodes
        ("pp", (4, 2, 4, 1)),
        ("embedding", (2, 6, 2, 1)),
        ("model", (8, 1, 8, 1)),
        ("dp", (32, 8, 1, 32)),
        ("edp", (32, 8, 1, 32)),
        ("tp", (2, 1, 2, 1)),
        ("world", (256, 1, 8, 32)),
    ],
)
def test_places_by_hand(kind: str, expected: tuple[int, ...]) -> None:
    world = SIXTEEN | {"world_size": 256, "pp": 4, "dp": 32, "edp": 32}
    assert placed(world, kind) == expected


@pytest.mark.parametrize(
    ("kind", "node", "expected"),
    [
        # 64 ranks of tp 2, cp 2, pp 2, dp 8: pairs of cp, eight ranks apart.
        ("dp", 8, (16, 2, 2, 8)),
        ("dp", 4, (16, 2, 2, 8)),
        ("dp", 16, (16, 2, 4, 4)),
        # Pairs of tp, four ranks apart: both in a node of eight, in two of four; four cannot hold six ranks.
        ("model", 8, (4, 1, 4, 1)),
        ("model", 4, (4, 1, 2, 2)),
        # Eight ranks begin within nodes of three: they touch four of them at most.
        ("model", 3, (4, 1, 1, 4)),
        ("expert_model", 8, (8, 1, 8, 1)),
        ("tp_cp_dp", 16, (32, 1, 8, 4)),
    ],
)
def test_places_of_shared_sequences_by_hand(kind: str, node: int, expected: tuple[int, ...]) -> None:
    assert placed(SHARED | {"world_size": 64, "dp": 8, "edp": 8}, kind, node) == expected


def placed(world: dict[str, Any], kind: str, node: int = 8) -> tuple[int, ...]:
    place = placement(kind, node)
    frame = pl.DataFrame({key: [value] for key, value in world.items()})
    found = frame.select(a=place.size, b=place.stride, c=place.members_per_node, d=place.nodes)
    return found.row(0)


def test_one_rank_a_run_is_a_stride() -> None:
    """Without cp the members of dp stand a block apart, not in runs; with it in as many runs as dp has."""
    for world, expected in ((SIXTEEN, (4, 4, 1, 16)), (SHARED, (4, 2, 2, 16))):
        frame = pl.DataFrame({key: [value] for key, value in world.items()})
        assert frame.select(**extent("dp")._asdict()).row(0) == expected


def test_neighbours_in_a_pipeline_by_hand() -> None:
    four = SIXTEEN | {"world_size": 32, "pp": 4}
    assert pipeline_stride(four) == 2
    assert [stages_on(rank, 1, four) for rank in (0, 5, 6, 8)] == [2, 7, 0, 10]
    assert [stages_on(rank, -1, four) for rank in (0, 5, 15)] == [6, 3, 13]
    plain = four | {"use_tp_pp_dp_mapping": False}
    assert pipeline_stride(plain) == 8
    assert (stages_on(3, 1, plain), stages_on(3, -1, plain)) == (11, 27)


def test_other_placements_of_such_ranks() -> None:
    """In their own order rank r stands on GPU r; in tp-cp-dp-pp stages stand a half of the world apart."""
    assert np.array_equal(slots(SIXTEEN, "tp-cp-pp-dp"), np.arange(16))
    assert np.array_equal(slots(SIXTEEN, "etp-ep-pp-edp"), np.arange(16))
    assert slots(SIXTEEN, "tp-dp-pp").tolist() == [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]


LONG: dict[str, Any] = {"world_size": 32, "tp": 2, "etp": 1, "ep": 2, "pp": 4, "num_layers": 8}


def sent(changes: dict[str, Any], group_kind: str) -> dict[str, float]:
    """Seconds of the ops of a kind, by name, on the first stage that has them."""
    rows = costs(changes).ops.filter(pl.col("group_kind") == group_kind)
    return dict(rows.unique("op", keep="first", maintain_order=True).select("op", "seconds").iter_rows())


def test_a_pipeline_in_a_node_sends_nothing_to_another() -> None:
    """Nodes of 8, at 100 GB/s inside and 10 GB/s a GPU outside: all four stages of tp 2, or one of them."""
    near, far = sent(LONG | BESIDE, "pp"), sent(LONG, "pp")
    # 64 tokens, hidden 64, shared by tp 2, of 2 bytes
    assert near["send_forward"] == pytest.approx(64 * 64 // 2 * 2 / 100e9)
    assert far["send_forward"] == pytest.approx(64 * 64 // 2 * 2 / 10e9)
    # Sixteen stages leave a node in any case.
    sixteen = LONG | {"pp": 16, "num_layers": 16, "world_size": 64}
    assert sent(sixteen | BESIDE, "pp") == sent(sixteen, "pp")


def test_rings_of_one_member_a_node_share_its_cards() -> None:
    """Four dp ranks: in one node where stages stand apart, on four where they stand side by side."""
    apart, side_by_side = (
        costs(LONG | each).ops.filter(op="grad_reduce_dense", stage=1).row(0, named=True)
        for each in ({}, BESIDE)
    )
    assert apart["wire_bytes"] == side_by_side["wire_bytes"] > 0
    assert apart["seconds"] == pytest.approx(apart["wire_bytes"] / 100e9)
    assert side_by_side["seconds"] == pytest.approx(apart["wire_bytes"] / 10e9)
    # The table's gradient goes from stage 0 to stage 3, six ranks on: within a node of 8.
    tables = [sent(LONG | each, "embedding")["embedding_grad_reduce"] for each in (BESIDE, {})]
    assert tables[1] == pytest.approx(10 * tables[0])
    # Who works together in a stage, and the kernels, are the same.
    for kind in ("tp", "ep"):
        assert sent(LONG, kind) == sent(LONG | BESIDE, kind)


def test_one_stage_runs_what_it_ran(tmp_path: Path) -> None:
    """Programs are the same; ranks and groups differ; the trace stands rank after rank."""
    tables = {}
    for name, changes in (("apart", {}), ("beside", BESIDE)):
        results = Results(tmp_path / name)
        row = small(**LONG, **changes)
        write_traces(row, results)
        id_ = row["workload"][0]
        tables[name] = {each: read_table(results.trace(each, id_), each) for each in ("programs", "ops")}
    assert tables["apart"]["programs"].equals(tables["beside"]["programs"])
    ops = tables["beside"]["ops"]
    assert ops["rank"].is_sorted()
    assert not ops.equals(tables["apart"]["ops"])
    assert ops.height == tables["apart"]["ops"].height


def test_what_simulators_cannot_say() -> None:
    row = small(**LONG, **BESIDE).row(0, named=True)
    for refused in (simai_aicb.inexpressible, simai_megatron.inexpressible):
        assert "use_tp_pp_dp_mapping" in {problem.path for problem in refused(row)}


@pytest.mark.parametrize("said", ["", "--use-tp-pp-dp-mapping"])
def test_what_a_script_says(tmp_path: Path, said: str) -> None:
    script = foreign_files.MIXTRAL_SCRIPT.replace("--bf16", f"--bf16 {said}")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    assert draft.row.get("use_tp_pp_dp_mapping", (False,))[0] is bool(said)
    assert "use_tp_pp_dp_mapping" not in draft.unread


def test_what_a_recipe_says() -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    recipe.setdefault("dist", {})["use_tp_pp_dp_mapping"] = True
    assert read_recipe(recipe, "recipe.yaml").row["use_tp_pp_dp_mapping"][0] is True
