"""Bytes of device memory of every op, worked out by hand; both implementations of the trace must give them.

The example of hand_worked.py: 4096 tokens, 256 of them between the tp regions, h 5120, so 1,310,720 elements
of a rank's own activations and 20,971,520 of all.
"""

from __future__ import annotations

from typing import Any

import pytest

from either_trace import Implementation, columnar
from hand_worked import GPT_13B_DENSE, GPT_13B_MOE, SMALL_DENSE, SMALL_MOE
from naive_trace import naive_program
from small import MLA

OWN, ALL = 256 * 5120, 4096 * 5120
# q, k, v and the output, 320 wide on a rank; 40 heads of 4096^2 scores over 16 ranks
HEADS, SCORES = 4096 * 320, 41_943_040


@pytest.fixture(params=[columnar, naive_program], ids=["columnar", "naive"])
def trace(request: pytest.FixtureRequest) -> Implementation:
    """Each implementation in turn."""
    implementation: Implementation = request.param
    return implementation


def moved(trace: Implementation, workload: dict[str, Any], stage: int = 0) -> dict[tuple[str, str], int]:
    """Bytes by phase and op, of those that compute."""
    rows = trace(workload, stage)
    return {(row["phase"], row["op"]): row["hbm_bytes"] for row in rows if row["collective"] is None}


FORWARD = {
    "embedding_lookup": 4 * ALL,  # read and write a row
    "embedding_dropout": 5 * OWN,  # read, write, a mask of one byte
    "attention_norm": 4 * OWN,
    # [4096, 960] <- [4096, 5120]: 20,971,520 + 4,915,200 + 3,932,160 elements
    "qkv": 59_637_760,
    # 2 bytes of q, k, v and the output; a score's softmax reads and writes 2, its dropout as much and a mask
    "core_attention": 2 * 4 * HEADS + 9 * SCORES,
    # [4096, 5120] <- [4096, 320]: 1,310,720 + 1,638,400 + 20,971,520
    "attention_output": 47_841_280,
    "attention_residual": 7 * OWN,  # read two, write one and a mask
    "mlp_norm": 4 * OWN,
    # [256, 16] <- [256, 5120]: 1,310,720 + 81,920 + 4,096
    "router": 2_793_472,
    "router_topk": 12 * 256 * 16,
    "permute": 2 * 4 * OWN,  # two copies, read and written
    # [8192, 1280] <- [8192, 5120]: 41,943,040 + 6,553,600 + 10,485,760
    "expert_fc1": 117_964_800,
    "expert_activation": 8 * 8192 * 1280,  # GELU reads and writes, and so does the weighting
    "expert_fc2": 117_964_800,
    "unpermute": 2 * 4 * OWN,
    "mlp_residual": 7 * OWN,
}
BACKWARD = {
    "mlp_residual": 5 * OWN,  # read dy and the mask, write dx
    "unpermute": 2 * 4 * OWN,
    "expert_fc2_dgrad": 117_964_800,
    # reads 2 x 8192 x (1280 + 5120), and reads and writes 4 bytes of 1280 x 5120
    "expert_fc2_wgrad": 104_857_600 + 52_428_800,
    # GELU 6; weighting 4, and 8 for the weights' own gradient
    "expert_activation": 18 * 8192 * 1280,
    "expert_fc1_dgrad": 117_964_800,
    "expert_fc1_wgrad": 104_857_600 + 52_428_800,
    "permute": 2 * 4 * OWN,
    "router_topk": 12 * 256 * 16,
    "router_dgrad": 2_793_472,
    # 2 x 256 x (5120 + 16) + 8 x 16 x 5120
    "router_wgrad": 2_629_632 + 655_360,
    "mlp_norm": 12 * OWN,  # read x and dy, write dx; add the residual's gradient
    "attention_residual": 5 * OWN,
    "attention_output_dgrad": 47_841_280,
    # 2 x 4096 x (320 + 5120) + 8 x 320 x 5120
    "attention_output_wgrad": 44_564_480 + 13_107_200,
    # forward's again with the output's gradient, and three gradients; a score's softmax 6, its dropout 5
    "core_attention": 2 * 2 * 4 * HEADS + 11 * SCORES,
    "qkv_dgrad": 59_637_760,
    # 2 x 4096 x (5120 + 960) + 8 x 960 x 5120
    "qkv_wgrad": 49_807_360 + 39_321_600,
    "attention_norm": 12 * OWN,
    "embedding_dropout": 5 * OWN,
    # a row's gradient; and of the table of 3200 x 5120 2 bytes read, 4 read and 4 written
    "embedding_lookup": 6 * ALL + 10 * 16_384_000,
}
HEAD = {
    ("forward", "final_norm"): 4 * OWN,
    # [4096, 3200] <- [4096, 5120]: 20,971,520 + 16,384,000 + 13,107,200
    ("forward", "logits"): 100_925_440,
    ("forward", "cross_entropy"): 36 * 13_107_200,  # nine times an fp32 logit
    ("backward", "cross_entropy"): 16 * 13_107_200,
    ("backward", "logits_dgrad"): 100_925_440,
    # 2 x 4096 x (5120 + 3200) + 8 x 3200 x 5120
    ("backward", "logits_wgrad"): 68_157_440 + 131_072_000,
    ("backward", "final_norm"): 6 * OWN,
}


def test_every_op_of_a_moe_workload(trace: Implementation) -> None:
    first, last = moved(trace, GPT_13B_MOE), moved(trace, GPT_13B_MOE, 1)
    by_hand = {("forward", op): each for op, each in FORWARD.items()}
    by_hand |= {("backward", op): each for op, each in BACKWARD.items()}
    adam = {("optimizer", "adam"): 30 * 136_399_360}
    assert first == by_hand | adam
    layers = {key: each for key, each in by_hand.items() if "embedding" not in key[1]}
    assert last == layers | HEAD | {("optimizer", "adam"): 30 * 135_744_320}


def test_a_dense_mlp(trace: Implementation) -> None:
    found = moved(trace, GPT_13B_DENSE)
    # [4096, 1280] <- [4096, 5120]: 20,971,520 + 6,553,600 + 5,242,880
    assert found["forward", "fc1"] == found["forward", "fc2"] == 65_536_000
    assert found["forward", "activation"] == 4 * 4096 * 1280
    assert found["backward", "activation"] == 6 * 4096 * 1280
    # 2 x 4096 x (5120 + 1280) + 8 x 1280 x 5120
    assert found["backward", "fc1_wgrad"] == 52_428_800 + 52_428_800


def test_each_expert_has_weights_of_its_own(trace: Implementation) -> None:
    # 2 experts, 128 rows, 64 x 128: 8192 + 16,384 + 16,384; main gradients 8 x 2 x 8192, a row 4 x 64
    found = moved(trace, SMALL_MOE)
    assert found["forward", "expert_fc1"] == 2 * (8192 + 2 * 8192 + 16_384)
    assert found["backward", "expert_fc1_wgrad"] == 2 * 128 * (64 + 128) + 8 * 2 * 8192
    assert found["forward", "expert_sort"] == found["backward", "expert_unsort"] == 4 * 128 * 64


def test_weight_gradients_add_to_gradients_of_2_bytes(trace: Implementation) -> None:
    # fc1 [64, 128] <- [64, 64]; the table 512 x 64
    found = moved(trace, SMALL_DENSE | {"dtype": "fp16", "grad_reduce_in_fp32": False})
    assert found["backward", "fc1_wgrad"] == 2 * 64 * (64 + 128) + 4 * 128 * 64
    assert found["backward", "embedding_lookup"] == 6 * 64 * 64 + 6 * 512 * 64


def test_without_dropout_there_are_no_masks(trace: Implementation) -> None:
    # 32 own tokens of 64; scores 2 x 8 x 32^2/2; q, k, v and output of 64 tokens, 32 wide
    off = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    found = moved(trace, SMALL_DENSE | off)
    assert found["forward", "attention_residual"] == 6 * 32 * 64
    assert ("backward", "attention_residual") not in found
    assert ("forward", "embedding_dropout") not in found
    assert found["forward", "core_attention"] == 2 * 4 * 64 * 32 + 4 * 8192
    assert found["backward", "core_attention"] == 2 * 2 * 4 * 64 * 32 + 6 * 8192
    kept = moved(trace, SMALL_DENSE | off | {"attention_dropout": 0.1})
    assert kept["forward", "core_attention"] == 2 * 4 * 64 * 32 + 9 * 8192
    flash = moved(trace, SMALL_DENSE | {"flash_attention": True})
    assert flash["forward", "core_attention"] == 2 * 4 * 64 * 32


@pytest.mark.parametrize(
    ("changes", "dense", "experts"),
    [
        # GELU; weighted 4 and 12 more
        ({}, (4, 6), (8, 18)),
        # two halves in, one out; backward three in, two out
        ({"gated_mlp": True, "bias_activation_fusion": True}, (6, 10), (6, 10)),
        # silu 4, offset 4, product 6; backward product 12, silu 6, both halves side by side 8
        ({"gated_mlp": True}, (14, 26), (18, 38)),
    ],
)
def test_activations(
    trace: Implementation, changes: dict[str, Any], dense: tuple[int, int], experts: tuple[int, int]
) -> None:
    plain, routed = moved(trace, SMALL_DENSE | changes), moved(trace, SMALL_MOE | changes)
    for place, phase in enumerate(("forward", "backward")):
        assert plain[phase, "activation"] == dense[place] * 64 * 128
        assert routed[phase, "expert_activation"] == experts[place] * 128 * 128


def test_shared_experts_with_a_gate(trace: Implementation) -> None:
    shared = {"num_shared_experts": 2, "moe_ffn_hidden_size": 64, "moe_shared_expert_gate": True}
    found = moved(trace, SMALL_MOE | shared)
    # [64, 64] <- [64, 64], GELU of 64 x 64, [32, 1] <- [32, 64]
    assert found["forward", "shared_fc1"] == 2 * 3 * 64 * 64
    assert found["forward", "shared_activation"] == 4 * 64 * 64
    assert found["forward", "shared_gate"] == 2 * (32 * 64 + 64 + 32)
    assert found["forward", "shared_gating"] == 4 * 32 * 64
    assert found["backward", "shared_gating"] == 12 * 32 * 64
    assert found["forward", "shared_sum"] == 6 * 32 * 64
    # the gate is [1, 64]: 2 x 32 x 65 + 8 x 64
    assert found["backward", "shared_gate_wgrad"] == 2 * 32 * 65 + 8 * 64


def test_norms_of_queries_keys_and_latents(trace: Implementation) -> None:
    # 64 tokens of 32 query elements and, of 2 groups of 4 heads, 8 key elements
    grouped = {"num_query_groups": 2, "attention": "gqa", "qk_layernorm": True}
    found = moved(trace, SMALL_DENSE | grouped)
    assert (found["forward", "q_norm"], found["forward", "k_norm"]) == (4 * 64 * 32, 4 * 64 * 8)
    assert (found["backward", "q_norm"], found["backward", "k_norm"]) == (6 * 64 * 32, 6 * 64 * 8)
    across = moved(trace, SMALL_DENSE | grouped | {"qk_layernorm_across_heads": True})
    assert (across["forward", "q_norm"], across["forward", "k_norm"]) == (4 * 64 * 64, 4 * 64 * 16)
    # 32 own tokens of latents of 48 and 32
    latent = moved(trace, SMALL_DENSE | MLA | {"head_dim": 0, "q_lora_rank": 48, "qk_layernorm": True})
    assert latent["forward", "q_latent_norm"] == 4 * 32 * 48
    assert latent["backward", "kv_latent_norm"] == 6 * 32 * 32


def test_multi_token_prediction(trace: Implementation) -> None:
    found = moved(trace, SMALL_DENSE | {"mtp_num_layers": 1}, 1)
    own = 32 * 64
    assert found["forward", "mtp_embedding_norm"] == found["forward", "mtp_hidden_norm"] == 4 * own
    assert found["backward", "mtp_embedding_norm"] == 6 * own
    assert found["backward", "mtp_hidden_norm"] == 12 * own
    assert found["forward", "mtp_concatenation"] == 2 * 4 * own
    # [64, 32] <- [64, 128]; the loss and the lookup are the model's own once more
    assert found["forward", "mtp_projection"] == 2 * (64 * 128 + 128 * 32 + 64 * 32)
    assert found["forward", "mtp_cross_entropy"] == found["forward", "cross_entropy"] == 36 * 64 * 512
    assert found["forward", "mtp_embedding_lookup"] == 4 * 64 * 64
    assert found["backward", "mtp_embedding_lookup"] == 6 * 64 * 64 + 10 * 512 * 64
