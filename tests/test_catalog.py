"""The catalogue: the study's models and cluster with their sources, and the strict YAML reader under them."""

from pathlib import Path
from typing import Any

import pytest

from moesweep.edge.problems import BadInput
from moesweep.edge.schema import load_schema
from moesweep.edge.yaml_reader import read_yaml
from moesweep.study.catalog import load_cluster, unit_of
from moesweep.study.configured import Configuration
from moesweep.study.models import given_by_model, load_model, sourced_by_model

CLUSTER = "dgx-a100-80gb-8xhdr200"

# layers, hidden, FFN, heads
MODELS = {
    "gpt_7B": (36, 4096, 16384, 32),
    "gpt_13B": (40, 5120, 20480, 40),
    "gpt_22B": (48, 6144, 24576, 64),
    "gpt_175B": (96, 12288, 49152, 96),
    "llama_65B": (80, 8192, 28672, 64),
    "llama_405B": (128, 16384, 53248, 128),
}


def test_the_catalogue_holds_the_study_s_models(root: Path) -> None:
    assert {path.stem for path in (root / "config/models").glob("*.yaml")} >= set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_study(root: Path, name: str) -> None:
    model = load_model(root, name)
    shape = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads")
    assert tuple(model[key] for key in shape) == MODELS[name]
    assert model["num_query_groups"] == model["num_attention_heads"]
    assert (model["vocab_size"], model["gated_mlp"], model["attention"]) == (50257, False, "mha")
    assert (model["normalization"], model["position_embedding"]) == ("layernorm", "learned")
    assert (model["tied_embeddings"], model["num_experts"]) == (True, 0)
    assert set(model) == set(load_schema("model")["properties"]) - {"description", "source"}


BARE = """\
description: A model of bare values.
source: its paper, table 1
num_layers: 4
hidden_size: 256
ffn_hidden_size: 1024
num_attention_heads: 8
num_query_groups: {value: 2, source: its code}
vocab_size: 1000
gated_mlp: false
normalization: layernorm
position_embedding: learned
tied_embeddings: true
"""


def test_a_value_may_be_bare(tmp_path: Path) -> None:
    (tmp_path / "config/models").mkdir(parents=True)
    (tmp_path / "config/models/bare.yaml").write_text(BARE, encoding="utf-8")
    sourced = sourced_by_model(tmp_path, "bare")
    assert sourced["hidden_size"] == (256, "its paper, table 1")
    assert sourced["num_query_groups"] == (2, "its code")
    assert set(sourced) == set(given_by_model(tmp_path, "bare"))
    model = load_model(tmp_path, "bare")
    assert (model["num_layers"], model["attention"], model["num_experts"]) == (4, "gqa", 0)


def test_bare_values_need_a_source(tmp_path: Path) -> None:
    (tmp_path / "config/models").mkdir(parents=True)
    text = BARE.replace("source: its paper, table 1\n", "").replace(
        "layers: 4", "layers: {value: 4, source: x y}"
    )
    (tmp_path / "config/models/bare.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        load_model(tmp_path, "bare")
    (problem,) = caught.value.problems
    assert (problem.path, problem.rule) == ("source", "missing_key")
    assert problem.message.startswith("hidden_size, ffn_hidden_size, num_attention_heads and 5 more stand")
    assert "hidden_size: {value: 256, source: ...}" in problem.suggestion


def test_the_llamas_say_how_they_differ(root: Path) -> None:
    for name in ("llama_65B", "llama_405B"):
        description = read_yaml(root / f"config/models/{name}.yaml")["description"]
        for difference in ("grouped", "gated", "vocabulary 50257"):
            assert difference in description


def test_the_cluster_in_base_units(root: Path) -> None:
    cluster = load_cluster(root, CLUSTER)
    assert cluster.gpu == "a100-sxm-80gb"
    facts = {
        "matrix_flops_per_second": 312e12,
        "streaming_multiprocessors": 108,
        "hbm_bytes": 80 * 2**30,
        "hbm_bytes_per_second": 2.039e12,
        "gpus_per_node": 8,
        "nic_bytes_per_second": 25e9,
    }
    assert {name: cluster.value(name) for name in facts} == facts
    assert cluster.constants["usd_per_gpu_hour"].tag == "assumed"


def test_every_constant_has_a_source_and_lies_within_its_bounds(root: Path) -> None:
    for path in sorted((root / "config/clusters").glob("*.yaml")):
        constants = load_cluster(root, path.stem).constants
        assert set(constants) >= set(load_schema("cluster")["$defs"]["constants"]["required"])
        for constant in constants.values():
            assert constant.low <= constant.value <= constant.high
            assert constant.tag in ("measured", "paper", "assumed")
            assert constant.source
            assert (root / constant.file).exists()


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("hbm_bytes", "byte"),
        ("nic_bytes_per_second", "byte/second"),
        ("matrix_flops_per_second", "flop/second"),
        ("gemm_launch_seconds", "second"),
        ("usd_per_gpu_hour", ""),
        ("gpus_per_node", ""),
    ],
)
def test_the_name_of_a_constant_gives_its_unit(name: str, unit: str) -> None:
    assert unit_of(name) == unit


def test_the_configuration_names_the_study(root: Path) -> None:
    config = Configuration(root).load()
    assert config["sweep"] == "config/sweeps/moe-a100-123.yaml"
    assert config["cluster"] == CLUSTER
    assert config["workloads_per_trace_job"] == 16


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "schemas").glob("*.schema.json")))
def test_schemas_are_valid_strict_and_described(path: Path) -> None:
    import jsonschema

    schema = load_schema(path.name.removesuffix(".schema.json"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == path.name
    for part in parts(schema):
        if "properties" in part:
            assert part.get("additionalProperties") is False
            for name, key in part["properties"].items():
                assert "$ref" in key or name == "value" or key.get("description"), f"{path.name}: {name}"


def parts(schema: Any) -> list[dict[str, Any]]:
    """Every mapping within a schema."""
    below = list(schema.values()) if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    own = [schema] if isinstance(schema, dict) else []
    return own + [part for value in below for part in parts(value)]


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("a: 1", {"a": 1}),
        ("a: 1e9", {"a": 1e9}),
        ("a: -1.5e-3", {"a": -0.0015}),
        ("a: 010", {"a": 10}),
        ("a: no", {"a": "no"}),
        ("a: 12:30", {"a": "12:30"}),
        ("a: 0x10", {"a": "0x10"}),
        ("a: '1'", {"a": "1"}),
        ("a: true", {"a": True}),
        ("a: ~\nb:", {"a": None, "b": None}),
        ("a: |\n  b\n  c\n", {"a": "b\nc\n"}),
        ("[1, [2, {a: 3}], []]", [1, [2, {"a": 3}], []]),
        ("", None),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_yaml_means_what_it_seems_to_mean(tmp_path: Path, text: str, data: object) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_yaml(path) == data
