"""Small workloads that differ in every key of a model."""

from typing import Any

from small import DENSE, MLA

VARIED: dict[str, dict[str, Any]] = {
    "moe": {},
    "dense": DENSE,
    "moe, one expert a rank": {"ep": 4, "world_size": 32},
    "moe, no ep": {"ep": 1},
    "moe, no tp": {"tp": 1, "ep": 4},
    "moe, whole experts beside cut attention": {"etp": 1, "ep": 4},
    "moe, etp wider than tp": {"etp": 4, "tp": 2, "ep": 2},
    "moe, top-1 of 8": {"num_experts": 8, "moe_router_topk": 1},
    "moe, gated and grouped queries": {"gated_mlp": True, "num_query_groups": 2, "attention": "gqa"},
    "moe, narrow experts": {"moe_ffn_hidden_size": 96},
    "moe, selective": {"recompute": "selective"},
    "moe, full": {"recompute": "full"},
    "moe, flash": {"flash_attention": True},
    "moe, replicated optimizer": {"distributed_optimizer": False},
    "moe, interleaved": {"virtual_pipeline": 2},
    "moe, uneven stages": {"num_layers": 7, "pp": 4},
    "moe, no pipeline": {"pp": 1},
    "moe, rope and untied rmsnorm": {
        "position_embedding": "rope",
        "tied_embeddings": False,
        "normalization": "rmsnorm",
    },
    "dense, no sequence parallelism": DENSE | {"sequence_parallel": False},
    "dense, no sequence parallelism, full": DENSE | {"sequence_parallel": False, "recompute": "full"},
    "dense, selective": DENSE | {"recompute": "selective"},
    "dense, gated": DENSE | {"gated_mlp": True},
    "dense, alone": DENSE | {"world_size": 1, "tp": 1, "pp": 1, "global_batch_size": 4},
    "dense, four stages, untied": DENSE | {"pp": 4, "tied_embeddings": False, "num_layers": 6},
    "dense, replicated optimizer": DENSE | {"distributed_optimizer": False},
    "moe, interleaved in groups": {"virtual_pipeline": 2, "microbatch_group_size_per_vp_stage": 3},
    "groups of chunks in pairs, of which the last is smaller": {
        **{"virtual_pipeline": 2, "microbatch_group_size_per_vp_stage": 3, "global_batch_size": 20},
        **{
            "overlap_moe_expert_parallel_comm": True,
            "overlap_grad_reduce": True,
            "overlap_param_gather": True,
        },
    },
    "dense, interleaved": DENSE | {"virtual_pipeline": 2, "micro_batch_size": 2},
    "moe, latent attention": MLA | {"q_lora_rank": 48, "qk_layernorm": True, "flash_attention": True},
    "moe, wide heads, windows, sinks and biases": {
        **{"head_dim": 16, "num_query_groups": 4, "attention": "gqa", "flash_attention": True, "etp": 1},
        **{"window_size": "[15,0]", "window_attn_skip_freq": "2", "softmax_type": "learnable"},
        **{"add_bias_linear": True, "qk_layernorm": True},
    },
    "moe, in every second layer, shared experts": {
        **{"moe_layer_freq": "[0,1,0,1]", "num_shared_experts": 2, "moe_shared_expert_gate": True},
        **{"moe_ffn_hidden_size": 96, "gated_mlp": True, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    },
    "moe, multi-token prediction": {"mtp_num_layers": 1, "tied_embeddings": False, "recompute": "full"},
    "dense, more ranks than query groups": DENSE | {"tp": 4, "num_query_groups": 2, "attention": "gqa"},
    "dense, fp16 on Megatron-LM": DENSE
    | {"sequence_parallel": False, "framework": "megatron-lm", "dtype": "fp16"},
    "moe, experts recomputed, norms and up-projections": MLA
    | {
        **{"recompute": "selective", "recompute_modules": "layernorm+mla_up_proj+moe", "q_lora_rank": 48},
        **{"qk_layernorm": True, "num_shared_experts": 1, "mtp_num_layers": 1, "gated_mlp": True},
    },
    "moe, gradients and parameters beside passes": {
        **{"overlap_grad_reduce": True, "overlap_param_gather": True, "virtual_pipeline": 2},
        **{"overlap_moe_expert_parallel_comm": True, "delay_wgrad_compute": True, "num_shared_experts": 1},
        **{"recompute": "selective", "recompute_modules": "moe_act"},
    },
    "moe, balanced over global batches": {
        **{"moe_router_load_balancing_type": "global_aux_loss", "cp": 2, "flash_attention": True},
        **{"world_size": 32, "first_k_dense": 1, "recompute": "full", "tp": 2},
    },
    "moe, messages waited for": {
        **{"pp": 4, "virtual_pipeline": 2, "num_layers": 8, "world_size": 32, "overlap_p2p_comm": False},
    },
    "dense, linears in parts, full": DENSE | {"tp": 4, "tp_comm_overlap": True, "recompute": "full"},
    "moe, shared experts beside exchanges": {
        **{"num_shared_experts": 2, "moe_shared_expert_overlap": True, "moe_shared_expert_gate": True},
        **{"recompute": "selective", "recompute_modules": "moe", "first_k_dense": 1},
    },
    "moe, linears in parts": {"tp_comm_overlap": True, "first_k_dense": 1},
    "moe, DeepSpeed": {"framework": "megatron-deepspeed"},
    "moe, keys passed on": {
        **{"cp": 2, "flash_attention": True, "world_size": 32, "num_query_groups": 4, "attention": "gqa"},
        "recompute": "selective",
    },
    "moe, latent keys passed on, interleaved": MLA
    | {"cp": 4, "flash_attention": True, "virtual_pipeline": 2},
    "moe, heads exchanged, windows and sinks": {
        **{"cp": 2, "cp_comm_type": "a2a", "flash_attention": True, "recompute": "selective"},
        **{"window_size": "[15,0]", "window_attn_skip_freq": "2", "softmax_type": "learnable"},
    },
    "moe, heads exchanged, then keys passed on": {
        **{"cp": 4, "cp_comm_type": "a2a+p2p", "hierarchical_context_parallel_sizes": "[2,2]", "tp": 2},
        **{"flash_attention": True, "world_size": 32, "recompute": "selective", "num_query_groups": 4},
        **{"attention": "gqa", "virtual_pipeline": 2},
    },
    "moe, stages side by side, of shared sequences": {
        **{"use_tp_pp_dp_mapping": True, "cp": 2, "flash_attention": True, "tp": 2, "etp": 4, "ep": 1},
        **{"world_size": 32, "virtual_pipeline": 2, "moe_router_load_balancing_type": "global_aux_loss"},
    },
    "dense, stages side by side, of shared sequences": DENSE
    | {"use_tp_pp_dp_mapping": True, "cp": 2, "flash_attention": True, "tp": 2, "world_size": 32},
    "moe, tokens once to a node": {
        **{"moe_token_dispatcher_type": "flex", "num_experts": 16, "moe_router_topk": 4, "etp": 1, "ep": 8},
        **{"world_size": 32, "pp": 2, "recompute": "selective", "recompute_modules": "moe"},
    },
    "moe, balanced over shared sequences": {
        **{"moe_router_load_balancing_type": "aux_loss", "cp": 2, "tp": 1, "flash_attention": True},
        **{"micro_batch_size": 2, "recompute": "selective", "recompute_modules": "moe"},
    },
    "moe, padded experts": {
        **{"moe_expert_capacity_factor": 1.3, "moe_pad_expert_input_to_capacity": True, "recompute": "full"},
        **{"num_experts": 16, "ep": 4, "etp": 1, "gated_mlp": True},
    },
    "moe, tokens once to every rank of a block": {
        **{"moe_token_dispatcher_type": "flex", "moe_flex_dispatcher_backend": "hybridep", "num_experts": 8},
        **{"etp": 2, "ep": 4, "moe_flex_dispatcher_num_sms": 3, "recompute": "full", "gated_mlp": True},
    },
    "moe, layers recomputed two by two, interleaved": {
        **{"recompute": "full", "recompute_num_layers": 2, "num_layers": 12, "virtual_pipeline": 2},
        "moe_layer_freq": "2",
    },
    "moe, first layers of chunks recomputed": {
        **{"cross_entropy_loss_fusion": True, "moe_permute_fusion": True, "moe_router_dtype": "fp32"},
        **{"recompute": "full", "recompute_method": "block", "num_layers": 8, "virtual_pipeline": 2},
        **{"first_k_dense": 1, "window_size": "[15,0]", "window_attn_skip_freq": "2"},
    },
    "dense, keys gathered, full": DENSE
    | {
        **{"cp": 4, "cp_comm_type": "all_gather", "flash_attention": True, "world_size": 32},
        **{"sequence_parallel": False, "recompute": "full"},
    },
    "moe, multi-token prediction before the loss's stage": {
        **{"num_layers": 6, "pp": 4, "virtual_pipeline": 2, "world_size": 32, "mtp_num_layers": 1},
        **{"pipeline_model_parallel_layout": "Et|(t|)*5m|L", "tied_embeddings": False, "moe_layer_freq": "2"},
    },
}
"""Workloads that differ in every option the trace knows; each is legal."""
