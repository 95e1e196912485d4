"""Memory that lasts an iteration: parameters, gradients and states of the optimizer, worked by hand."""

from typing import Any

import pytest

from costing import costs
from remembered import KORTHIKANTI, B, H, S, T, memory


def test_static_memory_by_hand() -> None:
    found = memory(KORTHIKANTI | {"num_layers": 1})
    parameters = 12 * H * H / T + 4 * H + 51200 / T * H + S * H + 2 * H
    assert found["weights_bytes"] == 2 * parameters
    assert found["gradients_bytes"] == 4 * parameters
    assert found["optimizer_bytes"] == 12 * parameters


@pytest.mark.parametrize(("dp", "shared", "gradients"), [(1, False, 6.0), (4, False, 6.0), (4, True, 3.0)])
def test_gradients_of_fp16_are_two_bytes_and_a_copy_of_what_is_owned(
    dp: int, shared: bool, gradients: float
) -> None:
    # Megatron's own table: 20 bytes a parameter, with the distributed optimizer 4 + 16/dp
    changes = {"dtype": "fp16", "num_layers": 1, "world_size": T * dp, "global_batch_size": B * dp}
    found = memory(KORTHIKANTI | changes | {"distributed_optimizer": shared})
    parameters = 12 * H * H / T + 4 * H + 51200 / T * H + S * H + 2 * H
    assert found["weights_bytes"] == 2 * parameters
    assert found["gradients_bytes"] == pytest.approx(gradients * parameters, rel=1e-9)
    assert found["optimizer_bytes"] == pytest.approx(12 * parameters / (dp if shared else 1), rel=1e-9)


OFFLOADED = {
    **{"use_precision_aware_optimizer": True, "optimizer_cpu_offload": True},
    "optimizer_offload_fraction": 0.75,
}


@pytest.mark.parametrize(
    ("changes", "gradients", "states"),
    [
        ({"grad_reduce_in_fp32": False}, 2 + 4 / 4, 12),
        ({"dtype": "fp16", "grad_reduce_in_fp32": True}, 4, 12),
        # the lower half of a weight, and moments; gradients are read as they are
        ({"use_precision_aware_optimizer": True}, 4, 2 + 4 + 4),
        ({"use_precision_aware_optimizer": True, "grad_reduce_in_fp32": False}, 2, 2 + 4 + 4),
        ({"use_precision_aware_optimizer": True, "exp_avg_dtype": "bf16"}, 4, 2 + 2 + 4),
        # of what the host does not update fp32 weights and moments, and gradients of 16 bits once more
        (OFFLOADED, 4, 12 / 4),
        (OFFLOADED | {"grad_reduce_in_fp32": False}, 2 + 4 / 4 / 4, 12 / 4),
        (OFFLOADED | {"optimizer_offload_fraction": 1.0, "grad_reduce_in_fp32": False}, 2, 0),
        (
            {"use_precision_aware_optimizer": True, "exp_avg_dtype": "bf16", "exp_avg_sq_dtype": "bf16"},
            *(4, 2 + 2 + 2),
        ),
    ],
)
def test_states_of_other_formats(changes: dict[str, Any], gradients: float, states: float) -> None:
    # Megatron-Core 0.20, optimizer_config.py and Transformer Engine's FusedAdam; over 4 replicas
    layout = {"num_layers": 1, "world_size": T * 4, "global_batch_size": B * 4, "distributed_optimizer": True}
    found = memory(KORTHIKANTI | layout | changes)
    parameters = 12 * H * H / T + 4 * H + 51200 / T * H + S * H + 2 * H
    assert found["weights_bytes"] == 2 * parameters
    assert found["gradients_bytes"] == pytest.approx(gradients * parameters, rel=1e-9)
    assert found["optimizer_bytes"] == pytest.approx(states * parameters / 4, rel=1e-9)


# Mixtral 8x7B: 32 layers, h 4096, f 14336 gated, 8 query groups, 8 experts, tp 2, pp 4, ep 4
MIXTRAL: dict[str, Any] = {
    "tp": 2,
    "pp": 4,
    "ep": 4,
    "num_layers": 32,
    "hidden_size": 4096,
    "ffn_hidden_size": 14336,
    "num_attention_heads": 32,
    "num_query_groups": 8,
    "attention": "gqa",
    "num_experts": 8,
    "vocab_size": 32000,
    "gated_mlp": True,
    "normalization": "rmsnorm",
    "position_embedding": "rope",
    "tied_embeddings": False,
    "flash_attention": True,
    "global_batch_size": 64,
}


@pytest.mark.parametrize(("world", "dp", "edp"), [(64, 8, 2), (128, 16, 4)])
def test_mixtral_by_hand(world: int, dp: int, edp: int) -> None:
    found = memory(MIXTRAL | {"world_size": world})
    attention = (2 * 4096**2 + 2 * 4096 * 1024) // 2
    dense = 8 * (attention + 2 * 4096 + 8 * 4096) + 32000 // 2 * 4096
    expert = 8 * (3 * 4096 * 14336 * 2 // 2)
    static = 6 * (dense + expert) + 12 * (dense / dp + expert / edp)
    # the last stage's final norm adds 4096 parameters to what the first has
    parts = ("weights_bytes", "gradients_bytes", "optimizer_bytes")
    assert sum(found[part] for part in parts) == pytest.approx(static, rel=1e-5)


def test_mixtral_as_megatron_logged_it() -> None:
    """17.45 GB static in Megatron-LM's CI logs: GiB, and of 64 GPUs rather than the 128 inferred from it."""
    found = memory(MIXTRAL | {"world_size": 64})
    static = found["weights_bytes"] + found["gradients_bytes"] + found["optimizer_bytes"]
    assert static / 2**30 == pytest.approx(17.45, rel=0.03)


def test_fits_leaves_room_for_what_the_framework_reserves() -> None:
    changes = KORTHIKANTI | {"num_layers": 8}
    peak = memory(changes)["peak_memory_bytes"]
    for reserved, fits in ((0.0, True), (80e9 - peak, True), (80e9 - peak + 1, False)):
        assert costs(changes, reserved_hbm_bytes=reserved).workloads["fits"].item() is fits
