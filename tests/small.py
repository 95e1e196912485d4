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
    "routing": "balanced",
}
DENSE = {"num_experts": 0, "moe_router_topk": 0, "ep": 1}
FSDP: dict[str, Any] = {"use_megatron_fsdp": True}
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
    "balanced over tp and cp ranks, biased": {
        **{"moe_router_load_balancing_type": "aux_loss", "cp": 2, "flash_attention": True, "world_size": 16},
        **{"moe_router_enable_expert_bias": True, "recompute": "full", "first_k_dense": 1},
    },
    "balanced, biased in a fused router": {
        **{"moe_router_load_balancing_type": "aux_loss", "moe_router_fusion": True},
        **{"moe_router_enable_expert_bias": True, "mtp_num_layers": 1},
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
