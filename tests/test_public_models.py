"""Public models against figures worked out by hand, published or measured by people who ran them.

Mixtral's seconds on H100 are among the runs of test_measured_runs.py; Qwen3-30B's on A800 and what goes by
options of runs are in test_public_options.py.
"""

from typing import Any

import polars as pl
import pytest

from costing import cluster
from moesweep.study.workload import resolve
from moesweep.trace.programs import folded, programs, stages
from public import ALONE, DATA, costed, costs_of, models, workload

GIB = 2**30
MEASURED = pl.read_csv(DATA / "measured_memory.csv").rows(named=True)


@pytest.mark.parametrize("model", [name for name, each in models().items() if "parameters" in each])
def test_parameters(model: str) -> None:
    row = workload(model, vocab_size=128 * 1000).row(0, named=True)
    own = workload(model).row(0, named=True)
    assert own["parameters"] == models()[model]["parameters"]
    # A trace on one GPU holds them all, its vocabulary padded.
    frame = workload(model, vocab_size=128 * 1000)
    (adam,) = folded(frame).filter(pl.col("op") == "adam")["m"]
    assert adam == row["parameters"] + row["mtp_parameters"]


def test_parameters_of_multi_token_prediction() -> None:
    # eh_proj 2 x 7168^2 = 102,760,448; three norms of 7168; a layer: latents and heads 187,105,280 and their
    # norms 2048, two norms, router 1,835,008, shared expert 44,040,192, experts 256 x 44,040,192
    row = workload("deepseek_v3").row(0, named=True)
    layer = 187_105_280 + 2048 + 2 * 7168 + 1_835_008 + 257 * 44_040_192
    assert row["mtp_parameters"] == 102_760_448 + 3 * 7168 + layer == 11_610_067_968


def test_active_parameters() -> None:
    # Of 128 experts of 3 x 2048 x 768 in each of 48 layers a token passes 8
    row = workload("qwen3_30B_A3B").row(0, named=True)
    assert row["parameters"] - row["active_parameters"] == 48 * 120 * 3 * 2048 * 768
    assert workload("llama3_70B_l12").select("active_parameters").item() == (
        workload("llama3_70B_l12").select("parameters").item()
    )


@pytest.mark.parametrize("model", [name for name, each in models().items() if "flops_per_token" in each])
@pytest.mark.parametrize("flash", [True, False])
def test_flops_of_a_token(model: str, flash: bool) -> None:
    found = costs_of(workload(model, flash_attention=flash, mtp_num_layers=0)).workloads.row(0, named=True)
    full, causal = (found[name] / 4096 for name in ("model_flops", "causal_model_flops"))
    exact = 1e-12 if model == "deepseek_v3_l4" else 5e-5
    assert full == pytest.approx(models()[model]["flops_per_token"], rel=exact)
    if "causal_flops_per_token" in models()[model]:
        assert causal == pytest.approx(models()[model]["causal_flops_per_token"], rel=5e-5)
    assert found["mfu"] / found["causal_mfu"] == pytest.approx(full / causal)


def test_attention_at_196608_tokens() -> None:
    # 204.04 PFLOP a sequence, causal (a run of NeMo-RL logged 204.4), 382.6 in full; a rank's forward kernel
    # does 2 s^2 of 8192/4 in half of the pairs
    layout = {"world_size": 512, "tp": 4, "pp": 2, "ep": 32, "global_batch_size": 64, "seq_length": 196_608}
    found = costed("qwen3_235B_A22B", **layout, recompute="full")
    assert found["causal_model_flops"] * 512 / 64 == pytest.approx(204.04e15, rel=1e-4)
    assert found["model_flops"] * 512 / 64 == pytest.approx(382.6e15, rel=2e-4)
    kernel = folded(workload("qwen3_235B_A22B", **layout)).filter(
        (pl.col("op") == "core_attention") & (pl.col("phase") == "forward")
    )
    assert kernel["flops"].unique().to_list() == [2 * 196_608**2 * 8192 // 4]


def test_flops_of_mixtral_s_log() -> None:
    # 5.4449 s at 239.8 TFLOP/s on each of 16 GPUs: Megatron-LM issue 756
    layout = {"world_size": 16, "tp": 2, "etp": 2, "ep": 8, "global_batch_size": 128, "seq_length": 2048}
    found = costed("mixtral_8x7B", **layout)
    assert 16 * found["model_flops"] == pytest.approx(5.4449 * 239.8e12 * 16, rel=1e-3)


def test_mixtral_s_launch_script() -> None:
    frame = workload("mixtral_8x7B", world_size=64, pp=4, ep=8, global_batch_size=256)
    rows = folded(frame)
    assert frame.select("dp", "edp", "num_microbatches").row(0) == (16, 2, 16)
    held = rows.filter(pl.col("op") == "adam").sort("stage")["m"].to_list()
    assert held == [1_876_230_144, 1_745_158_144, 1_745_158_144, 1_876_234_240]
    sizes = {op: rows.filter(pl.col("op") == op)["comm_bytes"].unique().to_list() for op in rows["op"]}
    assert sizes["moe_dispatch"] == [67_108_864]
    assert sizes["grad_reduce_expert"] == [5_637_144_576]


def test_what_multi_latent_attention_gathers() -> None:
    """Latents and rotated key, not the input: 2 x 4096 x (1536 + 512 + 64) bytes; without the last again."""
    frame = workload("deepseek_v2_l4", world_size=32, tp=4, ep=8, global_batch_size=8)
    rows = programs(frame).filter((pl.col("layer") == 1) & (pl.col("group_kind") == "tp"))
    before = rows.filter(pl.col("op").str.contains("rope_key|latent"))
    sums = before.group_by("phase", "collective").agg(pl.col("comm_bytes").sum(), pl.len())
    assert sorted(sums.rows()) == [
        ("backward", "all_gather", 16_777_216, 2),
        ("backward", "reduce_scatter", 17_301_504, 3),
        ("forward", "all_gather", 17_301_504, 3),
    ]
    assert rows.filter(pl.col("op").is_in(["attention_gather", "attention_regather"])).is_empty()


@pytest.mark.parametrize("run", MEASURED, ids=lambda run: f"{run['model']}-tp{run['tp']}-pp{run['pp']}")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_peaks_are_within_3_percent_of_measured_ones(run: dict[str, Any], dropout: float) -> None:
    layout = {name: run[name] for name in ("tp", "pp", "ep", "global_batch_size")}
    drops = {"hidden_dropout": dropout, "attention_dropout": dropout}
    found = costed(run["model"], world_size=8, **layout, **drops)
    assert found["peak_memory_bytes"] / GIB == pytest.approx(run["peak_gib"], rel=0.03)
    assert found["fits"] == (run["peak_gib"] < 80)


def test_qwen3_30B_fits_32_gpus_and_not_8() -> None:
    # Megatron-LM issue 2762: out of memory on 8
    layout = {"ep": 8, "hidden_dropout": 0.1, "attention_dropout": 0.1}
    assert not costed("qwen3_30B_A3B", world_size=8, global_batch_size=8, **layout)["fits"]
    assert costed("qwen3_30B_A3B", world_size=32, global_batch_size=256, **layout)["fits"]


GPT: dict[str, Any] = {
    **{"model": "gpt", "hidden_size": 1024, "ffn_hidden_size": 4096, "num_attention_heads": 16},
    **{"num_query_groups": 16, "vocab_size": 50257, "gated_mlp": False, "normalization": "layernorm"},
    **{"position_embedding": "learned", "tied_embeddings": True, "seq_length": 1024},
}


def test_thirty_layers_on_four_stages_lose_none() -> None:
    # Megatron-LM issue 1304
    frame = resolve([ALONE | GPT | {"num_layers": 30, "pp": 4, "world_size": 8, "global_batch_size": 16}])
    assert stages(frame)["dense_layers"].to_list() == [7, 8, 8, 7]


def test_experts_that_are_not_shared_keep_their_optimizer_state() -> None:
    # DeepSpeed issue 3535: 12 bytes of 201.3 million parameters, an expert a layer that the other GPU lacks
    base = ALONE | GPT | {"num_layers": 24, "world_size": 2, "global_batch_size": 2}
    moe, dense = (
        costs_of(resolve([base | changes])).workloads["optimizer_bytes"].item()
        for changes in ({"num_experts": 2, "moe_router_topk": 2, "ep": 2}, {})
    )
    assert (moe - dense) / GIB == pytest.approx(1.125, abs=5e-4)


def test_ep_does_not_change_what_attention_computes() -> None:
    # astra-sim/stage issue 30
    base = ALONE | GPT | {"num_layers": 4, "num_experts": 16, "moe_router_topk": 2, "world_size": 64, "tp": 4}
    found = []
    for ep in (1, 2, 4, 8, 16):
        rows = folded(resolve([base | {"etp": 4, "ep": ep, "global_batch_size": 64}]))
        ops = rows.filter(pl.col("op").is_in(["qkv", "core_attention", "expert_fc1"]))
        found.append(ops.sort("phase", "op").select("op", "phase", "flops", "num_microbatches").rows())
        assert ops.filter(pl.col("op") == "expert_fc1")["groups"].unique().to_list() == [16 // ep]
    assert all(rows == found[0] for rows in found)


@pytest.mark.parametrize("seq_length", [65_536, 262_144, 1_048_576])
def test_the_band_ends_above_what_a_causal_kernel_needs(seq_length: int) -> None:
    # Megatron-LM issue 831: with attention in full a kernel that skips half seems to beat the GPU's peak
    layout = {"num_layers": 4, "world_size": 8, "global_batch_size": 8, "seq_length": seq_length}
    frame = resolve([ALONE | GPT | layout])
    row = costs_of(frame).workloads.row(0, named=True)
    least = row["causal_model_flops"] / cluster().value("matrix_flops_per_second")
    assert least == pytest.approx(row["iteration_seconds"] * row["causal_mfu"])
    assert least <= row["iteration_seconds_low"] <= row["iteration_seconds"]
    assert row["mfu"] > 1.5 * row["causal_mfu"]
