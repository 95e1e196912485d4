"""Input for network simulators: read back by its grammar, bytes conserved, run to the end, faults refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from export_workloads import CLUSTER, ROOT, SMALL, traced_workload, workload
from moesweep.cli import main
from moesweep.edge.problems import BadInput
from moesweep.export import astra_network, goal, htsim, simai_topology
from moesweep.export.check import check_files
from moesweep.export.goal_check import check_schedule, read_schedule
from moesweep.export.htsim_check import read_matrix
from moesweep.export.request import Request
from moesweep.export.source import Traced, traced
from moesweep.network.topology import Topology
from moesweep.network.tree import Tree
from moesweep.shapes.parallelism import groups, ranks
from moesweep.store.layout import Results
from moesweep.study.catalog import load_cluster
from moesweep.study.configured import Configuration
from moesweep.study.routing import Routing
from moesweep.study.workload import resolve
from moesweep.trace.skewed_programs import rank_programs
from moesweep.traffic.matrices import rank_matrix, uneven_rank_matrix
from moesweep.traffic.messages import Placed
from naive_loggop import finish_times

Pairs = Counter[tuple[int, int]]
# On two nodes of 8 GPUs: ep groups of every other rank cross them, and so do dp and edp.
WIDE = {"world_size": 16, "tp": 2, "pp": 1, "ep": 8}
HERE = Configuration(ROOT)


def made(name: str) -> Traced:
    """A small workload; `skewed` is WIDE with uneven experts."""
    if name in SMALL:
        return traced_workload(name)
    row = workload("moe16").row(0, named=True) | WIDE | {"global_batch_size": 64, "num_layers": 4}
    routing = {"routing": Routing("zipf", 1.1, 3).text} if name == "skewed" else {}
    (each,) = traced(resolve([row | routing]), Results(Path("none")), load_cluster(ROOT, CLUSTER))
    return each


def matrix_of(each: Traced, *phases: str) -> Pairs:
    """Bytes between each pair of ranks in an iteration, as `moesweep traffic` says them."""
    row, placed = each.workload, Placed(each.gpus_per_node)
    members, everyone = groups(row), ranks(row)
    if each.each is None:
        program = each.program.with_columns(pl.col("group_kind", "phase").cast(pl.String))
        matrix = rank_matrix(program, members, everyone, placed)
    else:
        own = rank_programs(resolve([row]), ROOT)
        assert each.routing is not None
        matrix = uneven_rank_matrix(own, members, everyone, each.routing, placed)
    sums: Pairs = Counter()
    for src, dst, size in (
        matrix.filter(pl.col("phase").is_in(phases)).select("src", "dst", "bytes").iter_rows()
    ):
        sums[src, dst] += size
    return sums


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


# --- htsim ------------------------------------------------------------------------------------------------
def matrix(each: Traced, folder: Path, configuration: Configuration = HERE, **options: Any) -> Path:
    htsim.export(each, Request(format="htsim", out=folder, configuration=configuration, **options))
    return next(folder.glob("*.cm"))


def flows(path: Path) -> Pairs:
    found, problems = read_matrix(path)
    assert not problems
    sums: Pairs = Counter()
    for source, target, size in found:
        sums[source, target] += size
    return sums


@pytest.mark.parametrize("name", ["moe16", "wide", "interleaved", "skewed"])
def test_a_micro_batch_s_flows_are_a_part_of_the_traffic(name: str, tmp_path: Path) -> None:
    """All flows times micro-batches are what leaves nodes in the passes of an iteration, pair by pair."""
    each = made(name)
    times = each.workload["num_microbatches"]
    wanted = matrix_of(each, "forward", "backward")
    leaving = {pair: size for pair, size in wanted.items() if pair[0] // 8 != pair[1] // 8}
    found = flows(matrix(each, tmp_path, op="all"))
    assert {pair: size * times for pair, size in found.items()} == leaving


def test_one_dispatch(tmp_path: Path) -> None:
    """ep groups {0, 2, ..., 14} and {1, 3, ..., 15}: 4 members a node, so 2·4·4 pairs each across nodes."""
    with pytest.raises(BadInput, match="nothing leaves a node in it"):
        matrix(made("moe16"), tmp_path)
    each = made("wide")
    path = matrix(each, tmp_path)
    found = flows(path)
    assert set(found) == {
        (source, target)
        for source in range(16)
        for target in range(16)
        if source % 2 == target % 2 and source // 8 != target // 8
    }
    dispatch = each.program.filter(op="moe_dispatch", phase="forward").row(0, named=True)
    assert set(found.values()) == {dispatch["wire_bytes"] // 7}
    text = path.read_text()
    # Without a topology, hosts are those of the smallest full fat tree: 16 = 4³/4.
    assert text.startswith("Nodes 16\nConnections 64\nTriggers 0\n")
    assert "start 0 size" in text
    command = path.with_name(path.name + ".command.txt").read_text()
    assert "-nodes 16 -linkspeed 200000 -end " in command
    assert flows(matrix(each, tmp_path, phase="backward", layer=3)) == found


def test_uneven_flows_are_each_pair_s_copies(tmp_path: Path) -> None:
    each = made("skewed")
    found = flows(matrix(each, tmp_path))
    assert len(set(found.values())) > 8
    wanted = each.each
    assert wanted is not None
    sends = wanted.filter(op="moe_dispatch", phase="forward", layer=0).select("ep_rank", "wire_bytes")
    for ep_rank, wire in sends.iter_rows():
        out = sum(size for (source, _), size in found.items() if source == 2 * ep_rank)
        assert 0 < out < wire


def test_a_tree_comes_with_its_topology(tmp_path: Path) -> None:
    text = "description: t\nsource: none\ntopology: leaf_spine\nshape: {leaf_gpus: 4, oversubscription: 2}\n"
    (tmp_path / "net.yaml").write_text(text)
    path = matrix(made("wide"), tmp_path, network=str(tmp_path / "net.yaml"))
    layout = (tmp_path / "net-16nodes.htsim").read_text()
    assert layout == (
        "Nodes 16\nTiers 2\nPodsize 16\n"
        "Tier 0\nDownlink_speed_Gbps 200\nRadix_Down 4\nRadix_Up 2\nOversubscribed 2\n"
        "Tier 1\nDownlink_speed_Gbps 200\nRadix_Down 4\n"
    )
    assert "-topo net-16nodes.htsim" in path.with_name(path.name + ".command.txt").read_text()


def test_rails_number_hosts_by_rail(tmp_path: Path) -> None:
    text = "description: t\nsource: none\ntopology: rail\nshape: {leaf_islands: 2}\n"
    (tmp_path / "net.yaml").write_text(text)
    each = made("wide")
    (tmp_path / "plain").mkdir()
    plain = flows(matrix(each, tmp_path / "plain"))
    found = flows(matrix(each, tmp_path, network=str(tmp_path / "net.yaml")))
    # GPU g of node n is host 2·g + n.
    host = {gpu: gpu % 8 * 2 + gpu // 8 for gpu in range(16)}
    assert found == {(host[source], host[target]): size for (source, target), size in plain.items()}


def test_large_messages_are_several_flows() -> None:
    topology = Topology(8, 1, Tree(8, (8,), (1,), (1.0,)), "rank", 1, False, 1.0, 1.0)
    parts = htsim._of_hosts([(0, 1, 2 * (2**31 - 1) + 5), (1, 2, 7)], topology, None)
    assert parts == [(0, 1, 2**31 - 1), (0, 1, 2**31 - 1), (0, 1, 5), (1, 2, 7)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"op": "moe_dispach"},
            "nothing in an op moe_dispach in the forward pass; did you mean moe_dispatch?",
        ),
        ({"layer": 99}, "sends nothing in an op moe_dispatch of layer 99 in the forward pass"),
        ({"network": "dragonfly"}, "is not modelled in format htsim"),
        ({"network": "rail-only"}, "is not modelled in format htsim"),
    ],
)
def test_what_htsim_cannot_have(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as bad:
        matrix(made("wide"), tmp_path, **options)
    assert any(reason in problem.line() for problem in bad.value.problems)


MATRIX = (
    "# comment\nNodes 4\nConnections 2\nTriggers 1\n0->1 id 1 start 0 size 5 send_done_trigger 1\n"
    "1->2 id 2 trigger 1 size 7\ntrigger id 1 barrier count 1\n"
)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Connections 2", "Connections 3", "announces 3, and 2 follow"),
        ("Triggers 1", "Triggers 0", "announces 0, and 1 follow"),
        ("0->1 id 1", "0->0 id 1", "goes from 0 to 0 of 4 nodes"),
        ("0->1 id 1", "0->4 id 1", "goes from 0 to 4 of 4 nodes"),
        ("size 5", "size 0", "has 0 bytes"),
        ("size 5", "size 2147483648", "has 2147483648 bytes"),
        ("id 2 trigger", "id 1 trigger", "has the id 1, which is there already"),
        ("id 2 trigger", "id 0 trigger", "has the id 0"),
        ("start 0", "start 0 trigger 1", "is no flow and no trigger"),
        ("0->1 id 1 start 0", "0->1  id 1 start 0", "is no flow and no trigger"),
        ("send_done_trigger 1", "recv_done_trigger 1", "is no flow and no trigger"),
        ("1->2", "# late\n1->2", "is no flow and no trigger"),
        ("count 1", "count 2", "waits for 2 flows, and 1 fire it"),
        (
            "trigger id 1 barrier count 1",
            "trigger id 2 barrier count 1",
            "is waited for or fired, and not declared",
        ),
        ("trigger 1 size 7", "start 5 size 7", "is waited for by no flow"),
        ("barrier count 1", "barrier", "a count does not fit its kind"),
        ("Nodes 4", "Node 4", "is not `Nodes"),
    ],
)
def test_mutated_matrices_are_refused(old: str, new: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.cm"
    path.write_text(MATRIX)
    assert read_matrix(path)[1] == []
    path.write_text(MATRIX.replace(old, new, 1))
    assert any(reason in problem.line() for problem in read_matrix(path)[1])


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
