"""Memory per rank against Korthikanti et al. 2022 (arXiv:2205.05198), Megatron's logs, and by hand."""

from typing import Any

import polars as pl
import pytest

from moesweep.cost.memory import kept_bytes, stage_memory
from moesweep.trace.programs import folded
from remembered import KORTHIKANTI, A, B, H, S, T, memories, memory
from small import small

LAYOUT = "pipeline_model_parallel_layout"
MOE: dict[str, Any] = {"num_experts": 8, "moe_router_topk": 2, "etp": T, "ep": 1}


def per_layer(**changes: Any) -> float:
    """Activation bytes that one more layer adds, over s·b·h."""
    two, one = memories(*(KORTHIKANTI | changes | {"num_layers": n} for n in (2, 1)))
    return (two["activations_bytes"] - one["activations_bytes"]) / (S * B * H)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Table 2 of the paper, in units of sbh: 5as/h = 106.67
        ({"sequence_parallel": False}, 10 + 24 / T + 5 * A * S / (H * T)),
        ({}, 34 / T + 5 * A * S / (H * T)),
        ({"sequence_parallel": False, "recompute": "selective"}, 10 + 24 / T),
        ({"recompute": "selective"}, 34 / T),
        ({"recompute": "full"}, 2 / T),
        ({"sequence_parallel": False, "recompute": "full"}, 2),
        ({"flash_attention": True}, 34 / T),
    ],
)
def test_activations_of_a_layer(changes: dict[str, Any], expected: float) -> None:
    assert per_layer(**changes) == pytest.approx(expected)


def test_grouped_queries_gated_mlp() -> None:
    # norms 4, qkv input 2, masks 2, q 2, k and v 2 x 2/8, output input 2, fc1 input 2, 6f/h
    changes = {"num_query_groups": 8, "gated_mlp": True, "flash_attention": True, "attention": "gqa"}
    assert per_layer(**changes) == pytest.approx((4 + 2 + 2 + 2 + 0.5 + 2 + 2 + 24) / T)


@pytest.mark.parametrize(
    ("changes", "of_width"),
    [
        # fc1's output, GELU's and what the probabilities make of it
        ({}, 6),
        # both halves and their product
        ({"gated_mlp": True}, 6),
        # both halves, silu, the linear half, their product and the weighted one
        ({"gated_mlp": True, "bias_activation_fusion": False}, 12),
    ],
)
def test_gathered_expert_rows_are_not_divided_by_tp(changes: dict[str, Any], of_width: int) -> None:
    moe = {"num_experts": 8, "moe_router_topk": 2, "etp": T, "ep": 1, "flash_attention": True}
    # (18)/t, and R = 2bs rows of 2h and the bytes of f = 4h over t
    assert per_layer(**moe, **changes) == pytest.approx(18 / T + 2 * (2 + of_width * 4 / T))


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        # heads of 2h/a: q, k, v and output twice as wide
        ({"head_dim": 2 * H // A}, 8 / T),
        # queries and keys before their norms
        ({"qk_layernorm": True}, 4 / T),
        # tp 8 over 4 groups: a rank keeps two whole heads of h/64, not an eighth of h
        ({"num_query_groups": 4, "attention": "gqa"}, 2 * 2 * (1 / A - 1 / T)),
        ({"hidden_dropout": 0.0, "attention_dropout": 0.0}, -2 / T),
        ({"gated_mlp": True}, (24 - 16) / T),
        ({"gated_mlp": True, "bias_activation_fusion": False}, (40 - 16) / T),
    ],
)
def test_keys_of_a_model_change_activations(changes: dict[str, Any], more: float) -> None:
    flash = {"flash_attention": True}
    assert per_layer(**flash, **changes) == pytest.approx(per_layer(**flash) + more)


def _repeating(*modules: str, **changes: Any) -> dict[str, Any]:
    return {"recompute": "selective", "recompute_modules": "+".join(modules), **changes}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (_repeating("none", flash_attention=False), 34 / T + 5 * A * S / (H * T)),
        # The norm's output 2 and 4 of f = 4h go; what the norm reads stays.
        (_repeating("mlp", flash_attention=False), 16 / T + 5 * A * S / (H * T)),
        (_repeating("core_attn", "mlp", flash_attention=False), 16 / T),
        # experts: 18/t and R = 2bs rows of 2h and 6 of f over t, of which GELU's leaves fc1's output
        (_repeating("moe_act", **MOE), 18 / T + 2 * (2 + 2 * 4 / T)),
        (_repeating("moe_act", gated_mlp=True, **MOE), 18 / T + 2 * (2 + 4 * 4 / T)),
        (
            _repeating("moe_act", gated_mlp=True, bias_activation_fusion=False, **MOE),
            18 / T + 2 * (2 + 4 * 4 / T),
        ),
        (_repeating("layernorm", **MOE), 16 / T + 2 * (2 + 6 * 4 / T)),
        # the module's input alone, and not even that
        (_repeating("moe", **MOE), 18 / T),
        (_repeating("moe", "layernorm", **MOE), 16 / T),
        (_repeating("shared_experts", num_shared_experts=2, **MOE), 18 / T + 2 * (2 + 6 * 4 / T)),
        (_repeating("moe", num_shared_experts=2, moe_shared_expert_gate=True, **MOE), 18 / T),
    ],
)
def test_modules_that_are_recomputed_are_not_kept(changes: dict[str, Any], expected: float) -> None:
    assert per_layer(**{"flash_attention": True} | changes) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("modules", "more"),
    [
        # of 64 heads q and k of 192, v of 128; the outputs of the latents' norms
        (("mla_up_proj",), -(2 * A * (192 + 192 + 128) + 2 * (1536 + 512)) / (H * T)),
        (("layernorm",), -2 / T),
        (("layernorm", "mlp"), -20 / T),
    ],
)
def test_modules_of_latent_attention(modules: tuple[str, ...], more: float) -> None:
    mla = {
        **{"attention": "mla", "q_lora_rank": 1536, "kv_lora_rank": 512, "flash_attention": True},
        **{"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "qk_layernorm": True},
    }
    assert per_layer(**mla, **_repeating(*modules)) == pytest.approx(per_layer(**mla) + more)


@pytest.mark.parametrize(
    ("modules", "held"),
    [(("mlp",), 18), (("layernorm",), 2), (("layernorm", "mlp"), 18), (("core_attn",), 0)],
)
def test_a_module_at_work_is_held_once_and_halves_of_a_layer_in_turn(
    modules: tuple[str, ...], held: int
) -> None:
    mla = {
        **{"attention": "mla", "kv_lora_rank": 512, "flash_attention": True, "num_layers": 4},
        **{"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128},
    }
    plain, again = memories(*(KORTHIKANTI | mla | changes for changes in ({}, _repeating(*modules))))
    dropped = 18 * ("mlp" in modules) + 2 * ("layernorm" in modules)
    assert again["activations_bytes"] - plain["activations_bytes"] == pytest.approx(
        (held - 4 * dropped) / T * S * B * H
    )


def test_dropout_of_scores_keeps_a_mask_and_its_output() -> None:
    five, two = (per_layer(attention_dropout=share) for share in (0.1, 0.0))
    assert five - two == pytest.approx(3 * A * S / (H * T))


@pytest.mark.parametrize(
    ("changes", "latents"), [({}, 1536 + 512), ({"qk_layernorm": True}, 2 * 2048), ({"q_lora_rank": 0}, 512)]
)
def test_latent_attention(changes: dict[str, Any], latents: int) -> None:
    # 64 heads: queries and keys of 192, values and outputs of 128
    mla = {
        **{"attention": "mla", "q_lora_rank": 1536, "kv_lora_rank": 512, "flash_attention": True},
        **{"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128},
    }
    heads = 2 * A * (192 + 192 + 128 + 128)
    expected = (8 + 2 + 16) / T + (2 * latents + heads) / (H * T)
    assert per_layer(**mla | changes) == pytest.approx(expected)


def test_shared_experts_keep_what_a_dense_mlp_does() -> None:
    moe = {"num_experts": 8, "moe_router_topk": 2, "etp": T, "ep": 1, "flash_attention": True}
    # 2 of width h: 4 bytes of 2h over t; with a gate what it weighs
    shared = {"num_shared_experts": 2, "moe_ffn_hidden_size": H}
    plain = per_layer(**moe, moe_ffn_hidden_size=H)
    assert per_layer(**moe, **shared) == pytest.approx(plain + 8 / T)
    assert per_layer(**moe, **shared, moe_shared_expert_gate=True) == pytest.approx(plain + 10 / T)


@pytest.mark.parametrize(
    ("pp", "m", "v", "group", "sets"),
    [
        *((4, 8, 1, None, 4), (4, 2, 1, None, 2), (4, 8, 2, None, (6 + 4 + 1) / 2), (1, 4, 1, None, 1)),
        # groups of 6, and one of all
        *((4, 10, 2, 6, (6 + 6 + 1) / 2), (4, 8, 2, 8, (6 + 8 + 1) / 2)),
    ],
)
def test_micro_batches_in_flight_on_the_first_stage(
    pp: int, m: int, v: int, group: int | None, sets: float
) -> None:
    changes = {} if group is None else {"microbatch_group_size_per_vp_stage": group}
    changes |= {
        "pp": pp,
        "world_size": T * pp,
        "global_batch_size": B * m,
        "virtual_pipeline": v,
        "num_layers": 8 * pp,
    }
    more, fewer = (memory(KORTHIKANTI | changes | {"seq_length": s})["activations_bytes"] for s in (512, 256))
    layer = 34 / T + 5 * A * 512 / (H * T), 34 / T + 5 * A * 256 / (H * T)
    # the first stage holds most unless it is also the last; its embedding keeps a mask of sbh/t
    expected = [sets * (8 * x + 1 / T) * s * B * H for x, s in zip(layer, (512, 256), strict=True)]
    if pp > 1:
        assert [more, fewer] == pytest.approx(expected)


def test_logits_take_six_bytes_where_their_loss_is_computed() -> None:
    more, fewer = (memory(KORTHIKANTI | {"vocab_size": v})["activations_bytes"] for v in (102_400, 51_200))
    assert more - fewer == 6 * S * B * 51_200 / T


def _full(layers: int = 12, method: str = "uniform", n: int = 1, **changes: Any) -> float:
    """Activation bytes of fully recomputed layers beyond none's ends, over s·b·h/t."""
    again = {"recompute": "full", "recompute_method": method, "recompute_num_layers": n}
    kept = {"recompute": "none", "flash_attention": True}
    each, one = memories(*(KORTHIKANTI | {"num_layers": layers} | changes | how for how in (again, kept)))
    return (each["activations_bytes"] - one["activations_bytes"]) * T / (S * B * H) + 34 * layers


SCORES = 5 * A * S / H


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # 12 inputs of 2, and one layer of 34 and scores at work, of which 2 is the input that was kept
        ({}, 12 * 2 + 34 + SCORES - 2),
        ({"flash_attention": True}, 12 * 2 + 34 - 2),
        ({"n": 5, "flash_attention": True}, 3 * 2 + 5 * 34 - 2),
        # all at once hold what they would without recomputation
        ({"n": 12, "flash_attention": True}, 12 * 34),
        # two by two
        ({"n": 2}, 6 * 2 + 2 * (34 + SCORES) - 2),
        # nine layers keep all that they make; when the last of the others runs again, they are done with
        ({"method": "block", "n": 3, "flash_attention": True}, 3 * 2 + 9 * 34),
        ({"method": "block", "n": 3}, 3 * 2 + 9 * (34 + SCORES)),
        ({"method": "block", "n": 12}, 12 * 2 + 34 + SCORES - 2),
    ],
)
def test_layers_recomputed_together_or_in_blocks(changes: dict[str, Any], expected: float) -> None:
    assert _full(**changes) == pytest.approx(expected)


def test_layers_of_chunks_are_recomputed_together() -> None:
    # 2 stages of 2 chunks of 3 layers, two by two: 2 inputs a chunk; 2·1 + 1·2 + 1 of them in flight
    chunks = {"pp": 2, "virtual_pipeline": 2, "world_size": 16, "global_batch_size": 8 * B}
    one, two = (
        memory(KORTHIKANTI | chunks | {"num_layers": 12, "recompute": "full", "flash_attention": True} | more)
        for more in ({}, {"recompute_num_layers": 2})
    )
    saved = 5 * 1 * 2 - 34
    assert (one["activations_bytes"] - two["activations_bytes"]) * T / (S * B * H) == pytest.approx(saved)


def test_full_recomputation_holds_one_layer_at_work() -> None:
    full, kept = (
        memory(KORTHIKANTI | {"num_layers": 4, "recompute": r})["activations_bytes"] for r in ("full", "none")
    )
    layer = 34 / T + 5 * A * S / (H * T)
    # 4 inputs, and of one layer what it makes besides, its scores among that until its backward has run
    assert full - (kept - 4 * layer * S * B * H) == pytest.approx((4 * 2 / T + layer - 2 / T) * S * B * H)


def test_multi_token_prediction_keeps_a_layer_and_a_softmax() -> None:
    two, one = (memory(KORTHIKANTI | {"mtp_num_layers": n})["activations_bytes"] for n in (1, 0))
    layer = 34 / T + 5 * A * S / (H * T)
    expected = (layer + 11 / T) * S * B * H + 4 * S * B * 51_200 / T
    assert two - one == pytest.approx(expected)


def test_a_prediction_before_the_stage_of_the_loss_is_kept_of_all_in_flight() -> None:
    """Stage 1 of 3 has two micro-batches in flight; the softmax, and what arrives, is the last stage's."""
    apart = KORTHIKANTI | {"pp": 3, "tied_embeddings": False, "num_layers": 3, "world_size": 3 * T}
    apart |= {"global_batch_size": 4 * B}
    layouts = ({LAYOUT: "Et|ttm|L", "mtp_num_layers": 1}, {LAYOUT: "Et|tt|L"})
    here, plain = (
        stage_memory(folded(row), row).sort("stage")["activations_bytes"].to_list()
        for row in (small(**apart | each).with_columns(workload=pl.lit("one")) for each in layouts)
    )
    layer = 34 / T + 5 * A * S / (H * T)
    more = [0, 2 * (layer + 11 / T) * S * B * H, 2 / T * S * B * H + 4 * S * B * 51_200 / T]
    assert [one - other for one, other in zip(here, plain, strict=True)] == pytest.approx(more)


@pytest.mark.parametrize(
    ("changes", "layer", "predicting", "shared"),
    [
        # 34 of a layer; of multi-token prediction 11 more, and 4 of each of 51,200 logits for 6,144 hidden
        ({}, 34, 45 + 4 * 51_200 / H, 0),
        ({"recompute": "full"}, 2, 13 + 4 * 51_200 / H, 2),
        # blocks leave multi-token prediction alone
        ({"recompute": "full", "recompute_method": "block"}, 2, 45 + 4 * 51_200 / H, 2),
    ],
)
def test_what_a_micro_batch_keeps_of_each_kind_of_layer(
    changes: dict[str, Any], layer: float, predicting: float, shared: float
) -> None:
    workload = small(**KORTHIKANTI | {"flash_attention": True, "mtp_num_layers": 1} | changes)
    found = workload.select(**kept_bytes()).row(0, named=True)
    names = ("dense", "dense_kept", "mtp_dense", "embedding")
    kept = [found[f"{name}_kept_bytes"] * T / (S * B * H) for name in names]
    assert kept == pytest.approx([layer, 34, predicting, 1])
    assert found["shared_input_bytes"] == pytest.approx(shared * S * B * H / T)
