"""What rules offer instead: each value offered passes the rule that it answers, whatever is wrong."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broken import BROKEN, SOUND
from moesweep.shapes.sizes import MODULES, SCOPES
from moesweep.study.forms import joined, scoped
from moesweep.study.keys import SCHEMA
from moesweep.study.rules import RULES
from moesweep.study.validation import findings
from moesweep.study.workload import resolve, with_value

SMALL = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 30, 61, 64])
SIZES = st.sampled_from([64, 96, 100, 128, 250, 992, 1000, 1024, 2048, 4098, 7168])
DRAWN: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(
        ("tp", "pp", "cp", "ep", "etp", "virtual_pipeline", "micro_batch_size", "num_experts"), SMALL
    ),
    **dict.fromkeys(("moe_router_topk", "num_attention_heads", "num_query_groups", "num_layers"), SMALL),
    **dict.fromkeys(("hidden_size", "ffn_hidden_size", "moe_ffn_hidden_size", "vocab_size"), SIZES),
    **dict.fromkeys(("first_k_dense", "num_shared_experts"), st.integers(0, 9)),
    "world_size": st.sampled_from([8, 24, 60, 64, 512]),
    "global_batch_size": st.integers(1, 300),
    "seq_length": st.sampled_from([510, 512, 4096, 2**24]),
    "sequence_parallel": st.booleans(),
    "flash_attention": st.booleans(),
    "moe_token_dispatcher_type": st.sampled_from(["alltoall", "flex"]),
    "moe_flex_dispatcher_backend": st.sampled_from(["deepep", "hybridep"]),
    **dict.fromkeys(("moe_router_num_groups", "moe_router_group_topk"), st.sampled_from([0, 0, 1, 2, 4, 8])),
    "moe_router_load_balancing_type": st.sampled_from(
        ["none", "aux_loss", "seq_aux_loss", "global_aux_loss"]
    ),
    "moe_router_enable_expert_bias": st.booleans(),
    "moe_expert_capacity_factor": st.sampled_from([0.0, 0.0, 0.5, 1.25]),
    "moe_pad_expert_input_to_capacity": st.booleans(),
    "moe_flex_dispatcher_num_sms": st.sampled_from([0, 1, 16, 21]),
    "cp_comm_type": st.sampled_from(["p2p", "a2a", "all_gather", "a2a+p2p"]),
    "hierarchical_context_parallel_sizes": st.sampled_from(["none", "none", "[2,2]", "[1,4]", "[3,1]"]),
    "attention": st.sampled_from(["mha", "gqa", "mla"]),
    **dict.fromkeys(
        ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim"), st.sampled_from([0, 512])
    ),
    "head_dim": st.sampled_from([0, 3, 64, 128]),
    "mtp_num_layers": st.integers(0, 2),
    "moe_layer_freq": st.sampled_from(["1", "2", "[0,1]", "[0,0,0,0]", "[0,1,0,1]"]),
    "window_size": st.sampled_from(["none", "[127,0]", "[127,9]"]),
    "window_attn_skip_freq": st.sampled_from(["none", "2", "[0,1]"]),
    "recompute": st.sampled_from(["none", "selective", "full"]),
    "recompute_modules": st.lists(st.sampled_from(MODULES)).map(joined),
    "cuda_graph_impl": st.sampled_from(["none", "local"]),
    "cuda_graph_scope": st.lists(st.sampled_from(SCOPES)).map(scoped),
    "recompute_method": st.sampled_from(["uniform", "block"]),
    "recompute_num_layers": st.integers(1, 9),
    **dict.fromkeys(("moe_permute_fusion", "cross_entropy_loss_fusion"), st.booleans()),
    **dict.fromkeys(("deterministic_mode", "use_tp_pp_dp_mapping"), st.booleans()),
    "moe_router_dtype": st.sampled_from(["none", "fp32", "fp64"]),
    "cross_entropy_fusion_impl": st.sampled_from(["native", "te"]),
    "microbatch_group_size_per_vp_stage": st.sampled_from([None, 1, 2, 3, 4, 5, 6, 8, 100]),
    "fp8": st.sampled_from(["none", "e4m3", "hybrid"]),
    "fp8_recipe": st.sampled_from(["delayed", "tensorwise", "blockwise", "mxfp8"]),
    **dict.fromkeys(("fp8_param_gather", "use_precision_aware_optimizer"), st.booleans()),
    **dict.fromkeys(("optimizer_cpu_offload", "fine_grained_activation_offloading"), st.booleans()),
    "offload_modules": st.sampled_from(["none", "core_attn", "attn_proj", "qkv_linear+moe_act", "attn_norm"]),
    "optimizer_offload_fraction": st.sampled_from([0.0, 0.5, 1.0]),
    "use_megatron_fsdp": st.booleans(),
    "data_parallel_sharding_strategy": st.sampled_from(["optim", "optim_grads", "optim_grads_params"]),
    "softmax_type": st.sampled_from(["vanilla", "learnable"]),
    **dict.fromkeys(("overlap_grad_reduce", "overlap_param_gather", "tp_comm_overlap"), st.booleans()),
    **dict.fromkeys(("overlap_p2p_comm", "moe_shared_expert_overlap"), st.booleans()),
    **dict.fromkeys(("overlap_moe_expert_parallel_comm", "delay_wgrad_compute"), st.booleans()),
    **dict.fromkeys(("qk_layernorm", "qk_layernorm_across_heads", "add_qkv_bias"), st.booleans()),
    **dict.fromkeys(("add_bias_linear", "moe_shared_expert_gate", "bias_activation_fusion"), st.booleans()),
}


def offered(row: dict[str, Any]) -> list[tuple[str, Any]]:
    """Key and value of everything that a finding offers."""
    first, *others = row["suggestion"].split(", or ")
    found = [(row["key"], value) for value in first.removeprefix("nearest: ").split(", ")]
    found = found if first.startswith("nearest: ") else []
    found += [tuple(other.split(" ")) for other in others]
    return [(key, {"true": True, "false": False}.get(value, value)) for key, value in found]


def check_offers(workload: dict[str, Any]) -> int:
    frame = resolve([workload])
    offers = 0
    for row in findings(frame, usable_hbm_bytes=2**36).iter_rows(named=True):
        assert not row["suggestion"].endswith("nearest: "), row
        for key, value in offered(row):
            other = with_value(frame, key, pl.lit(value).cast(SCHEMA[key]))
            again = findings(other.with_columns(workload=pl.lit("x")), usable_hbm_bytes=2**36)
            assert row["rule"] not in again["rule"].to_list(), (row, value)
            assert str(value) != row["value"] or key != row["key"]
            offers += 1
    return offers


@settings(max_examples=40)
@given(st.fixed_dictionaries({}, optional=DRAWN))
def test_each_value_offered_passes_its_rule(changes: dict[str, Any]) -> None:
    check_offers(SOUND | changes)


@pytest.mark.parametrize(("rule", "changes", "value", "suggestion"), BROKEN)
def test_each_value_offered_in_a_case_passes_its_rule(
    rule: str, changes: dict[str, Any], value: str, suggestion: str
) -> None:
    offers = check_offers(SOUND | changes)
    assert offers or not suggestion.startswith("nearest: ")


@pytest.mark.parametrize(
    ("layers", "pp", "chunks", "said"),
    [(61, 16, 2, "nearest: 1"), (94, 16, 2, "nearest: 1"), (64, 16, 3, "nearest: 2, 4")],
)
def test_chunks_of_stages_that_are_not_even(layers: int, pp: int, chunks: int, said: str) -> None:
    """Kimi-K2 was offered 3 and 5 on 16 stages, Qwen3-235B 11: neither divides its layers."""
    changes = {"num_layers": layers, "pp": pp, "virtual_pipeline": chunks, "tp": 1, "etp": 1, "ep": 1}
    found = findings(resolve([SOUND | changes])).filter(rule="interleaving_by_layers")
    assert found["suggestion"].to_list() == [said]


def test_memory_offers_ep_too() -> None:
    # 64 ranks: a stage's 32 hold experts over at most ep 32 of 64; of 2^17 wide ones 16 GiB go at ep 4.
    changes = {"tp": 1, "etp": 1, "ep": 4, "num_experts": 64, "moe_ffn_hidden_size": 2**17}
    found = findings(resolve([SOUND | changes]), usable_hbm_bytes=2**36).filter(rule="memory")
    assert found["suggestion"][0].endswith("would hold them, or ep 16")
    none = findings(resolve([SOUND | changes]), usable_hbm_bytes=2**30).filter(rule="memory")
    assert ", or ep" not in none["suggestion"][0]


def test_megatron_refuses_uneven_stages_without_a_placement() -> None:
    (message,) = findings(resolve([SOUND | {"num_layers": 7}])).filter(rule="layers_by_pp")["message"]
    assert "num_layers_in_first_pipeline_stage" in message
    assert "refuses" not in message


def test_every_rule_on_many_workloads_at_once() -> None:
    cases = [SOUND | changes for _, changes, _, _ in BROKEN]
    frame = resolve([*cases, *cases]).with_columns(workload=pl.format("w{}", pl.int_range(pl.len())))
    found = findings(frame, usable_hbm_bytes=80 * 2**30)
    # What a GPU cannot multiply is broken on clusters alone: tests/test_fp8.py, tests/test_offload.py.
    assert set(found["rule"]) == {rule.name for rule in RULES} - {
        "fp8_of_gpu",
        "mxfp8_of_gpu",
        "offload_of_host",
        "activations_of_host",
    }
    half = frame.head(len(cases))
    assert findings(half, usable_hbm_bytes=80 * 2**30).height * 2 == found.height
