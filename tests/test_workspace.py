"""What a backward pass needs besides what the forward kept, worked out by hand."""

from remembered import memory
from small import DENSE


def test_workspace_by_hand() -> None:
    """Llama 3 70B of 2 layers on tp 2: b 1, s 4096, h 8192, f 28672, V 128256."""
    llama = {
        **{
            "tp": 2,
            "pp": 1,
            "world_size": 2,
            "num_layers": 2,
            "hidden_size": 8192,
            "ffn_hidden_size": 28_672,
        },
        **{"num_attention_heads": 64, "num_query_groups": 8, "attention": "gqa", "vocab_size": 128_256},
        **{"seq_length": 4096, "global_batch_size": 1, "gated_mlp": True, "flash_attention": True},
        **{"tied_embeddings": False},
    }
    s, h, f, v = 4096, 8192, 28_672 // 2, 128_256 // 2
    # one of each shape, however many layers: qkv (64 + 16) x 128, output, fc1 2f, fc2
    buffers = 2 * (5120 * h + h * 4096 + 2 * f * h + h * f)
    found = memory(DENSE | llama)
    # The head's backward: 2 bytes a logit, its weight gradient, input and that one's gradient; not 6 a logit.
    assert found["workspace_bytes"] == buffers + 2 * s * v + 2 * v * h + 2 * 2 * s * h - 6 * s * v
    # With few words it is the layer's: the gradients of the MLP's output and of fc1's.
    few = memory(DENSE | llama | {"vocab_size": 256})
    assert few["workspace_bytes"] == buffers + 2 * s * (h + 2 * f) - 6 * s * 128
    # With many tokens the loss is the fullest moment, and logits are activations.
    long = memory(DENSE | llama | {"seq_length": 65_536})
    assert long["workspace_bytes"] == buffers
    # Older frameworks free each gradient: the largest counts.
    old = memory(DENSE | llama | {"seq_length": 65_536, "framework": "megatron-lm"})
    assert old["workspace_bytes"] == 2 * 2 * f * h


def test_results_of_experts_are_gathered_in_the_routers_format() -> None:
    """8192 tokens, 32,768 rows of experts: of each 4 + 2 bytes of h = 64, with a router of 32 bits."""
    moe = {
        **{"tp": 1, "etp": 2, "pp": 1, "ep": 2, "world_size": 4, "num_experts": 8, "seq_length": 8192},
        **{"flash_attention": True, "global_batch_size": 4, "vocab_size": 128, "moe_ffn_hidden_size": 8},
    }
    plain, wide = (memory(moe | {"moe_router_dtype": of})["workspace_bytes"] for of in ("none", "fp32"))
    # qkv, output, fc1 and fc2; with 6 bytes a logit of 128 words the loss is the fullest moment
    assert plain == 2 * (64 * 192 + 64 * 64 + 2 * 64 * 4)
    assert wide - plain == 6 * 64 * 32_768 - 6 * 8192 * 128


def test_shapes_that_are_alike_share_a_buffer() -> None:
    # one shared expert, as wide as a routed one, none cut: fc1 and fc2 of both are alike
    moe = {
        **{"tp": 1, "pp": 1, "ep": 4, "world_size": 4, "num_experts": 8, "moe_ffn_hidden_size": 80},
        **{"flash_attention": True, "global_batch_size": 4, "vocab_size": 128, "seq_length": 8192},
    }
    plain, shared, other = (
        memory(moe | changes)["workspace_bytes"]
        for changes in ({}, {"num_shared_experts": 1}, {"num_shared_experts": 2})
    )
    assert plain == shared
    assert other - plain == 2 * 2 * 64 * 160
