"""What is recomputed, row for row, in the columnar and the naive implementation."""

from __future__ import annotations

from typing import Any

import either_trace
from either_trace import Implementation, by_op, ops_of, part
from hand_worked import (
    SMALL_DENSE,
    SMALL_MOE,
)
from naive_trace import Row

trace = either_trace.trace


def _backward_order(rows: list[Row]) -> list[tuple[int, bool]]:
    """Layer after layer of a backward pass, and whether it is run forward once more."""
    passes = [
        (row["layer"], row["op"].startswith("recompute_"))
        for row in rows
        if row["phase"] == "backward" and row["layer"] >= 0
    ]
    return [each for at, each in enumerate(passes) if not at or passes[at - 1] != each]


def test_layers_are_recomputed_together(trace: Implementation) -> None:
    # 7 layers of one stage, three by three: 0-2, 3-5, 6
    full = SMALL_DENSE | {"pp": 1, "dp": 8, "edp": 8, "num_microbatches": 4, "num_layers": 7}
    full |= {"recompute": "full"}
    rows = trace(full | {"recompute_num_layers": 3}, 0)
    expected = [(6, True), (6, False)]
    for first in (3, 0):
        expected += [(first, True), (first + 1, True), (first + 2, True)]
        expected += [(first + 2, False), (first + 1, False), (first, False)]
    assert _backward_order(rows) == expected
    # No op is another, and none is missing.
    assert part(rows, "backward", 4) == part(trace(full, 0), "backward", 4)


def test_the_first_layers_of_each_chunk_are_recomputed(trace: Implementation) -> None:
    # 4 parts of 2 layers on 2 stages: the first stage has layers 0, 1 and 4, 5
    block = SMALL_DENSE | {"num_layers": 8, "virtual_pipeline": 2}
    block |= {"recompute": "full", "recompute_method": "block"}
    rows = trace(block, 0)
    assert _backward_order(rows) == [(5, False), (4, True), (4, False), (1, False), (0, True), (0, False)]
    plain = trace(block | {"recompute": "none", "recompute_method": "uniform"}, 0)
    assert part(rows, "backward", 5) == part(plain, "backward", 5)
    whole = trace(block | {"recompute_method": "uniform"}, 0)
    assert part(rows, "backward", 4) == part(whole, "backward", 4)


def test_blocks_leave_multi_token_prediction_alone(trace: Implementation) -> None:
    block = SMALL_DENSE | {"mtp_num_layers": 1, "recompute": "full", "recompute_method": "block"}
    assert _backward_order(trace(block, 1)) == [(4, False), (3, False), (2, True), (2, False)]
    uniform = trace(block | {"recompute_method": "uniform"}, 1)
    # The head's gradients come first.
    order = [(4, False), (4, True), (4, False), (3, True), (3, False), (2, True), (2, False)]
    assert _backward_order(uniform) == order


def _repeated(trace: Implementation, workload: dict[str, Any], modules: str) -> list[Row]:
    return trace(workload | {"recompute": "selective", "recompute_modules": modules}, 1)


def test_recomputed_experts(trace: Implementation) -> None:
    rows = _repeated(trace, SMALL_MOE, "layernorm+moe")
    again = part(rows, "backward", 3)
    # R = 2 x 64 copies of 64 tokens over 2 x 2 ranks come together; T/2 of 2 copies each are sent, 3/4 away
    expected = [
        ("mlp_residual",),
        ("recompute_mlp_norm",),
        ("recompute_router", "gemm", 32, 8, 64, 1, 32_768),
        ("recompute_router_topk",),
        ("recompute_token_counts", "all_gather", "tp_ep", 8, 512, 448),
        ("recompute_permute",),
        ("recompute_moe_dispatch", "all_to_all", "ep", 4, 8192, 6144),
        ("recompute_expert_gather", "all_gather", "etp", 2, 16_384, 8192),
        ("recompute_expert_sort",),
        ("recompute_expert_fc1", "grouped_gemm", 128, 128, 64, 2, 2_097_152),
        ("recompute_expert_activation",),
        ("recompute_expert_fc2", "grouped_gemm", 128, 64, 128, 2, 2_097_152),
        ("recompute_expert_unsort",),
        ("recompute_expert_scatter", "reduce_scatter", "etp", 2, 16_384, 8192),
        ("recompute_moe_combine", "all_to_all", "ep", 4, 8192, 6144),
        ("recompute_unpermute",),
        ("unpermute",),
    ]
    assert again[: len(expected)] == expected
    assert again[0:1] + again[16:] == part(trace(SMALL_MOE, 1), "backward", 3)


def test_a_recomputed_activation_of_experts(trace: Implementation) -> None:
    rows = _repeated(trace, SMALL_MOE, "moe_act")
    order = ops_of(rows, "backward", 3)
    assert order[order.index("expert_unsort") + 1 :][:2] == [
        "recompute_expert_activation",
        "expert_fc2_dgrad",
    ]
    # 128 rows of 256/2: GELU reads and writes 2 bytes, the probability's product as many
    assert by_op(rows, "backward")["recompute_expert_activation"]["hbm_bytes"] == 128 * 128 * 8
    assert len(order) == len(ops_of(trace(SMALL_MOE, 1), "backward", 3)) + 1


def test_a_recomputed_mlp(trace: Implementation) -> None:
    again = part(_repeated(trace, SMALL_DENSE, "mlp"), "backward", 3)
    assert again[1:7] == [
        ("recompute_mlp_norm",),
        ("recompute_mlp_gather", "all_gather", "tp", 2, 8192, 4096),
        ("recompute_fc1", "gemm", 64, 128, 64, 1, 1_048_576),
        ("recompute_activation",),
        ("recompute_fc2", "gemm", 64, 64, 128, 1, 1_048_576),
        ("recompute_mlp_scatter", "reduce_scatter", "tp", 2, 8192, 4096),
    ]
    assert again[:1] + again[7:] == part(trace(SMALL_DENSE, 1), "backward", 3)


def test_recomputed_norms_and_up_projections_of_latent_attention(trace: Implementation) -> None:
    mla = SMALL_DENSE | {
        **{"attention": "mla", "q_lora_rank": 48, "kv_lora_rank": 32, "head_dim": 0, "qk_layernorm": True},
        **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8},
    }
    again = part(_repeated(trace, mla, "layernorm+mla_up_proj"), "backward", 3)
    plain = part(trace(mla, 1), "backward", 3)
    at = [op for op, *_ in again].index("attention_residual") + 1
    # latents of 48 and 32 of 64 tokens; 4 heads a rank: queries of 8 + 4, keys and values of 8 + 8
    expected = [
        ("recompute_q_latent_norm",),
        ("recompute_q_latent_gather", "all_gather", "tp", 2, 6144, 3072),
        ("recompute_q_up", "gemm", 64, 48, 48, 1, 294_912),
        ("recompute_kv_latent_norm",),
        ("recompute_kv_latent_gather", "all_gather", "tp", 2, 4096, 2048),
        ("recompute_kv_up", "gemm", 64, 64, 32, 1, 262_144),
    ]
    assert again[at] == ("recompute_attention_norm",)
    core = [op for op, *_ in again].index("core_attention")
    assert again[core - 6 : core] == expected
    assert [row for row in again if not str(row[0]).startswith("recompute_")] == plain
