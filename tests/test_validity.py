"""What is inside the range of measured runs, and why other workloads are not."""

import polars as pl
import pytest

from costing import constants
from moesweep.cost.validity import criteria, outside
from small import DENSE, small

MEASURED = {"measured_dense_gpus": 64.0, "measured_moe_gpus": 8.0, "gpus_per_node": 8.0}
NONE = "no run of the kind measured on such GPUs and nodes"
MODULES = "modules recomputed that are not core attention"
LAYERS = "layers recomputed not each by itself"
HIDDEN = "communication hidden otherwise than measured"
SIZE, KERNEL = "on more GPUs than measured", "another attention kernel"


def why(changes: dict[str, object], **values: float) -> str:
    """What takes a small workload out of the measured range."""
    known = constants(**MEASURED | values)
    frame = small(**changes).with_columns(**{name: pl.lit(value) for name, value in known.items()})
    return str(
        frame.filter(kind="moe" if changes.get("num_experts") else "dense").select(outside()).item(0, 0)
    )


DENSE_8 = DENSE | {"world_size": 8, "tp": 2, "pp": 1, "global_batch_size": 8}
MOE_8 = DENSE_8 | {"num_experts": 4, "moe_router_topk": 2, "ep": 2}
WIDE = DENSE_8 | {"num_attention_heads": 16, "num_query_groups": 16, "global_batch_size": 128}


@pytest.mark.parametrize(
    ("changes", "values", "found"),
    [
        (DENSE_8, {}, ""),
        (MOE_8, {}, ""),
        (DENSE_8, {"measured_dense_gpus": 0.0}, NONE),
        (MOE_8, {"measured_moe_gpus": 0.0}, NONE),
        (MOE_8, {"measured_moe_gpus": 4.0}, SIZE),
        (WIDE | {"world_size": 128}, {}, SIZE),
        (DENSE_8 | {"flash_attention": True}, {}, KERNEL),
        (DENSE_8 | {"flash_attention": True}, {"measured_flash_attention": 1.0}, ""),
        (DENSE_8 | {"gated_mlp": True}, {}, "another gating of MLPs"),
        (DENSE_8 | {"overlap_grad_reduce": True}, {}, HIDDEN),
        (DENSE_8 | {"tp_comm_overlap": True}, {}, HIDDEN),
        (MOE_8 | {"num_shared_experts": 1, "moe_shared_expert_overlap": True}, {}, HIDDEN),
        (MOE_8 | {"overlap_moe_expert_parallel_comm": True}, {}, HIDDEN),
        (DENSE_8 | {"recompute": "selective"}, {}, ""),
        (DENSE_8 | {"recompute": "selective", "recompute_modules": "core_attn+mlp"}, {}, MODULES),
        (DENSE_8 | {"recompute": "selective", "recompute_modules": "none"}, {}, ""),
        (DENSE_8 | {"fp8": "hybrid"}, {}, "products in fp8"),
        (
            DENSE_8 | {"use_precision_aware_optimizer": True, "optimizer_cpu_offload": True},
            *({}, "an optimizer on the host"),
        ),
        (DENSE_8 | {"fine_grained_activation_offloading": True}, {}, "activations on the host"),
        (DENSE_8 | {"deterministic_mode": True}, {}, "sums in one order every time"),
        (
            DENSE_8 | {"use_tp_pp_dp_mapping": True},
            *({}, "pipeline stages before data-parallel ranks"),
        ),
        (DENSE_8 | {"use_megatron_fsdp": True}, {}, "parameters or gradients sharded"),
        (DENSE_8 | {"use_megatron_fsdp": True, "data_parallel_sharding_strategy": "optim"}, {}, ""),
        (DENSE_8 | {"cuda_graph_impl": "local"}, {}, "kernels launched by CUDA graphs"),
        (DENSE_8 | {"recompute": "full"}, {}, ""),
        (DENSE_8 | {"recompute": "full", "recompute_num_layers": 2}, {}, LAYERS),
        (DENSE_8 | {"recompute": "full", "recompute_method": "block"}, {}, LAYERS),
        (WIDE | {"tp": 16, "world_size": 16}, {}, "tensor parallelism across nodes"),
        (MOE_8, {"gpus_per_node": 2.0}, "experts across nodes"),
        (MOE_8 | {"moe_token_dispatcher_type": "flex"}, {}, "the flex dispatcher"),
        (MOE_8 | {"moe_router_load_balancing_type": "aux_loss"}, {}, ""),
        (
            MOE_8 | {"moe_router_load_balancing_type": "global_aux_loss"},
            *({}, "experts balanced over global batches"),
        ),
        (
            DENSE_8 | {"cp": 2, "flash_attention": True},
            {"measured_flash_attention": 1.0},
            "context parallelism",
        ),
        (WIDE | {"tp": 16, "world_size": 128}, {}, f"{SIZE}; tensor parallelism across nodes"),
        # As many GPUs as were measured, and groups as large as a node, are inside; one more is not.
        (DENSE_8, {"measured_dense_gpus": 8.0, "gpus_per_node": 2.0}, ""),
        (DENSE_8, {"measured_dense_gpus": 7.0}, SIZE),
        (DENSE_8, {"measured_dense_gpus": 1.0}, SIZE),
        (MOE_8, {"measured_moe_gpus": 8.0, "gpus_per_node": 4.0}, ""),
        (MOE_8 | {"ep": 4}, {"gpus_per_node": 7.0}, "experts across nodes"),
        # Where nothing was measured, options do not matter.
        (DENSE_8 | {"flash_attention": True}, {"measured_dense_gpus": 0.0}, NONE),
    ],
)
def test_each_criterion(changes: dict[str, object], values: dict[str, float], found: str) -> None:
    assert why(changes, **values) == found


def test_the_criteria_are_told_apart() -> None:
    assert len(set(criteria())) == len(criteria()) == 19
