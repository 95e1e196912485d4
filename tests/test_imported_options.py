"""Options of a run as launch scripts and recipes state them: each comes to what it means here."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from foreign_files import BRIDGE, MIXTRAL_SCRIPT
from importing import config_file
from moesweep.edge.problems import BadInput
from moesweep.study.importers.bridge import read_recipe
from moesweep.study.importers.known import read_file
from public_configs import CONFIGS


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("--moe-permute-fusion --moe-router-fusion", (True, None, None)),
        ("--moe-permute-fusion --moe-router-dtype fp32", (True, None, None)),
        ("--cross-entropy-loss-fusion", (None, True, None)),
        ("--cross-entropy-loss-fusion --cross-entropy-fusion-impl te", (None, True, "te")),
        ("--cross-entropy-fusion-impl te", (None, None, None)),
    ],
)
def test_kernels_that_a_script_fuses(tmp_path: Path, said: str, found: tuple[Any, ...]) -> None:
    script = MIXTRAL_SCRIPT.replace("--bf16", f"--bf16 {said}")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    keys = ("moe_permute_fusion", "cross_entropy_loss_fusion", "cross_entropy_fusion_impl")
    assert tuple(draft.row.get(key, (None,))[0] for key in keys) == found
    assert not {*keys, "moe_router_dtype", "moe_router_fusion"} & draft.unread.keys()
    assert ("moe_router_fusion" in draft.row) == ("router-fusion" in said)
    assert draft.row.get("moe_router_dtype", ("none",))[0] == ("fp32" if "fp32" in said else "none")


@pytest.mark.parametrize("said", ["fp64", "fp128"])
def test_routers_of_other_formats(tmp_path: Path, said: str) -> None:
    script = MIXTRAL_SCRIPT.replace("--bf16", f"--bf16 --moe-router-dtype {said}")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    known = said == "fp64"
    assert draft.unread.get("moe_router_dtype") == (None if known else said)
    assert draft.row.get("moe_router_dtype", (None,))[0] == (said if known else None)


@pytest.mark.parametrize(
    ("said", "method", "layers"),
    [
        ("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1", "uniform", 1),
        ("--recompute-granularity full --recompute-method block --recompute-num-layers 4", "block", 4),
        ("--recompute-granularity selective --recompute-num-layers 4", None, None),
        ("--recompute-method block --recompute-num-layers 4", None, None),
    ],
)
def test_layers_that_a_script_recomputes(
    tmp_path: Path, said: str, method: str | None, layers: int | None
) -> None:
    script = MIXTRAL_SCRIPT.replace("--bf16", f"--bf16 {said}")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    found = [draft.row.get(f"recompute_{name}", (None,))[0] for name in ("method", "num_layers")]
    assert found == [method, layers]
    assert not {"recompute_method", "recompute_num_layers"} & draft.unread.keys()


@pytest.mark.parametrize(
    ("said", "chunks"),
    [
        # 8 parts on 4 stages are 2 chunks each, whatever else would say it; 4 are one, and 6 none that fits
        ("--pipeline-model-parallel-layout Et*4|(tttt|)*6t*4L", 2),
        ("--pipeline-model-parallel-layout Et*4|(tttt|)*6t*4L --num-layers-per-virtual-pipeline-stage 8", 2),
        ("--pipeline-model-parallel-layout Et*8|(tttttttt|)*2t*8L", None),
        ("--pipeline-model-parallel-layout Et*4|(ttttt|)*4t*8L", None),
        ("--pipeline-model-parallel-layout E(", None),
        ("--num-layers-per-virtual-pipeline-stage 4", 2),
        ("--num-virtual-stages-per-pipeline-rank 8", 8),
    ],
)
def test_chunks_of_a_script(tmp_path: Path, said: str, chunks: int | None) -> None:
    """Megatron takes them from a layout's parts."""
    script = MIXTRAL_SCRIPT.replace("--bf16", f"--bf16 {said}".replace("Et", "'Et").replace("L", "L'"))
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    row = read_file(tmp_path / "launch.sh").row
    assert row.get("virtual_pipeline", (None,))[0] == chunks


def test_the_text_of_a_model_that_takes_more(tmp_path: Path) -> None:
    text = CONFIGS["moonlight_16B_A3B"]
    both = {"architectures": ["SeesForConditionalGeneration"], "model_type": "sees", "text_config": text}
    plain = read_file(Path(config_file(tmp_path, text)))
    found = read_file(Path(config_file(tmp_path, both | {"vision_config": {"hidden_size": 1152}})))
    assert found.model == plain.model
    assert found.unread.keys() - plain.unread.keys() == {"vision_config"}
    with pytest.raises(BadInput, match=r"SeesForConditionalGeneration.* not known"):
        read_file(Path(config_file(tmp_path, both | {"text_config": {"model_type": "seen"}})))


@pytest.mark.parametrize(
    ("said", "impl", "scope", "unread"),
    [
        ("--enable-cuda-graph", "local", None, {}),
        ("--external-cuda-graph --cuda-graph-scope full", "transformer_engine", None, {}),
        ("--cuda-graph-impl local --cuda-graph-scope attn moe_router", "local", ["attn", "moe_router"], {}),
        ("--cuda-graph-impl none --cuda-graph-scope attn", None, None, {}),
        (
            "--cuda-graph-impl local --cuda-graph-scope full_iteration",
            *(None, None, {"cuda_graph_impl": "local", "cuda_graph_scope": "full_iteration"}),
        ),
    ],
)
def test_graphs_of_a_script(
    tmp_path: Path, said: str, impl: str | None, scope: list[str] | None, unread: dict[str, Any]
) -> None:
    script = MIXTRAL_SCRIPT.replace("--bf16", f"--bf16 {said}")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    found = [draft.row.get(f"cuda_graph_{name}", (None,))[0] for name in ("impl", "scope")]
    assert found == [impl, scope]
    assert {name: value for name, value in draft.unread.items() if "graph" in name} == unread


FP8 = ("fp8", "fp8_recipe", "fp8_param_gather")


@pytest.mark.parametrize(
    ("said", "found", "unread"),
    [
        ("--fp8-format hybrid", ("hybrid", None, None), set()),
        (
            "--fp8-format e4m3 --fp8-recipe blockwise --fp8-param-gather --fp8-amax-history-len 1024",
            ("e4m3", "blockwise", True),
            set(),
        ),
        ("--fp8-recipe tensorwise", (None, None, None), set()),
        ("--fp8-format hybrid --fp8-recipe custom", (None, None, None), {"fp8_format", "fp8_recipe"}),
        ("--fp8-format hybrid --first-last-layers-bf16", ("hybrid", None, None), {"first_last_layers_bf16"}),
    ],
)
def test_fp8_of_a_script(tmp_path: Path, said: str, found: tuple[Any, ...], unread: set[str]) -> None:
    script = MIXTRAL_SCRIPT.replace("--bf16", f"--bf16 {said}")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    assert tuple(draft.row.get(name, (None,))[0] for name in FP8) == found
    assert {name for name in draft.unread if "fp8" in name or "bf16" in name} == unread


@pytest.mark.parametrize(
    ("precision", "found", "unread"),
    [
        ("bf16_mixed", (None, None, None), set()),
        ("bf16_with_fp8_delayed_scaling_mixed", ("hybrid", "delayed", True), set()),
        ("bf16_with_fp8_current_scaling_mixed", ("hybrid", "tensorwise", True), {"first_last_layers_bf16"}),
        ("bf16_with_fp8_subchannel_scaling_mixed", ("hybrid", "blockwise", None), set()),
        ("bf16_with_mxfp8_mixed", ("e4m3", "mxfp8", True), set()),
        ("nemotron_h_bf16_with_fp8_current_scaling_mixed", (None, None, None), {"fp8"}),
        ({"bf16": True, "fp8": "hybrid", "fp8_param": True}, ("hybrid", "tensorwise", True), set()),
        ({"fp8": "e4m3", "fp8_recipe": "mxfp8", "fp8_param_gather": False}, ("e4m3", "mxfp8", None), set()),
        ({"bf16": True, "fp8": None, "fp8_recipe": "delayed"}, (None, None, None), set()),
    ],
)
def test_fp8_of_a_recipe(precision: Any, found: tuple[Any, ...], unread: set[str]) -> None:
    draft = read_recipe(yaml.safe_load(BRIDGE) | {"mixed_precision": precision}, "recipe.yaml")
    assert tuple(draft.row.get(name, (None,))[0] for name in FP8) == found
    assert {name for name in draft.unread if "fp8" in name or "bf16" in name} == unread


SHARDING = ("use_megatron_fsdp", "data_parallel_sharding_strategy")


@pytest.mark.parametrize(
    ("said", "found", "unread"),
    [
        # The command line shards all, unless told.
        ("--use-megatron-fsdp", (True, None), set()),
        ("--use-custom-fsdp --num-distributed-optimizer-instances 1", (True, None), set()),
        (
            "--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads --fsdp-double-buffer",
            (True, "optim_grads"),
            set(),
        ),
        ("--data-parallel-sharding-strategy optim_grads", (None, None), set()),
        ("--use-megatron-fsdp --data-parallel-sharding-strategy no_shard", (None, None), {*SHARDING}),
        (
            "--use-megatron-fsdp --num-distributed-optimizer-instances 2",
            (None, None),
            {SHARDING[0], "num_distributed_optimizer_instances"},
        ),
        ("--use-torch-fsdp2", (None, None), {"use_torch_fsdp2"}),
    ],
)
def test_sharding_of_a_script(tmp_path: Path, said: str, found: tuple[Any, ...], unread: set[str]) -> None:
    script = MIXTRAL_SCRIPT.replace("--bf16", f"--bf16 {said}")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    assert tuple(draft.row.get(name, (None,))[0] for name in SHARDING) == found
    about = ("fsdp", "shard", "optimizer_instances")
    assert {name for name in draft.unread if any(word in name for word in about)} == unread


@pytest.mark.parametrize(
    ("ddp", "found", "unread"),
    [
        ({"use_megatron_fsdp": False, "data_parallel_sharding_strategy": "no_shard"}, (None, None), set()),
        (
            {"use_megatron_fsdp": True, "data_parallel_sharding_strategy": "optim_grads_params"},
            (True, "optim_grads_params"),
            set(),
        ),
        # A configuration shards nothing, unless told.
        ({"use_megatron_fsdp": True}, (None, None), {*SHARDING}),
    ],
)
def test_sharding_of_a_recipe(ddp: dict[str, Any], found: tuple[Any, ...], unread: set[str]) -> None:
    recipe = yaml.safe_load(BRIDGE)
    recipe["ddp"] = recipe.get("ddp", {}) | ddp
    draft = read_recipe(recipe, "recipe.yaml")
    assert tuple(draft.row.get(name, (None,))[0] for name in SHARDING) == found
    assert {name for name in draft.unread if name in SHARDING} == unread


@pytest.mark.parametrize(
    ("said", "recompute", "modules"),
    [
        ("--recompute-granularity selective", "selective", None),
        ("--recompute-granularity selective --recompute-modules moe_act", "selective", ["moe_act"]),
        ("--recompute-granularity selective --recompute-modules mlp moe", "selective", ["mlp", "moe"]),
        ("--recompute-modules moe_act", "none", None),
        ("--recompute-granularity full --recompute-modules moe_act", "full", None),
        # An older name: Megatron adds moe to what is repeated anyway.
        ("--moe-layer-recompute", "selective", ["core_attn", "moe"]),
    ],
)
def test_modules_that_a_script_recomputes(
    tmp_path: Path, said: str, recompute: str, modules: list[str] | None
) -> None:
    script = MIXTRAL_SCRIPT.replace("--bf16", f"--bf16 {said}")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    row = read_file(tmp_path / "launch.sh").row
    assert row["recompute"][0] == recompute
    assert row.get("recompute_modules", (None,))[0] == modules


@pytest.mark.parametrize(("chunks", "found"), [("--num-virtual-stages-per-pipeline-rank 2", 6), ("", None)])
def test_groups_of_micro_batches_of_a_script(tmp_path: Path, chunks: str, found: int | None) -> None:
    said = f"--bf16 --microbatch-group-size-per-virtual-pipeline-stage 6 {chunks}"
    (tmp_path / "launch.sh").write_text(MIXTRAL_SCRIPT.replace("--bf16", said), encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    # without chunks there is nothing to run in groups
    assert draft.row.get("microbatch_group_size_per_vp_stage", (None,))[0] == found
    assert ("microbatch_group_size_per_virtual_pipeline_stage" in draft.idle) == (found is None)
    assert not any("microbatch_group" in name for name in draft.unread)
