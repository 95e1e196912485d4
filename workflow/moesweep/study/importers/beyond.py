"""Megatron's options that would move numbers and that nothing here knows: named, not passed over.

Sources: megatron/training/arguments.py, megatron/core/transformer/transformer_config.py,
megatron/core/distributed/distributed_data_parallel_config.py.
"""

from typing import Any

from moesweep.study.importers.draft import Draft, Told

NEUTRAL: dict[str, Any] = {
    "optimizer": "adam",
    "transformer_impl": "transformer_engine",
    "make_vocab_size_divisible_by": 128,
    "num_distributed_optimizer_instances": 1,
}
"""Options with a value that is what is modelled; another one is not."""

SWITCHES = (
    *("no_gradient_accumulation_fusion", "distribute_saved_activations", "fp16_lm_cross_entropy"),
    *("no_fp8_wgrad", "ddp_num_buckets", "ddp_bucket_size", "overlap_param_gather_with_optimizer_step"),
    *("defer_embedding_wgrad_compute", "standalone_embedding_stage", "moe_extended_tp"),
    *("moe_router_topk_limited_devices", "mtp_use_repeated_layer", "attention_output_gate"),
    *("experimental_attention_variant", "linear_attention_type", "linear_attention_freq"),
    *("heterogeneous_layers_config_path", "heterogeneous_layers_config_encoded_json"),
)
"""Options that are not modelled whenever they are on."""


def read_beyond(draft: Draft, told: Told) -> None:
    """Note what of a run's options is not modelled, though it would move numbers."""
    for name, value in told.left().items():
        on = value not in (None, False)
        if on and (name in SWITCHES or (name in NEUTRAL and value != NEUTRAL[name])):
            draft.unread[name] = told.take(name)
