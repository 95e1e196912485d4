"""What breaks each rule: a sound workload, what to change of it, the value found and the one suggested."""

from typing import Any

from broken_activations import OF_ACTIVATIONS
from broken_sequences import MLA, OF_ORDER, OF_SEQUENCES

# 64 GPUs: dp = 64/(4*2) = 8, and 8 experts over ep 4. Nothing is wrong with it.
SOUND: dict[str, Any] = {
    **{"model": "m", "listed": 1, "world_size": 64, "tp": 4, "pp": 2, "ep": 4, "etp": 4},
    **{"micro_batch_size": 1, "global_batch_size": 64, "seq_length": 512, "num_layers": 8},
    **{"hidden_size": 1024, "ffn_hidden_size": 4096, "num_attention_heads": 16, "num_query_groups": 16},
    **{"vocab_size": 51200, "gated_mlp": False, "normalization": "layernorm", "tied_embeddings": True},
    **{"position_embedding": "learned", "num_experts": 8, "moe_router_topk": 2, "moe_ffn_hidden_size": 0},
    **{"num_shared_experts": 0, "first_k_dense": 0, "attention": "mha", "q_lora_rank": 0, "kv_lora_rank": 0},
    **{"qk_nope_head_dim": 0, "qk_rope_head_dim": 0, "v_head_dim": 0, "virtual_pipeline": 1},
    **{"sequence_parallel": True, "recompute": "none", "flash_attention": False, "dtype": "bf16"},
    **{"distributed_optimizer": True, "framework": "megatron-core", "blocking_launches": False},
    **{"deterministic_mode": False, "use_tp_pp_dp_mapping": False, "min_offloaded_tensor_size": 1 << 20},
    **{"fine_grained_activation_offloading": False, "offload_modules": "none"},
    **{"routing": "balanced", "head_dim": 64, "qk_layernorm": False, "qk_layernorm_across_heads": False},
    **{"add_qkv_bias": False, "add_bias_linear": False, "bias_activation_fusion": False},
    **{"hidden_dropout": 0.1, "attention_dropout": 0.1, "moe_shared_expert_gate": False},
    **{"moe_layer_freq": "1", "mtp_num_layers": 0, "softmax_type": "vanilla"},
    **{"window_size": "none", "window_attn_skip_freq": "none"},
    **{"num_layers_in_first_pipeline_stage": 0, "num_layers_in_last_pipeline_stage": 0},
    **{"account_for_embedding_in_pipeline_split": False, "account_for_loss_in_pipeline_split": False},
    **{"pipeline_model_parallel_layout": "none", "grad_reduce_in_fp32": True},
    **{"optimizer_cpu_offload": False, "optimizer_offload_fraction": 1.0},
    **{"use_precision_aware_optimizer": False, "exp_avg_dtype": "fp32", "exp_avg_sq_dtype": "fp32"},
    **{"fp8": "none", "fp8_recipe": "delayed", "fp8_param_gather": False},
    **{"use_megatron_fsdp": False, "data_parallel_sharding_strategy": "optim_grads_params"},
    **{"overlap_grad_reduce": False, "overlap_param_gather": False},
    **{"tp_comm_overlap": False, "moe_shared_expert_overlap": False},
    **{"overlap_moe_expert_parallel_comm": False, "delay_wgrad_compute": False},
    # Left out: it follows from virtual_pipeline.
    "overlap_p2p_comm": None,
    "microbatch_group_size_per_vp_stage": None,
    **{"cp": 1, "cp_comm_type": "p2p", "moe_token_dispatcher_type": "alltoall"},
    "hierarchical_context_parallel_sizes": "none",
    **{"moe_flex_dispatcher_backend": "deepep", "moe_flex_dispatcher_num_sms": 0},
    **{"moe_router_num_groups": 0, "moe_router_group_topk": 0, "moe_router_enable_expert_bias": False},
    "moe_router_load_balancing_type": "none",
    **{"moe_expert_capacity_factor": 0.0, "moe_pad_expert_input_to_capacity": False},
    **{"moe_router_dtype": "none", "moe_permute_fusion": False, "cross_entropy_loss_fusion": False},
    "cross_entropy_fusion_impl": "native",
    **{"moe_router_fusion": False, "cuda_graph_impl": "none", "cuda_graph_scope": "layer"},
    **{"recompute_modules": "core_attn", "recompute_method": "uniform", "recompute_num_layers": 1},
}

GROUPS, OF_GROUPS = "moe_router_num_groups", "moe_router_group_topk"
FACTOR, PADS = "moe_expert_capacity_factor", "moe_pad_expert_input_to_capacity"
BALANCING = {"moe_router_load_balancing_type": "aux_loss"}
ZIPF = "zipf(alpha=1,seed=1)"
GROUP = "microbatch_group_size_per_vp_stage"
CHUNKED = {"virtual_pipeline": 2}
FLEX = {"moe_token_dispatcher_type": "flex"}
ORDERED: dict[str, Any] = {"deterministic_mode": True}
ALONE = {"world_size": 1, "tp": 1, "pp": 1, "ep": 1, "etp": 1, "global_batch_size": 1}
BESIDE = {"overlap_grad_reduce": True, "overlap_param_gather": True}
FSDP: dict[str, Any] = {"use_megatron_fsdp": True}
STRATEGY = "data_parallel_sharding_strategy"
FP8: dict[str, Any] = {"fp8": "hybrid"}
GATHERED: dict[str, Any] = {"fp8_param_gather": True}
AWARE = {"use_precision_aware_optimizer": True}
OFFLOADED: dict[str, Any] = AWARE | {"optimizer_cpu_offload": True}
FULL: dict[str, Any] = {"recompute": "full"}
SCOPE = "cuda_graph_scope"
PAIRS: dict[str, Any] = {"overlap_moe_expert_parallel_comm": True}
GRAPHS: dict[str, Any] = {"cuda_graph_impl": "local"}
PADDED: dict[str, Any] = {FACTOR: 1.25, PADS: True}
DENSE: dict[str, Any] = {"num_experts": 0, "moe_router_topk": 0, "ep": 1}
FIRST, LAST = "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"
LOSS, LAYOUT = "account_for_loss_in_pipeline_split", "pipeline_model_parallel_layout"


def _repeating(modules: str, **changes: Any) -> dict[str, Any]:
    return {"recompute": "selective", "recompute_modules": modules, **changes}


# rule, what to change in SOUND, the offending value, the suggestion
BROKEN: list[tuple[str, dict[str, Any], str, str]] = [
    ("exchanges_beside", PAIRS | {"ep": 1}, "true", "nearest: false"),
    ("pairs_of_chunks", PAIRS | {"pp": 2}, "1", "nearest: 2"),
    ("pairs_of_microbatches", PAIRS | {"pp": 1, "global_batch_size": 16}, "true", "nearest: false"),
    ("pairs_of_full", PAIRS | {"recompute": "full"}, "full", "nearest: selective, none"),
    ("pairs_of_modules", PAIRS | _repeating("layernorm+moe"), "layernorm+moe", "nearest: layernorm"),
    ("pairs_of_modules", PAIRS | _repeating("moe"), "moe", "nearest: core_attn"),
    (
        "pairs_of_shared_experts",
        PAIRS | {"num_shared_experts": 1, "moe_shared_expert_overlap": True},
        "true",
        "nearest: false",
    ),
    ("pairs_of_prediction", PAIRS | {"mtp_num_layers": 2}, "2", "nearest: 1"),
    ("framework_of_pairs", PAIRS | {"framework": "megatron-lm"}, "megatron-lm", "nearest: megatron-core"),
    ("delay_of_pairs", {"delay_wgrad_compute": True}, "true", "nearest: false"),
    ("shared_experts_beside", {"moe_shared_expert_overlap": True}, "true", "nearest: false"),
    (
        "shared_experts_again",
        _repeating("shared_experts", num_shared_experts=1, moe_shared_expert_overlap=True),
        "true",
        "nearest: false",
    ),
    (
        "framework_of_shared_experts",
        {"framework": "megatron-lm", "num_shared_experts": 1, "moe_shared_expert_overlap": True},
        "megatron-lm",
        "nearest: megatron-core",
    ),
    ("messages_of_chunks", {"overlap_p2p_comm": True}, "true", "nearest: false"),
    (
        "messages_of_two_stages",
        {"overlap_p2p_comm": False, "pp": 2, "virtual_pipeline": 2},
        "false",
        "nearest: true",
    ),
    ("linears_of_sequences", {"tp_comm_overlap": True, "tp": 1, "etp": 1}, "true", "nearest: false"),
    (
        "framework_of_linears",
        {"framework": "megatron-lm", "tp_comm_overlap": True},
        "megatron-lm",
        "nearest: megatron-core",
    ),
    ("order_of_loss", ORDERED | {"cross_entropy_loss_fusion": True}, "true", "nearest: false"),
    ("order_of_linears", ORDERED | {"tp_comm_overlap": True}, "true", "nearest: false"),
    ("framework_of_order", ORDERED | {"framework": "megatron-lm"}, "megatron-lm", "nearest: megatron-core"),
    ("reduce_beside_passes", ALONE | {"overlap_grad_reduce": True}, "true", "nearest: false"),
    (
        "framework_of_overlap",
        {"framework": "megatron-lm", "overlap_grad_reduce": True},
        "megatron-lm",
        "nearest: megatron-core",
    ),
    ("gather_needs_shards", BESIDE | {"distributed_optimizer": False}, "true", "nearest: false"),
    ("gather_needs_reduce", BESIDE | {"overlap_grad_reduce": False}, "true", "nearest: false"),
    ("world_by_pp", {"pp": 5}, "5", "nearest: 4, 8"),
    ("world_by_tp", {"tp": 3, "etp": 3, "hidden_size": 1536, "seq_length": 510}, "3", "nearest: 2, 4"),
    *OF_SEQUENCES,
    *OF_ORDER,
    ("flex_between_ranks", FLEX | {"etp": 1, "ep": 1}, "flex", "nearest: alltoall"),
    ("flex_of_framework", FLEX | {"framework": "megatron-deepspeed"}, "flex", "nearest: alltoall"),
    ("flex_of_given_routing", FLEX | {"routing": ZIPF}, ZIPF, "nearest: balanced"),
    (
        *("shared_experts_of_flex", FLEX | {"num_shared_experts": 1, "moe_shared_expert_overlap": True}),
        *("true", "nearest: false"),
    ),
    ("backend_of_flex", {"moe_flex_dispatcher_backend": "hybridep"}, "hybridep", "nearest: deepep"),
    ("sms_of_flex", {"moe_flex_dispatcher_num_sms": 24}, "24", "leave it out"),
    ("sms_of_deepep", FLEX | {"moe_flex_dispatcher_num_sms": 23}, "23", "nearest: 22, 24"),
    ("padding_without_capacity", {PADS: True}, "true", "nearest: false"),
    ("capacity_without_padding", {FACTOR: 1.5}, "1.5", f"add {PADS}: true"),
    ("routing_of_padding", {FACTOR: 1.5, PADS: True, "routing": ZIPF}, ZIPF, "nearest: balanced"),
    ("padding_of_deepep", FLEX | {FACTOR: 1.5, PADS: True}, "true", "nearest: false"),
    ("experts_by_groups", {GROUPS: 3, OF_GROUPS: 2}, "3", "nearest: 2, 4"),
    ("groups_without_limit", {GROUPS: 4}, "4", f"add {OF_GROUPS}"),
    ("limit_without_groups", {OF_GROUPS: 1}, "1", f"add {GROUPS}"),
    ("group_topk_of_groups", {GROUPS: 4, OF_GROUPS: 5, "moe_router_topk": 6}, "5", "nearest: 3"),
    ("group_topk_of_groups", {GROUPS: 1, OF_GROUPS: 1}, "1", "leave both out"),
    ("group_topk_of_experts", {GROUPS: 8, OF_GROUPS: 3}, "3", "nearest: 2"),
    ("topk_of_groups", {GROUPS: 4, OF_GROUPS: 1, "moe_router_topk": 5}, "1", "nearest: 3"),
    ("topk_of_groups", {GROUPS: 2, OF_GROUPS: 1, "moe_router_topk": 5}, "1", "leave both out"),
    ("world_by_etp", {"etp": 3, "moe_ffn_hidden_size": 96}, "3", "nearest: 2, 4"),
    ("ep_within_dp", {"ep": 16, "num_experts": 16}, "16", "nearest: 8"),
    ("world_by_ep", {"ep": 6, "num_experts": 12}, "6", "nearest: 4"),
    ("experts_by_ep", {"ep": 8, "num_experts": 12}, "8", "nearest: 4"),
    ("dense_ep", {"ep": 4, "num_experts": 0}, "4", "nearest: 1"),
    ("topk_of_experts", {"moe_router_topk": 9}, "9", "nearest: 8"),
    ("topk_of_experts", {"moe_router_topk": 0}, "0", "nearest: 1"),
    ("global_batch", {"global_batch_size": 60}, "60", "nearest: 56, 64"),
    ("global_batch", {"global_batch_size": 7}, "7", "nearest: 8"),
    ("sequence_by_tp", {"seq_length": 510}, "510", "nearest: 508, 512"),
    ("moe_needs_sequence_parallel", {"sequence_parallel": False}, "false", "nearest: true"),
    ("hidden_by_tp", {"hidden_size": 1008, "tp": 32, "etp": 1}, "32", "nearest: 16"),
    (
        "hidden_by_heads",
        {"num_attention_heads": 24, "num_query_groups": 24, "head_dim": None},
        "24",
        "nearest: 16, 32",
    ),
    ("heads_by_groups", {"num_query_groups": 12}, "12", "nearest: 8, 16"),
    ("attention_by_groups", {"num_query_groups": 8}, "mha", "nearest: gqa"),
    ("attention_by_groups", {"attention": "gqa"}, "gqa", "nearest: mha"),
    # 18 heads of 3 are 54, which 4 ranks gather; 3 key heads of 2 are 6, which they cut
    ("keys_by_tp", {"num_query_groups": 1, "head_dim": 3}, "4", "nearest: 1"),
    ("keys_by_tp", {"num_query_groups": 3, "num_attention_heads": 12, "head_dim": 2}, "4", "nearest: 2"),
    (
        "ffn_by_tp",
        {"ffn_hidden_size": 4098, "moe_ffn_hidden_size": 4, "moe_layer_freq": "2"},
        "4",
        "nearest: 2",
    ),
    ("ffn_by_tp", {"ffn_hidden_size": 4098, "moe_ffn_hidden_size": 4, "first_k_dense": 1}, "4", "nearest: 2"),
    ("expert_ffn_by_tp", {"moe_ffn_hidden_size": 6}, "4", "nearest: 2"),
    ("expert_ffn_by_etp", {"moe_ffn_hidden_size": 6, "etp": 8}, "8", "nearest: 2"),
    ("shared_ffn_by_tp", {"num_shared_experts": 1, "moe_ffn_hidden_size": 6, "etp": 1}, "4", "nearest: 2"),
    ("keys_of_mla", {"v_head_dim": 128}, "mha", "nearest: mla"),
    ("head_dim_of_mla", MLA | {"head_dim": 64}, "64", "leave it out"),
    ("qkv_bias_of_mla", MLA | {"add_qkv_bias": True}, "true", "nearest: false"),
    ("norms_across_heads", {"qk_layernorm_across_heads": True}, "true", "nearest: false"),
    (
        "norms_across_heads",
        MLA | {"qk_layernorm": True, "qk_layernorm_across_heads": True},
        "true",
        "nearest: false",
    ),
    ("bias_by_etp", {"add_bias_linear": True}, "true", "nearest: false"),
    (
        "bias_of_shared_experts",
        {"add_bias_linear": True, "etp": 1, "num_shared_experts": 1},
        "true",
        "nearest: false",
    ),
    ("gate_of_shared_experts", {"moe_shared_expert_gate": True}, "true", "nearest: false"),
    ("fusion_of_gelu", {"bias_activation_fusion": True}, "true", "nearest: false"),
    ("experts_said_twice", {"first_k_dense": 1, "moe_layer_freq": "2"}, "1", "nearest: 0"),
    ("moe_layers_by_layers", {"moe_layer_freq": "[0,1,1]"}, "[0,1,1]", "nearest: 1"),
    ("no_moe_layer", {"moe_layer_freq": "[0,0,0,0,0,0,0,0]"}, "[0,0,0,0,0,0,0,0]", "nearest: 1"),
    ("window_ahead", {"window_size": "[127,1]"}, "[127,1]", "nearest: [127,0]"),
    ("window_of_mla", MLA | {"window_size": "[127,0]"}, "[127,0]", "leave it out"),
    ("window_of_prediction", {"window_size": "[127,0]", "mtp_num_layers": 1}, "[127,0]", "leave one of them"),
    (
        "windows_by_layers",
        {"window_size": "[127,0]", "window_attn_skip_freq": "[1,0]"},
        "[1,0]",
        "leave it out",
    ),
    ("skips_without_window", {"window_attn_skip_freq": "2"}, "2", "leave it out"),
    ("sinks_of_mla", MLA | {"softmax_type": "learnable"}, "learnable", "nearest: vanilla"),
    ("layer_per_stage", {"pp": 16, "ep": 1}, "16", "nearest: 8"),
    ("dense_layers", {"first_k_dense": 9}, "9", "nearest: 7"),
    ("dense_layers", {"first_k_dense": 8}, "8", "nearest: 7"),
    (
        "no_windowed_layer",
        {"window_size": "[127,0]", "window_attn_skip_freq": "[0,0,0,0,0,0,0,0]"},
        "[0,0,0,0,0,0,0,0]",
        "leave it and window_size out",
    ),
    (
        "positions_of_prediction",
        {"mtp_num_layers": 1, "position_embedding": "learned"},
        "learned",
        "nearest: rope",
    ),
    ("interleaving_needs_stages", {"virtual_pipeline": 2, "pp": 1}, "2", "nearest: 1"),
    ("interleaving_by_layers", {"virtual_pipeline": 3}, "3", "nearest: 2, 4"),
    (
        "interleaving_by_microbatches",
        {"virtual_pipeline": 2, "global_batch_size": 24},
        "24",
        "nearest: 16, 32",
    ),
    ("group_of_chunks", {GROUP: 4}, "4", "leave it out"),
    ("group_of_stages", CHUNKED | {GROUP: 1}, "1", "nearest: 2"),
    ("group_of_microbatches", CHUNKED | {GROUP: 9, "global_batch_size": 40}, "9", "nearest: 5"),
    (
        "group_of_microbatches",
        CHUNKED | {GROUP: 9, "global_batch_size": 8},
        *("9", "a global_batch_size of at least 16"),
    ),
    ("last_group", CHUNKED | {GROUP: 4, "global_batch_size": 40}, "4", "nearest: 3, 5"),
    ("mla_widths", {"attention": "mla"}, "mla", ""),
    ("countable", {"seq_length": 2**24, "micro_batch_size": 64, "hidden_size": 2**14}, str(2**24), "use a"),
    ("heads_by_tp", {"num_attention_heads": 2, "num_query_groups": 2}, "4", "nearest: 2"),
    # tp 4 over 2 or 1 query groups gathers; over 3 of 12 heads it cuts them
    ("groups_by_tp", {"num_query_groups": 3, "num_attention_heads": 12}, "4", "nearest: 1"),
    ("layers_by_pp", {"num_layers": 7}, "2", "nearest: 1"),
    ("modules_of_selective", {"recompute_modules": "moe"}, "moe", "nearest: core_attn"),
    ("modules_of_selective", {"recompute": "full", "recompute_modules": "moe"}, "moe", "nearest: core_attn"),
    # experts in every layer: no dense MLP; no mla, no shared experts
    ("modules_of_model", _repeating("mlp"), "mlp", "nearest: core_attn"),
    ("modules_of_model", _repeating("mla_up_proj+moe"), "mla_up_proj+moe", "nearest: moe"),
    ("scope_of_graphs", {SCOPE: "attn"}, "attn", "nearest: layer"),
    ("scope_of_model", GRAPHS | {SCOPE: "attn+mlp"}, "attn+mlp", "nearest: attn"),
    ("scope_of_model", GRAPHS | DENSE | {SCOPE: "mlp+moe_router"}, "mlp+moe_router", "nearest: mlp"),
    (
        "scope_within_moe",
        GRAPHS | PADDED | {SCOPE: "attn+moe+moe_router"},
        "attn+moe+moe_router",
        "nearest: attn+moe",
    ),
    (
        "scope_before_exchange",
        GRAPHS | {SCOPE: "attn+moe_preprocess"},
        "attn+moe_preprocess",
        "nearest: attn+moe_router",
    ),
    ("graphs_of_routed_rows", GRAPHS, "layer", "nearest: attn"),
    ("graphs_of_routed_rows", GRAPHS | {SCOPE: "moe", "first_k_dense": 2}, "moe", "nearest: attn+mlp"),
    ("graphs_of_full", GRAPHS | FULL | {SCOPE: "attn"}, "local", "nearest: none"),
    ("graphs_of_modules", GRAPHS | _repeating("moe") | {SCOPE: "moe_router"}, "local", "nearest: none"),
    (
        "graphs_of_framework",
        GRAPHS | {SCOPE: "attn", "framework": "megatron-lm"},
        "local",
        "nearest: none",
    ),
    (
        "modules_of_model",
        _repeating("layernorm+shared_experts"),
        "layernorm+shared_experts",
        "nearest: layernorm",
    ),
    # without experts and mla attention no norm is a module of its own
    (
        "modules_of_model",
        _repeating("layernorm+mlp", num_experts=0, ep=1),
        "layernorm+mlp",
        "nearest: mlp",
    ),
    ("modules_of_model", _repeating("moe+moe_act", num_experts=0, ep=1), "moe+moe_act", "nearest: core_attn"),
    ("modules_within_moe", _repeating("moe_act+moe"), "moe_act+moe", "nearest: moe"),
    (
        "modules_within_moe",
        _repeating("core_attn+moe+shared_experts", num_shared_experts=1),
        "core_attn+moe+shared_experts",
        "nearest: core_attn+moe",
    ),
    (
        "fusion_of_fp64",
        {"moe_router_fusion": True, "moe_router_dtype": "fp64"},
        *("true", "nearest: false"),
    ),
    ("fusion_of_loss", {"cross_entropy_fusion_impl": "te"}, "te", "nearest: native"),
    ("layers_of_full", {"recompute_num_layers": 2}, "2", "leave both out"),
    ("layers_of_full", {"recompute": "selective", "recompute_method": "block"}, "1", "leave both out"),
    # 8 layers on 2 stages
    ("layers_of_chunk", FULL | {"recompute_num_layers": 5}, "5", "nearest: 4"),
    ("layers_of_chunk", FULL | {"recompute_num_layers": 3, "virtual_pipeline": 2}, "3", "nearest: 2"),
    ("layers_of_prediction", FULL | {"recompute_num_layers": 2, "mtp_num_layers": 1}, "2", "nearest: 1"),
    ("precision_needs_shards", AWARE | {"distributed_optimizer": False}, "true", "nearest: false"),
    ("precision_of_fp16", AWARE | {"dtype": "fp16"}, "true", "nearest: false"),
    ("precision_of_moments", {"exp_avg_dtype": "bf16"}, "false", "nearest: true"),
    ("offload_is_aware", {"optimizer_cpu_offload": True}, "true", "nearest: false"),
    ("moments_of_offload", OFFLOADED | {"exp_avg_dtype": "bf16"}, "bf16", "leave both out"),
    ("offload_of_fp8_parameters", OFFLOADED | FP8 | GATHERED, "true", "nearest: false"),
    ("fraction_of_offload", {"optimizer_offload_fraction": 0.5}, "0.5", "nearest: 1"),
    *OF_ACTIVATIONS,
    ("recipe_of_fp8", {"fp8_recipe": "mxfp8"}, "mxfp8", "nearest: delayed"),
    ("gather_of_fp8", GATHERED, "true", "nearest: false"),
    ("fp8_gather_needs_shards", FP8 | GATHERED | {"distributed_optimizer": False}, "true", "nearest: false"),
    ("delayed_of_modules", FP8 | _repeating("moe_act"), "delayed", "nearest: tensorwise"),
    ("delayed_of_modules", FP8 | _repeating("core_attn+layernorm"), "delayed", "nearest: tensorwise"),
    ("fp8_of_fp16", FP8 | {"dtype": "fp16"}, "fp16", "nearest: bf16"),
    ("framework_of_fp8", FP8 | {"framework": "megatron-lm"}, "megatron-lm", "nearest: megatron-core"),
    ("strategy_of_fsdp", {STRATEGY: "optim"}, "optim", "nearest: optim_grads_params"),
    ("fsdp_alone", FSDP | ALONE, "true", "nearest: false"),
    ("fsdp_needs_shards", FSDP | {"distributed_optimizer": False}, "false", "nearest: true"),
    ("framework_of_fsdp", FSDP | {"framework": "megatron-lm"}, "megatron-lm", "nearest: megatron-core"),
    ("fsdp_of_precision", FSDP | AWARE | {STRATEGY: "optim"}, "true", "nearest: false"),
    ("fsdp_of_fp8", FSDP | FP8, "hybrid", "nearest: none"),
    ("fsdp_of_graphs", FSDP | {"cuda_graph_impl": "local"}, "local", "nearest: none"),
    ("fsdp_of_pairs", FSDP | PAIRS, "true", "nearest: false"),
    ("fsdp_of_prediction", FSDP | {"mtp_num_layers": 1}, "1", "nearest: 0"),
    ("fsdp_of_layers_together", FSDP | FULL | {"recompute_num_layers": 2}, "2", "nearest: 1"),
    ("placement_needs_stages", {"pp": 1, FIRST: 3}, "1", "leave them out"),
    ("placed_twice", {FIRST: 3, LOSS: True, "num_layers": 7}, "none", "leave all but one out"),
    # 8 layers less 3 are 5 for 3 stages
    ("first_stage", {FIRST: 3, "pp": 4}, "3", "nearest: 2, 5"),
    ("first_stage", {FIRST: 9}, "9", "nearest: 7"),
    ("first_stage", {FIRST: 3, LAST: 4}, "3", "nearest: 4"),
    ("last_stage", {LAST: 3, "virtual_pipeline": 2}, "3", "nearest: 2, 4"),
    ("accounted_layers", {LOSS: True}, "2", "nearest: 1"),
    ("layout", {LAYOUT: "Ettt|tttt"}, "Ettt|tttt", "7 t, num_layers is 8; one L ends the last part"),
    ("layout", {LAYOUT: "E(tt|)*4L"}, "E(tt|)*4L", "5 parts, pp * virtual_pipeline are 2"),
    ("layout", {LAYOUT: "tEttt|tttt,mL"}, "tEttt|tttt,mL", "1 m, mtp_num_layers is 0; one E begins"),
    ("layout", {LAYOUT: "Etttt|tttt*99L"}, "Etttt|tttt*99L", "106 t, num_layers is 8"),
    ("layout", {LAYOUT: "Et*999999|L"}, "Et*999999|L", "needed: more than 262144 letters"),
    ("layout", {LAYOUT: "Et*4|(t*4L"}, "Et*4|(t*4L", "needed: letters E, t, m, L"),
    (
        "layout",
        {LAYOUT: "Ettttm|ttttL", "mtp_num_layers": 1},
        "Ettttm|ttttL",
        "no t stands behind m; m stands in the last part of its stage, which is not the first one",
    ),
    (
        "layout",
        {LAYOUT: "Ettt|tttttm|*1L", "pp": 3, "mtp_num_layers": 1, "world_size": 24},
        "Ettt|tttttm|*1L",
        "behind m each | is written out",
    ),
    (
        "layout",
        {LAYOUT: "Ett|tt|m|ttt|tm|L", "pp": 3, "virtual_pipeline": 2, "mtp_num_layers": 2, "world_size": 24},
        "Ett|tt|m|ttt|tm|L",
        "all m stand in one part; no t stands behind m; m stands in the last part of its stage, which is not "
        "the first one; several m before the last part are not modelled; m before the last part beside tied",
    ),
    ("tp_within_node", {"tp": 16, "etp": 1}, "16", "nearest: 8"),
    # 4 layers a stage, experts of 2 * 2^15 * 2^17 * 8/(4 * 4) = 2^32 parameters, attention 4 * 2^30 / 4, so
    # 2^34 and 2^32. dp 8, edp 2: 6 * 5 + 12 * (1/8 + 4/2) = 55.5 times 4 GiB = 222; 8 * 222 / 80 = 22.2.
    (
        "memory",
        {"hidden_size": 2**15, "head_dim": 2**11, "ffn_hidden_size": 2**17},
        "2",
        "pp * tp of about 23 would",
    ),
    ("vocabulary_padding", {"vocab_size": 900, "tp": 8, "etp": 1}, "8", "vocab_size 1024"),
]
