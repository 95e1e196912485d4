"""What formats cannot say of communication that runs beside computation."""

from collections.abc import Mapping
from typing import Any

from moesweep.edge.problems import Problem, shown

_REFUSED = {
    "moe_shared_expert_overlap": (
        ("simai", "chakra", "goal", "perfetto", "unrolled"),
        "kernels run one after the other in {}",
    ),
    "overlap_moe_expert_parallel_comm": (
        ("simai", "chakra", "goal", "perfetto", "unrolled"),
        "a forward pass and a backward one run one after the other in {}",
    ),
    "fine_grained_activation_offloading": (
        ("simai", "chakra", "goal", "perfetto", "unrolled"),
        "copies to the host and kernels run one after the other in {}",
    ),
    "tp_comm_overlap": (
        ("simai", "chakra", "goal"),
        "collectives of tp ranks are whole, before or after their linear, in {}",
    ),
    "overlap_grad_reduce": (
        ("simai", "chakra", "goal"),
        "gradients are reduced after the last backward pass in {}",
    ),
}
"""Options that make communication run beside something, formats without it, and what they say instead."""


def inexpressible(format_: str, workload: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for every option of a workload that a format cannot say."""
    id_ = workload["workload"]
    found = [
        Problem(id_, option, format_, shown(True), why.format(format_), "only false", workload=id_)
        for option, (formats, why) in _REFUSED.items()
        if workload[option] and format_ in formats
    ]
    key, strategy = "data_parallel_sharding_strategy", workload["data_parallel_sharding_strategy"]
    if workload["use_megatron_fsdp"] and strategy != "optim" and format_ in _ONE_BY_ONE:
        message = f"parameters and gradients of layers travel before or after their kernels in {format_}"
        found.append(Problem(id_, key, format_, shown(strategy), message, "only optim", workload=id_))
    return found


_ONE_BY_ONE = ("simai", "chakra", "goal", "perfetto", "unrolled")
"""Formats whose collectives of data-parallel ranks run beside nothing within a micro-batch."""
