"""Input for network simulators: read back by its grammar, bytes conserved, run to the end, faults refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from export_workloads import CLUSTER, ROOT, SMALL, traced_workload
from exported_networks import HERE, Pairs, made, matrix_of
from moesweep.cli import main
from moesweep.edge.problems import BadInput
from moesweep.export import astra_network, goal, simai_topology
from moesweep.export.check import check_files
from moesweep.export.goal_check import check_schedule, read_schedule
from moesweep.export.request import Request
from moesweep.export.source import Traced
from moesweep.network.topology import Topology
from moesweep.network.tree import Tree
from moesweep.study.configured import Configuration
from naive_loggop import finish_times


def sent(path: Path) -> Pairs:
    """Bytes between each pair of ranks of a schedule."""
    schedule, problems = read_schedule(path)
    assert not problems
    sums: Pairs = Counter()
    for rank, ops in enumerate(schedule):
        for op in ops.values():
            if op.kind == "send":
                sums[rank, op.peer] += op.amount
    return sums


def written(each: Traced, folder: Path, **options: Any) -> Path:
    goal.export(each, Request(format="goal", out=folder, configuration=HERE, **options))
    return next(folder.glob("*.goal"))


FEW = {"moe16": 2, "wide": 1, "skewed": 1, "interleaved": 4, "dense16": 2, "etp1": 1, "one_gpu": 1}
"""Micro-batches of a shorter iteration."""


def of_few(name: str) -> Pairs:
    """Bytes between each pair of ranks in the shorter iteration."""
    each = made(name)
    passes, times = matrix_of(each, "forward", "backward"), each.workload["num_microbatches"]
    assert all(size % times == 0 for size in passes.values())
    few = Counter({pair: size // times * FEW[name] for pair, size in passes.items()})
    return few + matrix_of(each, "optimizer")


# --- GOAL -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["moe16", "wide", "interleaved", "dense16", "etp1", "one_gpu"])
def test_schedules_conserve_bytes_by_pair_and_finish(name: str, tmp_path: Path) -> None:
    path = written(made(name), tmp_path, microbatches=FEW[name])
    assert check_schedule(path)[1] == []
    assert sent(path) == of_few(name)


def test_a_skewed_schedule_conserves_bytes_by_pair(tmp_path: Path) -> None:
    path = written(made("skewed"), tmp_path, microbatches=1)
    assert check_schedule(path)[1] == []
    assert sent(path) == of_few("skewed")


def test_fewer_micro_batches_and_ranks(tmp_path: Path) -> None:
    """Ranks are numbered on; collectives with strangers take their costed time: everything still finishes."""
    each = made("moe16")
    path = written(each, tmp_path, ranks="2-3,10-11", microbatches=2, time_unit="ps")
    schedule, problems = read_schedule(path)
    assert (len(schedule), problems) == (4, [])
    assert check_schedule(path)[1] == []
    pairs = set(sent(path))
    assert pairs == {(0, 1), (1, 0), (2, 3), (3, 2), (0, 2), (2, 0), (1, 3), (3, 1)}
    command = path.with_suffix(".goal.command.txt").read_text()
    assert "# 2: 10" in command
    # 25 GB/s are 40 ps a byte.
    assert "-G 40" in command
    assert "LogGOPSim" in command
    (tmp_path / "ns").mkdir()
    fine = read_schedule(written(each, tmp_path / "ns", ranks="2-3,10-11", microbatches=2))[0]
    calcs = [[op.amount for op in ops.values() if op.kind == "calc"] for ops in (schedule[0], fine[0])]
    assert calcs[0] == [1000 * amount for amount in calcs[1]]


def test_an_iteration_takes_what_its_kernels_take(tmp_path: Path) -> None:
    """Alone, a rank's ops take as long as the trace says: 1 GPU, no messages."""
    each = made("one_gpu")
    path = written(each, tmp_path)
    (end,) = finish_times(read_schedule(path)[0], 0, 0, 0, 0)
    ops = each.program.with_columns(
        lasts=((pl.col("seconds") * 1e9).round() + (pl.col("wait_seconds") * 1e9).round()).cast(pl.Int64)
    )
    assert end == (ops["lasts"] * ops["num_microbatches"]).sum()


def test_goldens_of_the_simulators(tmp_path: Path) -> None:
    """-L 100 -o 10 -g 5 -G 2: a chain of 1001-byte messages, and a ring all_gather of 4 ranks."""
    chain = tmp_path / "chain.goal"
    chain.write_text(
        "num_ranks 4\n\n"
        "rank 0 {\nl1: calc 1000000\nl2: send 1001b to 1 tag 1\nl2 requires l1\n}\n\n"
        "rank 1 {\nl1: recv 1001b from 0 tag 1\nl2: calc 500000\nl2 requires l1\n"
        "l3: send 1001b to 2 tag 1\nl3 requires l2\n}\n\n"
        "rank 2 {\nl1: recv 1001b from 1 tag 1\nl2: send 1001b to 3 tag 1\nl2 requires l1\n}\n\n"
        "rank 3 {\nl1: recv 1001b from 2 tag 1\n}\n\n"
    )
    assert check_schedule(chain) == (8, [])
    assert finish_times(read_schedule(chain)[0], 100, 10, 5, 2) == [1000010, 1502130, 1504250, 1506360]
    ring = tmp_path / "ring.goal"
    lines = ["num_ranks 4", ""]
    for rank in range(4):
        lines.append(f"rank {rank} {{")
        for step in range(3):
            label = 2 * step
            lines.append(f"l{label + 1}: send 1001b to {(rank + 1) % 4} tag 1")
            lines += [f"l{label + 1} requires l{label}"] if step else []
            lines.append(f"l{label + 2}: recv 1001b from {(rank - 1) % 4} tag 1")
        lines += ["}", ""]
    ring.write_text("\n".join(lines) + "\n")
    assert finish_times(read_schedule(ring)[0], 100, 10, 5, 2) == [6360] * 4


GOOD = "num_ranks 2\n\nrank 0 {\nl1: send 8b to 1 tag 1\n}\n\nrank 1 {\nl1: recv 8b from 0 tag 1\n}\n"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("num_ranks 2", "num_ranks 3", "holds 2 ranks where 3 are announced"),
        ("num_ranks 2", "ranks 2", "line 1 is not `num_ranks N`"),
        ("send 8b", "send 0b", "less than a byte"),
        ("to 1", "to 0", "names itself"),
        ("to 1", "to 2", "a rank that is not there"),
        ("send 8b to", "send 8b from", "is no op and no dependency"),
        ("send 8b", "send 8.5b", "is no op and no dependency"),
        ("rank 1 {", "rank 2 {", "is not `rank 1 {`"),
        ("tag 1\n}\n\nrank 1", "tag 1\nl1 requires l2\nl2: calc 1\n}\n\nrank 1", "l2, which is not above it"),
        ("tag 1\n}\n\nrank 1", "tag 1\nl1: calc 1\n}\n\nrank 1", "uses l1 again"),
        ("from 0 tag 1", "from 0 tag 2", "1 ops never run"),
        ("recv 8b", "recv 9b", "1 ops never run"),
    ],
)
def test_mutated_schedules_are_refused(old: str, new: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.goal"
    path.write_text(GOOD)
    assert check_schedule(path) == (2, [])
    path.write_text(GOOD.replace(old, new, 1))
    assert any(reason in problem.line() for problem in check_schedule(path)[1])


# --- SimAI and ASTRA-sim ----------------------------------------------------------------------------------
def test_simai_s_golden_header() -> None:
    """Its generator's Spectrum-X with 16 GPUs, 8 a server, 4 leaves and 8 spines: 64 links."""
    tree = Tree(16, (4, 4), (1, 8), (50e9, 50e9))
    topology = Topology(16, 8, tree, "rank", 1, False, 450e9, 50e9)
    parts = {"nvlink_seconds": 5e-8, "link_seconds": 4e-7, "switch_seconds": 1e-7}
    lines = simai_topology.topology_text(topology, "H100", parts, "x").splitlines()
    assert lines[0] == "30 8 2 12 64 H100"
    assert lines[1] == " ".join(map(str, range(16, 30)))
    assert len(lines) == 2 + 64
    assert lines[2] == "0 16 3600Gbps 0.000050ms 0"
    assert {line.split(maxsplit=2)[2] for line in lines[2 + 16 :]} == {"400Gbps 0.000500ms 0"}


@pytest.mark.parametrize(
    "network", ["rail-optimised", "fat-tree-4to1", "dragonfly-plus", "rail-only", "leaf-spine"]
)
def test_simai_topologies_are_read_back(network: str, tmp_path: Path) -> None:
    request = Request(
        format="simai-topology", out=tmp_path, network=network, configuration=Configuration(ROOT)
    )
    simai_topology.export(128, request)
    (found,) = check_files(tmp_path)
    assert found.problems == []
    nodes, node, nvswitches, switches, links, gpu = found.path.read_text().splitlines()[0].split()
    assert (node, nvswitches, gpu) == ("8", "16", "A100")
    assert int(nodes) == 128 + 16 + int(switches)
    assert found.content == f"{nodes} nodes, {links} links"
    assert "SimAI_simulator" in next(tmp_path.glob("*.command.txt")).read_text()


def test_simai_knows_few_rates(tmp_path: Path) -> None:
    rate = "{value: 800 Gbit/s, tag: assumed, source: none, bounds: [1 Gbit/s, 900 Gbit/s]}"
    text = "description: t\nsource: none\ntopology: leaf_spine\nshape: {leaf_gpus: 32}\n"
    (tmp_path / "net.yaml").write_text(f"{text}constants:\n  link_bytes_per_second: {rate}\n")
    request = Request(
        format="simai-topology",
        out=tmp_path,
        network=str(tmp_path / "net.yaml"),
        configuration=Configuration(ROOT),
    )
    with pytest.raises(
        BadInput, match="links at switches of 800 Gbit/s are not modelled in SimAI; nearest: 400 Gbit/s, 1600"
    ):
        simai_topology.export(64, request)
    direct = Request(
        format="simai-topology", out=tmp_path, network="torus-3d", configuration=Configuration(ROOT)
    )
    with pytest.raises(BadInput, match="GPUs are not switches there"):
        simai_topology.export(64, direct)


INSIDE, ONE = ("Switch", 8, 256.11, 100), 23.28
"""A node: 275 GB/s in 2^30 bytes, twice 50 ns. A card: 25 GB/s; a switch and two links take 460 ns."""


@pytest.mark.parametrize(
    ("network", "dimensions"),
    [
        ("non-blocking", [INSIDE, ("Switch", 64, ONE, 460)]),
        ("rail-optimised-4to1", [INSIDE, ("Switch", 32, ONE, 460), ("Switch", 2, 5.82, 460)]),
        ("leaf-spine-4to1", [INSIDE, ("Switch", 4, ONE, 460), ("Switch", 16, 5.82, 460)]),
        ("fat-tree", [INSIDE, *(("Switch", size, ONE, 460) for size in (2, 16, 2))]),
        ("hyperx", [INSIDE, ("FullyConnected", 8, ONE, 100), ("FullyConnected", 8, ONE, 100)]),
    ],
)
def test_astra_networks(network: str, dimensions: list[tuple[Any, ...]], tmp_path: Path) -> None:
    request = Request(
        format="astra-network", out=tmp_path, network=network, configuration=Configuration(ROOT)
    )
    astra_network.export(512, request)
    (found,) = check_files(tmp_path)
    assert found.problems == []
    columns = ("topology", "npus_count", "bandwidth", "latency")
    expected = dict(zip(columns, map(list, zip(*dimensions, strict=True)), strict=True))
    assert yaml.safe_load(found.path.read_text()) == expected


def test_astra_has_no_groups_and_no_rests(tmp_path: Path) -> None:
    for network, world, reason in (
        ("dragonfly", 512, "is not modelled in format astra-network"),
        ("torus-3d", 512, "is not modelled in format astra-network"),
        ("rail-optimised", 264, "do not make the 264 GPUs"),
    ):
        request = Request(
            format="astra-network", out=tmp_path, network=network, configuration=Configuration(ROOT)
        )
        with pytest.raises(BadInput, match=reason):
            astra_network.export(world, request)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "topology: [ Ring ]\nnpus_count: [ 1 ]\nbandwidth: [ 1.0 ]\nlatency: [ 1 ]\n",
            "1 members make no dimension",
        ),
        ("topology: [ Mesh ]\nnpus_count: [ 2 ]\nbandwidth: [ 1.0 ]\nlatency: [ 1 ]\n", "Mesh is none of"),
        (
            "topology: [ Ring ]\nnpus_count: [ 2, 2 ]\nbandwidth: [ 1.0 ]\nlatency: [ 1 ]\n",
            "is no list of 1 entries",
        ),
        ("topology: [ Ring ]\nnpus_count: [ 2 ]\nbandwidth: [ 0.0 ]\nlatency: [ 1 ]\n", "carry nothing"),
    ],
)
def test_mutated_networks_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "n.yml").write_text(text)
    (found,) = check_files(tmp_path)
    assert any(reason in problem.line() for problem in found.problems)


# --- the command ------------------------------------------------------------------------------------------
def test_the_command_writes_and_checks_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    id_ = "gpt_7B-ws64-tp4-pp2-ep8-gbs2048-mbs1-seq2048-moe"
    common = ["export", "--results", str(tmp_path / "none"), "--workload", id_]
    for form, *options in (
        ("goal", "--ranks", "0-7", "--microbatches", "2", "--time-unit", "ps"),
        ("htsim", "--network", "fat-tree"),
        ("simai-topology", "--network", "rail-optimised"),
        ("astra-network", "--network", "rail-only"),
    ):
        out = str(tmp_path / form)
        assert main([*common, "--format", form, "--out", out, *options]) == 0
        assert main(["export", "--check", "--out", out]) == 0
        assert "valid" in capsys.readouterr().out
    assert main([*common, "--format", "goal", "--out", str(tmp_path / "x"), "--network", "fat-tree"]) == 2
    assert "--network: option: format goal has no --network; leave it out" in capsys.readouterr().err
    assert main([*common, "--format", "htsim", "--out", str(tmp_path / "x"), "--time-unit", "us"]) == 2
    error = capsys.readouterr().err
    assert '--time-unit: known: there is no time-unit "us"' in error
    assert "--time-unit: option: format htsim has no --time-unit" in error
    assert main([*common, "--format", "htsim", "--out", str(tmp_path / "x"), "--network", "fat-tre"]) == 2
    assert '--network: unknown_network: there is no network "fat-tre"' in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_names_of_what_is_tested() -> None:
    assert {"moe16", "etp1"} <= SMALL.keys()
    assert CLUSTER
    assert traced_workload("moe16").gpus_per_node == 8
