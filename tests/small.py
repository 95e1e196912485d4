"""Small workloads for the tests: a base, and what a test changes of it."""

from typing import Any

import polars as pl

from moesweep.study.workload import resolve

BASE: dict[str, Any] = {
    "listed": 1,
    "model": "small",
    "world_size": 16,
    "tp": 2,
    "pp": 2,
    "ep": 2,
    "etp": 2,
    "micro_batch_size": 1,
    "global_batch_size": 32,
    "seq_length": 64,
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 256,
    "num_attention_heads": 8,
    "num_query_groups": 8,
    "vocab_size": 1000,
    "gated_mlp": False,
    "normalization": "layernorm",
    "position_embedding": "learned",
    "tied_embeddings": True,
    "num_experts": 4,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 0,
    "num_shared_experts": 0,
    "first_k_dense": 0,
    "attention": "mha",
    "q_lora_rank": 0,
    "kv_lora_rank": 0,
    "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 0,
    "v_head_dim": 0,
    "virtual_pipeline": 1,
    "sequence_parallel": True,
    "recompute": "none",
    "flash_attention": False,
    "distributed_optimizer": True,
    "dtype": "bf16",
    "framework": "megatron-core",
    "blocking_launches": False,
    "deterministic_mode": False,
    "use_tp_pp_dp_mapping": False,
    "routing": "balanced",
}

DENSE = {"num_experts": 0, "moe_router_topk": 0, "ep": 1}
FSDP: dict[str, Any] = {"use_megatron_fsdp": True}

OFFLOADED: dict[str, Any] = {
    **{"fine_grained_activation_offloading": True, "min_offloaded_tensor_size": 0, "flash_attention": True},
    "offload_modules": "qkv_linear+core_attn+attn_proj",
}
MLA: dict[str, Any] = {
    "attention": "mla",
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}


def small(**changes: Any) -> pl.DataFrame:
    """Return one workload: the base with some values changed. etp follows tp unless given."""
    values = BASE | {"etp": changes.get("tp", BASE["tp"])} | changes
    return resolve([values])


MODELS: dict[str, dict[str, Any]] = {
    "head wider than h/a": {"head_dim": 16},
    "head narrower than h/a": DENSE | {"head_dim": 4},
    "more ranks than query groups": {"tp": 4, "num_query_groups": 2, "attention": "gqa"},
    "the same without sequence parallelism, norms of heads": DENSE
    | {"tp": 4, "num_query_groups": 2, "attention": "gqa", "sequence_parallel": False, "qk_layernorm": True},
    "norms of queries and keys": {"qk_layernorm": True},
    "norms across heads": {
        **{"qk_layernorm": True, "qk_layernorm_across_heads": True, "normalization": "rmsnorm"},
        **{"num_query_groups": 4, "attention": "gqa"},
    },
    "latent attention": MLA | {"q_lora_rank": 48},
    "latent attention, normed, fully recomputed": MLA
    | {"q_lora_rank": 48, "qk_layernorm": True, "recompute": "full"},
    "latent attention, queries not compressed": MLA | {"qk_layernorm": True, "flash_attention": True},
    "latent attention, no sequence parallelism": MLA
    | DENSE
    | {"q_lora_rank": 48, "sequence_parallel": False, "qk_layernorm": True},
    "latent attention, queries not compressed, none either": MLA
    | DENSE
    | {"sequence_parallel": False, "recompute": "selective"},
    "bias of qkv": {"add_qkv_bias": True},
    "biases": {"add_bias_linear": True, "etp": 1, "ep": 4},
    "biases, gated, no sequence parallelism": DENSE
    | {"add_bias_linear": True, "gated_mlp": True, "sequence_parallel": False},
    "experts in every second layer": {"moe_layer_freq": "2"},
    "experts in listed layers": {"moe_layer_freq": "[0,1,1,0]"},
    "experts behind a dense layer": {"first_k_dense": 1},
    "multi-token prediction, tied": {"mtp_num_layers": 1},
    "two more tokens, rope, fully recomputed": {
        **{"mtp_num_layers": 2, "tied_embeddings": False, "position_embedding": "rope", "recompute": "full"},
    },
    "multi-token prediction on the only stage": DENSE | {"pp": 1, "mtp_num_layers": 1},
    "multi-token prediction, interleaved, no sequence parallelism": DENSE
    | {"mtp_num_layers": 1, "sequence_parallel": False, "tied_embeddings": False, "virtual_pipeline": 2},
    "multi-token prediction behind a dense layer": {
        **{"mtp_num_layers": 1, "moe_layer_freq": "[1,1,1,0]", "distributed_optimizer": False},
    },
    "every module that recomputes a part": {
        **{"recompute": "selective", "num_shared_experts": 1, "moe_shared_expert_gate": True, "ep": 4},
        **{"recompute_modules": "core_attn+moe_act+layernorm+mlp+shared_experts", "first_k_dense": 1},
    },
    "queries not compressed, up-projections and the MLP recomputed": MLA
    | DENSE
    | {"recompute": "selective", "recompute_modules": "mla_up_proj+mlp", "sequence_parallel": False},
    "experts' SwiGLU recomputed, not fused": {
        **{"recompute": "selective", "recompute_modules": "moe_act", "gated_mlp": True, "etp": 1},
        "bias_activation_fusion": False,
    },
    "no two units alike": {
        **{"recompute": "full", "recompute_num_layers": 3, "num_layers": 7, "pp": 1, "first_k_dense": 1},
    },
    "blocks of dense layers recomputed, multi-token prediction not": DENSE
    | {
        **{"recompute": "full", "recompute_method": "block", "recompute_num_layers": 2, "num_layers": 7},
        **{"mtp_num_layers": 1, "num_layers_in_first_pipeline_stage": 4},
    },
    "routers of fp32": {"moe_router_dtype": "fp32", "recompute": "full", "num_shared_experts": 1},
    "routers of fp64": {
        **{"moe_router_dtype": "fp64", "num_shared_experts": 1, "num_experts": 8},
        **{
            "moe_router_load_balancing_type": "aux_loss",
            "moe_router_num_groups": 4,
            "moe_router_group_topk": 2,
        },
    },
    "routers of fp64, recomputed, whole experts": {
        **{
            "moe_router_dtype": "fp64",
            "recompute": "selective",
            "recompute_modules": "moe",
            "etp": 1,
            "ep": 4,
        },
    },
    "routers of fp32, whole experts": {"moe_router_dtype": "fp32", "etp": 1, "ep": 4},
    "tokens once to a rank, permuted at once, routers of fp32": {
        **{"moe_token_dispatcher_type": "flex", "moe_permute_fusion": True, "moe_router_dtype": "fp32"},
        **{"num_experts": 8, "etp": 2, "ep": 4},
    },
    "routers fused, in groups": {
        **{"moe_router_fusion": True, "moe_router_load_balancing_type": "seq_aux_loss", "num_experts": 8},
        **{"moe_router_num_groups": 4, "moe_router_group_topk": 2},
    },
    "loss and permutation fused": {
        **{"cross_entropy_loss_fusion": True, "moe_permute_fusion": True, "mtp_num_layers": 1},
        "recompute": "full",
    },
    "loss of Transformer Engine": DENSE
    | {"cross_entropy_loss_fusion": True, "cross_entropy_fusion_impl": "te", "tp": 4},
    "no module recomputed": {"recompute": "selective", "recompute_modules": "none"},
    "window": {"window_size": "[15,0]"},
    "window in listed layers": {
        **{"window_size": "[7,0]", "window_attn_skip_freq": "[1,0,0,1]", "moe_layer_freq": "2"},
        **{"flash_attention": True},
    },
    "window of more than half": {"window_size": "[47,0]", "flash_attention": True},
    "window of everything": {"window_size": "[63,0]", "flash_attention": True},
    "sinks": DENSE | {"softmax_type": "learnable"},
    "shared experts": {"num_shared_experts": 2, "moe_ffn_hidden_size": 64},
    "shared expert with a gate": {"num_shared_experts": 1, "moe_shared_expert_gate": True, "gated_mlp": True},
    "no dropout": {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    "no dropout of attention": DENSE | {"attention_dropout": 0.0, "recompute": "selective"},
    "SwiGLU that is not fused": {
        **{"gated_mlp": True, "bias_activation_fusion": False, "num_shared_experts": 1},
    },
    "fp16": {"dtype": "fp16"},
    "interleaved on Megatron-LM": DENSE
    | {"sequence_parallel": False, "framework": "megatron-lm", "virtual_pipeline": 2},
    "gradients of 16 bits": {"grad_reduce_in_fp32": False},
    "gradients of fp16 in fp32": DENSE | {"dtype": "fp16", "grad_reduce_in_fp32": True},
    "half of the optimizer on the host": {
        **{"use_precision_aware_optimizer": True, "optimizer_cpu_offload": True},
        "optimizer_offload_fraction": 0.5,
    },
    "all of the optimizer on the host, gradients of 16 bits": {
        **{
            "use_precision_aware_optimizer": True,
            "optimizer_cpu_offload": True,
            "grad_reduce_in_fp32": False,
        },
    },
    "attention on the host": OFFLOADED | {"num_query_groups": 4, "num_layers": 6, "first_k_dense": 1},
    "attention on the host, exchanged heads, layers ahead": DENSE
    | OFFLOADED
    | {"cp": 2, "cp_comm_type": "a2a", "world_size": 8, "tp": 2, "num_layers": 8, "virtual_pipeline": 2},
    "core attention on the host, but for small tensors": DENSE
    | OFFLOADED
    | {"offload_modules": "core_attn", "num_query_groups": 2, "min_offloaded_tensor_size": 1500},
    "latents and experts on the host": MLA
    | OFFLOADED
    | {
        **{"offload_modules": "attn_norm+qkv_linear+core_attn+attn_proj+mlp_norm+expert_fc1+moe_act"},
        **{"q_lora_rank": 16, "qk_layernorm": True, "first_k_dense": 1, "num_layers": 6, "mtp_num_layers": 1},
    },
    "experts on the host, SwiGLU in parts": OFFLOADED
    | {"offload_modules": "expert_fc1+moe_act", "gated_mlp": True, "bias_activation_fusion": False, "etp": 1},
    "experts on the host, their activation recomputed": OFFLOADED
    | {
        **{"offload_modules": "mlp_norm+moe_act", "gated_mlp": True, "pp": 1, "num_layers": 4},
        **{"recompute": "selective", "recompute_modules": "moe_act+layernorm"},
    },
    "precision-aware": {"use_precision_aware_optimizer": True, "exp_avg_dtype": "bf16"},
    "precision-aware, all of 16 bits": {
        **{"use_precision_aware_optimizer": True, "exp_avg_dtype": "bf16", "exp_avg_sq_dtype": "bf16"},
        "grad_reduce_in_fp32": False,
    },
    "fewer layers in the last stage": {
        **{"num_layers": 7, "pp": 4, "num_layers_in_last_pipeline_stage": 1, "world_size": 32},
        **{"mtp_num_layers": 1, "moe_layer_freq": "2"},
    },
    "fewer layers in both ends, interleaved": {
        **{"num_layers": 16, "pp": 4, "virtual_pipeline": 2, "world_size": 32, "global_batch_size": 64},
        **{"num_layers_in_first_pipeline_stage": 2, "num_layers_in_last_pipeline_stage": 6},
    },
    "embedding and loss count as layers": {
        **{"num_layers": 6, "virtual_pipeline": 2, "first_k_dense": 1},
        **{"account_for_embedding_in_pipeline_split": True, "account_for_loss_in_pipeline_split": True},
    },
    "layout with parts that have no layer": {
        **{"num_layers": 5, "virtual_pipeline": 2, "mtp_num_layers": 1, "recompute": "full"},
        **{"pipeline_model_parallel_layout": "E|t*3|(t)*2,|mL"},
    },
    "multi-token prediction before stages that pass it on": DENSE
    | {
        **{"pp": 4, "virtual_pipeline": 2, "world_size": 32, "mtp_num_layers": 1, "recompute": "full"},
        **{"pipeline_model_parallel_layout": "Et|t|t|t||m||L", "tied_embeddings": False, "dtype": "fp16"},
    },
    "two of four groups of experts": {
        **{"moe_token_dispatcher_type": "flex", "num_experts": 32, "moe_router_topk": 4, "etp": 1, "ep": 8},
        **{"moe_router_num_groups": 4, "moe_router_group_topk": 2, "world_size": 32},
    },
    "padded experts, tokens once to a node": {
        **{"moe_expert_capacity_factor": 0.5, "moe_pad_expert_input_to_capacity": True, "num_experts": 8},
        **{"moe_token_dispatcher_type": "flex", "moe_flex_dispatcher_backend": "hybridep", "ep": 4},
    },
    "moe, fp8, scales of iterations before": {
        **{"fp8": "hybrid", "fp8_param_gather": True, "num_shared_experts": 1, "flash_attention": True},
        **{"use_precision_aware_optimizer": True, "exp_avg_dtype": "bf16", "mtp_num_layers": 1},
        **{"gated_mlp": True, "moe_shared_expert_gate": True, "first_k_dense": 1},
        **{"recompute": "selective", "recompute_modules": "shared_experts+mlp"},
    },
    "moe, mxfp8, norms and up-projections recomputed": MLA
    | {
        **{"fp8": "e4m3", "fp8_recipe": "mxfp8", "q_lora_rank": 48, "use_precision_aware_optimizer": True},
        **{"recompute": "selective", "recompute_modules": "layernorm+mla_up_proj+moe_act"},
        **{"fp8_param_gather": True, "grad_reduce_in_fp32": False, "exp_avg_sq_dtype": "bf16"},
        **{"num_shared_experts": 1, "flash_attention": True},
    },
    "fp8 by tensor, latents normed": MLA
    | {
        "fp8": "hybrid",
        "fp8_recipe": "tensorwise",
        "q_lora_rank": 48,
        "qk_layernorm": True,
        "ep": 4,
        "etp": 1,
    },
    "fp8 by block, without sequence parallelism": DENSE
    | {"fp8": "e4m3", "fp8_recipe": "blockwise", "fp8_param_gather": True, "sequence_parallel": False},
    "fp8, unfused SwiGLU and attention recomputed, heads exchanged": {
        **{"fp8": "hybrid", "recompute": "selective", "gated_mlp": True, "bias_activation_fusion": False},
        **{"cp": 2, "cp_comm_type": "a2a", "flash_attention": True, "distributed_optimizer": False},
    },
    "fp8 by block, full, no ep": {
        **{"fp8": "hybrid", "fp8_recipe": "blockwise", "recompute": "full", "ep": 1, "mtp_num_layers": 1},
    },
    "heads exchanged with one neighbour, keys passed on by four": DENSE
    | {
        **{"cp": 8, "cp_comm_type": "a2a+p2p", "hierarchical_context_parallel_sizes": "[2,4]", "tp": 1},
        **{"flash_attention": True, "recompute": "full", "fp8": "hybrid", "sequence_parallel": False},
    },
    "balanced over tp and cp ranks, biased": {
        **{"moe_router_load_balancing_type": "aux_loss", "cp": 2, "flash_attention": True, "world_size": 16},
        **{"moe_router_enable_expert_bias": True, "recompute": "full", "first_k_dense": 1},
    },
    "balanced, biased in a fused router": {
        **{"moe_router_load_balancing_type": "aux_loss", "moe_router_fusion": True},
        **{"moe_router_enable_expert_bias": True, "mtp_num_layers": 1},
    },
    "balanced over global batches, recomputed, sharded": FSDP
    | {
        **{"moe_router_load_balancing_type": "global_aux_loss", "recompute": "selective", "tp": 1, "etp": 1},
        **{"recompute_modules": "moe", "moe_router_enable_expert_bias": True},
    },
    "sharded, mtp": FSDP
    | {"num_shared_experts": 1, "mtp_num_layers": 1, "pp": 1, "ep": 4, "recompute": "full"},
    "sharded over cp, interleaved, latent attention": MLA
    | FSDP
    | {"cp": 2, "flash_attention": True, "virtual_pipeline": 2, "q_lora_rank": 48, "first_k_dense": 1}
    | {"grad_reduce_in_fp32": True},
    "gradients sharded, untied": FSDP
    | {
        **{"data_parallel_sharding_strategy": "optim_grads", "tied_embeddings": False},
        **{"grad_reduce_in_fp32": False, "overlap_grad_reduce": True, "overlap_param_gather": True},
    },
    "states sharded by Megatron-FSDP": FSDP
    | {"data_parallel_sharding_strategy": "optim", "qk_layernorm": True},
    "dense, sharded, norms": DENSE | FSDP | {"qk_layernorm": True, "recompute": "selective", "pp": 1},
    "sharded, no ep, four stages": FSDP | {"ep": 1, "pp": 4, "world_size": 32, "dtype": "fp16"},
    "balanced by sequence": {
        **{"moe_router_load_balancing_type": "seq_aux_loss", "micro_batch_size": 2, "recompute": "full"},
    },
}
"""Workloads that differ in every key of a model; each is legal."""
