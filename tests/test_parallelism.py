"""Ranks, coordinates, communicators and their places on nodes: by hand, and as properties."""

import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesweep.cost.collectives import places
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.shapes.parallelism import STAGES_BESIDE, grouped, groups, ranks, runs
from moesweep.shapes.standing import placement, standing, unit_of

LAYOUT = "pipeline_model_parallel_layout"
LOSS, BIAS = "moe_router_load_balancing_type", "moe_router_enable_expert_bias"
BALANCED = {LOSS: "aux_loss", BIAS: True}
IN_STEPS = {"cp_comm_type": "a2a+p2p"}

# 16 ranks in two stages, tensor-parallel in pairs; 2 of a stage's 4 data-parallel ranks share its experts.
SIXTEEN = {
    **{"world_size": 16, "tp": 2, "cp": 1, "pp": 2, "dp": 4, "etp": 2, "ep": 2, "edp": 2},
    "num_experts": 4,
    **BALANCED,
}


@st.composite
def degrees(draw: st.DrawFn, powers_of_two: bool = False) -> dict[str, Any]:
    """Degrees of a small world, etp free of tp, and experts of cp."""
    factors = [1, 2, 4] if powers_of_two else [1, 2, 3, 4, 5]
    etp, ep, edp, pp = (draw(st.sampled_from(factors)) for _ in range(4))
    stage = etp * ep * edp
    beside = draw(st.booleans())
    # Stages side by side: as many data-parallel ranks for experts as for attention.
    held = etp * ep if beside else stage
    tp = draw(st.sampled_from([d for d in range(1, held + 1) if held % d == 0]))
    shared = [d for d in range(1, held // tp + 1) if held // tp % d == 0]
    cp = shared[-1] if beside else draw(st.sampled_from(shared))
    dense = {"world_size": stage * pp, "tp": tp, "cp": cp, "pp": pp, "dp": stage // tp // cp}
    dense["cp_a2a"] = draw(st.sampled_from([d for d in range(1, cp + 1) if cp % d == 0]))
    predicts = draw(st.integers(1, pp)) if pp > 1 else pp  # pp: nothing says a stage
    layout = "E" + "|" * predicts + "m" + "|" * (pp - 1 - predicts) + "L" if predicts < pp else "none"
    return {
        **dense,
        "etp": etp,
        "ep": ep,
        "edp": edp,
        "num_experts": 60,
        STAGES_BESIDE: beside,
        LAYOUT: layout,
        **BALANCED,
        **IN_STEPS,
    }


def shares_table(world: dict[str, Any]) -> int:
    """The stage that has a table like the first one's."""
    return world[LAYOUT].count("|", 0, world[LAYOUT].index("m")) if "m" in world[LAYOUT] else world["pp"] - 1


def members(frame: pl.DataFrame, kind: str) -> list[list[int]]:
    """The groups of one kind as lists of ranks, by id."""
    ordered = frame.filter(pl.col("group_kind") == kind).group_by("group_id", maintain_order=True).agg("rank")
    assert ordered["group_id"].to_list() == list(range(ordered.height))
    return [list(group) for group in ordered["rank"]]


def test_sixteen_ranks_by_hand() -> None:
    frame = groups(SIXTEEN)
    assert members(frame, "tp") == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13], [14, 15]]
    assert members(frame, "etp") == members(frame, "tp")
    assert members(frame, "ep") == [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11], [12, 14], [13, 15]]
    assert members(frame, "dp") == [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]]
    assert members(frame, "edp") == [[0, 4], [1, 5], [2, 6], [3, 7], [8, 12], [9, 13], [10, 14], [11, 15]]
    assert members(frame, "pp") == [[r, r + 8] for r in range(8)]
    assert members(frame, "embedding") == members(frame, "pp")
    assert members(frame, "tp_ep") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert members(frame, "world") == [list(range(16))]
    # tp and pp of one dp rank; etp, ep and pp of one edp rank
    assert members(frame, "model") == [[0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]]
    assert members(frame, "expert_model") == [[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]


def test_ranks_that_share_sequences_stand_between_tp_and_dp() -> None:
    # rank = tp + 2·(cp + 2·(dp + 2·pp)); experts and pipeline stand as they do without.
    frame, plain = groups({**SIXTEEN, "cp": 2, "dp": 2}), groups(SIXTEEN)
    assert members(frame, "cp") == [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11], [12, 14], [13, 15]]
    assert members(plain, "cp") == []
    # Gradients go over both: the very groups of four data-parallel ranks.
    for kind in (*GROUP_KINDS[: GROUP_KINDS.index("model")], "tp_cp_dp"):
        assert members(frame, kind) == members(plain, kind)
    assert members(frame, "tp_cp") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert members(frame, "tp_cp_dp") == [list(range(8)), list(range(8, 16))]
    assert members(plain, "tp_cp") == members(plain, "tp")
    # Nobody counts where nothing balances experts.
    told = [
        {LOSS: loss, BIAS: bias} for loss, bias in (("none", False), ("seq_aux_loss", False), ("none", True))
    ]
    kinds = [set(groups(SIXTEEN | each)["group_kind"]) & {"tp_cp", "tp_cp_dp"} for each in told]
    assert kinds == [set(), {"tp_cp"}, {"tp_cp_dp"}]
    assert members(frame, "model") == [[0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]]
    row = ranks({**SIXTEEN, "cp": 2, "dp": 2}).row(11, named=True)
    # 11 = 8 (stage 1) + 3; 3 = tp 1 + 2 * (cp 1 + 2 * dp 0)
    assert (row["tp_rank"], row["cp_rank"], row["dp_rank"], row["cp_group"], row["dp_group"]) == (
        1,
        1,
        0,
        5,
        3,
    )


def test_one_rank_of_sixteen_by_hand() -> None:
    # 11 = 8 (stage 1) + 3; 3 = tp 1 + 2 * dp 1 = etp 1 + 2 * (ep 1 + 2 * edp 0)
    row = ranks(SIXTEEN).row(11, named=True)
    coordinates = {"stage": 1, "tp_rank": 1, "dp_rank": 1, "etp_rank": 1, "ep_rank": 1, "edp_rank": 0}
    coordinates |= {"cp_rank": 0}
    ids = {"tp": 5, "etp": 5, "ep": 5, "dp": 3, "edp": 7, "pp": 3, "tp_ep": 2, "embedding": 3, "world": 0}
    ids |= {"model": 1, "expert_model": 0, "cp": 11, "tp_cp": 5, "tp_cp_dp": 1}
    # Sequences are shared in one step: nobody exchanges, and rings are of one.
    ids |= {"cp_a2a": 11, "cp_p2p": 11}
    assert row == {
        "rank": 11,
        **coordinates,
        **{f"{kind}_group": id_ for kind, id_ in ids.items()},
    }


def test_with_etp_1_an_ep_group_runs_over_neighbouring_tp_ranks() -> None:
    frame = groups({**SIXTEEN, "etp": 1, "ep": 4, "edp": 2})
    assert members(frame, "ep") == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert members(frame, "etp") == []


def test_only_the_ends_of_a_pipeline_share_the_embedding() -> None:
    four = {**SIXTEEN, "pp": 4, "world_size": 32}
    assert members(groups(four), "embedding") == [[r, r + 24] for r in range(8)]
    assert ranks(four).filter(pl.col("stage").is_in([1, 2]))["embedding_group"].unique().to_list() == [-1]


def test_dense_workloads_have_no_expert_groups() -> None:
    dense = {**SIXTEEN, "etp": 2, "ep": 1, "edp": 4, "num_experts": 0, LOSS: "none", BIAS: False}
    assert set(groups(dense)["group_kind"]) == {"tp", "dp", "pp", "embedding", "world", "model"}


@given(degrees())
def test_coordinates_are_a_bijection(world: dict[str, Any]) -> None:
    assert world["tp"] * world["cp"] * world["dp"] == world["etp"] * world["ep"] * world["edp"]
    frame, beside = ranks(world), world[STAGES_BESIDE]
    dp, edp, stage = pl.col("dp_rank"), pl.col("edp_rank"), pl.col("stage")
    sequences = stage + world["pp"] * dp if beside else dp + world["dp"] * stage
    replicas = stage + world["pp"] * edp if beside else edp + world["edp"] * stage
    dense = pl.col("tp_rank") + world["tp"] * (pl.col("cp_rank") + world["cp"] * sequences)
    expert = pl.col("etp_rank") + world["etp"] * (pl.col("ep_rank") + world["ep"] * replicas)
    assert frame.select(dense.alias("rank")).equals(frame.select("rank"))
    assert frame.select(expert.alias("rank")).equals(frame.select("rank"))
    for axis, column in [
        ("tp", "tp_rank"),
        ("cp", "cp_rank"),
        ("dp", "dp_rank"),
        ("ep", "ep_rank"),
        ("pp", "stage"),
    ]:
        assert set(frame[column]) == set(range(world[axis]))


@given(degrees())
def test_every_rank_is_in_exactly_one_group_of_each_kind(world: dict[str, Any]) -> None:
    frame, everyone = groups(world), ranks(world)
    for kind in GROUP_KINDS:
        found = members(frame, kind)
        smallest = [group[0] for group in found]
        assert smallest == sorted(smallest)
        assert all(group == sorted(group) for group in found)
        ends = everyone.filter(pl.col(f"{kind}_group") >= 0)["rank"].to_list()
        if found:
            assert sorted(rank for group in found for rank in group) == ends
        assert kind == "embedding" or len(ends) == world["world_size"]
    ids = frame.join(everyone, on="rank")
    for kind in GROUP_KINDS:
        own = ids.filter(pl.col("group_kind") == kind)
        assert own["group_id"].equals(own[f"{kind}_group"], check_names=False)
    assert frame.filter(pl.len().over("group_kind", "group_id") != pl.col("group_size")).is_empty()
    assert (frame["group_size"] > 1).all()


@given(degrees())
def test_groups_are_what_their_runs_say(world: dict[str, Any]) -> None:
    """Member by member, in the same order; of embedding those of the pipeline's groups that share a table."""
    frame = groups(world)
    for kind in set(frame["group_kind"]):
        found = grouped(runs(kind, world))
        table = found[:, [0, shares_table(world)]] if kind == "embedding" else found
        assert table.tolist() == members(frame, kind)


def test_runs_by_hand() -> None:
    """Of 16 ranks dp are 4 times every second one, in two stages; a world is one run."""
    assert runs("dp", SIXTEEN) == ((2, False), (4, True), (2, False))
    assert runs("world", SIXTEEN) == ((16, True),)
    assert runs("tp", SIXTEEN) == runs("etp", SIXTEEN) == ((2, True), (8, False))
    assert runs("cp", SIXTEEN) == ((16, False),)


def stands(group: list[int], gpus_per_node: int) -> tuple[int, int, int]:
    """(size, fewest members on a node, nodes) of a group, by counting."""
    nodes = [rank // gpus_per_node for rank in group]
    return len(group), min(map(nodes.count, nodes)), len(set(nodes))


def predicted(world: dict[str, Any], kind: str, gpus_per_node: int) -> tuple[int, int, int, int]:
    place = placement(kind, gpus_per_node)
    frame = pl.DataFrame({key: [value] for key, value in world.items()})
    size, stride, members_per_node, nodes = frame.select(
        size=place.size, stride=place.stride, members=place.members_per_node, nodes=place.nodes
    ).row(0)
    return size, members_per_node, nodes, stride


@given(degrees(), st.integers(1, 9), st.sampled_from(GROUP_KINDS))
def test_placement_is_that_of_the_group_that_stands_worst(
    world: dict[str, Any], node: int, kind: str
) -> None:
    size, members_per_node, nodes, stride = predicted(world, kind, node)
    found = members(groups(world), kind)
    if not found:
        assert size == members_per_node == nodes == 1
        return
    stand = [stands(group, node) for group in found]
    assert size == stand[0][0]
    if kind in ("model", "expert_model") or (world[STAGES_BESIDE] and kind in ("dp", "tp_cp_dp")):
        return
    # Enough groups begin at every place of a node that there is; few may all stand better.
    assert nodes >= max(spanned for _, _, spanned in stand)
    assert members_per_node <= min(fewest for _, fewest, _ in stand)
    if len(found) >= node * stride:
        assert nodes == max(spanned for _, _, spanned in stand)
        assert members_per_node == min(fewest for _, fewest, _ in stand)
    if kind not in ("dp", "world"):
        assert found[0][1] - found[0][0] == stride


@pytest.mark.parametrize(
    ("etp", "ep", "expected"),
    [
        # {0, 3, 6} and {1, 4, 7} stand on one node, {2, 5, 8} on two, where 8 is alone.
        (3, 3, (1, 2)),
        # {0, 6} on one node, {2, 8} on two.
        (6, 2, (1, 2)),
        (2, 4, (4, 1)),
        (4, 4, (2, 2)),
        (16, 4, (1, 4)),
    ],
)
def test_nodes_of_an_ep_group_are_one_figure(etp: int, ep: int, expected: tuple[int, int]) -> None:
    """The costs', the tables' and the page's count, and what leaves nodes, agree."""
    world: dict[str, Any] = {"world_size": etp * ep * 8, "tp": 1, "cp": 2, "pp": 1, "dp": etp * ep * 4}
    world |= {"etp": etp, "ep": ep, "edp": 8, LAYOUT: "none", "cp_a2a": 1, STAGES_BESIDE: False}
    assert predicted(world, "ep", 8)[1:3] == expected
    found = [stands(group, 8) for group in members(groups({**world, "num_experts": ep}), "ep")]
    assert (min(fewest for _, fewest, _ in found), max(nodes for _, _, nodes in found)) == expected
    # As the costs read it, with the node's GPUs a column.
    frame = pl.DataFrame({key: [value] for key, value in world.items()}).with_columns(
        gpus_per_node=pl.lit(8.0), group_kind=pl.lit("ep")
    )
    place = frame.with_columns(**places(frame.columns)).row(0, named=True)
    assert (place["members_per_node"], place["nodes"]) == expected
    # A network that slows exchanges alone slows nothing else.
    slowed = pl.concat([frame, frame.with_columns(group_kind=pl.lit("edp"))]).with_columns(ep_slowdown=3.0)
    assert slowed.with_columns(**places(slowed.columns))["slowdown"].to_list() == [3.0, 1.0]
    # Ops that nobody else takes part in stand nowhere.
    alone = slowed.with_columns(group_kind=pl.lit(None, pl.String)).select(**places(slowed.columns))
    assert set(alone.row(0)) == {0}


def test_runs_that_nodes_cut_by_hand() -> None:
    """Runs of four ranks, 24 apart, on nodes of six: 4 to 7 stand on two, as do 28 to 31 and 52 to 55."""
    world: dict[str, Any] = {"world_size": 72, "tp": 4, "cp": 1, "pp": 3, "dp": 6}
    world |= {"etp": 4, "ep": 1, "edp": 6, LAYOUT: "none", "cp_a2a": 1, STAGES_BESIDE: False}
    assert predicted(world, "model", 6) == (12, 2, 6, 1)
    assert stands(members(groups({**world, "num_experts": 0}), "model")[1], 6) == (12, 2, 6)


@given(st.integers(1, 16), st.sampled_from([1, 2, 3, 4, 5, 8, 12, 16, 36, 72]), st.integers(1, 40))
def test_a_column_of_node_sizes_says_the_same_as_a_number(stride: int, node: int, size: int) -> None:
    frame = pl.DataFrame({"node": [node], "size": [size], "stride": [stride]})
    columns = [pl.col(name) for name in ("size", "stride")]
    by_column = standing(*columns, pl.lit(10**6), pl.col("node"))
    by_number = standing(*columns, pl.lit(10**6), node)
    assert frame.select(*by_column).row(0) == frame.select(*by_number).row(0)


@pytest.mark.parametrize("node", [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 18, 20, 24, 32, 36, 64, 72])
def test_blocks_of_ranks_and_nodes_have_a_common_divisor(node: int) -> None:
    """Of nodes as large as any that are sold, and as many ranks as two of them, in runs of every third."""
    frame = pl.DataFrame({"node": node, "ranks": range(1, 2 * node + 1)})
    by_column = unit_of(pl.col("ranks"), pl.lit(3), pl.col("node"), pl.lit(1))
    by_number = unit_of(3 * pl.col("ranks"), pl.lit(3), node, pl.lit(3))
    wanted = [math.gcd(3 * ranks, node) for ranks in range(1, 2 * node + 1)]
    assert frame.select(by_column).to_series().to_list() == wanted
    assert frame.select(by_number).to_series().to_list() == wanted


@pytest.mark.parametrize(("size", "stride"), [(6, 1), (3, 2), (2, 3)])
def test_a_world_smaller_than_a_node_is_on_one(size: int, stride: int) -> None:
    members_per_node, nodes = standing(*(pl.lit(each, pl.Int64) for each in (size, stride, 6)), 8)
    assert pl.select(members_per_node=members_per_node, nodes=nodes).row(0) == (size, 1)


@given(degrees(powers_of_two=True), st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from(GROUP_KINDS))
def test_aligned_groups_of_a_kind_all_stand_alike(world: dict[str, Any], node: int, kind: str) -> None:
    size, members_per_node, nodes, _ = predicted(world, kind, node)
    for group in members(groups(world), kind):
        assert (size, members_per_node, nodes) == stands(group, node)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # tp16 cp4 pp2 ep16 on 1024 GPUs, etp = tp: dp 8, edp 2, 8 GPUs a node; size, members per node, nodes
        ("tp", (16, 8, 2)),
        ("ep", (16, 1, 16)),
        ("edp", (2, 1, 2)),
        ("dp", (32, 1, 32)),
        ("pp", (2, 1, 2)),
        ("tp_ep", (256, 8, 32)),
        ("embedding", (2, 1, 2)),
        ("world", (1024, 8, 128)),
        # 16 neighbours, 512 ranks further on 16 more; 256 and 256
        ("model", (32, 8, 4)),
        ("expert_model", (512, 8, 64)),
        ("cp", (4, 1, 4)),
        # Neighbours among them, 16 apart, and every second one
        ("cp_a2a", (2, 1, 2)),
        ("cp_p2p", (2, 1, 2)),
    ],
)
def test_placement_of_the_first_example(kind: str, expected: tuple[int, int, int]) -> None:
    world = {"world_size": 1024, "tp": 16, "cp": 4, "pp": 2, "dp": 8, "etp": 16, "ep": 16, "edp": 2}
    assert predicted({**world, LAYOUT: "none", "cp_a2a": 2, STAGES_BESIDE: False}, kind, 8)[:3] == expected
