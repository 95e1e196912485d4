"""What users get wrong in the catalogue and the configuration: models, GPUs, clusters, config.yaml."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moesweep.edge.problems import BadInput, Problem
from moesweep.edge.yaml_reader import read_yaml
from moesweep.study.catalog import load_cluster
from moesweep.study.configured import Configuration
from moesweep.study.models import load_model
from moesweep.study.sweep import load_sweep

CLUSTER = "dgx-a100-80gb-8xhdr200"


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A project of one's own with the whole catalogue."""
    shutil.copytree(root / "config", tmp_path / "config")
    return tmp_path


def problems(use: Callable[[], object]) -> list[Problem]:
    with pytest.raises(BadInput) as caught:
        use()
    return caught.value.problems


@pytest.mark.parametrize(
    "name", ["../gpt_7B", "gpt_7B/../gpt_13B", "/etc/passwd", "", ".", "gpt 7B", "*", "\n"]
)
def test_names_are_never_paths(project: Path, name: str) -> None:
    for load in (load_model, load_cluster):
        (problem,) = problems(lambda load=load: load(project, name))  # type: ignore[misc]
        assert problem.rule in ("unknown_model", "unknown_cluster")


def edit(project: Path, file: str, old: str, new: str) -> None:
    path = project / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


MODEL_FILE = "config/models/gpt_7B.yaml"


@pytest.mark.parametrize(
    ("old", "new", "path", "rule"),
    [
        ("num_layers: {value: 36", "num_layers: {value: 36.5", "num_layers.value", "type"),
        ("num_layers: {value: 36", "num_layers: {valeu: 36", "num_layers.valeu", "unknown_key"),
        ("num_layers:", "num_leyers:", "num_leyers", "unknown_key"),
        ("value: layernorm", "value: LayerNorm", "normalization.value", "choice"),
        ("value: 50257", "value: 1000000000000", "vocab_size.value", "range"),
        ("{value: 50257, source: ", "{source: ", "vocab_size.value", "missing_key"),
        (
            'num_layers: {value: 36, source: "the study\'s workload files (AICB)"}',
            "num_layers: 0",
            "num_layers",
            "range",
        ),
    ],
)
def test_a_model_with_one_mistake(project: Path, old: str, new: str, path: str, rule: str) -> None:
    edit(project, MODEL_FILE, old, new)
    found = {problem.path: problem for problem in problems(lambda: load_model(project, "gpt_7B"))}
    assert found[path].rule == rule
    assert found[path].file == MODEL_FILE
    # A sweep that names the model says the same.
    row = {"model": "gpt_7B", "world_size": 8, "tp": 1, "pp": 1, "global_batch_size": 8, "seq_length": 128}
    (project / "sweep.yaml").write_text(json.dumps({"rows": [row]}), encoding="utf-8")
    assert set(problems(lambda: load_sweep(project, "sweep.yaml"))) == set(found.values())


def constant(project: Path, file: str, name: str, **changes: Any) -> None:
    """Rewrite one constant of a file, as JSON, which is YAML; None removes it."""
    data = read_yaml(project / file)
    data["constants"][name] = data["constants"].get(name, {}) | changes
    if changes.get("value", 0) is None:
        del data["constants"][name]
    (project / file).write_text(json.dumps(data), encoding="utf-8")


GPU_FILE = "config/gpus/a100-sxm-80gb.yaml"
CLUSTER_FILE = f"config/clusters/{CLUSTER}.yaml"
CALIBRATION_FILE = "config/calibration.yaml"


@pytest.mark.parametrize(
    ("file", "name", "changes", "path", "rule", "message"),
    [
        (GPU_FILE, "hbm_bytes", {"value": "80 GB/s"}, "hbm_bytes.value", "quantity", "another dimension"),
        (GPU_FILE, "hbm_bytes", {"value": "80"}, "hbm_bytes.value", "quantity", "no unit"),
        (GPU_FILE, "hbm_bytes", {"value": 80}, "hbm_bytes.value", "quantity", "no unit"),
        (GPU_FILE, "hbm_bytes", {"value": True}, "hbm_bytes.value", "type", "truth value"),
        (GPU_FILE, "hbm_bytes", {"value": "-80 GiB"}, "hbm_bytes.value", "quantity", "negative"),
        (GPU_FILE, "hbm_bytes", {"value": "1 TiB"}, "hbm_bytes.value", "bounds", "not between its bounds"),
        (
            GPU_FILE,
            "hbm_bytes",
            {"bounds": ["1 s", "80 GiB"]},
            "hbm_bytes.bounds[0]",
            "quantity",
            "dimension",
        ),
        (GPU_FILE, "hbm_bytes", {"bounds": []}, "hbm_bytes.bounds", "range", "empty list"),
        (GPU_FILE, "hbm_bytes", {"tag": "guess"}, "hbm_bytes.tag", "choice", "not one of"),
        (GPU_FILE, "hbm_bytes", {"value": None}, "hbm_bytes", "missing_key", "is missing"),
        (
            CLUSTER_FILE,
            "nic_bytes_per_second",
            {"value": None},
            "nic_bytes_per_second",
            "missing_key",
            "missing",
        ),
        (CLUSTER_FILE, "gpus_per_node", {"value": "8"}, "gpus_per_node.value", "quantity", "plain number"),
        (CLUSTER_FILE, "gpus_per_node", {"value": float("nan")}, "gpus_per_node.value", "quantity", "NaN"),
        (
            CLUSTER_FILE,
            "gpus_per_node",
            {"value": 7.5, "bounds": [1, 16]},
            "gpus_per_node",
            "multiple",
            "7.5",
        ),
        (CLUSTER_FILE, "gpus_per_node", {"value": 0, "bounds": [0, 8]}, "gpus_per_node", "range", "0"),
        (CLUSTER_FILE, "warp_bytes", {"value": "1 B"}, "warp_bytes.tag", "missing_key", "tag"),
        (CALIBRATION_FILE, "kernel_seconds", {"value": None}, "kernel_seconds", "missing_key", "is missing"),
    ],
)
def test_a_cluster_with_one_mistake(
    project: Path, file: str, name: str, changes: dict[str, Any], path: str, rule: str, message: str
) -> None:
    constant(project, file, name, **changes)
    found = {problem.path: problem for problem in problems(lambda: load_cluster(project, CLUSTER))}
    problem = found[f"constants.{path}"]
    assert problem.rule == rule
    assert message in problem.message
    assert problem.file == file


@pytest.mark.parametrize(
    ("name", "value", "rule", "suggestion"),
    [
        ("nic_bytes_per_second", "-200 Gbit/s", "quantity", "write 200 Gbit/s"),
        ("nic_bytes_per_second", "200 GiB", "quantity", 'in byte/second, such as "200 Gbit/s"'),
        ("nic_bytes_per_second", "200 Gbots", "quantity", 'in byte/second, such as "200 Gbit/s"'),
        ("nic_bytes_per_second", 200, "quantity", 'in byte/second, such as "200 Gbit/s"'),
        ("nic_bytes_per_second", "20 Gbit/s", "bounds", "nearest: 180 Gbit/s"),
        ("nic_bytes_per_second", "2000 Gbit/s", "bounds", "nearest: 200 Gbit/s"),
        ("nic_bytes_per_second", True, "type", 'needed: a number, or text such as "80 GiB"'),
        ("fabric_efficiency", -0.9, "quantity", "write 0.9"),
        ("fabric_efficiency", "0.9", "quantity", "write it without unit or quotes, such as 0.9"),
    ],
)
def test_a_constant_s_value_comes_with_a_way_out(
    project: Path, name: str, value: object, rule: str, suggestion: str
) -> None:
    constant(project, CLUSTER_FILE, name, value=value)
    found = {problem.path: problem for problem in problems(lambda: load_cluster(project, CLUSTER))}
    problem = found[f"constants.{name}.value"]
    assert problem.rule == rule
    assert suggestion in problem.suggestion


def test_constants_unknown_and_given_twice(project: Path) -> None:
    known = {"value": "80 GiB", "tag": "paper", "source": "somewhere", "bounds": ["1 GiB", "80 GiB"]}
    constant(project, CLUSTER_FILE, "hbm_bytes", **known)
    constant(project, CLUSTER_FILE, "hbm_byte", **known | {"value": 1, "bounds": [0, 1]})
    found = {problem.rule: problem for problem in problems(lambda: load_cluster(project, CLUSTER))}
    assert set(found) == {"given_twice", "unknown_key"}
    assert GPU_FILE in found["given_twice"].message
    assert found["given_twice"].file == found["unknown_key"].file == CLUSTER_FILE


def test_a_constant_in_another_s_file(project: Path) -> None:
    given = {"value": "4 GB/s", "tag": "paper", "source": "its sheet", "bounds": ["1 GB/s", "5 GB/s"]}
    constant(project, CLUSTER_FILE, "nic_bytes_per_second", value=None)
    constant(project, GPU_FILE, "nic_bytes_per_second", **given)
    (problem,) = problems(lambda: load_cluster(project, CLUSTER))
    assert (problem.file, problem.rule) == (GPU_FILE, "wrong_file")
    assert f"it belongs in {CLUSTER_FILE}" in problem.message


SAID = {"value": "3 us", "tag": "measured", "source": "timed here", "bounds": ["2 us", "6 us"]}


def test_a_gpu_and_a_cluster_may_say_what_the_calibration_says(project: Path) -> None:
    constant(project, GPU_FILE, "kernel_seconds", **SAID)
    assert load_cluster(project, CLUSTER).constants["kernel_seconds"].file == GPU_FILE
    assert load_cluster(project, CLUSTER).value("kernel_seconds") == 3e-6
    constant(project, CLUSTER_FILE, "node_latency_2_seconds", **SAID)
    assert load_cluster(project, CLUSTER).constants["node_latency_2_seconds"].file == CLUSTER_FILE
    constant(project, CLUSTER_FILE, "kernel_seconds", **SAID | {"value": "4 us"})
    (problem,) = problems(lambda: load_cluster(project, CLUSTER))
    assert (problem.file, problem.path, problem.rule) == (GPU_FILE, "constants.kernel_seconds", "given_twice")
    assert CLUSTER_FILE in problem.message


def test_what_was_measured_on_an_a100_is_scaled_elsewhere(project: Path) -> None:
    edit(project, CLUSTER_FILE, "gpu: a100-sxm-80gb", "gpu: h100-sxm-80gb")
    ours, there = load_cluster(project, CLUSTER), load_cluster(project, "dgx-h100-80gb-8xndr400")
    for cluster in (ours, there):
        found = cluster.constants["gemm_wgrad_efficiency"]
        assert found.tag == "scaled"
        assert found.source.startswith("the same as on an A100: fit to 183")
        assert cluster.constants["fp16_accumulation_bytes"].tag == "paper"
    assert load_cluster(project, "a100-80gb-pcie").constants["gemm_wgrad_efficiency"].tag == "measured"


def test_an_unknown_gpu_is_suggested(project: Path) -> None:
    edit(project, CLUSTER_FILE, "gpu: a100-sxm-80gb", "gpu: a100-sxm-80g")
    (problem,) = problems(lambda: load_cluster(project, CLUSTER))
    assert (problem.file, problem.path, problem.rule) == (CLUSTER_FILE, "gpu", "unknown_gpu")
    assert problem.suggestion.startswith("did you mean a100-sxm-80gb")


def test_what_a_study_lacks_comes_with_the_code(project: Path, root: Path) -> None:
    edit(project, "config/calibration.yaml", "value: 0.781", "value: 0.77")
    own = load_cluster(project, CLUSTER)
    (project / "config/calibration.yaml").unlink()
    assert load_cluster(project, CLUSTER) == load_cluster(root, CLUSTER) != own
    (project / "config/calibration.yaml").symlink_to("nowhere")
    (problem,) = problems(lambda: load_cluster(project, CLUSTER))
    assert (problem.file, problem.rule) == ("config/calibration.yaml", "missing_file")


def test_faults_of_all_of_a_cluster_s_files_come_at_once(project: Path) -> None:
    edit(project, CLUSTER_FILE, "tag: paper", "tag: papers")
    edit(project, GPU_FILE, "tag: paper", "tag: papers")
    edit(project, "config/calibration.yaml", "tag: ", "tags: ")
    files = {problem.file for problem in problems(lambda: load_cluster(project, CLUSTER))}
    assert files == {CLUSTER_FILE, GPU_FILE, "config/calibration.yaml"}


@pytest.mark.parametrize(
    ("changes", "path", "rule"),
    [
        ({"sweep": "../../etc/passwd.yaml"}, "sweep", "pattern"),
        ({"sweep": "/etc/passwd.yaml"}, "sweep", "pattern"),
        ({"cluster": "../x"}, "cluster", "pattern"),
        ({"workloads_per_trace_job": 0}, "workloads_per_trace_job", "range"),
        ({"workloads_per_trace_job": True}, "workloads_per_trace_job", "type"),
        ({"workload_per_trace_job": 8}, "workload_per_trace_job", "unknown_key"),
    ],
)
def test_a_configuration_with_one_mistake(
    project: Path, changes: dict[str, Any], path: str, rule: str
) -> None:
    sound = {"sweep": "config/sweeps/x.yaml", "cluster": CLUSTER, "workloads_per_trace_job": 8, "outputs": []}
    (project / "config/config.yaml").write_text(json.dumps(sound | changes), encoding="utf-8")
    (problem,) = problems(lambda: Configuration(project).load())
    assert (problem.path, problem.rule) == (path, rule)
