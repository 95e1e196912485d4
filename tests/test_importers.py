"""Files that people have, imported: every architecture right to the parameter, strangers' files safe."""

import json
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from foreign_files import BRIDGE, FILES, MIXTRAL_SCRIPT
from malformed import PAYLOADS
from moesweep.cli import main
from moesweep.edge.problems import BadInput
from moesweep.edge.yaml_reader import read_yaml
from moesweep.study.importers.bridge import read_recipe
from moesweep.study.importers.known import read_file
from moesweep.study.importers.transformers import ARCHITECTURES
from moesweep.study.importers.written import faults_of_model, faults_of_row, joined, write_model
from moesweep.study.models import given_by_model
from moesweep.study.sweep import load_sweep
from moesweep.trace.programs import folded
from naive_checkpoint import counted
from public_configs import CONFIGS, OTHERS

ALL = CONFIGS | OTHERS
SIZES = ("parameters", "active_parameters", "mtp_parameters")
ROW = ("world_size=8", "tp=1", "pp=1", "ep=1", "etp=1", "global_batch_size=8", "seq_length=4096")


def config_file(folder: Path, config: Mapping[str, Any]) -> str:
    file = folder / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    return str(file)


def written(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).write_text(FILES[name], encoding="utf-8")
    return [str(folder / name) for name in names]


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


DOUBLED = "".join(f"A{i}=${{A{i - 1}}}${{A{i - 1}}}\n" for i in range(1, 31))
"""Thirty variables, each twice the one before."""


def faults(folder: Path, name: str, text: str, capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """What an import says of a file that must not be accepted; nothing is written."""
    file, out = folder / name, folder / "out.yaml"
    file.write_text(text, encoding="utf-8")
    assert (
        main(["import", str(file), *given, "--out", str(out), "--sweep-out", str(folder / "row.yaml")]) == 2
    )
    assert not out.exists()
    assert not (folder / "row.yaml").exists()
    return capsys.readouterr().err.replace(str(file), name)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "c.json",
            '{"architectures": ["BertModel"]}',
            'the architecture "BertModel" is not known; known: Llama',
        ),
        ("c.json", '{"architectures": [["a"]]}', "is not known"),
        (
            "c.json",
            '{"model_type": "llama", "hidden_size": 1, "hidden_size": 2}',
            '"hidden_size" is given twice',
        ),
        ("c.json", '{"model_type": "llama", "hidden_size": NaN}', "NaN is no number"),
        ("c.json", '{"model_type": "llama", "hidden_size": 1e400}', "1e400 is beyond any number"),
        (
            "c.json",
            '{"model_type": "llama", "hidden_size": 1' + "0" * 400 + "}",
            "a number of 401 characters",
        ),
        ("c.json", '{"model_type": "llama", "a": ' + "[" * 40 + "]" * 40 + "}", "nested more than"),
        ("c.json", '{"model_type": "llama",', "not valid JSON"),
        ("c.json", '{"made": "up"}', "is no file of a known kind; known: a config.json of transformers"),
        ("c.json", " " * 4_000_001, "larger than 4000000 bytes"),
        ("c.yaml", "a: &b [1]\nc: *b\n", "anchors"),
        ("c.yaml", "a: !!python/object/apply:os.system [ls]\n", "tags"),
        ("c.sh", "torchrun x.py --num-layers 2 'open", "cannot be read as a shell script"),
        ("c.sh", f"A0={'x' * 9}\n{DOUBLED}run --num-layers $A30\n", "without end"),
    ],
)
def test_files_of_strangers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, said: str
) -> None:
    found = faults(tmp_path, name, text, capsys)
    assert said in found
    assert "Traceback" not in found


def test_all_faults_of_a_file_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS["deepseek_v3"] | {
        "hidden_size": "7168",
        "num_hidden_layers": -1,
        "n_shared_experts": 1.5,
    }
    del config["vocab_size"]
    found = faults(tmp_path, "config.json", json.dumps(config), capsys, "tp=0.5", "hiden_size=2")
    assert "there is no key" in found
    found = faults(tmp_path, "config.json", json.dumps(config), capsys)
    assert (
        'config.json: hidden_size: type: the text "7168" where a whole number is needed; write 7168' in found
    )
    assert "config.json: num_hidden_layers: range: num_layers: -1 is below the least allowed value 1" in found
    assert "config.json: n_shared_experts: type: num_shared_experts: " in found
    assert "vocab_size: missing_key: no file says vocab_size; add vocab_size=... to the command" in found
    assert "world_size: missing_key" in found


def test_what_only_a_run_would_know_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = MIXTRAL_SCRIPT.replace("TP=${TP:-1}", "if [ $X ]; then\n  TP=2\nelse\n  TP=4\nfi")
    found = faults(tmp_path, "launch.sh", script.replace("--num-layers 32", "--num-layers $2"), capsys)
    assert (
        'tensor_model_parallel_size is "$TP", which only a run would know; add tp=... to the command' in found
    )
    assert 'num_layers is "$2", which only a run would know; add num_layers=... to the command' in found


def test_files_that_contradict_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (script,) = written(tmp_path, "launch.sh")
    config = config_file(tmp_path, CONFIGS["mixtral_8x22B"])
    out = tmp_path / "out.yaml"
    assert main(["import", config, script, "--out", str(out)]) == 2
    found = capsys.readouterr().err
    assert (
        "num_layers: contradiction: num_layers is 32 here and 56 by config.json: num_hidden_layers" in found
    )
    assert not out.exists()


def test_no_code_of_a_script_runs_and_no_path_is_followed(tmp_path: Path) -> None:
    trap = tmp_path / "ran"
    script = f"touch {trap}\nX=$(touch {trap})\nsource {tmp_path}/other.sh\n" + MIXTRAL_SCRIPT
    (tmp_path / "launch.sh").write_text(f"{script}\n`touch {trap}`\n", encoding="utf-8")
    (tmp_path / "other.sh").write_text("NNODES=77\n", encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    assert not trap.exists()
    assert draft.row["world_size"][0] == 8


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["aicb.txt", "model=gpt_13B"], "there is nothing to write; add --out"),
        (["none.json", "--out", "x.yaml"], "no such file"),
        (["tp=2", "--out", "x.yaml"], "no file to import is named"),
        (["aicb.txt", "seq_length=1", "--sweep-out", "x.yaml"], "a row needs a model, and none is written"),
        (["calculon_model.json", "vocab_size=9", "--out", ".yaml"], "names no model"),
        (["calculon_model.json", "vocab_size=9", "model=a", "--out", "x.yaml"], "the model is called x"),
    ],
)
def test_commands_that_make_no_sense(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "aicb.txt", "calculon_model.json")
    assert main(["import", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x.yaml").exists()


ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 2.5, 10**18, 1e300, "", "x", "$TP", "([0]*3+[1]*5)", "[[0]*9]*9"),
    *([], {}, [[]], [0, 1], [None], {"a": 1}, "silu", 65536, 1 << 40, "0" * 30),
)


def _changed(random_: random.Random, data: Any, changes: int) -> Any:
    """Data with some values, at any depth, replaced by odd ones."""
    places = list(_places(data))
    for _ in range(changes):
        part, key = random_.choice(places)
        part[key] = random_.choice(ODD)
    return data


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield data, key
        yield from _places(data[key])


@pytest.mark.parametrize("seed", range(8))
def test_whatever_a_file_says_it_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    random_ = random.Random(seed)
    kinds = [json.dumps(config) for config in ALL.values()]
    kinds += [text for name, text in FILES.items() if name.endswith(".json")]
    kinds += [json.dumps(yaml.safe_load(FILES[name])) for name in ("zoo.yaml", "bridge.yaml")]
    for text in random_.sample(kinds, 20):
        for changes in (1, 3):
            data = _changed(random_, json.loads(text), changes)
            (tmp_path / "f.json").write_text(json.dumps(data), encoding="utf-8")
            try:
                draft = read_file(tmp_path / "f.json")
            except BadInput:
                continue
            found = joined([draft], {})
            lines = [p.line() for p in (*found.problems, *faults_of_model(found), *faults_of_row(found))]
            assert all(len(line) < 1000 for line in lines)


@pytest.mark.parametrize("name", FILES)
def test_payloads_in_any_place_are_read_or_refused(tmp_path: Path, name: str) -> None:
    random_ = random.Random(name)
    words = [found.span() for found in re.finditer(r"[^\s,:{}\"]+", FILES[name])]
    for payload in PAYLOADS:
        start, end = random_.choice(words)
        text = FILES[name][:start] + payload + FILES[name][end:]
        (tmp_path / "f").write_text(text, encoding="utf-8")
        try:
            draft = read_file(tmp_path / "f")
        except BadInput:
            continue
        found = joined([draft], {})
        write_model(found, [draft], tmp_path / "m.yaml")
        said = read_yaml(tmp_path / "m.yaml")
        assert {key: said[key]["value"] for key in found.model} == {
            key: v for key, (v, _) in found.model.items()
        }
    assert {path.name for path in tmp_path.iterdir()} <= {"f", "m.yaml"}


def test_importing_twice_gives_the_same_bytes(project: Path) -> None:
    first, second = project / "config/models/a.yaml", project / "other/a.yaml"
    for out in (first, second):
        assert main(["import", config_file(project, CONFIGS["glm_4_5"]), "--out", str(out)]) == 0
    assert first.read_bytes() == second.read_bytes()


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
