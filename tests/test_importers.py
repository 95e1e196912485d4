"""Files that people have, imported: every architecture right to the parameter, strangers' files safe."""

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from importing import ALL, config_file, written
from moesweep.cli import main
from moesweep.edge.yaml_reader import read_yaml
from moesweep.study.importers.transformers import ARCHITECTURES
from moesweep.study.models import given_by_model
from moesweep.study.sweep import load_sweep
from moesweep.trace.programs import folded
from naive_checkpoint import counted
from public_configs import CONFIGS, OTHERS

SIZES = ("parameters", "active_parameters", "mtp_parameters")
ROW = ("world_size=8", "tp=1", "pp=1", "ep=1", "etp=1", "global_batch_size=8", "seq_length=4096")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "config/models").mkdir(parents=True)
    return tmp_path


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    """Every architecture imported with a row, as one sweep's workloads."""
    root = tmp_path_factory.mktemp("imported")
    rows = []
    for name, config in ALL.items():
        out, row = root / f"config/models/{name}.yaml", root / f"{name}.row.yaml"
        words = ["import", config_file(root, config), *ROW, "--out", str(out), "--sweep-out", str(row)]
        assert main(words) == 0
        rows += read_yaml(row)["rows"]
    (root / "all.yaml").write_text(yaml.safe_dump({"description": "all", "rows": rows}), encoding="utf-8")
    return load_sweep(root, "all.yaml").workloads


@pytest.mark.parametrize("name", ALL)
def test_parameters_of_an_imported_model(imported: pl.DataFrame, name: str) -> None:
    row = imported.row(by_predicate=pl.col("model") == name, named=True)
    assert tuple(row[size] for size in SIZES) == counted(ALL[name])


def test_imported_models_trace(imported: pl.DataFrame) -> None:
    # vocabularies are multiples of 128 here, but for Qwen's 151936 = 1187 x 128 and DeepSeek's: all are
    adam = folded(imported).filter(pl.col("op") == "adam").group_by("workload").agg(pl.col("m").sum())
    both = imported.join(adam, on="workload").with_columns(padding=_padding())
    assert both.height == len(ALL)
    held = pl.col("parameters") + pl.col("mtp_parameters") + pl.col("padding")
    assert both.filter(pl.col("m") != held)["model"].to_list() == []


def _padding() -> pl.Expr:
    """Parameters that padding adds to both tables, which none of these models ties."""
    return 2 * (pl.col("padded_vocab_size") - pl.col("vocab_size")) * pl.col("hidden_size")


def test_every_architecture_is_tested() -> None:
    known = {config["architectures"][0] for config in ALL.values() if "architectures" in config}
    assert ARCHITECTURES.keys() == known


def test_published_sizes_of_other_models(imported: pl.DataFrame) -> None:
    """Mistral 7B has 7.24 billion parameters (its checkpoint 7,241,732,096); Scout's text is Scout's."""
    found = dict(imported.select("model", "parameters").iter_rows())
    assert found["mistral_7B"] == 7_241_732_096
    assert found["llama4_scout_text"] == found["llama4_scout"] == 107_769_861_120


def test_a_number_names_the_key_it_came_from(project: Path) -> None:
    out = project / "config/models/v3.yaml"
    assert main(["import", config_file(project, CONFIGS["deepseek_v3"]), "--out", str(out)]) == 0
    data = read_yaml(out)
    assert data["num_experts"] == {"value": 256, "source": "config.json: n_routed_experts"}
    assert data["mtp_num_layers"] == {"value": 1, "source": "config.json: num_nextn_predict_layers"}
    assert data["normalization"] == {"value": "rmsnorm", "source": "DeepseekV3ForCausalLM: RMSNorm"}


def test_what_is_not_modelled_is_listed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = project / "config/models/v3.yaml"
    config = CONFIGS["deepseek_v3"] | {"a_new_idea": {"ratio": 3}, "bos_token_id": 1, "two\nlines": 2}
    assert main(["import", config_file(project, config), "--out", str(out)]) == 0
    said, comments = capsys.readouterr().err, out.read_text(encoding="utf-8")
    for name in ("quantization_config", "a_new_idea", r"two\nlines"):
        assert f"config.json: {name}: not modelled: " in said
        assert f"# config.json: not modelled: {name}: " in comments
    assert "of no effect here: architectures, attention_bias, bos_token_id" in said
    # Every key is a number's source, not modelled, or of no effect.
    passed = (CONFIGS["deepseek_v3"].keys() - {"num_key_value_heads", "hidden_act", "moe_layer_freq"}) - {
        name for name in CONFIGS["deepseek_v3"] if name in said or name in comments
    }
    assert passed == set()


def test_windows_and_layers_with_experts(project: Path) -> None:
    windows = CONFIGS["gpt_oss_20B"] | {"layer_types": ["full_attention"] + ["sliding_attention"] * 23}
    dense = {"mlp_only_layers": [3]}
    expected = {
        "odd": (windows, {"window_size": [127, 0], "window_attn_skip_freq": [0] + [1] * 23}),
        "oss": (CONFIGS["gpt_oss_20B"], {"window_size": [127, 0], "window_attn_skip_freq": 2}),
        "every": (CONFIGS["deepseek_v2"] | {"moe_layer_freq": 2, "num_hidden_layers": 5},
            {"moe_layer_freq": [0, 0, 1, 0, 1]}),
        "step": (ALL["qwen2_57B_A14B"] | {"decoder_sparse_step": 2, "num_hidden_layers": 4} | dense,
            {"moe_layer_freq": [0, 1, 0, 0], "num_shared_experts": 8, "moe_shared_expert_gate": True}),
        "mistral": (OTHERS["mistral_7B"], {"window_size": [4095, 0]}),
        "biased": (OTHERS["llama2_7B"] | {"attention_bias": True, "mlp_bias": True},
            {"add_bias_linear": True}),
    }  # fmt: skip
    for name, (config, wanted) in expected.items():
        out = project / f"config/models/{name}.yaml"
        assert main(["import", config_file(project, config), "--out", str(out)]) == 0
        found = given_by_model(project, name)
        assert {key: found[key] for key in wanted} == wanted, name


SHAPE = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "vocab_size",
)

# Files, what the command adds, what the model and the row then have.
IMPORTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, Any], dict[str, Any]]] = {
    "Mixtral's launch script": (
        ("launch.sh",), ("world_size=64",),
        dict(zip(SHAPE, (32, 4096, 14336, 32, 8, 32000), strict=True))
        | {"num_experts": 8, "moe_router_topk": 2, "hidden_dropout": 0, "gated_mlp": True,
           "tied_embeddings": False, "normalization": "rmsnorm", "position_embedding": "rope",
           "add_bias_linear": False},
        {"world_size": 64, "tp": 1, "pp": 4, "ep": 8, "micro_batch_size": 1, "global_batch_size": 256,
         "seq_length": 4096, "sequence_parallel": True, "recompute": "none", "flash_attention": True,
         "distributed_optimizer": True, "dtype": "bf16"}),
    "ModelZoo": (
        ("zoo.yaml",),
        ("world_size=256", "tp=1", "pp=16", "ep=16", "micro_batch_size=1", "global_batch_size=512"),
        given_by_model(Path(__file__).parents[1], "deepseek_v3") | {"add_bias_linear": False},
        {"world_size": 256, "tp": 1, "pp": 16, "ep": 16, "etp": 1, "global_batch_size": 512,
         "grad_reduce_in_fp32": False, "num_layers_in_last_pipeline_stage": 1,
         "moe_token_dispatcher_type": "flex"}),
    "Megatron-Bridge": (
        ("bridge.yaml",), ("world_size=8",),
        given_by_model(Path(__file__).parents[1], "qwen3_30B_A3B")
        | {"add_bias_linear": False, "bias_activation_fusion": True},
        {"world_size": 8, "tp": 1, "pp": 2, "ep": 4, "etp": 1, "micro_batch_size": 2, "global_batch_size": 32,
         "seq_length": 4096, "sequence_parallel": False, "dtype": "bf16", "distributed_optimizer": True,
         "grad_reduce_in_fp32": False, "use_precision_aware_optimizer": True, "exp_avg_dtype": "bf16"}),
    "SimuMax": (
        ("simumax_model.json", "simumax_strategy.json"), (),
        dict(zip(SHAPE, (4, 5120, 12288, 128, 128, 102400), strict=True))
        | {"attention": "mla", "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
           "num_shared_experts": 2, "first_k_dense": 1, "hidden_dropout": 0, "attention_dropout": 0},
        # 16 GPUs in 2 stages: 8 ranks of 8 micro-batches
        {"global_batch_size": 64, "recompute": "full", "etp": 1, "ep": 8, "distributed_optimizer": True}),
    "Calculon": (
        ("calculon_model.json", "calculon_execution.json"), ("vocab_size=51200",),
        dict(zip(SHAPE, (96, 12288, 49152, 96, 96, 51200), strict=True))
        | {"gated_mlp": False, "head_dim": 128},
        {"world_size": 512, "tp": 8, "pp": 8, "virtual_pipeline": 2, "recompute": "selective",
         "seq_length": 2048, "sequence_parallel": True, "dtype": "bf16"}),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPORTS)
def test_a_model_and_a_row(project: Path, name: str) -> None:
    files, given, model, row = IMPORTS[name]
    out, sweep = project / "config/models/it.yaml", project / "it.yaml"
    words = [*written(project, *files), *given, "--out", str(out), "--sweep-out", str(sweep)]
    assert main(["import", *words]) == 0
    found = given_by_model(project, "it")
    assert {key: found.get(key) for key in model} == model
    (found_row,) = read_yaml(sweep)["rows"]
    assert {key: found_row.get(key) for key in row} == row
    workloads = load_sweep(project, "it.yaml").workloads
    assert folded(workloads).height > 0


def test_the_row_of_a_simai_workload(root: Path, project: Path) -> None:
    sweep = project / "it.yaml"
    (file,) = written(project, "aicb.txt")
    assert main(["import", file, "model=gpt_13B", "seq_length=4096", "--sweep-out", str(sweep)]) == 0
    # 64 micro-batches of 512/(8 x 4) ranks
    assert read_yaml(sweep)["rows"] == [
        {"model": "gpt_13B", "world_size": 512, "tp": 8, "pp": 4, "ep": 4, "micro_batch_size": 1}
        | {"global_batch_size": 1024, "seq_length": 4096}
    ]


def test_a_row_without_a_model_of_its_own_keeps_the_model_s_keys(project: Path) -> None:
    sweep = project / "it.yaml"
    (file,) = written(project, "simumax_strategy.json")
    assert main(["import", file, "model=llama3_8B", "--sweep-out", str(sweep)]) == 0
    (row,) = read_yaml(sweep)["rows"]
    assert (row["model"], row["hidden_dropout"], row["tp"]) == ("llama3_8B", 0, 1)


def test_from_config_json_to_costs_in_two_commands(
    root: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("clusters", "gpus"):
        shutil.copytree(root / "config" / part, project / "config" / part)
    monkeypatch.chdir(project)
    names = ("deepseek_v2_lite", "qwen3_30B_A3B", "gpt_oss_120B", "glm_4_5")
    runs = "cluster,model,world_size,tp,pp,ep,etp,global_batch_size,seq_length\n"
    for name in names:
        out = f"config/models/my_{name}.yaml"
        assert main(["import", config_file(project, CONFIGS[name]), "--out", out]) == 0
        runs += f"dgx-a100-80gb-8xhdr200,my_{name},64,1,1,8,1,64,4096\n"
    (project / "runs.csv").write_text(runs, encoding="utf-8")
    assert main(["predict", "runs.csv", "--out", "out.csv"]) == 0
    seconds = pl.read_csv("out.csv")["iteration_seconds"]
    assert seconds.len() == len(names)
    assert seconds.is_between(0.1, 1000).all()


def test_importing_twice_gives_the_same_bytes(project: Path) -> None:
    first, second = project / "config/models/a.yaml", project / "other/a.yaml"
    for out in (first, second):
        assert main(["import", config_file(project, CONFIGS["glm_4_5"]), "--out", str(out)]) == 0
    assert first.read_bytes() == second.read_bytes()
