"""The flex dispatcher: ops, bytes, seconds and memory by hand, and what holds of all its exchanges."""

from fractions import Fraction
from functools import cache
from math import comb, lgamma
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import foreign_files
from costing import cluster, constants, costs
from moesweep.cost.model import OF_THE_WORKLOAD, with_constants
from moesweep.cost.ops import timed
from moesweep.cost.stages import dispatches
from moesweep.cost.words import ROWS, Words, expression
from moesweep.cost.workspace import dispatcher_buffer_bytes
from moesweep.edge.problems import BadInput
from moesweep.evaluate.costs import costed
from moesweep.export.request import Request, chosen
from moesweep.shapes.expressions import exact
from moesweep.shapes.parallelism import groups, ranks
from moesweep.shapes.spread import _ln_factorial, copies, share_of_tokens
from moesweep.study.importers.bridge import read_recipe
from moesweep.study.sweep import load_sweep
from moesweep.study.validation import findings
from moesweep.trace.programs import folded, programs
from moesweep.traffic.matrices import rank_matrix
from moesweep.traffic.messages import Placed
from naive_trace import naive_program
from small import small

NO_GROUPS = {"moe_router_num_groups": 0, "moe_router_group_topk": 0}
FLEX: dict[str, Any] = {"moe_token_dispatcher_type": "flex"}
# 16 experts over 16 ranks on two nodes of 8, top-4, 64 tokens of 128 B a rank.
NODES: dict[str, Any] = FLEX | {
    **{"num_experts": 16, "moe_router_topk": 4, "tp": 1, "ep": 16, "world_size": 32, "pp": 2},
}


def columnar(**changes: Any) -> list[dict[str, Any]]:
    """The first stage's rows as the library makes them."""
    return programs(small(**changes)).filter(stage=0).to_dicts()


def naive(**changes: Any) -> list[dict[str, Any]]:
    """The same as plain loops do."""
    return naive_program(small(**changes).row(0, named=True), 0)


both = pytest.mark.parametrize("trace", [columnar, naive])
SENT = ("collective", "group_kind", "group_size", "comm_bytes", "wire_bytes")
WAY = ("fused_dispatch", "permute", "unpermute", "fused_combine")
OTHERS = ("token_counts", "moe_dispatch", "expert_gather", "expert_sort", "moe_combine")


def of_layer(rows: list[dict[str, Any]], phase: str) -> dict[str, dict[str, Any]]:
    """The first layer's rows of a pass by op, in their order."""
    return {row["op"]: row for row in rows if (row["phase"], row["layer"]) == (phase, 0)}


@both
def test_a_token_goes_to_a_rank_once(trace: Any) -> None:
    rows = trace(**FLEX | {"num_experts": 16, "moe_router_topk": 4, "etp": 1, "ep": 4})
    forward, backward = of_layer(rows, "forward"), of_layer(rows, "backward")
    # 4 of 16 experts on a rank: C(12, 4) = 495 of C(16, 4) = 1820 choices leave it out, and 23 of 32 tokens
    # come: 2944 B to each of 4. The rank's experts have 4 x 32 rows of 64 elements: read and written.
    for found in (forward, backward):
        for name in ("fused_dispatch", "fused_combine"):
            assert tuple(found[name][part] for part in SENT) == ("all_to_all", "ep", 4, 11_776, 8832)
        assert found["permute"]["hbm_bytes"] == found["unpermute"]["hbm_bytes"] == 4 * 128 * 64
        assert not set(OTHERS) & set(found)
    assert [name for name in forward if name in WAY] == list(WAY)
    assert [name for name in backward if name in WAY] == list(reversed(WAY))
    assert forward["expert_fc1"]["m"] == 128


@both
def test_ranks_that_share_experts_get_the_same_tokens(trace: Any) -> None:
    rows = trace(**FLEX | {"num_experts": 8, "etp": 2, "ep": 4})
    found = of_layer(rows, "forward")
    # C(6, 2) = 15 of 28 choices leave 2 of 8 experts out: 14 of 32 tokens, 1792 B to each of 8.
    assert tuple(found["fused_dispatch"][part] for part in SENT) == ("all_to_all", "tp_ep", 8, 14_336, 12_544)
    # 2 copies of the 32 tokens of 2 ranks
    assert (found["expert_fc1"]["m"], found["permute"]["hbm_bytes"]) == (128, 4 * 128 * 64)


def _evaluated(expression: pl.Expr, **columns: int) -> float:
    return float(pl.DataFrame({name: [value] for name, value in columns.items()}).select(expression).item())


@pytest.mark.parametrize("number", [0, 0.5, 1, 2, 7.25, 100, 255, 1e4])
def test_logarithms_of_factorials(number: float) -> None:
    found = pl.select(_ln_factorial(pl.lit(float(number)))).item()
    assert found == pytest.approx(lgamma(number + 1), rel=1e-14, abs=3e-12)


def test_distinct_nodes_as_published() -> None:
    # 256 experts, top-8, 8 nodes: 5.29 of them, 4.63 remote ones
    nodes = 8 * _evaluated(share_of_tokens(pl.lit(32)), num_experts=256, moe_router_topk=8, **NO_GROUPS)
    assert (round(nodes, 2), round(nodes * 7 / 8, 2)) == (5.29, 4.63)


# Distinct nodes of 8, of groups as large: a simulation of normal scores gives 3.95 and 2.98.
@pytest.mark.parametrize(("experts", "topk", "taken", "simulated"), [(256, 8, 4, 3.95), (160, 6, 3, 2.98)])
def test_distinct_nodes_of_groups(experts: int, topk: int, taken: int, simulated: float) -> None:
    limited = {"moe_router_num_groups": 8, "moe_router_group_topk": taken}
    columns = {"num_experts": experts, "moe_router_topk": topk} | limited
    nodes = 8 * _evaluated(share_of_tokens(pl.lit(experts // 8)), **columns)
    assert nodes == pytest.approx(taken)
    assert simulated == pytest.approx(simulated_groups(experts, topk, 8, taken), abs=0.03)
    assert 0 < nodes / simulated - 1 < 0.013
    # Two groups on a node: 1 - C(6, M)/C(8, M); half of a group: M/8 x (1 - C(s/2, 2)/C(s, 2))
    two = 1 - comb(6, taken) / comb(8, taken)
    assert _evaluated(share_of_tokens(pl.lit(experts // 4)), **columns) == pytest.approx(two)
    half = taken / 8 * (1 - comb(experts // 16, 2) / comb(experts // 8, 2))
    assert _evaluated(share_of_tokens(pl.lit(experts // 16)), **columns) == pytest.approx(half)


def simulated_groups(experts: int, topk: int, groups: int, taken: int) -> float:
    """Distinct groups of a token's experts as Megatron takes them, in the mean over drawn scores."""
    scores = np.random.default_rng(1).normal(size=(4000, groups, experts // groups))
    best = np.sort(scores, axis=2)[:, :, -(topk // taken) :].sum(axis=2)
    out = np.argsort(best, axis=1)[:, : groups - taken]
    np.put_along_axis(scores, out[:, :, None], -np.inf, axis=1)
    chosen = np.argsort(scores.reshape(len(scores), -1), axis=1)[:, -topk:] // (experts // groups)
    return float(np.mean([len(set(row)) for row in chosen.tolist()]))


@both
def test_tokens_go_to_the_ranks_of_their_groups(trace: Any) -> None:
    limited = {"moe_router_num_groups": 4, "moe_router_group_topk": 2}
    rows = trace(
        **FLEX | limited | {"num_experts": 16, "moe_router_topk": 4, "etp": 1, "ep": 8, "world_size": 32}
    )
    found = of_layer(rows, "forward")
    # 2 of 4 groups, 2 of 4 experts of each; C(2, 2)/C(4, 2) = 1/6 of these leave a rank's two out: 5/12 of 32
    assert found["fused_dispatch"]["comm_bytes"] == 8 * 13 * 128
    # Beside 12 B a logit: read for the groups' best, a mask written and read, a copy read and written
    assert found["router_topk"]["hbm_bytes"] == (12 + 20) * 32 * 16
    assert of_layer(rows, "backward")["router_topk"]["hbm_bytes"] == 12 * 32 * 16


@given(st.integers(1, 512), st.integers(1, 64), st.integers(1, 512), st.integers(1, 65536))
@settings(max_examples=60, deadline=None)
def test_whole_tokens_of_exact_shares(experts: int, topk: int, held: int, tokens: int) -> None:
    topk, held = min(topk, experts), min(held, experts)
    exact = 1 - Fraction(comb(experts - held, topk), comb(experts, topk))
    columns = {"num_experts": experts, "moe_router_topk": topk} | NO_GROUPS
    assert _evaluated(share_of_tokens(pl.lit(held)), **columns) == pytest.approx(float(exact), abs=1e-10)
    # A share that is short of a whole number of tokens by rounding alone counts as whole.
    whole = {int(tokens * exact), min(int(tokens * (exact + Fraction(1, 10**9))), tokens)}
    assert _evaluated(copies(pl.lit(held), pl.lit(tokens)), **columns) in whole


@cache
def _ops(**changes: Any) -> pl.DataFrame:
    """The ops of a small workload's way to its experts and back."""
    return folded(small(**changes)).filter(pl.col("op").is_in(WAY))


def seconds(changes: dict[str, Any], op: str, phase: str = "forward", **constant_changes: float) -> float:
    """Seconds of one op with round constants: 100 GB/s inside nodes of 8, 10 GB/s beyond."""
    workloads = with_constants(small(**changes), constants(**constant_changes)).rename(OF_THE_WORKLOAD)
    found = timed(_ops(**changes).filter(op=op, phase=phase).head(1), workloads)
    return float(found["seconds"].item())


def test_seconds_by_hand() -> None:
    # 64 x 4/16 tokens for each rank; 1 - C(8, 4)/C(16, 4) = 25/26 of all have an expert on the other node.
    each, of_node = 16 * 128, 64 * 25 / 26 * 128
    for phase in ("forward", "backward"):
        for op in ("fused_dispatch", "fused_combine"):
            assert seconds(NODES, op, phase) == pytest.approx(of_node / 10e9)
    # 20 multiprocessors copy 10 GB/s: to 7 neighbours, from two nodes
    slow = {"dispatcher_sm_bytes_per_second": 5e8}
    assert seconds(NODES, "fused_dispatch", **slow) == pytest.approx(7 * 2 * each / 10e9)
    few, other = (
        NODES | {"moe_flex_dispatcher_num_sms": 4},
        NODES | {"moe_flex_dispatcher_backend": "hybridep"},
    )
    assert seconds(few, "fused_dispatch", **slow) == pytest.approx(7 * 2 * each / 2e9)
    assert seconds(other, "fused_dispatch", **slow) == pytest.approx(7 * 2 * each / 8e9)
    late = {"all_to_all_latency_seconds": 1e-3, "all_to_all_peer_seconds": 2e-3}
    assert seconds(NODES, "fused_dispatch", **late) == pytest.approx(3e-3 + of_node / 10e9)
    reached = {"all_to_all_efficiency": 0.8}
    assert seconds(NODES, "fused_dispatch", **reached) == pytest.approx(of_node / 0.8 / 10e9)
    # 4 x 64 rows of 128 B, read and written; HybridEP copies in kernels of its own.
    halved = [seconds(case, "permute", permute_hbm_fraction=0.5) for case in (NODES, other)]
    assert halved == pytest.approx([2 * 65_536 / 1e12, 65_536 / 1e12])


def test_two_ranks_of_an_expert_stand_on_a_node() -> None:
    # etp 2: a node has 4 of 8 ep ranks, half of 8 experts; of 32 tokens 4 go to each rank, 16 to a node.
    case = FLEX | {"num_experts": 8, "moe_router_topk": 1, "tp": 2, "etp": 2, "ep": 8, "world_size": 32}
    assert seconds(case, "fused_dispatch") == pytest.approx(16 * 128 / 10e9)


def test_uncontrolled_routing_loads_the_busiest_rank() -> None:
    uneven = NODES | {"routing": "uncontrolled"}
    # 1 + 0.5 x 0.564 x log2(16)^0.8 / sqrt(1 expert a rank)
    more = 1 + 0.5 * 0.564 * 4**0.8
    found = seconds(uneven, "fused_dispatch", expert_load_variation=0.5)
    assert found == pytest.approx(more * seconds(NODES, "fused_dispatch"))


def test_the_host_waits_for_what_arrives() -> None:
    words = [
        Words(op, "collective", phase, "all_to_all", "ep")
        for phase, op in (
            ("forward", "fused_dispatch"),
            ("forward", "fused_combine"),
            ("backward", "fused_dispatch"),
            ("backward", "recompute_fused_dispatch"),
        )
    ]
    rows = pl.DataFrame([vars(each) for each in words])
    assert [dispatches(each) for each in words] == [True, False, False, True]
    assert rows.select(expression(dispatches(ROWS))).to_series().to_list() == [True, False, False, True]


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        # 10 channels of 2 x 64 + 2056 B a token: 8 peers x 288, and twice 2 nodes x 128
        ({}, 10 * (8 * 288 + 2 * 2 * 128) * 2184),
        ({"moe_flex_dispatcher_num_sms": 24}, 12 * (8 * 288 + 2 * 2 * 128) * 2184),
        # 4 peers x 256, none beyond
        ({"ep": 4}, 10 * 4 * 256 * 2184),
        ({"num_experts": 128, "ep": 128, "world_size": 256}, 10 * (8 * 560 + 2 * 16 * 128) * 2184),
        ({"num_experts": 256, "ep": 256, "world_size": 512}, 10 * (8 * 720 + 2 * 32 * 128) * 2184),
        # 64 tokens of 128 B of 16 ranks, twice
        ({"moe_flex_dispatcher_backend": "hybridep"}, 2 * 16 * 64 * 128),
        ({"moe_token_dispatcher_type": "alltoall"}, 0),
    ],
)
def test_buffers_by_hand(changes: dict[str, Any], held: int) -> None:
    assert exact(small(**NODES | changes)).select(dispatcher_buffer_bytes()).item() == held


def test_a_stage_without_experts_has_no_buffers() -> None:
    # The second stage has the experts.
    changes = {"moe_layer_freq": "[0,0,1,1]", "num_experts": 4, "etp": 1, "ep": 4}
    flex, plain = (
        costs(changes | way).memory.sort("stage")["workspace_bytes"].to_list() for way in (FLEX, {})
    )
    assert flex[0] == plain[0]
    assert flex[1] > plain[1]


def matrix(workload: pl.DataFrame, gpus_per_node: int = 8) -> pl.DataFrame:
    """Who sends what to whom of expert groups."""
    row = workload.row(0, named=True)
    found = rank_matrix(programs(workload), groups(row), ranks(row), Placed(gpus_per_node), row)
    return found.filter(pl.col("group_kind").is_in(["ep", "tp_ep"]))


def test_messages_by_hand() -> None:
    found = matrix(small(**NODES)).filter(phase="forward", src=0)
    sent = dict(found.select("dst", "bytes").rows())
    # Two layers, two micro-batches, dispatch and combine. 61 of 64 tokens to the same place of the other
    # node; to each neighbour 16, and 16 of the rank there that sends through this one.
    assert sent == {8: 8 * 61 * 128, **dict.fromkeys(range(1, 8), 8 * 32 * 128)}


def test_results_come_back_the_way_that_tokens_went() -> None:
    # Nodes of 3 hold parts of a group of 4: 3 and 1, then 2 and 2, and so on.
    workload = small(
        **FLEX | {"num_experts": 8, "tp": 1, "ep": 4, "pp": 1, "world_size": 12, "global_batch_size": 24}
    )
    found = matrix(workload, 3)
    there, back = (found.filter(phase=phase) for phase in ("forward", "backward"))
    pairs = {(src, dst): bytes_ for src, dst, bytes_ in there.select("src", "dst", "bytes").rows()}
    # Dispatch and combine are each other's reverse, so both ways of a pair carry as much.
    assert pairs == {(dst, src): bytes_ for (src, dst), bytes_ in pairs.items()}
    assert back.drop("phase").rows() == there.drop("phase").rows()
    # 29 of 64 tokens have one of the two experts of rank 3, alone on its node; it passes none on. 61 of its
    # own have one of the other six experts: they go to rank 0, and results come back from there.
    assert [pairs[src, 3] for src in (0, 1, 2)] == [8 * (29 + 61) * 128, 8 * 29 * 128, 8 * 29 * 128]
    # Rank 0 passes on its own and those of rank 3; results of its own come from rank 1.
    assert (pairs[0, 1], pairs[1, 2]) == (8 * (2 + 1) * 29 * 128, 8 * 2 * 29 * 128)


@pytest.mark.parametrize(("etp", "ep", "topk"), [(1, 16, 4), (1, 8, 8), (2, 8, 3), (4, 4, 1)])
def test_what_is_sent_is_received_and_never_more_crosses_nodes(etp: int, ep: int, topk: int) -> None:
    base = {"num_experts": 32, "etp": etp, "ep": ep, "moe_router_topk": topk, "tp": 4, "pp": 1}
    base |= {"world_size": 16, "global_batch_size": 16, "num_layers": 1}
    row = small(**base).row(0, named=True)
    made = {way: programs(small(**base, moe_token_dispatcher_type=way)) for way in ("alltoall", "flex")}
    for node in (2, 4, 8):
        found = {
            way: rank_matrix(program, groups(row), ranks(row), Placed(node), row).filter(
                pl.col("group_kind").is_in(["ep", "tp_ep", "etp"])
            )
            for way, program in made.items()
        }
        sums = [
            found["flex"].group_by(end).agg(pl.col("bytes").sum()).sort(end)["bytes"].to_list()
            for end in ("src", "dst")
        ]
        assert sums[0] == sums[1] != []
        across = pl.col("src") // node != pl.col("dst") // node
        crossing = {way: matrix.filter(across)["bytes"].sum() for way, matrix in found.items()}
        assert crossing["flex"] <= crossing["alltoall"]


def test_an_axis_of_a_sweep_has_its_words(root: Path, tmp_path: Path) -> None:
    text = """
description: Dispatchers.
twins: true
options: {recompute: selective}
grids:
  - {model: mixtral_8x7B, world_size: 64, tp: 2, pp: 2, ep: 8, etp: 1, seq_length: 4096,
     global_batch_size: 64, moe_token_dispatcher_type: [alltoall, flex]}
  - {model: mixtral_8x7B, world_size: 64, tp: 2, pp: 2, ep: 8, etp: 1, seq_length: 4096,
     global_batch_size: 64, moe_token_dispatcher_type: flex, moe_flex_dispatcher_backend: hybridep,
     moe_flex_dispatcher_num_sms: 24}
"""
    path = tmp_path / "dispatchers.yaml"
    path.write_text(text, encoding="utf-8")
    workloads = load_sweep(root, path).workloads
    moe = workloads.filter(kind="moe")
    words = [id_.partition("-moe-etp1")[2] for id_ in moe["workload"]]
    assert words == ["", "-flex", "-flex-hybridep-moe_flex_dispatcher_num_sms24"]
    assert moe["twin"].n_unique() == 1
    assert findings(workloads).filter(severity="error").is_empty()
    found = costed(moe, pl.DataFrame([cluster().values]))
    # One expert a rank, in one node: no copy is spared, but passes over the copies are.
    assert found["ep_comm_seconds"].n_unique() == 1
    assert found["iteration_seconds"].to_list() == sorted(found["iteration_seconds"], reverse=True)


RECIPES: list[tuple[dict[str, Any], dict[str, Any], list[str], list[str]]] = [
    # what a recipe says, the keys that a row gets, what is not modelled, what has no effect
    ({"moe_token_dispatcher_type": "alltoall", "moe_flex_dispatcher_backend": "deepep"},
        {"moe_token_dispatcher_type": "alltoall"}, [], ["moe_flex_dispatcher_backend"]),
    (FLEX | {"moe_flex_dispatcher_backend": "hybridep", "moe_deepep_num_sms": 20, "moe_hybridep_num_sms": 32},
        FLEX | {"moe_flex_dispatcher_backend": "hybridep", "moe_flex_dispatcher_num_sms": 32}, [],
        ["moe_deepep_num_sms"]),
    (FLEX | {"moe_enable_deepep": True, "moe_flex_dispatcher_num_sms": 24},
        FLEX | {"moe_flex_dispatcher_backend": "deepep", "moe_flex_dispatcher_num_sms": 24}, [], []),
    (FLEX | {"moe_flex_dispatcher_backend": "ncclep"}, FLEX, ["moe_flex_dispatcher_backend"], []),
    ({"moe_token_dispatcher_type": "allgather"}, {}, ["moe_token_dispatcher_type"], []),
]  # fmt: skip


@pytest.mark.parametrize(("said", "row", "unread", "idle"), RECIPES)
def test_a_recipe_s_dispatcher_is_read(
    said: dict[str, Any], row: dict[str, Any], unread: list[str], idle: list[str]
) -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    recipe["model"] |= said
    draft = read_recipe(recipe, "recipe.yaml")
    words = ("dispatcher", "deepep", "hybridep")
    found = {key: value for key, (value, _) in draft.row.items() if any(word in key for word in words)}
    assert found == row
    assert [name for name in draft.unread if any(word in name for word in words)] == unread
    assert [name for name in draft.idle if any(word in name for word in words)] == idle


@pytest.mark.parametrize("format_", ["simai", "chakra", "goal", "htsim", "perfetto"])
def test_formats_whose_messages_go_straight_refuse_it(
    format_: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workloads = small(**NODES)
    monkeypatch.setattr("moesweep.export.request.catalogue", lambda request: workloads)
    request = Request(format_, tmp_path / "out", network="x" if format_ == "htsim" else None)
    if format_ == "perfetto":
        assert chosen(request).height == 1
        return
    with pytest.raises(BadInput) as caught:
        chosen(request)
    assert [problem.path for problem in caught.value.problems] == ["moe_token_dispatcher_type"]


def test_a_matrix_of_fused_exchanges_needs_its_workload() -> None:
    row = small(**NODES).row(0, named=True)
    with pytest.raises(ValueError, match="their workload"):
        rank_matrix(programs(small(**NODES)), groups(row), ranks(row), Placed(8))


def test_by_default_no_op_knows_of_it() -> None:
    plain = small()
    assert not any(op.startswith("fused_") for op in folded(plain)["op"])
    said = small(moe_token_dispatcher_type="alltoall", moe_flex_dispatcher_num_sms=0)
    assert plain["workload"].item() == said["workload"].item()
    assert folded(plain).rows() == folded(said).rows()
