"""Routers of fp64 worked out by hand: what they read and write, what travels, and how long they take.

Sources: Megatron-Core 0.19 (`moe_utils.py`, `RouterGatingLinearFunction`, `token_dispatcher.py`),
docs/trace.md and docs/costs.md, "GEMM".
"""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from costing import constants, costs, seconds
from moesweep.cost.compute import fp64_speedup
from moesweep.study.catalog import load_cluster
from moesweep.trace.programs import programs
from small import small

WIDE: dict[str, Any] = {"moe_router_dtype": "fp64"}
# 1024 tokens of width 1024 for 128 experts on one GPU
ALONE: dict[str, Any] = {
    **{"world_size": 1, "tp": 1, "pp": 1, "ep": 1, "etp": 1, "global_batch_size": 1, "num_layers": 1},
    **{"hidden_size": 1024, "seq_length": 1024, "num_experts": 128, "micro_batch_size": 1},
}
M, N, K = 1024, 128, 1024


def op(changes: dict[str, Any], name: str, phase: str = "forward") -> dict[str, Any]:
    """One row of the first stage's first layer."""
    rows = programs(small(**changes)).filter(stage=0, op=name, phase=phase, layer=0)
    return rows.row(0, named=True)


def test_bytes_of_products() -> None:
    # Operands are read in 2 bytes and written in 8, and read; the result is of 8.
    assert op(ALONE | WIDE, "router")["hbm_bytes"] == (2 + 8 + 8) * (M * K + K * N) + 8 * M * N
    # The weight is cast; the gradient of the input comes in 8 and is cast to 2.
    found = op(ALONE | WIDE, "router_dgrad", "backward")["hbm_bytes"]
    assert found == 8 * (M * N + N * K + M * K) + (2 + 8) * N * K + (8 + 2) * M * K
    # The input is cast, the weight's gradient too, which is added to one of fp32.
    found = op(ALONE | WIDE, "router_wgrad", "backward")["hbm_bytes"]
    assert found == 8 * (M * N + M * K) + (2 + 8) * M * K + (8 + 2) * N * K + 2 * 4 * N * K


def test_bytes_of_logits() -> None:
    # 8 and 4 of a cast, 4 and 4 of softmax and top-k, 8 of a probability; back the same
    groups = {"moe_router_num_groups": 4, "moe_router_group_topk": 2}
    balanced = WIDE | {"moe_router_load_balancing_type": "aux_loss"}
    for phase in ("forward", "backward"):
        assert op(ALONE | WIDE, "router_topk", phase)["hbm_bytes"] == 28 * M * N
    # groups are of scores, which are fp32
    assert op(ALONE | WIDE | groups, "router_topk")["hbm_bytes"] == (28 + 20) * M * N
    # 26 and a cast of 12; 28, a cast of 12 back, and a sum of three times 8 for 4
    assert op(ALONE | balanced, "balancing_loss")["hbm_bytes"] == (26 + 12) * M * N
    assert op(ALONE | balanced, "balancing_loss", "backward")["hbm_bytes"] == (28 + 12 + 12) * M * N


def test_what_travels() -> None:
    """32 of 64 tokens, 64 copies of 2 x 64 bytes sent, 128 rows of etp 2."""
    for phase in ("forward", "backward"):
        assert op(WIDE, "moe_dispatch", phase)["comm_bytes"] == 64 * (128 + 8)
        assert op(WIDE, "expert_gather", phase)["comm_bytes"] == 128 * (128 + 8)
        assert op(WIDE, "expert_scatter", phase)["comm_bytes"] == 128 * 64 * 8
        assert op(WIDE, "moe_combine", phase)["comm_bytes"] == 64 * 128
        assert op(WIDE, "expert_widen", phase)["hbm_bytes"] == 128 * 64 * (2 + 8)
        assert op(WIDE, "expert_narrow", phase)["hbm_bytes"] == 64 * 64 * (8 + 2)
    # By the flex dispatcher probabilities are fp32 whatever the router is, and left out.
    flex = {"moe_token_dispatcher_type": "flex"}
    assert op(WIDE | flex, "fused_dispatch") == op(flex, "fused_dispatch")


def test_seconds_of_products() -> None:
    found = costs(ALONE | WIDE, fp64_matrix_flops_per_second=10e12, kernel_seconds=1e-6)
    product = 2 * M * N * K / 10e12
    # 16 tiles of 128 x 64 in one wave of 100: twice the share of 8 tiles of 128 x 128
    share = 16 / 100
    cast = 10 * (M * K + K * N) / 1e12
    assert seconds(found, "router") == pytest.approx(product / share + cast + 3e-6, rel=1e-8)
    # the gradient of the input has 64 tiles of 128 x 128
    cast = 10 * (N * K + M * K) / 1e12
    assert seconds(found, "router_dgrad", "backward") == pytest.approx(product / 0.64 + cast + 3e-6)
    assert seconds(found, "router_wgrad", "backward") == pytest.approx(
        product / share + cast + 3e-6, rel=1e-8
    )
    plain = costs(ALONE | {"moe_router_dtype": "fp32"}, kernel_seconds=1e-6)
    for name in ("expert_fc1", "logits", "core_attention"):
        assert seconds(found, name) == seconds(plain, name)


@pytest.mark.parametrize(
    ("gpu", "rate"), [("dgx-a100-80gb-8xhdr200", 19.5e12), ("dgx-h100-80gb-8xndr400", 67e12)]
)
def test_a_gpu_has_a_rate_of_fp64(root: Path, gpu: str, rate: float) -> None:
    cluster = load_cluster(root, gpu)
    assert cluster.value("fp64_matrix_flops_per_second") == rate
    row = pl.DataFrame([WIDE | dict(cluster.values)])
    assert row.select(fp64_speedup).item() == rate / cluster.value("matrix_flops_per_second")
    assert pl.DataFrame([{"moe_router_dtype": "fp32"} | constants()]).select(fp64_speedup).item() == 1
