"""What keys are called elsewhere, and which options of training frameworks are known but not modelled.

Megatron's configuration names are ours but for the few below; its command line spells them with hyphens.
Sources: megatron/core/transformer/transformer_config.py, megatron/training/arguments.py, and the config.json
of transformers' architectures.
"""

MEGATRON = {
    "tensor_model_parallel_size": "tp",
    "pipeline_model_parallel_size": "pp",
    "expert_model_parallel_size": "ep",
    "expert_tensor_parallel_size": "etp",
    "context_parallel_size": "cp",
    "virtual_pipeline_model_parallel_size": "virtual_pipeline",
    "num_layers_per_virtual_pipeline_stage": "virtual_pipeline",
    "num_virtual_stages_per_pipeline_rank": "virtual_pipeline",
    "num_moe_experts": "num_experts",
    "kv_channels": "head_dim",
    "qk_head_dim": "qk_nope_head_dim",
    "qk_pos_emb_head_dim": "qk_rope_head_dim",
    "moe_shared_expert_intermediate_size": "num_shared_experts",
    "recompute_granularity": "recompute",
    "use_flash_attn": "flash_attention",
    "use_distributed_optimizer": "distributed_optimizer",
    "multi_latent_attention": "attention",
    "group_query_attention": "num_query_groups",
    "padded_vocab_size": "vocab_size",
    "swiglu": "gated_mlp",
    "gated_linear_unit": "gated_mlp",
    "untie_embeddings_and_output_weights": "tied_embeddings",
    "share_embeddings_and_output_weights": "tied_embeddings",
    "microbatch_group_size_per_virtual_pipeline_stage": "microbatch_group_size_per_vp_stage",
    "decoder_first_pipeline_num_layers": "num_layers_in_first_pipeline_stage",
    "decoder_last_pipeline_num_layers": "num_layers_in_last_pipeline_stage",
    "accumulate_allreduce_grads_in_fp32": "grad_reduce_in_fp32",
    "moe_layer_recompute": "recompute_modules",
    "fp8_format": "fp8",
    "fp8_param": "fp8_param_gather",
    "use_custom_fsdp": "use_megatron_fsdp",
    "enable_cuda_graph": "cuda_graph_impl",
    "external_cuda_graph": "cuda_graph_impl",
    "moe_enable_deepep": "moe_flex_dispatcher_backend",
    "moe_deepep_num_sms": "moe_flex_dispatcher_num_sms",
    "moe_hybridep_num_sms": "moe_flex_dispatcher_num_sms",
}
"""Megatron's names of what we call otherwise; values may need another form."""

TRANSFORMERS = {
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_hidden_size",
    "num_key_value_heads": "num_query_groups",
    "moe_intermediate_size": "moe_ffn_hidden_size",
    "n_routed_experts": "num_experts",
    "num_local_experts": "num_experts",
    "num_experts_per_tok": "moe_router_topk",
    "experts_per_token": "moe_router_topk",
    "n_shared_experts": "num_shared_experts",
    "shared_expert_intermediate_size": "num_shared_experts",
    "first_k_dense_replace": "first_k_dense",
    "decoder_sparse_step": "moe_layer_freq",
    "interleave_moe_layer_step": "moe_layer_freq",
    "tie_word_embeddings": "tied_embeddings",
    "attention_bias": "add_qkv_bias",
    "sliding_window": "window_size",
    "num_nextn_predict_layers": "mtp_num_layers",
    "use_qk_norm": "qk_layernorm",
    "n_group": "moe_router_num_groups",
    "topk_group": "moe_router_group_topk",
    "hidden_act": "gated_mlp",
    "max_position_embeddings": "seq_length",
}
"""Names in config.json."""

OTHERS = {
    "num_gpus": "world_size",
    "gpus": "world_size",
    "nproc": "world_size",
    "batch_size": "global_batch_size",
    "gbs": "global_batch_size",
    "mbs": "micro_batch_size",
    "sequence_length": "seq_length",
    "seq_len": "seq_length",
    "vpp": "virtual_pipeline",
    "top_k": "moe_router_topk",
    "topk": "moe_router_topk",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_query_groups",
}
"""What else people write."""

ELSEWHERE = MEGATRON | TRANSFORMERS | OTHERS

UNMODELLED = frozenset(
    (
        *("main_grads_dtype", "fp4"),
        *(
            "first_last_layers_bf16",
            "fp8_dot_product_attention",
            "fp8_multi_head_attention",
            "fp8_output_proj",
        ),
        "use_torch_fsdp2",
        *("cpu_offloading", "activation_offload_fraction", "delta_offload_bytes_across_pp_ranks"),
        "overlap_cpu_optimizer_d2h_h2d",
        *("calculate_per_token_loss", "moe_latent_size"),
        *("no_gradient_accumulation_fusion", "distribute_saved_activations", "fp16_lm_cross_entropy"),
        *("no_fp8_wgrad", "ddp_num_buckets", "ddp_bucket_size", "overlap_param_gather_with_optimizer_step"),
        *("defer_embedding_wgrad_compute", "standalone_embedding_stage", "moe_extended_tp"),
        *("moe_router_topk_limited_devices", "mtp_use_repeated_layer", "attention_output_gate"),
        *("experimental_attention_variant", "linear_attention_type", "linear_attention_freq"),
        *("heterogeneous_layers_config_path", "heterogeneous_layers_config_encoded_json"),
    )
)
"""Options and model keys, by Megatron's names, that would move numbers and that nothing here knows yet."""
