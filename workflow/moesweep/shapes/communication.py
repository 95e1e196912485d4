"""The words of communication: kinds of communicators, what they are counted as, what hides behind what."""

from typing import Any

import polars as pl

GROUP_KINDS = (
    *("tp", "etp", "ep", "dp", "edp", "pp", "tp_ep", "embedding", "world"),
    *("model", "expert_model", "cp", "tp_cp", "tp_cp_dp", "cp_a2a", "cp_p2p"),
)
"""Every kind of communicator, in the order of the release: a new one comes last. `dp` are the ranks that hold
the same dense parameters (dp·cp), `model` those that hold one copy of them (tp·pp), `expert_model` those of
the experts (etp·ep·pp), `tp_cp` those that share a micro-batch, `tp_cp_dp` all of a stage; where a sequence
is shared in two steps `cp_a2a` are cp ranks that exchange heads, `cp_p2p` those of a ring."""

COMM_KINDS = ("tp", "cp", "etp", "ep", "dp", "edp", "pp", "other")
"""What the seconds of communication are told apart by: columns `<kind>_comm_seconds`."""

STEPS_OF_CP = ("cp_a2a", "cp_p2p")
"""Kinds that are counted as cp."""

OTHER = tuple(kind for kind in GROUP_KINDS if kind not in (*COMM_KINDS, *STEPS_OF_CP))
"""Kinds of communicators that are counted together, as `other`."""

EXPERT_KINDS = ("etp", "ep", "edp", "tp_ep", "expert_model")
"""Kinds that only workloads with experts have."""

RING_ARRIVALS = {
    "kv_ring_recv": "core_attention",
    "recompute_kv_ring_recv": "recompute_core_attention",
}
"""What arrives from the ring of cp ranks, and the kernels beside it: attention to one block of keys runs
while the next one travels (Transformer Engine `AttnFuncWithCPAndKVP2P`)."""

HIDES_BEHIND = RING_ARRIVALS | {
    "attention_regather": "qkv_dgrad",
    "attention_gather": "qkv_wgrad",
    "attention_reduce_grad": "qkv_wgrad",
    "q_regather": "q_proj_dgrad",
    "q_gather": "q_proj_wgrad",
    "q_reduce_grad": "q_proj_wgrad",
    "q_latent_regather": "q_up_dgrad",
    "q_latent_gather": "q_up_wgrad",
    "q_latent_reduce_grad": "q_up_wgrad",
    "kv_latent_regather": "kv_up_dgrad",
    "kv_latent_gather": "kv_up_wgrad",
    "kv_latent_reduce_grad": "kv_up_wgrad",
    "mlp_regather": "fc1_dgrad",
    "mlp_gather": "fc1_wgrad",
    "mlp_reduce_grad": "fc1_wgrad",
    "shared_regather": "shared_fc1_dgrad",
    "shared_gather": "shared_fc1_wgrad",
    "head_regather": "logits_dgrad",
    "head_gather": "logits_wgrad",
    "head_reduce_grad": "logits_wgrad",
    "mtp_regather": "mtp_projection_dgrad",
    "mtp_gather": "mtp_projection_wgrad",
    "mtp_reduce_grad": "mtp_projection_wgrad",
    "mtp_head_regather": "mtp_logits_dgrad",
    "mtp_head_gather": "mtp_logits_wgrad",
    "mtp_head_reduce_grad": "mtp_logits_wgrad",
}
"""Backward tp collectives and the GEMM that Megatron issues beside each
(`linear_with_grad_accumulation_and_async_allreduce`); and RING_ARRIVALS."""


_LINEARS = (
    ("attention_gather", "qkv"),
    ("attention_scatter", "attention_output"),
    ("mlp_gather", "fc1"),
    ("mlp_scatter", "fc2"),
)
BESIDE_LINEARS = (
    *_LINEARS,
    *((f"recompute_{collective}", f"recompute_{linear}") for collective, linear in _LINEARS),
    ("attention_scatter", "attention_output_dgrad"),
    ("mlp_scatter", "fc2_dgrad"),
)
"""Collectives of tp ranks that `tp_comm_overlap` cuts into parts, and the GEMM that works on the others
meanwhile: of queries, keys and values (not mla's), attention's output and the dense MLP (Transformer Engine's
`ub_overlap_ag`, `ub_overlap_rs`). Those that run beside a GEMM anyway are in HIDES_BEHIND."""


_FC1, _FC2 = ("shared_fc1", "shared_activation"), ("shared_fc2",)
BESIDE_EXCHANGES = {
    "moe_dispatch": (*_FC1, "shared_fc1_dgrad", "shared_fc1_wgrad"),
    "moe_combine": (*_FC2, "shared_fc2_dgrad", "shared_fc2_wgrad"),
    "recompute_moe_dispatch": tuple(f"recompute_{name}" for name in _FC1),
    "recompute_moe_combine": tuple(f"recompute_{name}" for name in _FC2),
}
"""Exchanges of tokens, and the kernels of shared experts that `moe_shared_expert_overlap` runs beside each:
up to the activation beside the way there, the rest beside the way back (Megatron `SharedExpertMLP`)."""


LAYER_SHARDS = {
    "dp": ("layer_gather_dense", "layer_reduce_dense"),
    "edp": ("layer_gather_expert", "layer_reduce_expert"),
}
"""What Megatron-FSDP gathers and reduces of a layer in every micro-batch, by kind of communicator."""

OVER_DATA = ("dp", "edp", "tp_cp_dp")
"""Kinds of communicators among whose ranks are some with other batches. In a pass few ops go over them, and
nothing else in one depends on how many ranks there are."""


def share_beside_ring(members: Any) -> Any:
    """Return the share of a kernel that messages round a ring of n ranks run beside: n - 1 of n blocks."""
    return (members - 1) / members


def kind_of(group_kind: str) -> str:
    """Return the kind of COMM_KINDS that a communicator's seconds are counted as."""
    if group_kind in STEPS_OF_CP:
        return "cp"
    return group_kind if group_kind in COMM_KINDS else "other"


def comm_seconds() -> list[str]:
    """Return the cost columns of communication, whole: hidden parts included."""
    return [f"{kind}_comm_seconds" for kind in COMM_KINDS]


HIDDEN_KINDS = ("cp", "ep", "pp", "dp", "edp")
"""Kinds of which the costs say what is hidden: columns `<kind>_hidden_seconds`. What else is, is tp's."""


def waited_for() -> pl.Expr:
    """Return whether a rank waits for a row's op: for a message where it arrives, its sender goes on."""
    return pl.col("collective").ne_missing(pl.lit("send"))
