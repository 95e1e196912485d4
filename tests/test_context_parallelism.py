"""Sequences that several ranks share: ops, seconds and memory by hand, and what holds of all of them."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import foreign_files
from costing import cluster, costs
from moesweep.edge.problems import BadInput
from moesweep.evaluate.costs import costed
from moesweep.export.request import Request, chosen
from moesweep.library import predict
from moesweep.network.unit import unit_flows
from moesweep.screen.best import best, searched
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.shapes.parallelism import groups, ranks
from moesweep.study.configured import Configuration
from moesweep.study.importers.bridge import read_recipe
from moesweep.study.sweep import load_sweep
from moesweep.study.validation import findings
from moesweep.trace.programs import folded, programs
from moesweep.trace.skewed_copies import given_routing
from moesweep.trace.skewed_programs import rank_programs
from moesweep.traffic.matrices import rank_matrix, uneven_rank_matrix
from moesweep.traffic.messages import Placed
from shared_by_cp import SENT, SHARED, both, found
from small import DENSE, MLA, small

WAYS = ("p2p", "a2a", "all_gather")


@both
def test_keys_and_values_go_round_a_ring(trace: Any) -> None:
    rows = trace(**SHARED)
    # 1 message of 2 B x 32 x (16 + 16); backward their gradients too
    forward, backward = (found(rows, phase, *SENT) for phase in ("forward", "backward"))
    assert forward["kv_ring_send"] == ("send", 2, 2048, 2048)
    assert forward["kv_ring_recv"] == ("recv", 2, 2048, 0)
    assert backward["kv_ring_send"] == ("send", 2, 4096, 4096)
    four = trace(**SHARED | {"cp": 4, "world_size": 32})
    # 3 messages of 2 B x 16 x 32
    assert found(four, "forward", *SENT)["kv_ring_send"] == ("send", 4, 3072, 3072)
    kernel = ("m", "n", "k", "flops", "hbm_bytes")
    # Half of 4 x 32 x 64 x 32 flops. Two blocks of 2 B x 32 x (32 + 16 + 16 + 32) each; the first output is
    # read and written, the other read, added and written: 5 x 2 B x 32 x 32.
    assert found(rows, "forward", *kernel)["core_attention"] == (32, 64, 32, 131_072, 2 * 6144 + 5 * 2048)
    # Two blocks of twice that; gradients of the second one's queries, keys and values are added: 3 x 4096 B.
    moved = 2 * 12_288 + 3 * 4096
    assert found(rows, "backward", *kernel)["core_attention"] == (32, 64, 32, 327_680, moved)


@both
def test_positions_are_exchanged_for_heads(trace: Any) -> None:
    rows = trace(**SHARED | {"cp_comm_type": "a2a"})
    for phase in ("forward", "backward"):
        sent = found(rows, phase, *SENT)
        # 2 B x 32 tokens x 32, or 16; half of it stays
        assert sent["q_exchange"] == sent["output_exchange"] == ("all_to_all", 2, 2048, 1024)
        assert sent["k_exchange"] == sent["v_exchange"] == ("all_to_all", 2, 1024, 512)
        moved = found(rows, phase, "hbm_bytes")
        # Copied before and after: 2 x (2 + 2) B x 32 x (32 + 16 + 16), and x 32
        assert (moved["context_reorder"], moved["output_reorder"]) == ((16_384,), (8192,))
    kernel = ("m", "n", "k", "flops", "hbm_bytes")
    assert found(rows, "forward", *kernel)["core_attention"] == (64, 64, 16, 131_072, 6144)
    assert found(rows, "backward", *kernel)["core_attention"] == (64, 64, 16, 327_680, 12_288)


@both
def test_keys_and_values_are_gathered(trace: Any) -> None:
    rows = trace(**SHARED | {"cp_comm_type": "all_gather"})
    forward, backward = (found(rows, phase, *SENT) for phase in ("forward", "backward"))
    # 2 B x 64 tokens x 16; half of it is sent
    for name in ("k", "v"):
        assert forward[f"{name}_context_gather"] == ("all_gather", 2, 2048, 1024)
        assert backward[f"{name}_context_regather"] == ("all_gather", 2, 2048, 1024)
        assert backward[f"{name}_context_gather"] == ("reduce_scatter", 2, 2048, 1024)
    moved = found(rows, "forward", "m", "flops", "hbm_bytes")
    # Query and output 2048 B each; chunks of 16 see 5 chunks of keys together: 2 B x 80 x 32
    assert moved["core_attention"] == (32, 131_072, 2 * 2048 + 5120)
    assert found(rows, "backward", "hbm_bytes")["core_attention"] == (4 * 2048 + 5 * 5120,)
    assert moved["context_reorder"][2] == 4 * 64 * 32
    assert found(rows, "backward", "hbm_bytes")["context_reorder"] == (8 * 64 * 32,)
    two = trace(**SHARED | {"cp_comm_type": "all_gather", "micro_batch_size": 2})
    assert found(two, "forward", "hbm_bytes")["context_reorder"] == (2 * 4 * 64 * 32,)


@both
def test_latent_keys_go_round_as_heads(trace: Any) -> None:
    rows = trace(**SHARED | MLA | {"num_query_groups": 8})
    # 2 B x 32 x 4 heads of 8 + 4 for keys, 8 for values
    assert found(rows, "forward", *SENT)["kv_ring_send"] == ("send", 2, 5120, 5120)


@both
def test_recomputed_attention_travels_again(trace: Any) -> None:
    names = [row["op"] for row in trace(**SHARED | {"recompute": "selective"}) if row["layer"] == 0]
    again = [f"recompute_{name}" for name in ("kv_ring_send", "kv_ring_recv", "core_attention")]
    at = names.index(again[0])
    assert names[at : at + 6] == [*again, "kv_ring_send", "kv_ring_recv", "core_attention"]


@both
def test_all_else_runs_on_a_rank_s_own_positions(trace: Any) -> None:
    rows = trace(**SHARED | DENSE)
    forward = found(rows, "forward", "m", "n", "k", "comm_bytes", "hbm_bytes")
    assert forward["qkv"][:3] == (32, 64, 64)
    assert forward["fc1"][:3] == (32, 128, 64)
    # T of 32 tokens, and 16 tokens between the linears
    assert forward["attention_gather"][3] == 2 * 32 * 64
    assert forward["attention_norm"][4] == 4 * 16 * 64
    optimizer = {row["op"]: row for row in rows if row["phase"] == "optimizer"}
    # Gradients go over dp 2 x cp 2.
    assert optimizer["grad_reduce_dense"]["group_size"] == 4
    assert optimizer["adam"]["n"] == -(-optimizer["adam"]["m"] // 4)
    sends = next(row for row in rows if row["op"] == "send_forward")
    assert (sends["comm_bytes"], sends["num_microbatches"]) == (2 * 16 * 64, 16)


def test_seconds_of_a_ring_by_hand() -> None:
    """Round constants: 100 Tflop/s, 1 TB/s, 100 GB/s inside nodes of 8, 10 GB/s beyond."""
    alone = SHARED | DENSE | {"pp": 1, "world_size": 4, "num_layers": 2}
    found = costs(alone, p2p_latency_seconds=1e-9, tp_overlap=0.5)
    seconds = {(op, phase): value for op, phase, value in found.ops["op", "phase", "seconds"].unique().rows()}
    # One message forward, two backward (keys, then their gradients), and their bytes.
    assert seconds["kv_ring_recv", "forward"] == pytest.approx(1e-9 + 2048 / 100e9)
    assert seconds["kv_ring_recv", "backward"] == pytest.approx(2e-9 + 4096 / 100e9)
    forward, backward = 131_072 / 100e12 + 22_528 / 1e12, 327_680 / 100e12 + 36_864 / 1e12
    assert seconds["core_attention", "forward"] == pytest.approx(forward)
    assert seconds["core_attention", "backward"] == pytest.approx(backward)
    # Beside half of attention, one of two blocks; of that half is hidden (tp_overlap).
    hidden = 0.5 * (min(2.148e-8, forward / 2) + min(4.296e-8, backward / 2))
    row = found.workloads.row(0, named=True)
    # 32 micro-batches of one data-parallel rank, 2 layers
    assert row["cp_comm_seconds"] == pytest.approx(64 * (2.148e-8 + 4.296e-8))
    assert row["cp_hidden_seconds"] == pytest.approx(64 * hidden)
    far = costs(alone, gpus_per_node=2.0)
    ring = far.ops.filter((pl.col("op") == "kv_ring_recv") & (pl.col("phase") == "forward"))
    # tp 2 fills a node, so every message leaves it.
    assert ring["seconds"][0] == pytest.approx(2048 / 10e9)


def test_a_kernel_for_each_block_is_launched() -> None:
    alone = SHARED | DENSE | {"pp": 1, "world_size": 8, "cp": 4, "hidden_size": 64}
    for way, kernels in {"p2p": 4, "all_gather": 2}.items():
        slow, fast = (
            costs(alone | {"cp_comm_type": way}, kernel_seconds=seconds).ops.filter(op="core_attention")
            for seconds in (1e-3, 0.0)
        )
        assert (slow["seconds"] - fast["seconds"]).to_list() == pytest.approx([kernels * 1e-3] * slow.height)


def test_an_exchange_of_heads_has_no_busiest_rank() -> None:
    uneven = SHARED | {"cp_comm_type": "a2a", "routing": "uncontrolled", "num_query_groups": 8}
    even = {"expert_load_variation": 0.0}
    found = [
        costs(uneven | {"attention": "mha"}, **some).ops.filter(op="q_exchange")["seconds"].to_list()
        for some in (even, {"expert_load_variation": 0.5})
    ]
    assert found[0] == found[1]


def test_memory_by_hand() -> None:
    """Activations are those of sequences as short as a rank's part; states are sharded over dp·cp."""
    plain = DENSE | {"flash_attention": True, "position_embedding": "rope", "pp": 1, "tp": 1}
    short = costs(plain | {"seq_length": 32, "world_size": 4}).workloads.row(0, named=True)
    for way, output in {"p2p": 0, "a2a": 1, "all_gather": 1, "a2a+p2p": 1}.items():
        shared = {"cp": 2, "seq_length": 64, "world_size": 4, "cp_comm_type": way}
        shared |= {"hierarchical_context_parallel_sizes": "[2,1]"} if way == "a2a+p2p" else {}
        row = costs(plain | shared).workloads.row(0, named=True)
        for part in ("weights_bytes", "gradients_bytes", "optimizer_bytes"):
            assert row[part] == short[part]
        # The kernels' own output once more: 4 layers, 2 B x 32 x 64
        assert row["activations_bytes"] - short["activations_bytes"] == output * 4 * 4096


@pytest.mark.parametrize(
    ("way", "held"),
    [
        # Without the loss, which is the last stage's: long sequences and a narrow MLP, s/c = 2048, b 1, tp 1.
        # Two blocks of keys and values, 64 wide each, and their gradients.
        ("p2p", 2 * 2048 * 4 * 128),
        ("a2a", 2 * 2048 * 4 * 64),
        # All keys and values and their gradients
        ("all_gather", 2 * 4096 * 2 * 128),
        # What is exchanged, and blocks of a ring, of sequences twice as long over twice as many
        ("a2a+p2p", 2 * 2048 * 4 * 64 + 2 * 2048 * 4 * 128),
    ],
)
def test_workspace_by_hand(way: str, held: int) -> None:
    first = DENSE | {"flash_attention": True, "tp": 1, "ffn_hidden_size": 8, "seq_length": 4096, "cp": 2}
    if way == "a2a+p2p":
        first |= {"seq_length": 8192, "cp": 4, "hierarchical_context_parallel_sizes": "[2,2]"}
    first |= {"cp_comm_type": way, "num_microbatches": 1, "vocab_size": 128, "tied_embeddings": False}
    rows = costs(first).memory.filter(stage=0)
    buffers = 2 * (64 * 192 + 64 * 64 + 2 * 64 * 8)
    assert rows["workspace_bytes"].to_list() == [buffers + held]
    # Of tp 2 a rank has half of all widths.
    halves = costs(first | {"tp": 2}).memory.filter(stage=0)
    assert halves["workspace_bytes"].to_list() == [(buffers + held) // 2]


@given(
    st.sampled_from([2, 4]),
    st.sampled_from((*WAYS, "a2a+p2p")),
    st.sampled_from(["none", "full"]),
    st.booleans(),
)
@settings(max_examples=8, deadline=None)
def test_sharing_changes_no_sum_of_flops(cp: int, way: str, recompute: str, moe: bool) -> None:
    plain = {"flash_attention": True, "world_size": 8, "pp": 1, "recompute": recompute}
    plain |= {} if moe else DENSE
    shared = {"cp": cp, "cp_comm_type": way}
    shared |= {"hierarchical_context_parallel_sizes": f"[2,{cp // 2}]"} if way == "a2a+p2p" else {}
    # Each of as many ranks does as much.
    whole, parts = (
        folded(small(**changes)).select(
            (pl.col("flops") * pl.col("num_microbatches") * pl.col("repeats")).sum()
        )
        for changes in (plain, plain | shared)
    )
    assert whole.item() == parts.item()


@pytest.mark.parametrize("way", WAYS)
def test_a_model_needs_as_many_flops_and_overlap_never_lengthens(way: str) -> None:
    plain = DENSE | {"flash_attention": True, "world_size": 8, "pp": 1}
    shared = plain | {"cp": 2, "cp_comm_type": way}
    alone, beside, behind = (
        costs(changes, tp_overlap=overlap).workloads.row(0, named=True)
        for changes, overlap in ((plain, 0.0), (shared, 0.0), (shared, 1.0))
    )
    for share in ("mfu", "causal_mfu"):
        needed = [row[share] * row["iteration_seconds"] for row in (alone, beside)]
        assert needed[0] == pytest.approx(needed[1])
    assert behind["iteration_seconds"] <= beside["iteration_seconds"]
    assert behind["cp_comm_seconds"] == beside["cp_comm_seconds"] > 0
    assert (beside["cp_hidden_seconds"], behind["cp_hidden_seconds"] > 0) == (0, way == "p2p")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_what_cp_ranks_send_they_receive(way: str, recompute: str) -> None:
    changes = SHARED | {"cp_comm_type": way, "recompute": recompute, "cp": 2}
    changes |= {"cp": 4, "world_size": 32} if way != "a2a" else {}
    workload = small(**changes).row(0, named=True)
    rows = programs(small(**changes))
    matrix = rank_matrix(rows, groups(workload), ranks(workload), Placed(8)).filter(group_kind="cp")
    of_stage = {
        stage: sum(row["wire_bytes"] * row["num_microbatches"] for row in part.iter_rows(named=True))
        for (stage,), part in rows.filter(group_kind="cp").partition_by("stage", as_dict=True).items()
    }
    place = ranks(workload).select("rank", "stage", "cp_group")
    for end in ("src", "dst"):
        sums = matrix.group_by(end).agg(pl.col("bytes").sum()).join(place, left_on=end, right_on="rank")
        assert sums.height == workload["world_size"]
        assert all(row["bytes"] == of_stage[row["stage"]] for row in sums.iter_rows(named=True))
    ends = [place.rename({"rank": end, "cp_group": f"{end}_group"}).drop("stage") for end in ("src", "dst")]
    pairs = matrix.join(ends[0], on="src").join(ends[1], on="dst")
    assert (pairs["src_group"] == pairs["dst_group"]).all()


def test_heads_are_exchanged_evenly_however_tokens_fall() -> None:
    changes = SHARED | {"cp_comm_type": "a2a"}
    row = small(**changes).row(0, named=True)
    uneven = small(**changes, routing="zipf(alpha=1.2,seed=1)")
    routing = given_routing(uneven.row(0, named=True), Path())
    placed = (groups(row), ranks(row))
    own = uneven_rank_matrix(rank_programs(uneven, Path()), *placed, routing, Placed(8))
    even = rank_matrix(programs(small(**changes)), *placed, Placed(8))
    heads, expected = (matrix.filter(group_kind="cp") for matrix in (own, even))
    assert heads.rows() == expected.rows() != []
    tokens = own.filter(group_kind="ep")
    sums = [tokens.group_by(end).agg(pl.col("bytes").sum())["bytes"] for end in ("src", "dst")]
    assert sums[0].n_unique() > 1
    assert sums[0].sum() == sums[1].sum()


def test_a_ring_turns_round_backward_but_for_what_is_recomputed() -> None:
    changes = SHARED | {"cp": 4, "world_size": 32, "recompute": "selective"}
    workload = small(**changes).row(0, named=True)
    matrix = rank_matrix(programs(small(**changes)), groups(workload), ranks(workload), Placed(8))
    sent = {
        (dst, phase): bytes_
        for dst, phase, bytes_ in matrix.filter(group_kind="cp", src=0).select("dst", "phase", "bytes").rows()
    }
    # Ranks 0, 2, 4, 6. 3 messages of 2 B x 16 x 32, 16 micro-batches, 2 layers; backward twice as much.
    once = 3 * 1024 * 16 * 2
    assert sent == {(2, "forward"): once, (2, "backward"): once, (6, "backward"): 2 * once}


def test_unit_traffic_follows_the_way() -> None:
    layout = small(**SHARED | {"cp": 4, "world_size": 32}).row(0, named=True)
    kind = GROUP_KINDS.index("cp")
    sent = {}
    for way in WAYS:
        flows = unit_flows({**layout, "cp_comm_type": way}, 8)
        own = (flows.key == kind) & (flows.source == 0)
        sent[way] = dict(zip(flows.target[own].tolist(), flows.bytes[own].tolist(), strict=True))
    assert sent["p2p"] == sent["all_gather"] == {2: 1.0}
    assert sent["a2a"] == pytest.approx({2: 1 / 3, 4: 1 / 3, 6: 1 / 3})


def test_an_axis_of_a_sweep_has_its_word(root: Path, tmp_path: Path) -> None:
    text = """
description: Shared sequences.
twins: true
options: {flash_attention: true, recompute: selective}
grids:
  - {model: mixtral_8x7B, world_size: 64, tp: 2, pp: 2, ep: 8, etp: 1, cp: [1, 2, 4], seq_length: 8192,
     global_batch_size: 64}
  - {model: mixtral_8x7B, world_size: 64, tp: 2, pp: 2, ep: 8, etp: 1, cp: 2, cp_comm_type: a2a,
     seq_length: 8192, global_batch_size: 64}
"""
    path = tmp_path / "shared.yaml"
    path.write_text(text, encoding="utf-8")
    workloads = load_sweep(root, path).workloads
    moe = workloads.filter(kind="moe")
    words = [id_.partition("-moe")[2] for id_ in moe["workload"]]
    assert words == ["-etp1", "-cp2-etp1", "-cp4-etp1", "-cp2-etp1-cp_comm_typea2a"]
    assert moe["dp"].to_list() == [16, 8, 4, 8]
    twins = dict(workloads.filter(kind="dense").select("workload", "cp").rows())
    assert [twins[twin] for twin in moe["twin"]] == moe["cp"].to_list() == [1, 2, 4, 2]
    assert findings(workloads).filter(severity="error").is_empty()
    found = costed(workloads, pl.DataFrame([cluster().values]))
    rows = {row["workload"]: row for row in found.iter_rows(named=True)}
    for id_, twin, cp in moe.select("workload", "twin", "cp").rows():
        assert (rows[id_]["cp_comm_seconds"] > 0) == (cp > 1)
        # No MoE run was measured there at all.
        assert ("context parallelism" in rows[twin]["validated_why"]) == (cp > 1)


def test_runs_and_searches_take_cp(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    cells = {"model": "mixtral_8x7B", "world_size": 64, "tp": 2, "pp": 2, "ep": 8, "global_batch_size": 64}
    cells |= {"seq_length": 8192, "flash_attention": True, "routing": "balanced"}
    frame = predict(pl.DataFrame([cells | {"cp": cp} for cp in (1, 2)]))
    assert [value > 0 for value in frame["cp_comm_seconds"]] == [False, True]
    fixed = {"tp": 2, "pp": 2, "ep": 8, "etp": 1, "virtual_pipeline": 1, "recompute": "none"}
    fixed |= {"flash_attention": True, "seq_length": 8192, "micro_batch_size": 1}
    space = searched(Configuration(), "mixtral_8x7B", 64, fixed | {"cp": [1, 2, 3]})
    found = best(space, cluster(), 3)
    assert (space.size, found.legal, dict(found.left_out)["world_by_cp"]) == (3, 2, 1)


@pytest.mark.parametrize(("way", "known"), [("a2a", True), ("a2a+p2p", True), (["a2a", "p2p"], False)])
def test_a_recipe_s_shared_sequences_are_read(way: Any, known: bool) -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    recipe["model"] |= {"context_parallel_size": 4, "cp_comm_type": way}
    draft = read_recipe(recipe, "recipe.yaml")
    assert draft.row["cp"][0] == 4
    assert draft.unread.get("cp_comm_type") == (None if known else way)
    assert draft.row.get("cp_comm_type", ("",))[0] == (way if known else "")


@pytest.mark.parametrize(
    ("format_", "changes", "path"),
    [
        ("simai", {"cp_comm_type": "a2a"}, "cp"),
        ("chakra", {}, "cp_comm_type"),
        ("goal", {}, "cp_comm_type"),
        ("chakra", {"cp_comm_type": "a2a", "routing": "zipf(alpha=1,seed=1)"}, "cp_comm_type"),
    ],
)
def test_formats_that_know_no_shared_sequences_refuse_them(
    format_: str, changes: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workloads = small(**SHARED | changes)
    monkeypatch.setattr("moesweep.export.request.catalogue", lambda request: workloads)
    with pytest.raises(BadInput) as caught:
        chosen(Request(format_, tmp_path / "out"))
    assert [problem.path for problem in caught.value.problems] == [path]


def test_without_cp_no_op_knows_of_it() -> None:
    assert "cp" not in set(folded(small())["group_kind"].cast(pl.String).drop_nulls())
    assert small()["workload"].item() == small(cp=1, cp_comm_type="p2p")["workload"].item()
