"""The least memory of a layout, and its layers with experts, worked out by hand."""

from typing import Any

import pytest

from moesweep.shapes.layer_kinds import number_of_moe_layers, predicts_with_experts
from moesweep.shapes.states import least_host_bytes, least_state_bytes
from small import DENSE, MLA, small

# 4 layers of h 64, f 256, 8 heads of 8; tp 2, pp 2, ep 2, etp 2 on 16 GPUs: dp 4, edp 2. On a rank attention
# has 4·64²/2 = 8,192 parameters, an MLP 2·64·256/2 = 16,384, 4 experts cut in two and shared by two 32,768.
PLAIN = {"num_layers": 4}


@pytest.mark.parametrize(
    ("changes", "held", "owned"),
    [
        # two layers a stage: 2·8,192 + 2·16,384
        (DENSE | PLAIN, 49_152, 49_152 / 4),
        (DENSE | PLAIN | {"distributed_optimizer": False}, 49_152, 49_152),
        # 2·8,192, of which each of 4 ranks updates a quarter; 2·32,768, half
        (PLAIN, 16_384 + 65_536, 4_096 + 32_768),
        # one layer of four is dense, so half a stage's: 16,384 + 8,192; 3/2 of experts; 3/2 of one shared
        (
            PLAIN | {"first_k_dense": 1, "num_shared_experts": 1},
            *(16_384 + 8_192 + 49_152 + 24_576, (16_384 + 8_192 + 24_576) / 4 + 49_152 / 2),
        ),
        # 2 of 8 heads have keys: 64·8·(16 + 4)/2 = 5,120 twice; three matrices of 32 x 64 an expert
        (
            PLAIN | {"num_query_groups": 2, "attention": "gqa", "gated_mlp": True, "moe_ffn_hidden_size": 32},
            *(10_240 + 2 * 3 * 2_048, 10_240 / 4 + 2 * 3 * 2_048 / 2),
        ),
        # latent attention is left out: the least, not all
        (PLAIN | MLA, 65_536, 32_768),
        # two ranks share a sequence and its parameters' states
        (DENSE | PLAIN | {"cp": 2, "flash_attention": True}, 49_152, 49_152 / 4),
    ],
)
def test_least_bytes_of_a_stage(changes: dict[str, Any], held: float, owned: float) -> None:
    # 2 bytes of weight and 4 of gradient of what a rank holds, 12 of what it updates
    assert small(**changes).select(least_state_bytes()).item() == pytest.approx(6 * held + 12 * owned)


def test_least_bytes_of_what_the_host_updates() -> None:
    changes = {"use_precision_aware_optimizer": True, "optimizer_cpu_offload": True}
    held, owned = 49_152, 49_152 / 4
    for share in (0.0, 0.25, 1.0):
        row = small(**DENSE, **PLAIN, **changes, optimizer_offload_fraction=share)
        # 12 bytes of what is updated here, 16 of what is there
        assert row.select(least_state_bytes()).item() == pytest.approx(6 * held + 12 * owned * (1 - share))
        assert row.select(least_host_bytes()).item() == pytest.approx(16 * owned * share)
    assert small(**DENSE, **PLAIN).select(least_host_bytes()).item() == 0


@pytest.mark.parametrize(
    ("freq", "dense", "layers", "predicting"),
    [
        ("1", 0, 6, True),
        ("1", 2, 4, True),
        # 0, 2, 4 and 0, 3; the last layer is 5
        ("2", 0, 3, False),
        ("3", 1, 1, False),
        ("5", 0, 2, True),
        ("5", 5, 1, True),
        ("5", 6, 0, False),
        ("2", 2, 2, False),
        ("[0,1,1,0,0,1]", 0, 3, True),
        ("[1,1,1,0,1,0]", 0, 4, False),
    ],
)
def test_layers_with_experts_of_six(freq: str, dense: int, layers: int, predicting: bool) -> None:
    workload = small(num_layers=6, moe_layer_freq=freq, first_k_dense=dense)
    assert workload.select(number_of_moe_layers()).item() == layers
    assert workload.select(predicts_with_experts()).item() is predicting
    assert small(**DENSE).select(number_of_moe_layers()).item() == 0
