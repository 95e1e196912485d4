"""Enumeration: the study's listing row for row, twins, ids, ep rules, and the time it takes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moesweep.edge.problems import BadInput
from moesweep.edge.schema import check, load_schema
from moesweep.study.keys import SCHEMA
from moesweep.study.sweep import MAX_WORKLOADS, enumerate_sweep, load_sweep
from moesweep.study.validation import validate
from sweep_files import write

STUDY = "config/sweeps/moe-a100-123.yaml"
DENSE = "config/sweeps/dense-a100-184.yaml"
DATA = Path(__file__).parent / "data"
PARENT = ["model", "world_size", "tp", "pp", "global_batch_size", "micro_batch_size", "seq_length"]


@pytest.fixture(scope="module")
def study(root: Path) -> pl.DataFrame:
    return enumerate_sweep(root, STUDY)


def test_the_study_is_listed_entry_for_entry(study: pl.DataFrame) -> None:
    keys = [*PARENT, "ep", "num_microbatches", "dp", "edp"]
    listing = pl.read_csv(DATA / "workloads_123.csv")
    wanted = listing.group_by(keys).agg(listed=pl.len().cast(pl.Int64)).sort(keys)
    moe = study.filter(kind="moe")
    assert moe.select(*keys, "listed").sort(keys).equals(wanted.select(*keys, "listed"))
    assert (moe.height, moe["listed"].sum()) == (122, 123)
    twice = moe.filter(pl.col("listed") > 1)
    assert twice["workload"].to_list() == ["gpt_7B-ws64-tp4-pp2-ep8-gbs2048-mbs1-seq2048-moe"]


def test_the_study_has_94_twins(study: pl.DataFrame) -> None:
    twins = study.filter(kind="dense")
    assert (twins.height, study["workload"].n_unique()) == (94, 216)
    assert twins["listed"].sum() == 0
    assert set(study["twin"].drop_nulls()) == set(twins["workload"])
    pairs = study.filter(kind="moe").join(twins, left_on="twin", right_on="workload", suffix="_twin")
    assert pairs.height == 122
    for column in [*PARENT, "dp", "num_microbatches", "sequence_parallel", "flash_attention", "recompute"]:
        assert pairs[column].equals(pairs[f"{column}_twin"], check_names=False)
    assert pairs.filter(pl.col("dp") != pl.col("ep") * pl.col("edp")).is_empty()
    moe_only = ("num_experts", "moe_router_topk", "moe_ffn_hidden_size")
    assert twins.select("ep", *moe_only).unique().rows() == [(1, 0, 0, 0)]
    assert twins.filter((pl.col("etp") != pl.col("tp")) | (pl.col("edp") != pl.col("dp"))).is_empty()


def test_moe_workloads_come_first(study: pl.DataFrame) -> None:
    assert study["kind"].to_list() == ["moe"] * 122 + ["dense"] * 94


def test_the_dense_sweep_is_listed_entry_for_entry(root: Path) -> None:
    dense = enumerate_sweep(root, DENSE)
    keys = [*PARENT, "flash_attention"]
    listing = pl.read_csv(DATA / "dense_184.csv", schema_overrides={"flash_attention": pl.String})
    wanted = listing.with_columns(pl.col("flash_attention") == "True").select(keys).sort(keys)
    assert dense.select(keys).sort(keys).equals(wanted)
    assert (dense.height, dense["workload"].n_unique(), dense["listed"].sum()) == (184, 184, 184)
    assert dense["kind"].unique().to_list() == ["dense"]
    assert dense["twin"].null_count() == 184


def test_the_twins_are_the_dense_workloads_with_a_moe_equivalent(root: Path, study: pl.DataFrame) -> None:
    listing = pl.read_csv(DATA / "dense_184.csv").filter(pl.col("has_moe_equivalent") == 1)
    twins = study.filter(kind="dense").select(PARENT).sort(PARENT)
    assert twins.equals(listing.select(PARENT).sort(PARENT))


def test_the_first_example_is_resolved(study: pl.DataFrame) -> None:
    id_ = "gpt_13B-ws1024-tp16-pp2-ep16-gbs2048-mbs1-seq4096-moe"
    row = study.row(by_predicate=pl.col("workload") == id_, named=True)
    assert row["twin"] == "gpt_13B-ws1024-tp16-pp2-ep1-gbs2048-mbs1-seq4096-dense"
    assert (row["dp"], row["edp"], row["etp"], row["num_microbatches"]) == (32, 2, 16, 64)
    assert (row["hidden_size"], row["ffn_hidden_size"], row["moe_ffn_hidden_size"]) == (5120, 20480, 20480)
    assert row["padded_vocab_size"] == 51200  # 25 * 128 * 16, the next multiple above 50257
    assert (row["attention"], row["num_query_groups"], row["gated_mlp"]) == ("mha", 40, False)


def test_the_rows_are_what_the_workload_schema_says(study: pl.DataFrame) -> None:
    assert dict(study.schema) == SCHEMA
    assert list(SCHEMA) == list(load_schema("workload")["properties"]) == load_schema("workload")["required"]
    problems = [p for row in study.iter_rows(named=True) for p in check(row, "workload", row["workload"])]
    assert problems == []


EVERY_KEY: dict[str, Any] = {
    "model": "gpt_7B",
    "world_size": 32,
    "tp": 2,
    "pp": 2,
    "ep": 4,
    "etp": 1,
    "global_batch_size": 64,
    "micro_batch_size": 2,
    "seq_length": 1024,
    "num_experts": 8,
    "moe_router_topk": 3,
    "moe_router_num_groups": 4,
    "moe_router_group_topk": 2,
    "moe_router_enable_expert_bias": True,
    "moe_ffn_hidden_size": 1024,
    "num_layers": 12,
    "hidden_size": 512,
    "ffn_hidden_size": 2048,
    "num_attention_heads": 8,
    "num_query_groups": 4,
    "vocab_size": 1000,
    "gated_mlp": True,
    "normalization": "rmsnorm",
    "position_embedding": "rope",
    "tied_embeddings": False,
    "num_shared_experts": 1,
    "first_k_dense": 2,
    "attention": "mla",
    "q_lora_rank": 64,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "virtual_pipeline": 3,
    "sequence_parallel": True,
    "recompute": "full",
    "flash_attention": True,
    "distributed_optimizer": False,
    "dtype": "fp16",
    "framework": "megatron-lm",
    "blocking_launches": True,
    "deterministic_mode": True,
    "use_tp_pp_dp_mapping": True,
    "routing": "balanced",
    "listed": 3,
    "head_dim": 32,
    "qk_layernorm": True,
    "qk_layernorm_across_heads": True,
    "add_qkv_bias": True,
    "add_bias_linear": True,
    "bias_activation_fusion": False,
    "hidden_dropout": 0.25,
    "attention_dropout": 0.5,
    "moe_shared_expert_gate": True,
    "moe_layer_freq": 2,
    "mtp_num_layers": 1,
    "window_size": [127, 0],
    "window_attn_skip_freq": [1, 0],
    "softmax_type": "learnable",
    "num_layers_in_first_pipeline_stage": 5,
    "num_layers_in_last_pipeline_stage": 7,
    "account_for_embedding_in_pipeline_split": True,
    "account_for_loss_in_pipeline_split": True,
    "pipeline_model_parallel_layout": "Et*6|t*6L",
    "cp": 2,
    "cp_comm_type": "all_gather",
    "hierarchical_context_parallel_sizes": [2, 1],
    "moe_token_dispatcher_type": "flex",
    "moe_flex_dispatcher_backend": "hybridep",
    "moe_flex_dispatcher_num_sms": 24,
    "moe_router_load_balancing_type": "seq_aux_loss",
    "moe_expert_capacity_factor": 1.25,
    "moe_pad_expert_input_to_capacity": True,
    "grad_reduce_in_fp32": True,
    "use_precision_aware_optimizer": True,
    "exp_avg_dtype": "bf16",
    "exp_avg_sq_dtype": "bf16",
    "fine_grained_activation_offloading": True,
    "offload_modules": ["core_attn", "attn_proj"],
    "min_offloaded_tensor_size": 0,
    "optimizer_cpu_offload": True,
    "optimizer_offload_fraction": 0.5,
    "use_megatron_fsdp": True,
    "data_parallel_sharding_strategy": "optim_grads",
    "fp8": "hybrid",
    "fp8_recipe": "blockwise",
    "fp8_param_gather": True,
    "moe_shared_expert_overlap": True,
    "overlap_moe_expert_parallel_comm": True,
    "delay_wgrad_compute": True,
    "overlap_p2p_comm": True,
    "microbatch_group_size_per_vp_stage": 3,
    "tp_comm_overlap": True,
    "overlap_grad_reduce": True,
    "overlap_param_gather": True,
    "recompute_modules": ["moe", "core_attn"],
    "recompute_method": "block",
    "moe_router_dtype": "fp32",
    "moe_router_fusion": True,
    "cuda_graph_impl": "local",
    "cuda_graph_scope": ["moe", "attn"],
    "moe_permute_fusion": True,
    "cross_entropy_loss_fusion": True,
    "cross_entropy_fusion_impl": "te",
    "recompute_num_layers": 2,
}


def test_every_key_of_a_sweep_reaches_its_column(root: Path, tmp_path: Path) -> None:
    texts = {"moe_layer_freq": "2", "window_size": "[127,0]", "window_attn_skip_freq": "[1,0]"}
    texts |= {"recompute_modules": "core_attn+moe", "cuda_graph_scope": "attn+moe"}
    texts |= {"hierarchical_context_parallel_sizes": "[2,1]"}
    texts |= {"offload_modules": "core_attn+attn_proj"}
    keys = set(load_schema("sweep")["$defs"]) - {"claims", "cluster", "grid", "range", "row"}
    assert set(EVERY_KEY) == keys
    row = enumerate_sweep(root, write(tmp_path, json.dumps({"rows": [EVERY_KEY]})))
    assert {key: row[key].item() for key in EVERY_KEY} == EVERY_KEY | texts
    assert (row["dp"].item(), row["edp"].item()) == (4, 4)


def test_what_says_a_value_first_wins(root: Path, tmp_path: Path) -> None:
    models = tmp_path / "config" / "models"
    models.mkdir(parents=True)
    text = (root / "config/models/gpt_7B.yaml").read_text(encoding="utf-8")
    (models / "mine.yaml").write_text(f"{text}num_experts: {{value: 8, source: mine}}\n", encoding="utf-8")
    row = {"model": "mine", "world_size": 8, "tp": 1, "pp": 1, "global_batch_size": 8, "seq_length": 128}
    row |= {"moe_router_topk": 1}

    def experts(options: dict[str, Any], own: dict[str, Any]) -> tuple[int, int]:
        path = write(tmp_path, json.dumps({"options": options, "rows": [row | own]}))
        return enumerate_sweep(tmp_path, path).select("num_experts", "num_layers").row(0)

    assert experts({}, {}) == (8, 36)
    assert experts({"num_experts": 4, "num_layers": 12}, {}) == (4, 12)
    assert experts({"num_experts": 4}, {"num_experts": 2, "num_layers": 2}) == (2, 2)


def test_a_grid_is_a_product_in_a_fixed_order(root: Path, tmp_path: Path) -> None:
    text = """
    options: {num_experts: 4, moe_router_topk: 1, seq_length: 128, global_batch_size: {per_gpu: 4}}
    grids: [{model: gpt_7B, tp: [1, 2], world_size: [8, 16], pp: 1, ep: [2, 4]}]
    """
    frame = enumerate_sweep(root, write(tmp_path, text))
    points = [(8, 1, 2), (8, 1, 4), (8, 2, 2), (8, 2, 4), (16, 1, 2), (16, 1, 4), (16, 2, 2), (16, 2, 4)]
    assert frame.select("world_size", "tp", "ep").rows() == points
    assert frame["global_batch_size"].to_list() == [32] * 4 + [64] * 4


@pytest.mark.parametrize(
    ("experts", "rule", "degrees"),
    [
        (16, "largest", [8]),  # gcd(16, 64/(4*2)) = 8
        (12, "largest", [4]),  # gcd(12, 8)
        (16, "{largest_for_tp: [2, 4, 8]}", [16, 8, 4]),
        (4, "{largest_for_tp: [2, 4, 8]}", [4]),  # equal answers count once
        (0, "largest", [1]),  # dense
    ],
)
def test_the_largest_ep(root: Path, tmp_path: Path, experts: int, rule: str, degrees: list[int]) -> None:
    text = f"""
    options: {{num_experts: {experts}, moe_router_topk: 2, seq_length: 128, global_batch_size: 64}}
    grids: [{{model: gpt_7B, world_size: 64, tp: 4, pp: 2, ep: {rule}}}]
    """
    assert enumerate_sweep(root, write(tmp_path, text))["ep"].to_list() == degrees


def test_a_twin_that_is_listed_itself_is_one_workload(root: Path, tmp_path: Path) -> None:
    text = """
    twins: true
    options: {model: gpt_7B, world_size: 8, tp: 1, pp: 1, seq_length: 128, global_batch_size: 8}
    rows: [{num_experts: 0}, {num_experts: 4, moe_router_topk: 1, ep: 2}]
    """
    sweep = load_sweep(root, write(tmp_path, text))
    assert sweep.workloads.select("kind", "listed").rows() == [("dense", 1), ("moe", 1)]
    assert sweep.workloads["twin"][1] == sweep.workloads["workload"][0]
    assert sweep.origins["entry"].to_list() == ["rows[0]", "rows[1]"]


def test_twins_keep_the_options_of_their_workloads(root: Path, tmp_path: Path) -> None:
    text = """
    twins: true
    options: {model: gpt_7B, world_size: 8, tp: 1, pp: 1, seq_length: 128, global_batch_size: 8}
    grids:
      - {num_experts: 4, moe_router_topk: 1, ep: [2, 4], etp: [1, 2], recompute: [none, full]}
    """
    frame = enumerate_sweep(root, write(tmp_path, text))
    twins = frame.filter(kind="dense")
    plain = "gpt_7B-ws8-tp1-pp1-ep1-gbs8-mbs1-seq128-dense"
    assert twins.select("workload", "recompute").rows() == [(plain, "none"), (f"{plain}-full", "full")]
    pairs = frame.filter(kind="moe").join(twins, left_on="twin", right_on="workload", suffix="_twin")
    assert pairs.height == 8
    assert pairs["recompute"].equals(pairs["recompute_twin"], check_names=False)


def test_a_list_of_modules_is_one_value_and_a_list_of_lists_an_axis(root: Path, tmp_path: Path) -> None:
    text = """
    twins: true
    options:
      {model: gpt_7B, world_size: 8, tp: 1, pp: 1, seq_length: 128, global_batch_size: 8, num_experts: 4,
       moe_router_topk: 1, recompute: selective}
    grids:
      - {recompute_modules: [moe, core_attn]}
      - {recompute_modules: [[moe_act], core_attn+layernorm, []]}
    """
    sweep = load_sweep(root, write(tmp_path, text))
    moe, dense = (
        sweep.workloads.filter(kind=kind)["recompute_modules"].to_list() for kind in ("moe", "dense")
    )
    assert moe == dense == ["core_attn+moe", "moe_act", "core_attn+layernorm", "none"]
    # A twin keeps the options of its workload; only who asks for a dense one with such modules is told.
    validate(sweep)
    row = """
    rows: [{model: gpt_7B, world_size: 8, tp: 1, pp: 1, seq_length: 128, global_batch_size: 8,
      recompute: selective, recompute_modules: [moe_act]}]
    """
    with pytest.raises(BadInput, match="modules_of_model") as caught:
        validate(load_sweep(root, write(tmp_path, row)))
    assert [problem.path for problem in caught.value.problems] == ["rows[0].recompute_modules"]


def test_origins_say_where_each_workload_is_from(root: Path) -> None:
    sweep = load_sweep(root, STUDY)
    assert sweep.origins["workload"].equals(sweep.workloads["workload"])
    assert sweep.origins["file"].unique().to_list() == [STUDY]
    entry = dict(sweep.origins.select("workload", "entry").iter_rows())
    assert entry["gpt_7B-ws64-tp4-pp2-ep8-gbs2048-mbs1-seq2048-moe"] == "rows[0]"
    assert entry["gpt_7B-ws512-tp4-pp2-ep1-gbs1024-mbs1-seq4096-dense"] == "grids[2]"


def test_a_huge_grid_is_refused_before_it_is_built(root: Path, tmp_path: Path) -> None:
    many = list(range(1, 1001))
    text = f"""
    options: {{model: gpt_7B, pp: 1, seq_length: 128}}
    grids: [{{world_size: {many}, tp: {many}, global_batch_size: {many}}}]
    """
    with pytest.raises(BadInput, match=f"lists 1000000000 workloads; the limit is {MAX_WORKLOADS}"):
        enumerate_sweep(root, write(tmp_path, text))


def test_enumeration_needs_no_units_library(root: Path) -> None:
    """It runs at every start of Snakemake; pint alone would take longer than all of it."""
    code = f"""
import sys
from pathlib import Path
import polars
from moesweep.study.sweep import enumerate_sweep
enumerate_sweep(Path({str(root)!r}), {STUDY!r})
assert "pint" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
