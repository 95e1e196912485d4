"""htsim's matrices: a micro-batch's flows, its topologies, what it cannot have, and what a check finds."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from exported_networks import HERE, Pairs, made, matrix_of
from moesweep.edge.problems import BadInput
from moesweep.export import htsim
from moesweep.export.htsim_check import read_matrix
from moesweep.export.request import Request
from moesweep.export.source import Traced
from moesweep.network.topology import Topology
from moesweep.network.tree import Tree
from moesweep.study.configured import Configuration


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
