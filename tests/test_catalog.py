"""The catalogue: the study's models and cluster with their sources, and the strict YAML reader under them."""

from pathlib import Path
from typing import Any

import pytest

from moesweep.edge.problems import BadInput
from moesweep.edge.schema import load_schema
from moesweep.edge.yaml_reader import read_yaml
from moesweep.study.catalog import load_cluster
from moesweep.study.catalog_files import unit_of
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
            assert constant.tag in ("measured", "paper", "scaled", "assumed")
            assert constant.source
            assert (root / constant.file).exists()


# cluster, its GPU, GPUs of a node (an NVLink domain), peak in Tflop/s, HBM in TB/s, NIC a GPU in Gbit/s
CLUSTERS = [
    ("dgx-a100-40gb-8xhdr200", "a100-sxm-40gb", 8, 312, 1.555, 200),
    ("a800-80gb-4xhdr200", "a800-sxm-80gb", 8, 312, 2.039, 100),
    ("hgx-a100-80gb-4x-2xhdr200", "a100-sxm-80gb", 4, 312, 2.039, 100),
    ("azure-ndm-a100-v4-8xhdr200", "a100-sxm-80gb", 8, 312, 2.039, 200),
    ("aws-p4d-a100-40gb-4xefa100", "a100-sxm-40gb", 8, 312, 1.555, 50),
    ("gcp-a2-ultra-a100-80gb", "a100-sxm-80gb", 8, 312, 2.039, 12.5),
    ("dgx-h100-80gb-8xndr400", "h100-sxm-80gb", 8, 989, 3.35, 400),
    ("azure-nd-h100-v5-8xndr400", "h100-sxm-80gb", 8, 989, 3.35, 400),
    ("aws-p5-h100-32xefa100", "h100-sxm-80gb", 8, 989, 3.35, 400),
    ("gcp-a3-high-h100-4x200", "h100-sxm-80gb", 8, 989, 3.35, 100),
    ("gcp-a3-mega-h100-8x200", "h100-sxm-80gb", 8, 989, 3.35, 200),
    ("hgx-h100-80gb-4x-4xndr400", "h100-sxm-80gb", 4, 989, 3.35, 400),
    ("h800-80gb-8xndr400", "h800-sxm-80gb", 8, 989, 3.35, 400),
    ("h20-96gb-4xndr400", "h20-sxm-96gb", 8, 148, 4.0, 200),
    ("dgx-h200-141gb-8xndr400", "h200-sxm-141gb", 8, 989, 4.8, 400),
    ("b200-180gb-8x", "b200-sxm-180gb", 8, 2250, 8.0, 400),
    ("dgx-b200-180gb-8xndr400", "b200-sxm-180gb", 8, 2250, 8.0, 400),
    ("dgx-b300-288gb-8xxdr800", "b300-sxm-288gb", 8, 2250, 8.0, 800),
    ("gb200-nvl72", "gb200-186gb", 72, 2500, 8.0, 400),
    ("gb300-nvl72", "gb300-288gb", 72, 2500, 8.0, 800),
]


@pytest.mark.parametrize(("name", "gpu", "node", "peak", "memory", "card"), CLUSTERS)
def test_a_cluster_after_the_first(
    root: Path, name: str, gpu: str, node: int, peak: float, memory: float, card: float
) -> None:
    cluster = load_cluster(root, name)
    assert (cluster.gpu, cluster.value("gpus_per_node")) == (gpu, node)
    assert cluster.value("matrix_flops_per_second") == peak * 1e12
    assert cluster.value("hbm_bytes_per_second") == pytest.approx(memory * 1e12, rel=1e-12)
    assert cluster.value("nic_bytes_per_second") == pytest.approx(card * 1e9 / 8, rel=1e-12)
    # No ring carries more than the links of the GPU, and all clusters of one GPU share what is the GPU's.
    links = cluster.constants["node_bus_4_apart_bytes_per_second"].high
    assert cluster.value("node_bus_8_bytes_per_second") <= links * (3 if node == 4 else 1)
    assert cluster.constants["hbm_bytes"].file == f"config/gpus/{gpu}.yaml"


def test_a_scaled_board_keeps_the_a100_s_share_of_its_links(root: Path) -> None:
    a100, b200 = (load_cluster(root, name) for name in (CLUSTER, "b200-180gb-8x"))
    for n in (2, 4, 8):
        name = f"node_bus_{n}_bytes_per_second"
        assert b200.value(name) / 900 == pytest.approx(a100.value(name) / 300, rel=1e-3)
        assert b200.constants[name].tag == "scaled"
        assert b200.value(f"node_latency_{n}_seconds") == a100.value(f"node_latency_{n}_seconds")


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
    assert config["workloads_per_trace_job"] == 32


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[1] / "schemas").glob("*.schema.json")))
def test_schemas_are_valid_strict_and_described(path: Path) -> None:
    import jsonschema

    schema = load_schema(path.name.removesuffix(".schema.json"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == path.name
    for part in parts(schema):
        if "properties" in part:
            # What has names of its own besides, such as the configuration's keys, says what they hold.
            others = part.get("additionalProperties")
            assert others is False or others["type"]
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
