"""Numbers worked out by hand, op by op, that both implementations of the trace must give.

The main example is gpt_13B on 1024 GPUs, tp 16, pp 2, ep 16, and its dense twin: b 1, s 4096, h 5120,
f 20480, padded vocabulary 51200 (25 x 128 x 16), 16 experts, top-2. So dp = 1024/(16 x 2) = 32,
edp = 32/16 = 2, 2048/(1 x 32) = 64 micro-batches, and one whole activation is
T = 2 x 4096 x 5120 = 41,943,040 bytes.
A row is written as (op,) if it is memory-bound, (op, kind, m, n, k, groups, flops) if it multiplies and
(op, collective, group kind, group size, comm bytes, wire bytes) if it communicates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moesweep.sweep import enumerate_sweep
from moesweep.trace.programs import programs
from naive_trace import Row, naive_groups, naive_ops, naive_program, naive_schedule

Brief = tuple[str | int, ...]
Implementation = Callable[[dict[str, Any], int], list[Row]]

GPT_13B_MOE: dict[str, Any] = {
    "workload": "gpt_13B-ws1024-tp16-pp2-ep16-gbs2048-mbs1-seq4096-moe",
    "kind": "moe",
    "twin": "gpt_13B-ws1024-tp16-pp2-ep1-gbs2048-mbs1-seq4096-dense",
    "listed": 1,
    "model": "gpt_13B",
    "world_size": 1024,
    "tp": 16,
    "pp": 2,
    "ep": 16,
    "etp": 16,
    "dp": 32,
    "edp": 2,
    "micro_batch_size": 1,
    "global_batch_size": 2048,
    "seq_length": 4096,
    "num_microbatches": 64,
    "num_layers": 40,
    "hidden_size": 5120,
    "ffn_hidden_size": 20480,
    "num_attention_heads": 40,
    "num_query_groups": 40,
    "vocab_size": 50257,
    "padded_vocab_size": 51200,
    "gated_mlp": False,
    "normalization": "layernorm",
    "position_embedding": "learned",
    "tied_embeddings": True,
    "num_experts": 16,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 20480,
    "num_shared_experts": 0,
    "first_k_dense": 0,
    "attention": "mha",
    "q_lora_rank": 0,
    "kv_lora_rank": 0,
    "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 0,
    "v_head_dim": 0,
    "virtual_pipeline": 1,
    "sequence_parallel": True,
    "recompute": "none",
    "flash_attention": False,
    "distributed_optimizer": True,
    "dtype": "bf16",
    "framework": "megatron-core",
    "blocking_launches": False,
    "routing": "balanced",
}
DENSE_CHANGES: dict[str, Any] = {
    "kind": "dense",
    "twin": None,
    "listed": 0,
    "ep": 1,
    "num_experts": 0,
    "moe_router_topk": 0,
    "moe_ffn_hidden_size": 0,
}
GPT_13B_DENSE = GPT_13B_MOE | DENSE_CHANGES | {"workload": GPT_13B_MOE["twin"], "edp": 32}

# b 2, s 32, h 64, f 256: T = 2 x 2 x 32 x 64 = 8192 bytes; dp = 16/(2 x 2) = 4, ep 4 within it, edp 1.
SMALL_MOE = GPT_13B_MOE | {
    "workload": "small-moe",
    "world_size": 16,
    "tp": 2,
    "etp": 2,
    "ep": 4,
    "dp": 4,
    "edp": 1,
    "micro_batch_size": 2,
    "global_batch_size": 64,
    "seq_length": 32,
    "num_microbatches": 8,
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 256,
    "moe_ffn_hidden_size": 256,
    "num_attention_heads": 8,
    "num_query_groups": 8,
    "vocab_size": 1000,
    "padded_vocab_size": 1024,
    "num_experts": 8,
}
SMALL_DENSE = SMALL_MOE | DENSE_CHANGES | {"workload": "small-dense", "edp": 4}


def columnar(workload: dict[str, Any], stage: int) -> list[Row]:
    """One stage's program from the library."""
    frame = programs(pl.DataFrame([workload]).with_columns(pl.col("twin").cast(pl.String)))
    return frame.filter(pl.col("stage") == stage).sort("op_index").to_dicts()


@pytest.fixture(params=[columnar, naive_program], ids=["columnar", "naive"])
def trace(request: pytest.FixtureRequest) -> Implementation:
    """Each implementation in turn."""
    implementation: Implementation = request.param
    return implementation


def brief(row: Row) -> Brief:
    """What the tables below write down of a row."""
    if row["kind"] == "elementwise":
        return (row["op"],)
    if row["collective"] is not None:
        names = "op collective group_kind group_size comm_bytes wire_bytes"
    else:
        names = "op kind m n k groups flops"
    return tuple(row[name] for name in names.split())


def part(rows: list[Row], phase: str, layer: int = -1) -> list[Brief]:
    """Rows of a phase that belong to a layer, or to none."""
    return [brief(row) for row in rows if row["phase"] == phase and row["layer"] == layer]


def by_op(rows: list[Row], phase: str) -> dict[str, Row]:
    """The last row of each op in a phase."""
    return {row["op"]: row for row in rows if row["phase"] == phase}


def ops_of(rows: list[Row], phase: str, layer: int) -> list[str]:
    """Names in order."""
    return [row["op"] for row in rows if row["phase"] == phase and row["layer"] == layer]


# wire 15/16 T = 39,321,600
ATTENTION_FORWARD: list[Brief] = [
    ("attention_norm",),
    ("attention_gather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    # n = (5120 + 2 x 5120)/16 = 960
    ("qkv", "gemm", 4096, 960, 5120, 1, 40_265_318_400),
    # k = 5120/16 = 320; 4 x 4096^2 x 320
    ("core_attention", "attention", 4096, 4096, 320, 1, 21_474_836_480),
    ("attention_output", "gemm", 4096, 5120, 320, 1, 13_421_772_800),
    ("attention_scatter", "reduce_scatter", "tp", 16, 41_943_040, 39_321_600),
    ("attention_residual",),
]
ATTENTION_BACKWARD: list[Brief] = [
    ("attention_residual",),
    ("attention_scatter", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    # [4096, 5120] gradient times [5120, 320]; [5120, 4096] gradient times [4096, 320] input
    ("attention_output_dgrad", "gemm", 4096, 320, 5120, 1, 13_421_772_800),
    ("attention_output_wgrad", "gemm", 5120, 320, 4096, 1, 13_421_772_800),
    # four products where the forward has two
    ("core_attention", "attention", 4096, 4096, 320, 1, 42_949_672_960),
    ("attention_regather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    ("qkv_dgrad", "gemm", 4096, 5120, 960, 1, 40_265_318_400),
    ("attention_gather", "reduce_scatter", "tp", 16, 41_943_040, 39_321_600),
    ("qkv_wgrad", "gemm", 960, 5120, 4096, 1, 40_265_318_400),
    ("attention_norm",),
]
MOE_FORWARD: list[Brief] = [
    *ATTENTION_FORWARD,
    ("mlp_norm",),
    # 4096/16 = 256 own tokens; 2 x 256 x 16 x 5120
    ("router", "gemm", 256, 16, 5120, 1, 41_943_040),
    ("router_topk",),
    # 256 ranks of 16 int64: 8 x 16 x 256 = 32,768; wire 255/256
    ("token_counts", "all_gather", "tp_ep", 256, 32_768, 32_640),
    ("permute",),
    # 2 x 256 rows of 10,240 bytes; wire 15/16
    ("moe_dispatch", "all_to_all", "ep", 16, 5_242_880, 4_915_200),
    # 16 such pieces = 2 T
    ("expert_gather", "all_gather", "etp", 16, 83_886_080, 78_643_200),
    # one expert here, so nothing to sort; 2 x 4096 rows, 20480/16 = 1280; 2 x 8192 x 1280 x 5120
    ("expert_fc1", "grouped_gemm", 8192, 1280, 5120, 1, 107_374_182_400),
    ("expert_activation",),
    ("expert_fc2", "grouped_gemm", 8192, 5120, 1280, 1, 107_374_182_400),
    ("expert_scatter", "reduce_scatter", "etp", 16, 83_886_080, 78_643_200),
    ("moe_combine", "all_to_all", "ep", 16, 5_242_880, 4_915_200),
    ("unpermute",),
    ("mlp_residual",),
]
MOE_BACKWARD: list[Brief] = [
    ("mlp_residual",),
    ("unpermute",),
    ("moe_combine", "all_to_all", "ep", 16, 5_242_880, 4_915_200),
    ("expert_scatter", "all_gather", "etp", 16, 83_886_080, 78_643_200),
    ("expert_fc2_dgrad", "grouped_gemm", 8192, 1280, 5120, 1, 107_374_182_400),
    ("expert_fc2_wgrad", "grouped_gemm", 5120, 1280, 8192, 1, 107_374_182_400),
    ("expert_activation",),
    ("expert_fc1_dgrad", "grouped_gemm", 8192, 5120, 1280, 1, 107_374_182_400),
    ("expert_fc1_wgrad", "grouped_gemm", 1280, 5120, 8192, 1, 107_374_182_400),
    ("expert_gather", "reduce_scatter", "etp", 16, 83_886_080, 78_643_200),
    ("moe_dispatch", "all_to_all", "ep", 16, 5_242_880, 4_915_200),
    ("permute",),
    ("router_topk",),
    ("router_dgrad", "gemm", 256, 5120, 16, 1, 41_943_040),
    ("router_wgrad", "gemm", 16, 5120, 256, 1, 41_943_040),
    ("mlp_norm",),
    *ATTENTION_BACKWARD,
]
DENSE_FORWARD: list[Brief] = [
    *ATTENTION_FORWARD,
    ("mlp_norm",),
    ("mlp_gather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    # 2 x 4096 x 1280 x 5120
    ("fc1", "gemm", 4096, 1280, 5120, 1, 53_687_091_200),
    ("activation",),
    ("fc2", "gemm", 4096, 5120, 1280, 1, 53_687_091_200),
    ("mlp_scatter", "reduce_scatter", "tp", 16, 41_943_040, 39_321_600),
    ("mlp_residual",),
]
DENSE_BACKWARD: list[Brief] = [
    ("mlp_residual",),
    ("mlp_scatter", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    ("fc2_dgrad", "gemm", 4096, 1280, 5120, 1, 53_687_091_200),
    ("fc2_wgrad", "gemm", 5120, 1280, 4096, 1, 53_687_091_200),
    ("activation",),
    ("mlp_regather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    ("fc1_dgrad", "gemm", 4096, 5120, 1280, 1, 53_687_091_200),
    ("mlp_gather", "reduce_scatter", "tp", 16, 41_943_040, 39_321_600),
    ("fc1_wgrad", "gemm", 1280, 5120, 4096, 1, 53_687_091_200),
    ("mlp_norm",),
    *ATTENTION_BACKWARD,
]
FIRST_STAGE_FORWARD: list[Brief] = [
    ("embedding_lookup",),
    # learned positions are added to whole sequences: all_reduce, wire 2 x 15/16 T
    ("embedding_reduce", "all_reduce", "tp", 16, 41_943_040, 78_643_200),
    ("embedding_dropout",),
    # T/16 to the next stage, whole
    ("send_forward", "send", "pp", 2, 2_621_440, 2_621_440),
]
FIRST_STAGE_BACKWARD: list[Brief] = [
    ("recv_backward", "recv", "pp", 2, 2_621_440, 0),
    ("embedding_dropout",),
    ("embedding_gather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    ("embedding_lookup",),
]
LAST_STAGE_FORWARD: list[Brief] = [
    ("recv_forward", "recv", "pp", 2, 2_621_440, 0),
    ("final_norm",),
    ("head_gather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    # 51200/16 = 3200; 2 x 4096 x 3200 x 5120
    ("logits", "gemm", 4096, 3200, 5120, 1, 134_217_728_000),
    # an fp32 per token: 4 x 4096 = 16,384; wire 2 x 15/16
    ("cross_entropy_max", "all_reduce", "tp", 16, 16_384, 30_720),
    ("cross_entropy_target", "all_reduce", "tp", 16, 16_384, 30_720),
    ("cross_entropy_sum", "all_reduce", "tp", 16, 16_384, 30_720),
    ("cross_entropy",),
]
LAST_STAGE_BACKWARD: list[Brief] = [
    ("cross_entropy",),
    ("head_regather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    ("logits_dgrad", "gemm", 4096, 5120, 3200, 1, 134_217_728_000),
    ("head_gather", "reduce_scatter", "tp", 16, 41_943_040, 39_321_600),
    ("logits_wgrad", "gemm", 3200, 5120, 4096, 1, 134_217_728_000),
    ("final_norm",),
    ("send_backward", "send", "pp", 2, 2_621_440, 2_621_440),
]

# A layer without experts: attention 4 x 5120^2/16 = 6,553,600, norms 4 x 5120 = 20,480, router 16 x 5120 =
# 81,920. 20 layers: 133,120,000. Stage 0 adds the table 3200 x 5120 = 16,384,000 and the positions
# 4096 x 5120 = 20,971,520: P_dense = 170,475,520. Stage 1 adds the final norm 10,240 and the tied copy:
# 149,514,240.
# Experts: 20 layers of 2 x 5120 x 20480/16 = 13,107,200: P_expert = 262,144,000.
MOE_OPTIMIZER: list[list[Brief]] = [
    [
        # 4 P_dense, wire 31/32; 4 P_expert, wire 1/2
        ("grad_reduce_dense", "reduce_scatter", "dp", 32, 681_902_080, 660_592_640),
        ("grad_reduce_expert", "reduce_scatter", "edp", 2, 1_048_576_000, 524_288_000),
        # 4 x 20 x (20,480 + 81,920); not the positions, whose gradient every tp rank has in full
        ("norm_grad_reduce", "all_reduce", "tp", 16, 8_192_000, 15_360_000),
        # 4 x 16,384,000 between two
        ("embedding_grad_reduce", "all_reduce", "embedding", 2, 65_536_000, 65_536_000),
        # 2 x 1023 x 4/1024 = 7.99
        ("grad_norm", "all_reduce", "world", 1024, 4, 7),
        # 170,475,520/32 + 262,144,000/2 = 5,327,360 + 131,072,000; held 170,475,520 + 262,144,000
        ("adam", "optimizer", 432_619_520, 136_399_360, 0, 0, 0),
        ("param_gather_dense", "all_gather", "dp", 32, 340_951_040, 330_296_320),
        ("param_gather_expert", "all_gather", "edp", 2, 524_288_000, 262_144_000),
    ],
    [
        ("grad_reduce_dense", "reduce_scatter", "dp", 32, 598_056_960, 579_367_680),
        ("grad_reduce_expert", "reduce_scatter", "edp", 2, 1_048_576_000, 524_288_000),
        # the final norm's 10,240 as well
        ("norm_grad_reduce", "all_reduce", "tp", 16, 8_232_960, 15_436_800),
        ("embedding_grad_reduce", "all_reduce", "embedding", 2, 65_536_000, 65_536_000),
        ("grad_norm", "all_reduce", "world", 1024, 4, 7),
        # 4,672,320 + 131,072,000; held 149,514,240 + 262,144,000
        ("adam", "optimizer", 411_658_240, 135_744_320, 0, 0, 0),
        ("param_gather_dense", "all_gather", "dp", 32, 299_028_480, 289_683_840),
        ("param_gather_expert", "all_gather", "edp", 2, 524_288_000, 262_144_000),
    ],
]
# A dense layer: 6,553,600 + 20,480 + 13,107,200 = 19,681,280; 20 of them and the 37,355,520 of the first
# stage: 430,981,120; with the 16,394,240 of the last stage: 410,019,840.
DENSE_OPTIMIZER: list[list[Brief]] = [
    [
        ("grad_reduce_dense", "reduce_scatter", "dp", 32, 1_723_924_480, 1_670_051_840),
        # 4 x 20 x 20,480
        ("norm_grad_reduce", "all_reduce", "tp", 16, 1_638_400, 3_072_000),
        ("embedding_grad_reduce", "all_reduce", "embedding", 2, 65_536_000, 65_536_000),
        ("grad_norm", "all_reduce", "world", 1024, 4, 7),
        ("adam", "optimizer", 430_981_120, 13_468_160, 0, 0, 0),
        ("param_gather_dense", "all_gather", "dp", 32, 861_962_240, 835_025_920),
    ],
    [
        ("grad_reduce_dense", "reduce_scatter", "dp", 32, 1_640_079_360, 1_588_826_880),
        ("norm_grad_reduce", "all_reduce", "tp", 16, 1_679_360, 3_148_800),
        ("embedding_grad_reduce", "all_reduce", "embedding", 2, 65_536_000, 65_536_000),
        ("grad_norm", "all_reduce", "world", 1024, 4, 7),
        ("adam", "optimizer", 410_019_840, 12_813_120, 0, 0, 0),
        ("param_gather_dense", "all_gather", "dp", 32, 820_039_680, 794_413_440),
    ],
]


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


def test_replicated_optimizer(trace: Implementation) -> None:
    # per layer 8192 + 256 + 2 x 64 x 256/2 = 24,832; two layers, table 32,768, positions 32 x 64 = 2048
    optimizer = by_op(trace(SMALL_DENSE | {"distributed_optimizer": False}, 0), "optimizer")
    assert optimizer["adam"]["n"] == 84_480
    # 4 P; wire 2 x 3/4
    assert brief(optimizer["grad_reduce_dense"])[1:] == ("all_reduce", "dp", 4, 337_920, 506_880)
    assert not [op for op in optimizer if op.startswith("param_gather")]


LLAMA_CHANGES: dict[str, Any] = {
    "gated_mlp": True,
    "normalization": "rmsnorm",
    "position_embedding": "rope",
    "tied_embeddings": False,
    "attention": "gqa",
    "num_query_groups": 2,
}


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
