"""The numbers of test_hand_worked.py: workloads, and every op of theirs worked out by hand.

The main example is gpt_13B on 1024 GPUs, tp 16, pp 2, ep 16, and its dense twin: b 1, s 4096, h 5120,
f 20480, padded vocabulary 51200 (25 x 128 x 16), 16 experts, top-2. So dp = 1024/(16 x 2) = 32,
edp = 32/16 = 2, 2048/(1 x 32) = 64 micro-batches, and one whole activation is
T = 2 x 4096 x 5120 = 41,943,040 bytes.
A row is written as (op,) if it is memory-bound, (op, kind, m, n, k, groups, flops) if it multiplies and
(op, collective, group kind, group size, comm bytes, wire bytes) if it communicates.
"""

from __future__ import annotations

from typing import Any

Brief = tuple[str | int, ...]

GPT_13B_MOE: dict[str, Any] = {
    "workload": "gpt_13B-ws1024-tp16-pp2-ep16-gbs2048-mbs1-seq4096-moe",
    "kind": "moe",
    "twin": "gpt_13B-ws1024-tp16-pp2-ep1-gbs2048-mbs1-seq4096-dense",
    "listed": 1,
    "model": "gpt_13B",
    "world_size": 1024,
    "tp": 16,
    "pp": 2,
    "cp": 1,
    "ep": 16,
    "etp": 16,
    "dp": 32,
    "edp": 2,
    "micro_batch_size": 1,
    "global_batch_size": 2048,
    "seq_length": 4096,
    "num_microbatches": 64,
    "num_layers": 40,
    "hidden_size": 5120,
    "ffn_hidden_size": 20480,
    "num_attention_heads": 40,
    "num_query_groups": 40,
    "head_dim": 128,
    "vocab_size": 50257,
    "padded_vocab_size": 51200,
    "gated_mlp": False,
    "bias_activation_fusion": False,
    "add_qkv_bias": False,
    "add_bias_linear": False,
    "qk_layernorm": False,
    "qk_layernorm_across_heads": False,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "normalization": "layernorm",
    "position_embedding": "learned",
    "tied_embeddings": True,
    "num_experts": 16,
    "moe_router_topk": 2,
    "moe_router_num_groups": 0,
    "moe_router_group_topk": 0,
    "moe_router_enable_expert_bias": False,
    "moe_ffn_hidden_size": 20480,
    "num_shared_experts": 0,
    "first_k_dense": 0,
    "moe_layer_freq": "1",
    "moe_shared_expert_gate": False,
    "mtp_num_layers": 0,
    "attention": "mha",
    "q_lora_rank": 0,
    "kv_lora_rank": 0,
    "qk_nope_head_dim": 0,
    "qk_rope_head_dim": 0,
    "v_head_dim": 0,
    "window_size": "none",
    "window_attn_skip_freq": "none",
    "window_keys": 0,
    "grad_reduce_in_fp32": True,
    "use_precision_aware_optimizer": False,
    "fine_grained_activation_offloading": False,
    "offload_modules": "none",
    "min_offloaded_tensor_size": 1 << 20,
    "optimizer_cpu_offload": False,
    "optimizer_offload_fraction": 1.0,
    "exp_avg_dtype": "fp32",
    "exp_avg_sq_dtype": "fp32",
    "use_megatron_fsdp": False,
    "data_parallel_sharding_strategy": "optim_grads_params",
    "fp8": "none",
    "fp8_recipe": "delayed",
    "fp8_param_gather": False,
    "moe_shared_expert_overlap": False,
    "overlap_moe_expert_parallel_comm": False,
    "delay_wgrad_compute": False,
    "overlap_p2p_comm": False,
    "microbatch_group_size_per_vp_stage": 2,
    "tp_comm_overlap": False,
    "overlap_grad_reduce": False,
    "overlap_param_gather": False,
    "num_layers_in_first_pipeline_stage": 0,
    "num_layers_in_last_pipeline_stage": 0,
    "account_for_embedding_in_pipeline_split": False,
    "account_for_loss_in_pipeline_split": False,
    "pipeline_model_parallel_layout": "none",
    "softmax_type": "vanilla",
    # 40 layers: attention 4 x 5120^2, norms 4 x 5120, router 16 x 5120, experts of 2 x 5120 x 20480; then the
    # table 50257 x 5120, positions 4096 x 5120, the final norm 2 x 5120. A token passes 2 of 16 experts.
    "parameters": 138_694_425_600,
    "active_parameters": 21_253_913_600,
    "mtp_parameters": 0,
    "virtual_pipeline": 1,
    "cp_comm_type": "p2p",
    "hierarchical_context_parallel_sizes": "none",
    "cp_a2a": 1,
    "moe_token_dispatcher_type": "alltoall",
    "moe_flex_dispatcher_backend": "deepep",
    "moe_flex_dispatcher_num_sms": 0,
    "moe_router_load_balancing_type": "none",
    "moe_expert_capacity_factor": 0.0,
    "moe_pad_expert_input_to_capacity": False,
    "sequence_parallel": True,
    "recompute": "none",
    "recompute_modules": "core_attn",
    "recompute_method": "uniform",
    "recompute_num_layers": 1,
    "flash_attention": False,
    "distributed_optimizer": True,
    "dtype": "bf16",
    "moe_router_dtype": "none",
    "moe_router_fusion": False,
    "moe_permute_fusion": False,
    "cross_entropy_loss_fusion": False,
    "cross_entropy_fusion_impl": "native",
    "framework": "megatron-core",
    "cuda_graph_impl": "none",
    "cuda_graph_scope": "layer",
    "blocking_launches": False,
    "deterministic_mode": False,
    "use_tp_pp_dp_mapping": False,
    "routing": "balanced",
}
DENSE_CHANGES: dict[str, Any] = {
    "kind": "dense",
    "twin": None,
    "listed": 0,
    "ep": 1,
    "num_experts": 0,
    "moe_router_topk": 0,
    "moe_ffn_hidden_size": 0,
    "parameters": 12_862_028_800,
    "active_parameters": 12_862_028_800,
}
GPT_13B_DENSE = GPT_13B_MOE | DENSE_CHANGES | {"workload": GPT_13B_MOE["twin"], "edp": 32}

# b 2, s 32, h 64, f 256: T = 2 x 2 x 32 x 64 = 8192 bytes; dp = 16/(2 x 2) = 4, ep 4 within it, edp 1.
SMALL_MOE = GPT_13B_MOE | {
    "workload": "small-moe",
    "world_size": 16,
    "tp": 2,
    "etp": 2,
    "ep": 4,
    "dp": 4,
    "edp": 1,
    "micro_batch_size": 2,
    "global_batch_size": 64,
    "seq_length": 32,
    "num_microbatches": 8,
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 256,
    "moe_ffn_hidden_size": 256,
    "num_attention_heads": 8,
    "num_query_groups": 8,
    "head_dim": 8,
    "vocab_size": 1000,
    "padded_vocab_size": 1024,
    "num_experts": 8,
}
SMALL_DENSE = SMALL_MOE | DENSE_CHANGES | {"workload": "small-dense", "edp": 4}

# wire 15/16 T = 39,321,600
ATTENTION_FORWARD: list[Brief] = [
    ("attention_norm",),
    ("attention_gather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    # n = (5120 + 2 x 5120)/16 = 960
    ("qkv", "gemm", 4096, 960, 5120, 1, 40_265_318_400),
    # k = 5120/16 = 320; 4 x 4096^2 x 320
    ("core_attention", "attention", 4096, 4096, 320, 1, 21_474_836_480),
    ("attention_output", "gemm", 4096, 5120, 320, 1, 13_421_772_800),
    ("attention_scatter", "reduce_scatter", "tp", 16, 41_943_040, 39_321_600),
    ("attention_residual",),
]
ATTENTION_BACKWARD: list[Brief] = [
    ("attention_residual",),
    ("attention_scatter", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    # [4096, 5120] gradient times [5120, 320]; [5120, 4096] gradient times [4096, 320] input
    ("attention_output_dgrad", "gemm", 4096, 320, 5120, 1, 13_421_772_800),
    ("attention_output_wgrad", "gemm", 5120, 320, 4096, 1, 13_421_772_800),
    # four products where the forward has two
    ("core_attention", "attention", 4096, 4096, 320, 1, 42_949_672_960),
    ("attention_regather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    ("qkv_dgrad", "gemm", 4096, 5120, 960, 1, 40_265_318_400),
    ("attention_gather", "reduce_scatter", "tp", 16, 41_943_040, 39_321_600),
    ("qkv_wgrad", "gemm", 960, 5120, 4096, 1, 40_265_318_400),
    ("attention_norm",),
]
MOE_FORWARD: list[Brief] = [
    *ATTENTION_FORWARD,
    ("mlp_norm",),
    # 4096/16 = 256 own tokens; 2 x 256 x 16 x 5120
    ("router", "gemm", 256, 16, 5120, 1, 41_943_040),
    ("router_topk",),
    # 256 ranks of 16 int64: 8 x 16 x 256 = 32,768; wire 255/256
    ("token_counts", "all_gather", "tp_ep", 256, 32_768, 32_640),
    ("permute",),
    # 2 x 256 rows of 10,240 bytes; wire 15/16
    ("moe_dispatch", "all_to_all", "ep", 16, 5_242_880, 4_915_200),
    # 16 such pieces = 2 T
    ("expert_gather", "all_gather", "etp", 16, 83_886_080, 78_643_200),
    # one expert here, so nothing to sort; 2 x 4096 rows, 20480/16 = 1280; 2 x 8192 x 1280 x 5120
    ("expert_fc1", "grouped_gemm", 8192, 1280, 5120, 1, 107_374_182_400),
    ("expert_activation",),
    ("expert_fc2", "grouped_gemm", 8192, 5120, 1280, 1, 107_374_182_400),
    ("expert_scatter", "reduce_scatter", "etp", 16, 83_886_080, 78_643_200),
    ("moe_combine", "all_to_all", "ep", 16, 5_242_880, 4_915_200),
    ("unpermute",),
    ("mlp_residual",),
]
MOE_BACKWARD: list[Brief] = [
    ("mlp_residual",),
    ("unpermute",),
    ("moe_combine", "all_to_all", "ep", 16, 5_242_880, 4_915_200),
    ("expert_scatter", "all_gather", "etp", 16, 83_886_080, 78_643_200),
    ("expert_fc2_dgrad", "grouped_gemm", 8192, 1280, 5120, 1, 107_374_182_400),
    ("expert_fc2_wgrad", "grouped_gemm", 5120, 1280, 8192, 1, 107_374_182_400),
    ("expert_activation",),
    ("expert_fc1_dgrad", "grouped_gemm", 8192, 5120, 1280, 1, 107_374_182_400),
    ("expert_fc1_wgrad", "grouped_gemm", 1280, 5120, 8192, 1, 107_374_182_400),
    ("expert_gather", "reduce_scatter", "etp", 16, 83_886_080, 78_643_200),
    ("moe_dispatch", "all_to_all", "ep", 16, 5_242_880, 4_915_200),
    ("permute",),
    ("router_topk",),
    ("router_dgrad", "gemm", 256, 5120, 16, 1, 41_943_040),
    ("router_wgrad", "gemm", 16, 5120, 256, 1, 41_943_040),
    ("mlp_norm",),
    *ATTENTION_BACKWARD,
]
DENSE_FORWARD: list[Brief] = [
    *ATTENTION_FORWARD,
    ("mlp_norm",),
    ("mlp_gather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    # 2 x 4096 x 1280 x 5120
    ("fc1", "gemm", 4096, 1280, 5120, 1, 53_687_091_200),
    ("activation",),
    ("fc2", "gemm", 4096, 5120, 1280, 1, 53_687_091_200),
    ("mlp_scatter", "reduce_scatter", "tp", 16, 41_943_040, 39_321_600),
    ("mlp_residual",),
]
DENSE_BACKWARD: list[Brief] = [
    ("mlp_residual",),
    ("mlp_scatter", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    ("fc2_dgrad", "gemm", 4096, 1280, 5120, 1, 53_687_091_200),
    ("fc2_wgrad", "gemm", 5120, 1280, 4096, 1, 53_687_091_200),
    ("activation",),
    ("mlp_regather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    ("fc1_dgrad", "gemm", 4096, 5120, 1280, 1, 53_687_091_200),
    ("mlp_gather", "reduce_scatter", "tp", 16, 41_943_040, 39_321_600),
    ("fc1_wgrad", "gemm", 1280, 5120, 4096, 1, 53_687_091_200),
    ("mlp_norm",),
    *ATTENTION_BACKWARD,
]
FIRST_STAGE_FORWARD: list[Brief] = [
    ("embedding_lookup",),
    # learned positions are added to whole sequences: all_reduce, wire 2 x 15/16 T
    ("embedding_reduce", "all_reduce", "tp", 16, 41_943_040, 78_643_200),
    ("embedding_dropout",),
    # T/16 to the next stage, whole
    ("send_forward", "send", "pp", 2, 2_621_440, 2_621_440),
]
FIRST_STAGE_BACKWARD: list[Brief] = [
    ("recv_backward", "recv", "pp", 2, 2_621_440, 0),
    ("embedding_dropout",),
    ("embedding_gather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    ("embedding_lookup",),
]
LAST_STAGE_FORWARD: list[Brief] = [
    ("recv_forward", "recv", "pp", 2, 2_621_440, 0),
    ("final_norm",),
    ("head_gather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    # 51200/16 = 3200; 2 x 4096 x 3200 x 5120
    ("logits", "gemm", 4096, 3200, 5120, 1, 134_217_728_000),
    # an fp32 per token: 4 x 4096 = 16,384; wire 2 x 15/16
    ("cross_entropy_max", "all_reduce", "tp", 16, 16_384, 30_720),
    ("cross_entropy_target", "all_reduce", "tp", 16, 16_384, 30_720),
    ("cross_entropy_sum", "all_reduce", "tp", 16, 16_384, 30_720),
    ("cross_entropy",),
]
LAST_STAGE_BACKWARD: list[Brief] = [
    ("cross_entropy",),
    ("head_regather", "all_gather", "tp", 16, 41_943_040, 39_321_600),
    ("logits_dgrad", "gemm", 4096, 5120, 3200, 1, 134_217_728_000),
    ("head_gather", "reduce_scatter", "tp", 16, 41_943_040, 39_321_600),
    ("logits_wgrad", "gemm", 3200, 5120, 4096, 1, 134_217_728_000),
    ("final_norm",),
    ("send_backward", "send", "pp", 2, 2_621_440, 2_621_440),
]

# A layer without experts: attention 4 x 5120^2/16 = 6,553,600, norms 4 x 5120 = 20,480, router 16 x 5120 =
# 81,920. 20 layers: 133,120,000. Stage 0 adds the table 3200 x 5120 = 16,384,000 and the positions
# 4096 x 5120 = 20,971,520: P_dense = 170,475,520. Stage 1 adds the final norm 10,240 and the tied copy:
# 149,514,240.
# Experts: 20 layers of 2 x 5120 x 20480/16 = 13,107,200: P_expert = 262,144,000.
MOE_OPTIMIZER: list[list[Brief]] = [
    [
        # 4 P_dense, wire 31/32; 4 P_expert, wire 1/2
        ("grad_reduce_dense", "reduce_scatter", "dp", 32, 681_902_080, 660_592_640),
        ("grad_reduce_expert", "reduce_scatter", "edp", 2, 1_048_576_000, 524_288_000),
        # 4 x 20 x (20,480 + 81,920); not the positions, whose gradient every tp rank has in full
        ("norm_grad_reduce", "all_reduce", "tp", 16, 8_192_000, 15_360_000),
        # 4 x 16,384,000 between two
        ("embedding_grad_reduce", "all_reduce", "embedding", 2, 65_536_000, 65_536_000),
        # 2 x 1023 x 4/1024 = 7.99
        ("grad_norm", "all_reduce", "world", 1024, 4, 7),
        # 170,475,520/32 + 262,144,000/2 = 5,327,360 + 131,072,000; held 170,475,520 + 262,144,000
        ("adam", "optimizer", 432_619_520, 136_399_360, 0, 0, 0),
        ("param_gather_dense", "all_gather", "dp", 32, 340_951_040, 330_296_320),
        ("param_gather_expert", "all_gather", "edp", 2, 524_288_000, 262_144_000),
    ],
    [
        ("grad_reduce_dense", "reduce_scatter", "dp", 32, 598_056_960, 579_367_680),
        ("grad_reduce_expert", "reduce_scatter", "edp", 2, 1_048_576_000, 524_288_000),
        # the final norm's 10,240 as well
        ("norm_grad_reduce", "all_reduce", "tp", 16, 8_232_960, 15_436_800),
        ("embedding_grad_reduce", "all_reduce", "embedding", 2, 65_536_000, 65_536_000),
        ("grad_norm", "all_reduce", "world", 1024, 4, 7),
        # 4,672,320 + 131,072,000; held 149,514,240 + 262,144,000
        ("adam", "optimizer", 411_658_240, 135_744_320, 0, 0, 0),
        ("param_gather_dense", "all_gather", "dp", 32, 299_028_480, 289_683_840),
        ("param_gather_expert", "all_gather", "edp", 2, 524_288_000, 262_144_000),
    ],
]
# A dense layer: 6,553,600 + 20,480 + 13,107,200 = 19,681,280; 20 of them and the 37,355,520 of the first
# stage: 430,981,120; with the 16,394,240 of the last stage: 410,019,840.
DENSE_OPTIMIZER: list[list[Brief]] = [
    [
        ("grad_reduce_dense", "reduce_scatter", "dp", 32, 1_723_924_480, 1_670_051_840),
        # 4 x 20 x 20,480
        ("norm_grad_reduce", "all_reduce", "tp", 16, 1_638_400, 3_072_000),
        ("embedding_grad_reduce", "all_reduce", "embedding", 2, 65_536_000, 65_536_000),
        ("grad_norm", "all_reduce", "world", 1024, 4, 7),
        ("adam", "optimizer", 430_981_120, 13_468_160, 0, 0, 0),
        ("param_gather_dense", "all_gather", "dp", 32, 861_962_240, 835_025_920),
    ],
    [
        ("grad_reduce_dense", "reduce_scatter", "dp", 32, 1_640_079_360, 1_588_826_880),
        ("norm_grad_reduce", "all_reduce", "tp", 16, 1_679_360, 3_148_800),
        ("embedding_grad_reduce", "all_reduce", "embedding", 2, 65_536_000, 65_536_000),
        ("grad_norm", "all_reduce", "world", 1024, 4, 7),
        ("adam", "optimizer", 410_019_840, 12_813_120, 0, 0, 0),
        ("param_gather_dense", "all_gather", "dp", 32, 820_039_680, 794_413_440),
    ],
]

LLAMA_CHANGES: dict[str, Any] = {
    "gated_mlp": True,
    "normalization": "rmsnorm",
    "position_embedding": "rope",
    "tied_embeddings": False,
    "attention": "gqa",
    "num_query_groups": 2,
}
