"""What each key of a model does to ops, worked out by hand; both implementations of the trace must give it.

The small examples of hand_worked.py: b 2, s 32, h 64, 8 heads of 8, f 256, tp 2, pp 2, so 64 tokens, 32 of
them a rank's own, and T = 8192 bytes.
"""

from __future__ import annotations

from typing import Any

import pytest

from either_trace import Implementation, brief, by_op, columnar, ops_of
from hand_worked import SMALL_DENSE, SMALL_MOE, Brief
from naive_trace import Row, naive_program
from small import MLA


@pytest.fixture(params=[columnar, naive_program], ids=["columnar", "naive"])
def trace(request: pytest.FixtureRequest) -> Implementation:
    """Each implementation in turn."""
    implementation: Implementation = request.param
    return implementation


def collectives(rows: list[Row], phase: str, layer: int = 0) -> list[Brief]:
    """Op, collective and bytes of a layer's tp communication, in order."""
    found = [row for row in rows if row["phase"] == phase and row["layer"] == layer]
    return [
        (row["op"], row["collective"], row["comm_bytes"])
        for row in found
        if row["group_kind"] in ("tp", "etp")
    ]


def test_heads_wider_than_the_hidden_size_over_their_number(trace: Implementation) -> None:
    # 8 heads of 24 and 2 groups: queries 192, keys 48, qkv 288/2; core 192/2; 4 x 2 x 32^2 x 96
    wide = {"head_dim": 24, "num_query_groups": 2, "attention": "gqa"}
    rows = trace(SMALL_DENSE | wide, 0)
    forward = by_op(rows, "forward")
    assert brief(forward["qkv"])[1:6] == ("gemm", 64, 144, 64, 1)
    assert brief(forward["core_attention"])[1:] == ("attention", 32, 32, 96, 2, 786_432)
    assert brief(forward["attention_output"])[1:6] == ("gemm", 64, 64, 96, 1)
    # a layer: h·d(2a + 2g)/t = 64 x 24 x 20/2 = 15,360, norms 256, MLP 16,384; twice, table 32,768, 2048
    assert by_op(rows, "optimizer")["adam"]["m"] == 2 * (15_360 + 256 + 16_384) + 32_768 + 2048


def test_more_ranks_than_query_groups_gather_qkv(trace: Implementation) -> None:
    # tp 4, 2 groups of 8: (8 + 4) x 8 = 96 columns, 24 a rank; all of them 2 x 64 x 96 bytes
    more = {"tp": 4, "etp": 4, "world_size": 16, "dp": 2, "edp": 2, "num_query_groups": 2, "attention": "gqa"}
    rows = trace(SMALL_DENSE | more, 0)
    forward = by_op(rows, "forward")
    assert brief(forward["qkv"])[1:6] == ("gemm", 64, 24, 64, 1)
    assert brief(forward["qkv_gather"])[1:] == ("all_gather", "tp", 4, 12_288, 9216)
    order = ops_of(rows, "forward", 0)
    assert order[order.index("qkv") + 1 :][:2] == ["qkv_gather", "core_attention"]
    back = by_op(rows, "backward")
    assert brief(back["qkv_gather"])[1:] == ("reduce_scatter", "tp", 4, 12_288, 9216)
    order = ops_of(rows, "backward", 0)
    assert order[order.index("core_attention") + 1 :][:3] == ["qkv_gather", "attention_regather", "qkv_dgrad"]
    # A rank has 16 query elements of a token, and the 8 of one whole key and value; 5 and 9 bytes a score.
    assert forward["core_attention"]["hbm_bytes"] == 2 * 64 * (16 + 8 + 8 + 16) + 9 * 2 * 8 * 32 * 32 // 4
    # It stays so without sequence parallelism.
    plain = by_op(trace(SMALL_DENSE | more | {"sequence_parallel": False}, 0), "forward")
    assert brief(plain["qkv_gather"])[1:] == ("all_gather", "tp", 4, 12_288, 9216)
    # Two ranks of two groups cut.
    assert "qkv_gather" not in by_op(
        trace(SMALL_DENSE | {"num_query_groups": 2, "attention": "gqa"}, 0), "forward"
    )


# Latents of 48 and 32, heads of 8 + 4 and values of 8: queries 96, values 64, kv_up 128, kv_down 36.
LATENT = MLA | {"head_dim": 0, "q_lora_rank": 48}


def test_latent_attention(trace: Implementation) -> None:
    rows = trace(SMALL_DENSE | LATENT, 0)
    forward = by_op(rows, "forward")
    shapes = {
        op: tuple(forward[op][name] for name in "mnk") for op in forward if forward[op]["kind"] == "gemm"
    }
    assert shapes | {"logits": None} == {
        "q_down": (32, 48, 64),
        "kv_down": (32, 36, 64),
        "q_up": (64, 48, 48),
        "kv_up": (64, 64, 32),
        "attention_output": (64, 64, 32),
        "fc1": (64, 128, 64),
        "fc2": (64, 64, 128),
        "logits": None,
    }
    # (96 + 64)/2/2 = 40; 4 x 2 x 32^2 x 40
    assert brief(forward["core_attention"])[1:] == ("attention", 32, 32, 40, 2, 327_680)
    # 64 tokens of 4, 48 and 32 elements of 2 bytes; T = 8192
    latents = [("q_latent_gather", "all_gather", 6144), ("kv_latent_gather", "all_gather", 4096)]
    assert collectives(rows, "forward")[:4] == [
        ("rope_key_gather", "all_gather", 512),
        *latents,
        ("attention_scatter", "reduce_scatter", 8192),
    ]
    assert collectives(rows, "backward")[-5:] == [
        ("kv_latent_regather", "all_gather", 4096),
        ("kv_latent_gather", "reduce_scatter", 4096),
        ("q_latent_regather", "all_gather", 6144),
        ("q_latent_gather", "reduce_scatter", 6144),
        ("rope_key_gather", "reduce_scatter", 512),
    ]
    # down-projections whole: 64 x 84; up 48 x 96 and 32 x 128, output 64 x 64, over 2: 6400; norms, MLP
    assert by_op(rows, "optimizer")["adam"]["m"] == 2 * (5376 + 6400 + 256 + 16_384) + 32_768 + 2048
    # tp sums gradients of what is whole: norms 256 and down-projections
    assert by_op(rows, "optimizer")["norm_grad_reduce"]["comm_bytes"] == 4 * 2 * (256 + 5376)
    # Flash attention has one width of heads: values are padded, 96/2 = 48; causal 2 x 2 x 32^2 x 48
    flash = by_op(trace(SMALL_DENSE | LATENT | {"flash_attention": True}, 0), "forward")
    assert brief(flash["core_attention"])[1:] == ("attention", 32, 32, 48, 2, 196_608)


def test_latent_attention_without_sequence_parallelism(trace: Implementation) -> None:
    rows = trace(SMALL_DENSE | LATENT | {"sequence_parallel": False, "qk_layernorm": True}, 0)
    assert collectives(rows, "forward")[0] == ("attention_reduce", "all_reduce", 8192)
    assert collectives(rows, "backward")[-2:] == [
        ("kv_latent_reduce_grad", "all_reduce", 4096),
        ("q_latent_reduce_grad", "all_reduce", 6144),
    ]
    assert by_op(rows, "forward")["q_down"]["m"] == 64
    assert "norm_grad_reduce" not in by_op(rows, "optimizer")


def test_queries_that_are_not_compressed(trace: Implementation) -> None:
    # one linear from the hidden size, whose input is gathered: T; norms of the key latent alone, 2 x 32
    rows = trace(SMALL_DENSE | LATENT | {"q_lora_rank": 0, "qk_layernorm": True}, 0)
    forward = by_op(rows, "forward")
    assert tuple(forward["q_proj"][name] for name in "mnk") == (64, 48, 64)
    assert not {"q_down", "q_up", "q_latent_norm"} & set(forward)
    assert collectives(rows, "forward")[:3] == [
        ("rope_key_gather", "all_gather", 512),
        ("q_gather", "all_gather", 8192),
        ("kv_latent_gather", "all_gather", 4096),
    ]
    assert ("q_regather", "all_gather", 8192) in collectives(rows, "backward")
    assert ("q_gather", "reduce_scatter", 8192) in collectives(rows, "backward")
    # 64 x 36 whole; 64 x 96, 32 x 128 and 64 x 64 over 2: 7168; norms 256 + 64
    assert by_op(rows, "optimizer")["adam"]["m"] == 2 * (2304 + 7168 + 320 + 16_384) + 32_768 + 2048


def test_norms_of_heads_are_summed_over_tp_always(trace: Implementation) -> None:
    # LayerNorms of a query and a key of 8: 32 parameters a layer; where sequences are cut, its 256 too
    normed = SMALL_DENSE | {"qk_layernorm": True}
    reduce = [
        by_op(trace(normed | {"sequence_parallel": cut}, 0), "optimizer")["norm_grad_reduce"]["comm_bytes"]
        for cut in (True, False)
    ]
    assert reduce == [4 * 2 * (256 + 32), 4 * 2 * 32]
    order = ops_of(trace(normed, 0), "forward", 0)
    assert order[order.index("qkv") :][:4] == ["qkv", "q_norm", "k_norm", "core_attention"]


def test_norms_across_heads_gather_them(trace: Implementation) -> None:
    # all queries 64 wide, all keys 16: 2 x 64 x 64 and 2 x 64 x 16 bytes; LayerNorms of 2 x (64 + 16)
    across = {
        "qk_layernorm": True,
        "qk_layernorm_across_heads": True,
        "num_query_groups": 2,
        "attention": "gqa",
    }
    rows = trace(SMALL_DENSE | across, 0)
    gathers = [("q_norm_gather", "all_gather", 8192), ("k_norm_gather", "all_gather", 2048)]
    assert collectives(rows, "forward")[1:3] == gathers
    assert [each for each in collectives(rows, "backward") if "norm" in each[0]] == gathers
    assert by_op(rows, "optimizer")["norm_grad_reduce"]["comm_bytes"] == 4 * 2 * (256 + 160)


def parameters(trace: Implementation, changes: dict[str, Any], base: dict[str, Any] = SMALL_DENSE) -> int:
    """Parameters of stage 0 that a change adds."""
    more, fewer = (by_op(trace(each, 0), "optimizer")["adam"]["m"] for each in (base | changes, base))
    return int(more - fewer)


def test_biases_and_sinks(trace: Implementation) -> None:
    # two layers: qkv 192/2; and with all linears output 64, fc1 256/2, fc2 64
    assert parameters(trace, {"add_qkv_bias": True}) == 2 * 96
    assert parameters(trace, {"add_bias_linear": True}) == 2 * (96 + 64 + 128 + 64)
    # router 8, and 2 local experts of 256 + 64
    whole = SMALL_MOE | {"etp": 1, "edp": 2}
    assert parameters(trace, {"add_bias_linear": True}, whole) == 2 * (96 + 64 + 8 + 2 * 320)
    assert parameters(trace, {"softmax_type": "learnable"}) == 2 * 8 // 2
    assert parameters(trace, {"softmax_type": "off-by-one"}) == 0
    # gradients of output, fc2 and router biases are of a rank's own tokens
    found = by_op(trace(whole | {"add_bias_linear": True}, 0), "optimizer")
    assert found["norm_grad_reduce"]["comm_bytes"] == 4 * 2 * (256 + 8 * 64 + 64 + 8)


@pytest.mark.parametrize(
    ("changes", "routed"),
    [
        ({"moe_layer_freq": "2"}, [True, False, True, False]),
        ({"moe_layer_freq": "3"}, [True, False, False, True]),
        ({"moe_layer_freq": "[0,1,1,0]"}, [False, True, True, False]),
        ({"first_k_dense": 3}, [False, False, False, True]),
    ],
)
def test_which_layers_have_experts(
    trace: Implementation, changes: dict[str, Any], routed: list[bool]
) -> None:
    rows = trace(SMALL_MOE | changes, 0) + trace(SMALL_MOE | changes, 1)
    found = [(row["layer"], row["op"]) for row in rows if row["op"] in ("router", "fc1")]
    assert found == [(layer, "router" if experts else "fc1") for layer, experts in enumerate(routed)]


def test_windows(trace: Implementation) -> None:
    # 8 keys: forward 2 products of 2 x 32 x 8 x 32 pairs and widths, 2 flops each; without 32 x 16 pairs
    window = {"window_size": "[7,0]", "window_keys": 8, "flash_attention": True}
    base = SMALL_DENSE | window
    flops = [row["flops"] for row in trace(base, 0) if row["op"] == "core_attention"]
    assert flops == [2 * 2 * 2 * 32 * 8 * 32] * 2 + [5 * 2 * 2 * 32 * 8 * 32] * 2
    # every second layer has it, the first one first
    skipped = [
        row for row in trace(base | {"window_attn_skip_freq": "2"}, 0) if row["op"] == "core_attention"
    ]
    assert [row["n"] for row in skipped] == [8, 32, 32, 8]
    assert [row["flops"] for row in skipped[:2]] == [2 * 2 * 2 * 32 * 8 * 32, 2 * 2 * 2 * 32 * 16 * 32]
    listed = [row for row in trace(base | {"window_attn_skip_freq": "[0,1,1,0]"}, 1) if row["op"] == "fc1"]
    assert [row["layer"] for row in listed] == [2, 3]
    # A window of 24 keys would be more pairs than the mask leaves; whole matrices know no window.
    wide = {"window_size": "[23,0]", "window_keys": 24}
    assert by_op(trace(base | wide, 0), "forward")["core_attention"]["flops"] == 2 * 2 * 2 * 32 * 16 * 32
    unfused = by_op(trace(base | {"flash_attention": False}, 0), "forward")["core_attention"]
    assert (unfused["n"], unfused["flops"]) == (8, 2 * 2 * 2 * 32 * 32 * 32)


def test_shared_experts_stand_before_the_router(trace: Implementation) -> None:
    shared = {"num_shared_experts": 2, "moe_ffn_hidden_size": 64, "moe_shared_expert_gate": True}
    rows = trace(SMALL_MOE | shared, 0)
    order = ops_of(rows, "forward", 0)
    assert order[order.index("mlp_norm") + 1 :][:8] == [
        *("shared_gather", "shared_fc1", "shared_activation", "shared_fc2", "shared_scatter"),
        *("shared_gate", "shared_gating", "router"),
    ]
    assert order[-3:] == ["unpermute", "shared_sum", "mlp_residual"]
    back = ops_of(rows, "backward", 0)
    assert back[back.index("router_wgrad") + 1 :][:3] == [
        "shared_gating",
        "shared_gate_dgrad",
        "shared_gate_wgrad",
    ]
    # 2 x 64 wide over 2 ranks
    assert brief(by_op(rows, "forward")["shared_fc1"])[1:6] == ("gemm", 64, 64, 64, 1)
    # fc1 and fc2 of 64 x 128 over 2, and a gate of 64
    assert parameters(trace, shared, SMALL_MOE | {"moe_ffn_hidden_size": 64}) == 2 * (2 * 64 * 128 // 2 + 64)


def test_multi_token_prediction(trace: Implementation) -> None:
    mtp = SMALL_DENSE | {"mtp_num_layers": 1, "tied_embeddings": False}
    first, last = trace(mtp, 0), trace(mtp, 1)
    order = ops_of(last, "forward", 4)
    assert order[:3] == ["mtp_embedding_lookup", "mtp_embedding_reduce", "mtp_embedding_dropout"]
    assert order[3:9] == [
        *("mtp_embedding_norm", "mtp_hidden_norm", "mtp_concatenation", "mtp_gather", "mtp_projection"),
        "mtp_output_gather",
    ]
    assert order[-7:-5] == ["mtp_final_norm", "mtp_head_gather"]
    # It stands between the final norm and the head.
    names = [row["op"] for row in last if row["phase"] == "forward"]
    assert names[names.index("final_norm") + 1] == "mtp_embedding_lookup"
    assert names[names.index("mtp_cross_entropy") + 1] == "head_gather"
    # [64, 32] <- [64, 128]; the input of 2T gathered, the output of T
    assert brief(by_op(last, "forward")["mtp_projection"])[1:6] == ("gemm", 64, 32, 128, 1)
    sizes = {each[:2]: each[2] for each in collectives(last, "forward", 4)}
    assert (sizes["mtp_gather", "all_gather"], sizes["mtp_output_gather", "all_gather"]) == (16_384, 8192)
    back = [
        each
        for each in collectives(last, "backward", 4)
        if each[0] in ("mtp_output_gather", "mtp_regather", "mtp_gather")
    ]
    assert back == [
        ("mtp_output_gather", "all_gather", 8192),
        ("mtp_regather", "all_gather", 16_384),
        ("mtp_gather", "reduce_scatter", 16_384),
    ]
    # the layer 24,832; norms 3 x 128; the projection 128 x 64/2; a copy of the table 512 x 64
    base = trace(SMALL_DENSE | {"tied_embeddings": False}, 1)
    held = [by_op(rows, "optimizer")["adam"]["m"] for rows in (last, base)]
    assert held[0] - held[1] == 24_832 + 384 + 4096 + 32_768
    assert "embedding_grad_reduce" not in by_op(base, "optimizer")
    for rows in (first, last):
        assert by_op(rows, "optimizer")["embedding_grad_reduce"]["comm_bytes"] == 4 * 32_768
    # A tied head's copy serves both.
    tied = [trace(SMALL_DENSE | {"mtp_num_layers": n}, 1) for n in (1, 0)]
    held = [by_op(rows, "optimizer")["adam"]["m"] for rows in tied]
    assert held[0] - held[1] == 24_832 + 384 + 4096


def test_a_prediction_before_the_stage_of_the_loss(trace: Implementation) -> None:
    """Megatron's `get_mtp_ranks` and `p2p_communication.py`: m on stage 1 of 3, its head with the loss."""
    here = {"pipeline_model_parallel_layout": "Ett|ttm|L", "pp": 3, "world_size": 24, "num_layers": 4}
    apart = SMALL_DENSE | {"mtp_num_layers": 1, "tied_embeddings": False} | here
    plain = apart | {"mtp_num_layers": 0, "pipeline_model_parallel_layout": "Ett|tt|L"}
    first, module, loss = (trace(apart, stage) for stage in range(3))
    order = ops_of(module, "forward", 4)
    assert order[0] == "mtp_embedding_lookup"
    assert order[-1] == "mtp_final_norm"
    # 7 of the head, the loss's three all_reduces among them, behind the final norm of the model
    names = [row["op"] for row in loss if row["phase"] == "forward"]
    assert names[:3] == ["recv_forward", "final_norm", "mtp_head_gather"]
    assert names[names.index("mtp_cross_entropy") + 1] == "head_gather"
    back = [row["op"] for row in loss if row["phase"] == "backward"]
    assert back[back.index("head_gather") + 2] == "mtp_cross_entropy"
    assert back[-2:] == ["final_norm", "send_backward"]
    # 8 micro-batches: two hidden states of T/t go from the module to the loss, and two gradients back.
    per = trace(plain, 1)[0]["num_microbatches"]
    found = [
        {row["op"]: (row["comm_bytes"], row["num_microbatches"]) for row in rows if row["kind"] == "p2p"}
        for rows in (first, module, loss)
    ]
    assert found == [
        {"send_forward": (4096, per), "recv_backward": (4096, per)},
        {
            **{"recv_forward": (4096, per), "send_forward": (4096, 2 * per)},
            **{"recv_backward": (4096, 2 * per), "send_backward": (4096, per)},
        },
        {"recv_forward": (4096, 2 * per), "send_backward": (4096, 2 * per)},
    ]
    # Stage 1 has the layer 24,832, norms 3 x 128, the projection 64 x 128/2 and a copy of the table 512 x 64.
    held = [
        by_op(trace(apart, stage), "optimizer")["adam"]["m"]
        - by_op(trace(plain, stage), "optimizer")["adam"]["m"]
        for stage in range(3)
    ]
    assert held == [0, 24_832 + 384 + 4096 + 32_768, 0]
    reduced = [by_op(rows, "optimizer").get("embedding_grad_reduce") for rows in (first, module, loss)]
    assert [row and row["comm_bytes"] for row in reduced] == [4 * 32_768, 4 * 32_768, None]


def test_slices_of_a_message_are_gathered_on_arrival(trace: Implementation) -> None:
    # Megatron-LM without sequence parallelism sends T/t and gathers T
    old = SMALL_DENSE | {"sequence_parallel": False, "framework": "megatron-lm"}
    first, last = trace(old, 0), trace(old, 1)
    assert brief(by_op(first, "forward")["send_forward"])[1:] == ("send", "pp", 2, 4096, 4096)
    assert brief(by_op(last, "forward")["recv_forward_gather"])[1:] == ("all_gather", "tp", 2, 8192, 4096)
    assert "send_forward_gather" not in by_op(first, "forward")
    chunks = [trace(old | {"virtual_pipeline": 2}, stage) for stage in (0, 1)]
    counts = [by_op(rows, "forward")["recv_forward_gather"]["num_microbatches"] for rows in chunks]
    assert counts == [8, 16]
