"""Numbers worked out by hand, op by op (hand_worked.py), that both implementations of the trace must give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import either_trace
from either_trace import Implementation, brief, by_op, ops_of, part
from hand_worked import (
    DENSE_BACKWARD,
    DENSE_FORWARD,
    DENSE_OPTIMIZER,
    FIRST_STAGE_BACKWARD,
    FIRST_STAGE_FORWARD,
    GPT_13B_DENSE,
    GPT_13B_MOE,
    LAST_STAGE_BACKWARD,
    LAST_STAGE_FORWARD,
    LLAMA_CHANGES,
    MOE_BACKWARD,
    MOE_FORWARD,
    MOE_OPTIMIZER,
    SMALL_DENSE,
    SMALL_MOE,
)
from moesweep.study.sweep import enumerate_sweep
from naive_layout import naive_groups, naive_schedule
from naive_trace import naive_ops

trace = either_trace.trace


@pytest.mark.parametrize("workload", [GPT_13B_MOE, GPT_13B_DENSE], ids=["moe", "dense"])
def test_the_default_sweep_holds_the_example(root: Path, workload: dict[str, Any]) -> None:
    sweep = enumerate_sweep(root, root / "config" / "sweeps" / "moe-a100-123.yaml")
    assert sweep.filter(pl.col("workload") == workload["workload"]).to_dicts() == [workload]


@pytest.mark.parametrize("stage", [0, 1])
def test_moe_layers(trace: Implementation, stage: int) -> None:
    rows = trace(GPT_13B_MOE, stage)
    for layer in (20 * stage, 20 * stage + 19):
        assert part(rows, "forward", layer) == MOE_FORWARD
        assert part(rows, "backward", layer) == MOE_BACKWARD


@pytest.mark.parametrize("stage", [0, 1])
def test_dense_layers(trace: Implementation, stage: int) -> None:
    rows = trace(GPT_13B_DENSE, stage)
    for layer in (20 * stage, 20 * stage + 19):
        assert part(rows, "forward", layer) == DENSE_FORWARD
        assert part(rows, "backward", layer) == DENSE_BACKWARD


@pytest.mark.parametrize("workload", [GPT_13B_MOE, GPT_13B_DENSE], ids=["moe", "dense"])
def test_ends_of_the_pipeline(trace: Implementation, workload: dict[str, Any]) -> None:
    first, last = trace(workload, 0), trace(workload, 1)
    assert part(first, "forward") == FIRST_STAGE_FORWARD
    assert part(first, "backward") == FIRST_STAGE_BACKWARD
    assert part(last, "forward") == LAST_STAGE_FORWARD
    assert part(last, "backward") == LAST_STAGE_BACKWARD


@pytest.mark.parametrize("stage", [0, 1])
def test_optimizer(trace: Implementation, stage: int) -> None:
    assert part(trace(GPT_13B_MOE, stage), "optimizer") == MOE_OPTIMIZER[stage]
    assert part(trace(GPT_13B_DENSE, stage), "optimizer") == DENSE_OPTIMIZER[stage]


def test_order_and_counts_of_rows(trace: Implementation) -> None:
    first, last = trace(GPT_13B_MOE, 0), trace(GPT_13B_MOE, 1)
    # 20 layers of 21 + 26 rows; ends 4 + 4 on the first stage, 8 + 7 on the last; 8 of the optimizer
    assert (len(first), len(last)) == (956, 963)
    for rows in (first, last):
        assert [row["op_index"] for row in rows] == list(range(len(rows)))
        counts = {(row["phase"], row["num_microbatches"]) for row in rows}
        assert counts == {("forward", 64), ("backward", 64), ("optimizer", 1)}
    # Layers forwards and then backwards, between the ends.
    visited = [row["layer"] for row in first if row["op"] == "qkv" or row["op"] == "qkv_dgrad"]
    assert visited == [*range(20), *range(19, -1, -1)]
    assert [row["op"] for row in first[:3]] == ["embedding_lookup", "embedding_reduce", "embedding_dropout"]
    assert [first[423]["op"], first[424]["op"]] == ["send_forward", "recv_backward"]
    assert [last[0]["op"], last[421]["op"], last[427]["op"]] == [
        "recv_forward",
        "final_norm",
        "cross_entropy",
    ]
    assert last[954]["op"] == "send_backward"


def test_several_experts_are_sorted(trace: Implementation) -> None:
    # 8 experts over ep 4; rows 2 x 64 tokens; f/etp = 128; 2 x 128 x 128 x 64 = 2,097,152
    rows = trace(SMALL_MOE, 0)
    forward = by_op(rows, "forward")
    assert brief(forward["expert_fc1"]) == ("expert_fc1", "grouped_gemm", 128, 128, 64, 2, 2_097_152)
    order = ops_of(rows, "forward", 0)
    assert order[order.index("expert_gather") + 1 :][:2] == ["expert_sort", "expert_fc1"]
    assert order[order.index("expert_fc2") + 1 :][:2] == ["expert_unsort", "expert_scatter"]
    back = ops_of(rows, "backward", 0)
    assert back[back.index("expert_scatter") + 1 :][:2] == ["expert_unsort", "expert_fc2_dgrad"]
    assert back[back.index("expert_fc1_wgrad") + 1 :][:2] == ["expert_sort", "expert_gather"]


@pytest.mark.parametrize(
    ("flash", "forward", "backward"), [(False, 262_144, 524_288), (True, 131_072, 327_680)]
)
def test_flops_of_core_attention(trace: Implementation, flash: bool, forward: int, backward: int) -> None:
    # whole scores: 4 x 2 x 32^2 x 64/2 and twice that; flash: half, and five halves of two products
    rows = trace(SMALL_DENSE | {"flash_attention": flash, "recompute": "selective"}, 0)
    assert by_op(rows, "forward")["core_attention"]["flops"] == forward
    again, gradient = (by_op(rows, "backward")[op] for op in ("recompute_core_attention", "core_attention"))
    assert brief(again)[1:] == ("attention", 32, 32, 32, 2, forward)
    assert brief(gradient)[1:] == ("attention", 32, 32, 32, 2, backward)
    order = ops_of(rows, "backward", 0)
    assert order.index("recompute_core_attention") + 1 == order.index("core_attention")


@pytest.mark.parametrize("workload", [SMALL_MOE, SMALL_DENSE], ids=["moe", "dense"])
def test_full_recomputation_repeats_the_forward(trace: Implementation, workload: dict[str, Any]) -> None:
    plain, again = trace(workload, 1), trace(workload | {"recompute": "full"}, 1)
    repeated = [(f"recompute_{row[0]}", *row[1:]) for row in part(plain, "forward", 3)]
    assert part(again, "backward", 3) == repeated + part(plain, "backward", 3)


def test_routers_of_fp32(trace: Implementation) -> None:
    """32 of 64 tokens, 8 experts, h 64, 64 copies sent, 128 rows of etp 2."""
    rows = trace(SMALL_MOE | {"moe_router_dtype": "fp32"}, 0)
    plain = trace(SMALL_MOE, 0)
    names = ("comm_bytes", "wire_bytes")
    # A copy of 2 x 64 bytes has its probability of 4 with it; results are summed in 4 bytes an element.
    expected = {
        "moe_dispatch": (64 * 132, 64 * 132 * 3 // 4),
        "expert_gather": (128 * 132, 64 * 132),
        "expert_scatter": (128 * 256, 64 * 256),
        "moe_combine": (64 * 128, 64 * 96),
    }
    for phase in ("forward", "backward"):
        here = by_op(rows, phase)
        assert {op: tuple(here[op][name] for name in names) for op in expected} == expected
        # 128 rows of 64 from 2 bytes to 4, what is left of them back
        assert here["expert_widen"]["hbm_bytes"] == 128 * 64 * 6
        assert here["expert_narrow"]["hbm_bytes"] == 64 * 64 * 6
    # operands of 2 bytes and logits of 4; in backward all of 4, and a gradient read and written in 4
    assert by_op(rows, "forward")["router"]["hbm_bytes"] == 2 * (32 * 64 + 64 * 8) + 4 * 32 * 8
    backward = by_op(rows, "backward")
    assert backward["router_dgrad"]["hbm_bytes"] == 4 * (32 * 64 + 64 * 8 + 32 * 8)
    assert backward["router_wgrad"]["hbm_bytes"] == 4 * (32 * 64 + 32 * 8) + 8 * 64 * 8
    more = ("expert_widen", "expert_narrow")
    assert [row["op"] for row in rows if row["op"] not in more] == [row["op"] for row in plain]


def test_a_fused_permutation_touches_each_token_once(trace: Implementation) -> None:
    # 32 of 64 tokens, 64 copies, 2 x 64 bytes each: 64 read and written, or 32 and 64
    both = (SMALL_MOE | {"moe_permute_fusion": fused} for fused in (False, True))
    plain, fused = (by_op(trace(workload, 0), "forward") for workload in both)
    for name in ("permute", "unpermute"):
        assert (plain[name]["hbm_bytes"], fused[name]["hbm_bytes"]) == (16_384, 12_288)
    # Experts' rows are put in order as before: 128 rows, read and written.
    assert plain["expert_sort"] == fused["expert_sort"]


def test_a_fused_router_passes_once(trace: Implementation) -> None:
    # 32 of 64 tokens, 4 experts: 12 bytes a logit, 20 more by groups; the loss 26, or 18 of two kernels
    groups = {"moe_router_num_groups": 2, "moe_router_group_topk": 1}
    loss = {"moe_router_load_balancing_type": "aux_loss"}
    both = (SMALL_MOE | groups | loss | {"moe_router_fusion": fused} for fused in (False, True))
    plain, fused = (trace(workload, 0) for workload in both)
    names = ("router_topk", "balancing_loss")
    moved = [
        [by_op(rows, phase)[name]["hbm_bytes"] // (32 * SMALL_MOE["num_experts"]) for name in names]
        for rows in (plain, fused)
        for phase in ("forward", "backward")
    ]
    assert moved == [[32, 26], [12, 28], [12, 18], [12, 28]]


def test_fused_losses(trace: Implementation) -> None:
    """64 tokens, 4 bytes each, on 2 ranks: 256 and 512, or 3 x 256 from each rank."""

    def loss(phase: str, **changes: Any) -> list[tuple[Any, ...]]:
        rows = trace(SMALL_DENSE | changes, 1)
        names = ("op", "collective", "comm_bytes", "wire_bytes", "hbm_bytes")
        here = [row for row in rows if row["phase"] == phase and row["op"].startswith("cross_entropy")]
        return [tuple(row[name] for name in names) for row in here]

    logits = 64 * SMALL_DENSE["padded_vocab_size"] // 2
    assert loss("forward") == [
        *((f"cross_entropy_{part}", "all_reduce", 256, 256, 0) for part in ("max", "target", "sum")),
        ("cross_entropy", None, 0, 0, 36 * logits),
    ]
    native = {"cross_entropy_loss_fusion": True}
    assert loss("forward", **native) == [
        ("cross_entropy_max", "all_reduce", 256, 256, 0),
        ("cross_entropy_sum", "all_reduce", 512, 512, 0),
        ("cross_entropy", None, 0, 0, 22 * logits),
    ]
    engine = native | {"cross_entropy_fusion_impl": "te"}
    assert loss("forward", **engine) == [
        ("cross_entropy_gather", "all_gather", 1536, 768, 0),
        ("cross_entropy", None, 0, 0, 8 * logits),
    ]
    of_gradients = [loss("backward", **changes) for changes in ({}, native, engine)]
    assert of_gradients == [[("cross_entropy", None, 0, 0, n * logits)] for n in (16, 6, 6)]


def test_without_sequence_parallelism(trace: Implementation) -> None:
    # Between two, an all_reduce of T = 8192 puts 2 x 8192/2 on the wire; stages exchange T, not T/2.
    first, last = (trace(SMALL_DENSE | {"sequence_parallel": False}, stage) for stage in (0, 1))
    reductions = {
        (row["op"], row["phase"])
        for row in first + last
        if brief(row)[1:] == ("all_reduce", "tp", 2, 8192, 8192)
    }
    assert reductions == {
        ("embedding_reduce", "forward"),
        ("attention_reduce", "forward"),
        ("mlp_reduce", "forward"),
        ("attention_reduce_grad", "backward"),
        ("mlp_reduce_grad", "backward"),
        ("head_reduce_grad", "backward"),
    }
    assert brief(by_op(first, "forward")["send_forward"])[1:] == ("send", "pp", 2, 8192, 8192)
    assert not [
        row for row in first + last if row["group_kind"] == "tp" and row["collective"] != "all_reduce"
    ]
    assert "norm_grad_reduce" not in by_op(first, "optimizer")


def test_without_tensor_parallelism(trace: Implementation) -> None:
    # world 8 = 1 x 4 x 2; every rank routes all 64 tokens: 2 x 8192 bytes, wire 3/4
    rows = trace(SMALL_MOE | {"world_size": 8, "tp": 1, "etp": 1}, 0)
    assert {row["group_kind"] for row in rows} == {None, "tp_ep", "ep", "dp", "pp", "embedding", "world"}
    assert brief(by_op(rows, "forward")["moe_dispatch"])[1:] == ("all_to_all", "ep", 4, 16_384, 12_288)
    # 8 experts x 4 ranks x 8 bytes
    assert brief(by_op(rows, "forward")["token_counts"])[1:] == ("all_gather", "tp_ep", 4, 256, 192)
    assert by_op(rows, "forward")["router"]["m"] == 64


def test_experts_that_are_not_cut(trace: Implementation) -> None:
    # etp 1 under tp 2: edp = 16/(1 x 4 x 2) = 2; 2 x 64/2 rows whole in f: 2 x 64 x 256 x 64 = 2,097,152
    rows = trace(SMALL_MOE | {"etp": 1, "edp": 2}, 0)
    assert brief(by_op(rows, "forward")["expert_fc1"])[1:] == ("grouped_gemm", 64, 256, 64, 2, 2_097_152)
    assert "expert_gather" not in by_op(rows, "forward")
    # half of 2 T, wire 3/4
    assert brief(by_op(rows, "forward")["moe_dispatch"])[1:] == ("all_to_all", "ep", 4, 8192, 6144)
    # 2 layers of 2 experts of 2 x 64 x 256 = 131,072 parameters
    reduce = by_op(rows, "optimizer")["grad_reduce_expert"]
    assert brief(reduce)[1:] == ("reduce_scatter", "edp", 2, 524_288, 262_144)


def test_undistributed_experts_join_the_dense_buffer(trace: Implementation) -> None:
    rows = trace(SMALL_MOE | {"ep": 1, "edp": 4}, 1)
    # per layer 4 x 64^2/2 + 4 x 64 + 8 x 64 + 8 x 2 x 64 x 256/2 = 8192 + 256 + 512 + 131,072 = 140,032
    # two layers, final norm 128, tied copy 512 x 64 = 32,768: 312,960; wire 3/4
    optimizer = by_op(rows, "optimizer")
    assert brief(optimizer["grad_reduce_dense"])[1:] == ("reduce_scatter", "dp", 4, 1_251_840, 938_880)
    assert "grad_reduce_expert" not in optimizer
    assert "param_gather_expert" not in optimizer
    assert optimizer["adam"]["n"] == 78_240


def test_gradients_of_fp16_travel_as_they_are(trace: Implementation) -> None:
    # 84,480 parameters (below) of 2 bytes; layer norms 2 x 4 x 64 x 2 bytes
    said = {"dtype": "fp16", "grad_reduce_in_fp32": False}
    optimizer = by_op(trace(SMALL_DENSE | said, 0), "optimizer")
    assert brief(optimizer["grad_reduce_dense"])[1:] == ("reduce_scatter", "dp", 4, 168_960, 126_720)
    assert optimizer["norm_grad_reduce"]["comm_bytes"] == 1024
    # the table of 512 x 64
    assert optimizer["embedding_grad_reduce"]["comm_bytes"] == 65_536


def test_deepspeed_reduces_whole_gradients(trace: Implementation) -> None:
    # ZeRO stage 1: all_reduce of 4 P, wire 2 x 3/4, and shards of the optimizer state all the same
    optimizer = by_op(trace(SMALL_DENSE | {"framework": "megatron-deepspeed"}, 0), "optimizer")
    assert brief(optimizer["grad_reduce_dense"])[1:] == ("all_reduce", "dp", 4, 337_920, 506_880)
    assert optimizer["adam"]["n"] == 21_120
    assert brief(optimizer["param_gather_dense"])[1:] == ("all_gather", "dp", 4, 168_960, 126_720)


def test_replicated_optimizer(trace: Implementation) -> None:
    # per layer 8192 + 256 + 2 x 64 x 256/2 = 24,832; two layers, table 32,768, positions 32 x 64 = 2048
    optimizer = by_op(trace(SMALL_DENSE | {"distributed_optimizer": False}, 0), "optimizer")
    assert optimizer["adam"]["n"] == 84_480
    # 4 P; wire 2 x 3/4
    assert brief(optimizer["grad_reduce_dense"])[1:] == ("all_reduce", "dp", 4, 337_920, 506_880)
    assert not [op for op in optimizer if op.startswith("param_gather")]
    # One fp32 over the tp x pp ranks that hold a copy of the model: wire 2 x 3/4 x 4
    norms = [op for op in optimizer if op.startswith("grad_norm")]
    assert norms == ["grad_norm_dense"]
    assert brief(optimizer["grad_norm_dense"])[1:] == ("all_reduce", "model", 4, 4, 6)


def test_gradient_norm_of_replicated_experts(trace: Implementation) -> None:
    # tp 2 x pp 2 hold the dense parameters; etp 2 x ep 4 x pp 2 = 16 the experts: wire 2 x 15/16 x 4 = 7.5
    optimizer = by_op(trace(SMALL_MOE | {"distributed_optimizer": False}, 1), "optimizer")
    assert brief(optimizer["grad_norm_dense"])[1:] == ("all_reduce", "model", 4, 4, 6)
    assert brief(optimizer["grad_norm_expert"])[1:] == ("all_reduce", "expert_model", 16, 4, 7)
    # Experts in the dense buffer are summed with it: ep 1 and etp = tp.
    joined = by_op(trace(SMALL_MOE | {"distributed_optimizer": False, "ep": 1, "edp": 4}, 1), "optimizer")
    assert "grad_norm_dense" in joined
    assert "grad_norm_expert" not in joined
    assert "grad_norm" in by_op(trace(SMALL_MOE, 1), "optimizer")


def test_llama_like(trace: Implementation) -> None:
    # h_kv = 64 x 2/8 = 16: qkv (64 + 32)/2 = 48 columns, 2 x 64 x 48 x 64; gate and value: 2 x 256/2
    first, last = (trace(SMALL_DENSE | LLAMA_CHANGES, stage) for stage in (0, 1))
    forward = by_op(first, "forward")
    assert brief(forward["qkv"])[1:] == ("gemm", 64, 48, 64, 1, 393_216)
    assert brief(forward["fc1"])[1:] == ("gemm", 64, 256, 64, 1, 2_097_152)
    assert brief(forward["fc2"])[1:] == ("gemm", 64, 64, 128, 1, 1_048_576)
    assert brief(forward["embedding_reduce"])[1:] == ("reduce_scatter", "tp", 2, 8192, 4096)
    # layer: (2 x 64^2 + 2 x 64 x 16)/2 = 5120, norms 128, MLP 3 x 64 x 256/2 = 24,576: 29,824
    # first: 59,648 + 32,768 = 92,416; last: 59,648 + 64 + 32,768 (its own head) = 92,480; each over dp 4
    assert by_op(first, "optimizer")["adam"]["n"] == 23_104
    assert by_op(last, "optimizer")["adam"]["n"] == 23_120
    assert "embedding_grad_reduce" not in by_op(first, "optimizer")
    # 4 bytes of 2 x 128, and of 64 more
    assert by_op(first, "optimizer")["norm_grad_reduce"]["comm_bytes"] == 1024
    assert by_op(last, "optimizer")["norm_grad_reduce"]["comm_bytes"] == 1280


@pytest.mark.parametrize(("tied", "owned"), [(True, 33_568), (False, 41_760)])
def test_one_stage_holds_one_tied_table(trace: Implementation, tied: bool, owned: int) -> None:
    # 4 x 24,832 + 32,768 + 2048 + 128 = 134,272; a head of its own makes it 167,040; each over dp 4
    shape = {"world_size": 8, "pp": 1, "dp": 4, "tied_embeddings": tied}
    rows = trace(SMALL_DENSE | shape, 0)
    assert by_op(rows, "optimizer")["adam"]["n"] == owned
    assert not [row for row in rows if row["group_kind"] in ("pp", "embedding")]


def test_messages_of_interleaved_stages(trace: Implementation) -> None:
    # 8 micro-batches, 2 chunks: 16 messages each way but for the model's two ends
    counts = [
        {row["op"]: row["num_microbatches"] for row in trace(SMALL_DENSE | {"virtual_pipeline": 2}, stage)}
        for stage in (0, 1)
    ]
    messages = ("recv_forward", "send_forward", "recv_backward", "send_backward")
    assert [[count[op] for op in messages] for count in counts] == [[8, 16, 16, 8], [16, 8, 8, 16]]
    # chunks of one layer: stage 0 has 0 and 2, stage 1 has 1 and 3
    rows = trace(SMALL_DENSE | {"virtual_pipeline": 2}, 1)
    assert [row["layer"] for row in rows if row["op"] in ("fc1", "fc1_dgrad")] == [1, 3, 3, 1]


def test_left_over_layers_go_to_the_middle(trace: Implementation) -> None:
    # 36 layers over 8 stages: 4 each, the 4 left over on stages 2 to 5
    workload = SMALL_DENSE | {"world_size": 64, "pp": 8, "num_layers": 36}
    layers = [[row["layer"] for row in trace(workload, stage) if row["op"] == "fc1"] for stage in range(8)]
    assert [len(numbers) for numbers in layers] == [4, 4, 5, 5, 5, 5, 4, 4]
    assert [number for numbers in layers for number in numbers] == list(range(36))


def test_communicators_of_sixteen_ranks() -> None:
    # rank = tp + 2 (dp + 4 pp) = ep + 4 (edp + 2 pp)
    groups = naive_groups(SMALL_MOE | {"etp": 1, "edp": 2})
    assert groups["tp"] == [[first, first + 1] for first in range(0, 16, 2)]
    assert groups["dp"] == [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]]
    assert groups["ep"] == groups["tp_ep"] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert groups["edp"] == [[0, 4], [1, 5], [2, 6], [3, 7], [8, 12], [9, 13], [10, 14], [11, 15]]
    assert groups["pp"] == groups["embedding"] == [[rank, rank + 8] for rank in range(8)]


def test_every_rank_names_its_own_groups() -> None:
    ops = naive_ops(SMALL_MOE | {"etp": 1, "edp": 2})
    assert [row["rank"] for row in ops] == sorted(row["rank"] for row in ops)
    of_13 = {row["group_kind"]: row["group_id"] for row in ops if row["rank"] == 13}
    # 13 = 1 + 2 (2 + 4 x 1) = 1 + 4 (1 + 2 x 1)
    own = {"tp": 6, "dp": 3, "pp": 5, "embedding": 5, "ep": 3, "tp_ep": 3, "edp": 5, "world": 0}
    assert of_13 == own | {None: 0}


def spoken(pp: int, m: int, v: int, stage: int) -> str:
    """A stage's order as words: F or B, micro-batch, and with chunks a letter."""
    return " ".join(
        f"{phase[0].upper()}{microbatch}" + ("abcd"[chunk] if v > 1 else "")
        for place, _, phase, microbatch, chunk in naive_schedule(pp, m, v)
        if place == stage
    )


def test_schedules() -> None:
    # 1F1B: pp-1-p forwards first. Interleaved: 2 (pp-1-p) + (v-1) pp of the 8 forward chunks.
    assert spoken(3, 4, 1, 0) == "F0 F1 F2 B0 F3 B1 B2 B3"
    assert spoken(3, 4, 1, 1) == "F0 F1 B0 F2 B1 F3 B2 B3"
    assert spoken(3, 4, 1, 2) == "F0 B0 F1 B1 F2 B2 F3 B3"
    assert spoken(4, 2, 1, 0) == "F0 F1 B0 B1"
    assert spoken(1, 2, 1, 0) == "F0 B0 F1 B1"
    assert spoken(2, 4, 2, 0) == "F0a F1a F0b F1b F2a B0b F3a B1b F2b B0a F3b B1a B2b B3b B2a B3a"
    assert spoken(2, 4, 2, 1) == "F0a F1a F0b B0b F1b B1b F2a B0a F3a B1a F2b B2b F3b B3b B2a B3a"
