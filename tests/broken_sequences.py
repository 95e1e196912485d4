"""What breaks each rule of cp ranks and of ranks' order: what to change, the value found, the suggestion."""

from typing import Any

MLA: dict[str, Any] = {
    **{"attention": "mla", "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16},
    **{"v_head_dim": 32, "head_dim": 0},
}
SHARED: dict[str, Any] = {"cp": 2, "flash_attention": True}
STEPS = "hierarchical_context_parallel_sizes"
IN_STEPS = {"cp_comm_type": "a2a+p2p", STEPS: "[2,1]"}

OF_SEQUENCES: list[tuple[str, dict[str, Any], str, str]] = [
    ("world_by_cp", SHARED | {"cp": 3, "seq_length": 768}, "3", "nearest: 2, 4"),
    ("sequence_by_cp", SHARED | {"tp": 1, "etp": 1, "cp": 4, "seq_length": 500}, "500", "nearest: 496, 504"),
    ("sequence_by_tp_and_cp", SHARED | {"cp": 4, "seq_length": 520}, "520", "nearest: 512, 528"),
    ("comm_type_of_cp", {"cp_comm_type": "a2a"}, "a2a", "nearest: p2p"),
    ("heads_by_cp", SHARED | {"cp": 8, "cp_comm_type": "a2a"}, "8", "nearest: 4"),
    ("flash_of_cp", {"cp": 2}, "false", "nearest: true"),
    ("framework_of_cp", SHARED | {"framework": "megatron-lm"}, "megatron-lm", "nearest: megatron-core"),
    ("mla_of_cp", SHARED | MLA | {"cp_comm_type": "all_gather"}, "all_gather", "nearest: p2p"),
    ("window_of_cp", SHARED | {"window_size": "[127,0]"}, "p2p", "nearest: a2a"),
    ("sinks_of_cp", SHARED | {"softmax_type": "learnable"}, "p2p", "nearest: a2a"),
    ("prediction_of_cp", SHARED | {"mtp_num_layers": 1}, "1", "nearest: 0"),
    ("steps_of_cp", SHARED | {"cp_comm_type": "a2a+p2p"}, "none", "nearest: [2,1]"),
    ("steps_of_cp", SHARED | IN_STEPS | {"cp": 4, STEPS: "[4,2]"}, "[4,2]", "nearest: [4,1]"),
    ("one_step_of_cp", SHARED | {STEPS: "[2,1]"}, "p2p", "nearest: a2a+p2p"),
    ("heads_by_steps_of_cp", SHARED | IN_STEPS | {"cp": 8, STEPS: "[8,1]"}, "[8,1]", "nearest: [4,2]"),
]

BESIDE: dict[str, Any] = {"use_tp_pp_dp_mapping": True, "ep": 1}

OF_ORDER: list[tuple[str, dict[str, Any], str, str]] = [
    ("order_of_one", BESIDE | {"pp": 1}, "true", "nearest: false"),
    ("order_of_one", BESIDE | {"world_size": 8}, "true", "nearest: false"),
    ("order_of_experts", BESIDE | {"ep": 4}, "true", "nearest: false"),
    ("order_of_fsdp", BESIDE | {"use_megatron_fsdp": True}, "true", "nearest: false"),
    (
        "framework_of_rank_order",
        BESIDE | {"framework": "megatron-lm"},
        *("megatron-lm", "nearest: megatron-core"),
    ),
]
