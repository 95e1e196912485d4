"""Optimizer states on the host, worked out by hand: what is updated where, what travels, how long it takes.

Sources: Megatron-Core 0.19 (`cpu_offloading/hybrid_optimizer.py`), docs/trace.md "Once an iteration",
docs/costs.md "Optimizer on the host".
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

import foreign_files
from costing import costs, seconds
from moesweep.evaluate.costs import costed_on
from moesweep.export.simai_aicb import inexpressible
from moesweep.study.catalog import load_cluster
from moesweep.study.importers.bridge import read_recipe
from moesweep.study.importers.flags import UNMODELLED
from moesweep.study.importers.known import read_file
from moesweep.study.validation import findings
from moesweep.trace.programs import programs
from small import DENSE, small

OFFLOADED: dict[str, Any] = {"use_precision_aware_optimizer": True, "optimizer_cpu_offload": True}
CONSTANTS = {
    **{"host_link_bytes_per_second": 10e9, "host_bytes_per_second": 40e9, "kernel_seconds": 1e-6},
    **{"host_link_fraction": 0.5, "host_adam_fraction": 0.25},
}


def op(changes: dict[str, Any], name: str) -> dict[str, Any]:
    """One row of the first stage's closing work."""
    return programs(small(**changes)).filter(stage=0, op=name).row(0, named=True)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_what_is_updated_where(share: float) -> None:
    changes = DENSE | OFFLOADED | {"optimizer_offload_fraction": share}
    owned = op(DENSE, "adam")["n"]
    there = int(owned * share)
    adam = op(changes, "adam")
    assert (adam["m"], adam["n"]) == (op(DENSE, "adam")["m"], owned - there)
    # gradient, weight, moments read, the last three written; the weight read again, 16 bits written
    assert adam["hbm_bytes"] == (4 + 12 + 12 + 4 + 2) * (owned - there)
    if not there:
        assert programs(small(**changes)).filter(op="host_adam").is_empty()
        return
    host = op(changes, "host_adam")
    # a gradient of fp32 is read, a weight of 16 bits written
    assert (host["m"], host["n"], host["hbm_bytes"], host["kind"]) == (there, 0, 6 * there, "optimizer")


def test_gradients_of_16_bits_come_down_as_fp32() -> None:
    changes = DENSE | OFFLOADED | {"grad_reduce_in_fp32": False, "optimizer_offload_fraction": 0.5}
    owned = op(DENSE, "adam")["n"]
    # read in 2 bytes and written in 4 before
    assert op(changes, "host_adam")["hbm_bytes"] == (6 + 6) * (owned // 2)
    assert op(changes, "adam")["hbm_bytes"] == (34 + 6) * (owned - owned // 2)


def test_seconds_of_the_host() -> None:
    found = costs(DENSE | OFFLOADED | {"optimizer_offload_fraction": 0.5}, **CONSTANTS)
    there = op(DENSE, "adam")["n"] // 2
    # 4 bytes down and 2 up over 5 GB/s, 34 bytes in memory at 10 GB/s
    wanted = there * (6 / 5e9 + 34 / 10e9) + 1e-6
    assert seconds(found, "host_adam", "optimizer") == pytest.approx(wanted, rel=1e-9)
    aware = costs(DENSE, **CONSTANTS)
    assert found.workloads["optimizer_seconds"].item() > aware.workloads["optimizer_seconds"].item()
    assert found.workloads["optimizer_bytes"].item() == 12 * found.memory["owned"].max()  # type: ignore[operator]


def test_a_cluster_has_hosts(root: Path) -> None:
    cluster = load_cluster(root, "dgx-a100-80gb-8xhdr200")
    assert cluster.value("host_bytes") == 250e9
    assert cluster.value("host_link_bytes_per_second") == 32e9
    frame = small(**DENSE | OFFLOADED)
    row = costed_on(frame, [cluster]).row(0, named=True)
    assert "an optimizer on the host" in row["validated_why"]
    assert row["optimizer_bytes"] == 0


def test_more_than_the_host_has_is_refused() -> None:
    frame = small(**DENSE | OFFLOADED)
    # 2 layers of a stage, 24,576 each, of which 4 replicas update a quarter: 16 bytes of 12,288
    for host, refused in ((16 * 12_288, False), (16 * 12_288 - 1, True)):
        cluster = {
            "one": {"fp8_matrix_flops_per_second": 0, "mxfp8_matrix_flops_per_second": 0, "host_bytes": host}
        }
        rules = set(findings(frame, clusters=cluster)["rule"])
        assert ("offload_of_host" in rules) is refused
    assert "offload_of_host" not in set(findings(frame)["rule"])


def test_what_is_not_modelled_or_written() -> None:
    assert {"overlap_cpu_optimizer_d2h_h2d", "cpu_offloading"} <= UNMODELLED
    problems = inexpressible(small(**DENSE | OFFLOADED).row(0, named=True))
    assert "optimizer_cpu_offload" in {problem.path for problem in problems}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("--optimizer-cpu-offload", (True, None)),
        ("--optimizer-cpu-offload --optimizer-offload-fraction 0.25", (True, 0.25)),
        ("--optimizer-offload-fraction 0.25", (None, None)),
    ],
)
def test_what_a_script_offloads(tmp_path: Path, said: str, expected: tuple[Any, Any]) -> None:
    aware = "--bf16 --use-precision-aware-optimizer"
    script = foreign_files.MIXTRAL_SCRIPT.replace("--bf16", f"{aware} {said} --overlap-cpu-optimizer-d2h-h2d")
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    draft = read_file(tmp_path / "launch.sh")
    keys = ("optimizer_cpu_offload", "optimizer_offload_fraction")
    assert tuple(draft.row.get(key, (None,))[0] for key in keys) == expected
    assert ("optimizer_offload_fraction" in draft.idle) == (expected == (None, None))
    assert draft.unread.keys() >= {"overlap_cpu_optimizer_d2h_h2d"}


@pytest.mark.parametrize(("said", "share"), [({}, 0.0), ({"optimizer_offload_fraction": 1.0}, 1.0)])
def test_what_a_recipe_offloads(said: dict[str, float], share: float) -> None:
    recipe = yaml.safe_load(foreign_files.BRIDGE)
    recipe["optimizer"] |= {"optimizer_cpu_offload": True, "exp_avg_dtype": None} | said
    # a configuration that does not say how much offloads nothing
    assert read_recipe(recipe, "recipe.yaml").row["optimizer_offload_fraction"][0] == share
