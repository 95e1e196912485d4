"""Comparisons of real result folders, made with the library: terms add up, causes are the changes made."""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from diffed import FASTER, cluster, made_from, retold, write
from moesweep.cli import main
from moesweep.diff.comparison import Comparison
from moesweep.diff.folder import read_folders
from moesweep.store.layout import Results
from moesweep.store.provenance import code_checksums
from moesweep.store.tablefile import write_table
from moesweep.study.routing import Routing
from skewed import table_file
from small import DENSE

SWEEP: dict[str, dict[str, Any]] = {"moe": {}, "wide": {"ep": 4, "world_size": 32}, "dense": DENSE}
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder, and others that differ from it in one respect each."""
    base = tmp_path_factory.mktemp("folders")
    full = SWEEP | {"moe": {"recompute": "full"}}
    made = {
        "base": write(base / "base", SWEEP, cluster()),
        "faster": write(base / "faster", SWEEP, cluster(FASTER)),
        "recompute": write(base / "recompute", full, cluster()),
        "narrower": write(base / "narrower", SWEEP | {"dense": DENSE | {"hidden_size": 32}}, cluster()),
        "fewer": write(base / "fewer", {"moe": {}}, cluster()),
    }
    other_code = {"code": json.dumps({"trace": "other", "cost": "other"})}
    return made | {
        "same": retold(made["base"], base / "same", made_from(cluster())),
        "coded": retold(made["base"], base / "coded", made_from(cluster()) | other_code),
        "idle": retold(made["base"], base / "idle", made_from(cluster({"flash_forward_efficiency": 0.6}))),
    }


def compared(folders: dict[str, Path], b: str) -> Comparison:
    return Comparison(*read_folders(folders["base"], folders[b]), 1e-9)


def moved(found: Comparison, workload: str) -> dict[str, dict[str, Any]]:
    rows = found.moved.filter(pl.col("workload") == workload).to_dicts()
    return {row["column"]: row for row in rows}


def effects(found: Comparison, workload: str) -> dict[str, dict[str, Any]]:
    rows = found.effects.filter(pl.col("workload") == workload).to_dicts()
    return {row["input"]: row for row in rows}


def test_equal_folders_are_equal(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(folders["base"]), str(folders["same"])]) == 0
    out = capsys.readouterr().out
    assert "no recorded input differs" in out
    assert "no cost differs in the 3 workloads that both have" in out


def test_an_input_without_effect_is_told_but_leaves_the_folders_equal(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(folders["base"]), str(folders["idle"])]) == 0
    assert "constant flash_forward_efficiency: " in capsys.readouterr().out


def test_the_terms_of_an_iteration_add_up(folders: dict[str, Path]) -> None:
    found = compared(folders, "faster")
    assert set(found.moved_ids) == {"moe", "wide", "dense"}
    for id_ in found.moved_ids:
        columns = moved(found, id_)
        parts = ("compute_seconds", "exposed_comm_seconds", "bubble_seconds", "optimizer_seconds")
        total = sum(columns[part]["change"] for part in parts if part in columns)
        assert columns["iteration_seconds"]["change"] == pytest.approx(total, rel=1e-6)
        assert "peak_memory_bytes" not in columns


def test_each_changed_constant_gets_its_own_effect(folders: dict[str, Path]) -> None:
    found = compared(folders, "faster")
    changes = {change.name: (change.kind, change.b) for change in found.inputs}
    assert changes == {name: ("constant", value) for name, value in FASTER.items()}
    alone = {
        name: write(folders["base"].parent / name, SWEEP, cluster({name: value}))
        for name, value in FASTER.items()
    }
    for id_ in found.moved_ids:
        caused = effects(found, id_)
        for name, path in alone.items():
            only = Comparison(*read_folders(folders["base"], path), 1e-9)
            change = moved(only, id_).get("iteration_seconds", {"change": 0.0})["change"]
            assert caused.get(name, {"iteration_seconds": 0.0})["iteration_seconds"] == pytest.approx(
                change, rel=1e-6, abs=1e-15
            )
        total = sum(effect["iteration_seconds"] for effect in caused.values())
        assert moved(found, id_)["iteration_seconds"]["change"] == pytest.approx(total)


def test_a_changed_parameter_moves_its_own_workload_alone(folders: dict[str, Path]) -> None:
    found = compared(folders, "recompute")
    assert [(each.kind, each.name, each.a, each.b, each.workload) for each in found.inputs] == [
        ("parameter", "recompute", "none", "full", "moe")
    ]
    assert found.moved_ids == ["moe"]
    columns, caused = moved(found, "moe"), effects(found, "moe")
    parts = ("weights_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "workspace_bytes")
    total = sum(columns[part]["change"] for part in parts if part in columns)
    assert columns["peak_memory_bytes"]["change"] == total < 0
    assert caused.keys() == {"recompute"}
    assert caused["recompute"]["peak_memory_bytes"] == columns["peak_memory_bytes"]["change"]


def test_options_are_causes_one_at_a_time(tmp_path: Path) -> None:
    """Another world and batch are not: alone, the world's ranks have no whole batch."""
    base = SWEEP | {"small": {"world_size": 16, "global_batch_size": 24, "micro_batch_size": 3}}
    twice = {"recompute": "full", "flash_attention": True}
    other = {"moe": twice, "small": {"world_size": 64, "global_batch_size": 96, "micro_batch_size": 3}}
    a = write(tmp_path / "a", base, cluster())
    found = Comparison(*read_folders(a, write(tmp_path / "b", SWEEP | other, cluster())), 1e-9)
    caused = effects(found, "moe")
    assert {*twice} <= caused.keys() <= {*twice, "interaction"}
    for name, value in twice.items():
        one = write(tmp_path / name, base | {"moe": {name: value}}, cluster())
        alone = moved(Comparison(*read_folders(a, one), 1e-9), "moe")
        assert caused[name]["peak_memory_bytes"] == alone["peak_memory_bytes"]["change"] != 0
    assert effects(found, "small").keys() == {"parameters"}


def test_a_changed_number_of_a_model_is_told_from_a_parameter(folders: dict[str, Path]) -> None:
    found = compared(folders, "narrower")
    assert {(each.kind, each.name) for each in found.inputs} == {
        ("model", "hidden_size"),
        # Not said by the model, the width of a head is h/a.
        ("model", "head_dim"),
    }
    assert effects(found, "dense").keys() == {"model"}


def test_workloads_of_one_folder_are_listed(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(folders["base"]), str(folders["fewer"])]) == 1
    out = capsys.readouterr().out
    assert "only in A: 2 workloads\n  wide\n  dense\n" in out
    main(["diff", str(folders["base"]), str(folders["fewer"]), "--top", "1"])
    out = capsys.readouterr().out
    assert "only in A: 2 workloads\n  wide\n  and 1 more: --top 2 shows all\n" in out
    assert compared(folders, "fewer").only_b == []


def test_other_code_is_an_input(folders: dict[str, Path]) -> None:
    found = compared(folders, "coded")
    assert [(each.kind, each.name, each.b) for each in found.inputs] == [
        ("code", "cost", "other"),
        ("code", "trace", "other"),
    ]
    assert found.equal


def test_what_no_input_explains_is_left_to_the_code(tmp_path: Path, folders: dict[str, Path]) -> None:
    shutil.copytree(folders["base"], tmp_path / "b")
    results = Results(tmp_path / "b")
    known = pl.read_parquet_metadata(results.costs)
    told = {key: known[f"moesweep.{key}"] for key in ("cluster", "constants")}
    costs = pl.read_parquet(results.costs).with_columns(pl.col("iteration_seconds") * 2)
    write_table(costs, results.costs, "costs", told)
    found = Comparison(*read_folders(folders["base"], tmp_path / "b"), 1e-9)
    assert effects(found, "moe")["interaction"]["iteration_seconds"] == costs["iteration_seconds"][0] / 2
    assert {each.name: each.b for each in found.inputs} == {"cost": None, "trace": None}


def test_folders_without_recorded_constants_still_compare(tmp_path: Path, folders: dict[str, Path]) -> None:
    for name in ("base", "faster"):
        retold(folders[name], tmp_path / name, {"constants": "[broken"})
    found = Comparison(*read_folders(tmp_path / "base", tmp_path / "faster"), 1e-9)
    assert (len(found.moved_ids), found.inputs, found.effects.height) == (3, [], 0)


def test_a_tolerance_hides_what_is_smaller(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", str(folders["base"]), str(folders["faster"]), "--tolerance", "10"]) == 0


def test_text_names_terms_and_causes(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(folders["base"]), str(folders["faster"]), "--top", "1"]) == 1
    out = capsys.readouterr().out
    assert "  constant nic_bytes_per_second: 2.5e+10 → 5e+10 byte/second (paper)\n" in out
    assert "3 of the 3 workloads that both have moved" in out
    assert "    because of nic_bytes_per_second: -" in out
    assert "2 more workloads moved: --top 3 shows all" in out


def test_json_and_csv_hold_the_same_facts(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["diff", str(folders["base"]), str(folders["faster"]), "--format"]
    assert main([*arguments, "json"]) == 1
    tree = json.loads(capsys.readouterr().out)
    assert main([*arguments, "csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    listed = {(row["workload"], row["name"]): float(row["b"]) for row in rows if row["kind"] == "column"}
    assert listed == {
        (part["workload"], column["column"]): column["b"]
        for part in tree["moved"]
        for column in part["columns"]
    }
    assert {row["name"] for row in rows if row["kind"] == "constant"} == set(FASTER)
    assert {each["name"] for each in tree["inputs"]} == set(FASTER)
    assert not tree["equal"]


def without(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def of_another_version(path: Path) -> None:
    frame = pl.read_parquet(path / "costs.parquet")
    kept = pl.read_parquet_metadata(path / "costs.parquet") | {"moesweep.schema_version": "99"}
    frame.write_parquet(path / "costs.parquet", metadata=kept)


def with_another_catalogue(path: Path) -> None:
    frame = pl.read_parquet(path / "workloads.parquet")
    write_table(frame.filter(pl.col("workload") != "moe"), path / "workloads.parquet", "workloads")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "is no folder of results"),
        (without("costs.parquet"), "costs.parquet: readable"),
        (without("workloads.parquet"), "workloads.parquet: readable"),
        (of_another_version, "version 99"),
        (with_another_catalogue, "costs a workload that is not in workloads.parquet"),
    ],
)
def test_folders_that_cannot_be_compared_are_refused(
    tmp_path: Path,
    folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    for name in ("a", "b"):
        shutil.copytree(folders["base"], tmp_path / name)
        damage(tmp_path / name)
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count(message) == 2
    assert "Traceback" not in err


def test_options_out_of_range_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "a", "b", "--tolerance", "nan", "--top", "0"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_checksums_cover_the_layers_that_decide_a_number() -> None:
    checksums = code_checksums()
    assert checksums.keys() == {"trace", "cost"}
    assert all(len(checksum) == 16 for checksum in checksums.values())
    assert checksums == code_checksums()


SKEWED: dict[str, dict[str, Any]] = {"moe": {"routing": "zipf(alpha=1,seed=1)"}, "dense": DENSE}


def total(found: Comparison, workload: str, measure: str) -> float:
    return sum(effect[measure] for effect in effects(found, workload).values())


@pytest.mark.slow
@pytest.mark.endurance
def test_constants_move_given_routing_as_each_of_them_alone(tmp_path: Path) -> None:
    a = write(tmp_path / "a", SKEWED, cluster())
    found = Comparison(*read_folders(a, write(tmp_path / "b", SKEWED, cluster(FASTER))), 1e-9)
    caused = effects(found, "moe")
    assert set(FASTER) <= set(caused) <= {*FASTER, "interaction"}
    for name, value in FASTER.items():
        alone = Comparison(*read_folders(a, write(tmp_path / name, SKEWED, cluster({name: value}))), 1e-9)
        change = moved(alone, "moe")["iteration_seconds"]["change"]
        assert caused[name]["iteration_seconds"] == pytest.approx(change, rel=1e-6)
        assert effects(alone, "moe").keys() == {name}
    change = moved(found, "moe")["iteration_seconds"]["change"]
    assert total(found, "moe", "iteration_seconds") == pytest.approx(change)


@pytest.mark.parametrize(
    "way", ["skewed", pytest.param("evened", marks=[pytest.mark.slow, pytest.mark.endurance])]
)
def test_given_routing_is_a_cause_like_any_parameter(tmp_path: Path, way: str) -> None:
    """Its memory is that of the fullest rank; a faster network is another cause beside it."""
    sweeps = [{"moe": {}, "dense": DENSE}, SKEWED]
    before, after = sweeps if way == "skewed" else reversed(sweeps)
    # Launching would take longer than so small a layer's kernels.
    quick = {"host_seconds": 0.0, "host_experts_seconds": 0.0}
    a = write(tmp_path / "a", before, cluster(quick))
    b = write(tmp_path / "b", after, cluster(quick | FASTER))
    found = Comparison(*read_folders(a, b), 1e-9)
    columns, caused = moved(found, "moe"), effects(found, "moe")
    assert {*FASTER, "parameters"} <= set(caused) <= {*FASTER, "parameters", "interaction"}
    peak = columns["peak_memory_bytes"]["change"]
    assert caused["parameters"]["peak_memory_bytes"] == peak != 0
    assert (peak > 0) == (caused["parameters"]["iteration_seconds"] > 0) == (way == "skewed")
    for measure in ("iteration_seconds", "usd_per_billion_tokens"):
        assert total(found, "moe", measure) == pytest.approx(columns[measure]["change"])
    assert set(effects(found, "dense")) <= {*FASTER, "interaction"}


def test_a_measured_table_that_changed_is_a_cause_even_when_it_is_gone(tmp_path: Path) -> None:
    # Launching would take longer than so small a layer's kernels.
    paths, quick = [], cluster({"host_seconds": 0.0, "host_experts_seconds": 0.0})
    for name, counts in (("a", [50, 30, 15, 5]), ("b", [97, 1, 1, 1])):
        file = table_file(tmp_path, [counts] * 4, f"{name}.parquet")
        digest = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()[:16]
        routing = Routing("table", file=file, digest=digest).text
        paths.append(write(tmp_path / name, {"moe": {"routing": routing}}, quick, tmp_path))
        (tmp_path / file).unlink()
    found = Comparison(*read_folders(*paths), 1e-9)
    assert [(each.kind, each.name) for each in found.inputs] == [("parameter", "routing")]
    caused = effects(found, "moe")
    assert caused.keys() == {"parameters"}
    change = moved(found, "moe")["iteration_seconds"]["change"]
    assert caused["parameters"]["iteration_seconds"] == change > 0


@pytest.mark.slow
@pytest.mark.endurance
def test_model_and_parameters_of_given_routing_are_one_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"moe": {"routing": "zipf(alpha=0.5,seed=1)", "hidden_size": 128}, "dense": DENSE}
    a, b = write(tmp_path / "a", SKEWED, cluster()), write(tmp_path / "b", other, cluster())
    assert effects(Comparison(*read_folders(a, b), 1e-9), "moe").keys() == {"model and parameters"}
    assert main(["diff", str(a), str(b)]) == 1
    assert "because of changed numbers of the model and parameters of the work" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.endurance
def test_a_measured_table_without_traces_moves_without_a_cause(tmp_path: Path) -> None:
    """The others keep their causes, those of a routing that its text says among them."""
    file = table_file(tmp_path, [[50, 30, 15, 5]] * 4, "a.parquet")
    digest = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()[:16]
    sweep = SKEWED | {"table": {"routing": Routing("table", file=file, digest=digest).text}}
    a = write(tmp_path / "a", sweep, cluster(), tmp_path)
    b = write(tmp_path / "b", sweep, cluster(FASTER), tmp_path)
    shutil.rmtree(b / "traces")
    found = Comparison(*read_folders(a, b), 1e-9)
    assert {"moe", "table"} <= set(found.moved_ids)
    assert set(found.effects["workload"]) == {"dense", "moe"}
