"""Imported graphs: read from three forms, routed by shortest paths, and refused where they cannot be used."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs import LEAF_SPINE, edges, graphml, network_file, simai
from moesweep.edge.problems import BadInput
from moesweep.network.build import Rates, topology
from moesweep.network.graph import Graph
from moesweep.network.slowdown import carried
from moesweep.study.networks import read_network
from naive_network import ecmp, found, what_stays
from network_loads import Pairs, everyone, flows
from test_network_patterns import loaded

RATES = Rates(25e9, 275e9)
FORMS = {"a.edges": edges(LEAF_SPINE), "a.graphml": graphml(LEAF_SPINE), "a.topo": simai(LEAF_SPINE, 16)}


@pytest.mark.parametrize("name", FORMS)
def test_golden_a_from_every_form(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    network = read_network(network_file(tmp_path, name, island_gpus=1), "network.yaml")
    built = topology(network, 16, 8, RATES, tmp_path)
    assert carried(built, flows(everyone(16))).slowdown.tolist() == [pytest.approx(1.6)]
    assert (built.parts().switches, built.parts().links, built.parts().ports) == (6, 24, 32)
    loads = loaded(built, everyone(16))
    assert {size for ends, size in loads.items() if "gpu" in "".join(ends)} == {15}
    assert sorted(size for ends, size in loads.items() if "gpu" not in "".join(ends)) == [24] * 16


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, Pairs]:
    """A connected graph of switches and hosts, some at two switches or joined directly; its traffic."""
    switches, hosts = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    links = [(hosts + i, hosts + draw(st.integers(0, i - 1))) for i in range(1, switches)]
    links += [(h, hosts + draw(st.integers(0, switches - 1))) for h in range(hosts)]
    pair = st.tuples(st.integers(0, hosts + switches - 1), st.integers(0, hosts + switches - 1))
    links += draw(st.lists(pair.filter(lambda ends: ends[0] != ends[1]), max_size=6))
    ends = np.array([*links, *((b, a) for a, b in links)])
    names = tuple(f"host {i}" if i < hosts else f"switch {i}" for i in range(hosts + switches))
    graph = Graph(hosts, names, ends[:, 0], ends[:, 1], np.ones(len(ends)))
    return graph, {pair: 1 + sum(pair) % 7 for pair in everyone(hosts)}


@given(graphs())
def test_shortest_paths_link_by_link(drawn: tuple[Graph, Pairs]) -> None:
    graph, pairs = drawn
    loads = found(graph, flows(pairs))
    walked = {ends: float(size) for ends, size in ecmp(graph, pairs).items()}
    assert loads == pytest.approx(walked)
    assert max(abs(size) for size in what_stays(loads, pairs).values()) < 1e-9


def refused(folder: Path, name: str, text: str, gpus: int = 16, **more: object) -> list[str]:
    """The problems of a graph, as lines."""
    (folder / name).write_text(text, encoding="utf-8")
    network = read_network(network_file(folder, name, **{"island_gpus": 1, **more}), "network.yaml")
    with pytest.raises(BadInput) as bad:
        topology(network, gpus, 8, RATES, folder)
    return [problem.line() for problem in bad.value.problems]


BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;&lol;">]>
<graphml><graph><node id="&lol2;"/></graph></graphml>
"""
OUTSIDE = """<?xml version="1.0"?>
<!DOCTYPE graphml SYSTEM "file:///etc/hostname"><graphml><graph/></graphml>
"""
STRANGE = [
    ("x.edges", "gpu0 leaf0\ngpu1 leaf1\n", 2, "x.edges: connected: nothing joins GPUs 0 and 1"),
    ("x.edges", "gpu0 leaf0 0Gbit/s\ngpu1 leaf0\n", 2, "x.edges: line 1: positive: a link of 0 bytes"),
    ("x.edges", "gpu0 leaf0 -3Gbit/s\n", 2, 'x.edges: line 1: quantity: "-3Gbit/s" is negative'),
    ("x.edges", "gpu0 leaf0 200\n", 2, "x.edges: line 1: quantity:"),
    ("x.edges", "gpu0\n", 2, 'x.edges: line 1: edge: "gpu0" is no line of two nodes'),
    (
        "x.edges",
        "gpu0 gpu0\ngpu0 leaf0\ngpu1 leaf0\n",
        2,
        'x.edges: line 1: link: "gpu0" is joined to itself',
    ),
    ("x.edges", "a b\n", 2, "x.edges: gpus: holds no GPU"),
    ("x.edges", "gpu0 leaf0\ngpu1 leaf0\n", 3, "x.edges: holds: holds 2 GPUs, and 3 are needed"),
    ("x.graphml", BOMB, 2, "x.graphml: line 2: doctype: declares a document type; remove it"),
    ("x.graphml", OUTSIDE, 2, "x.graphml: line 2: doctype: declares a document type"),
    ("x.graphml", "<graphml><graph>", 2, "x.graphml: line 1: xml: not XML: no element found"),
    (
        "x.graphml",
        '<graphml><graph><node id="gpu0"/><edge source="gpu0" target="x"/></graph></graphml>',
        1,
        'x.graphml: line 1: link: there is no node "x"',
    ),
    (
        "x.graphml",
        '<graphml><graph><node id="a"><data key="kind">router</data></node></graph></graphml>',
        1,
        'x.graphml: line 1: kind: "router" is no kind of node; one of gpu, nvswitch, switch',
    ),
    (
        "x.graphml",
        '<graphml><graph><node id="gpu0"/><node id="gpu0"/></graph></graphml>',
        1,
        'x.graphml: line 1: twice: the node "gpu0" is there twice',
    ),
    ("x.graphml", "<graphml>" + "<graph>" * 100, 1, "x.graphml: line 1: graph_size: nested too deep"),
    ("x.topo", "3 8 1\n", 1, "x.topo: line 1: header: line 1 is not `nodes gpus_per_server"),
    ("x.topo", "3 1 0 1 2 A100\n2\n0 2 25Gbps 1us 0\n", 2, "x.topo: line 1: links: 1 links follow"),
    (
        "x.topo",
        "3 1 0 1 1 A100\n2\n0 9 25Gbps 1us 0\n",
        2,
        'x.topo: line 3: link: "0 9 25Gbps 1us 0" is no link',
    ),
    ("x.topo", "3 1 0 1 1 A100\n2\n0 2 0Gbps 1us 0\n", 2, "x.topo: line 3: positive: a link of 0 bits"),
    (
        "x.topo",
        "3 1 0 2 1 A100\n2\n0 2 1Gbps 1us 0\n",
        2,
        "x.topo: line 2: switches: line 2 names 1 switches",
    ),
    (
        "x.topo",
        f"3 1 0 1 1 A100\n2\n0 2 {'9' * 400}Gbps 1us 0\n",
        2,
        'x.topo: line 3: quantity: "999999999999999999999999',
    ),
    ("x.edges", "gpu0 leaf0 nanGbit/s\n", 2, 'x.edges: line 1: quantity: "nanGbit/s" is not a number'),
    ("x.edges", "gpu0 leaf0 1e400Gbit/s\n", 2, "x.edges: line 1: quantity:"),
    ("x.topo", "999999999 1 0 0 0 A100\n", 2, "x.topo: graph_size: 200001 nodes"),
]


@pytest.mark.parametrize(("name", "text", "gpus", "message"), STRANGE)
def test_graphs_that_cannot_be_used(tmp_path: Path, name: str, text: str, gpus: int, message: str) -> None:
    lines = refused(tmp_path, name, text, gpus)
    assert any(line.startswith(message) for line in lines), lines


def test_all_faults_of_a_graph_come_at_once(tmp_path: Path) -> None:
    lines = refused(tmp_path, "x.edges", "gpu0\ngpu1 leaf0 5\ngpu2 leaf0 0Gbit/s\n")
    assert len(lines) == 3


def test_unreachable_pairs_are_counted(tmp_path: Path) -> None:
    """Leaf 1 hangs in the air; of rails that only NVLink joins, pairs on one rail have a way."""
    links = [(f"gpu{g}", f"leaf{g // 8}") for g in range(16)]
    line, *rest = refused(tmp_path, "x.edges", edges(links))
    assert not rest
    assert "nothing joins GPUs 0 and 8, 0 and 9, 0 and 10 (8 GPUs cannot be reached so)" in line
    rails = [(f"gpu{g}", f"rail{g % 8}") for g in range(16)]
    assert "write pxn: true" in refused(tmp_path, "r.edges", edges(rails), island_gpus=8)[0]
    network = read_network(network_file(tmp_path, "r.edges", island_gpus=8, pxn="true"), "network.yaml")
    built = topology(network, 16, 8, RATES, tmp_path)
    assert loaded(built, {(0, 13): 1})["gpu 5", "rail5"] == 1


def test_nvswitches_say_who_shares_an_island(tmp_path: Path) -> None:
    links = [(f"gpu{g}", f"nvswitch{g // 4}") for g in range(8)] + [(f"gpu{g}", "leaf") for g in range(8)]
    (tmp_path / "n.edges").write_text(edges(links), encoding="utf-8")
    network = read_network(network_file(tmp_path, "n.edges", island_gpus=4), "network.yaml")
    built = topology(network, 8, 8, RATES, tmp_path)
    assert loaded(built, {(0, 3): 1, (0, 4): 1}) == {
        ("gpu 0", "nvswitch 0"): 1,
        ("nvswitch 0", "gpu 3"): 1,
        ("gpu 0", "leaf"): 1,
        ("leaf", "gpu 4"): 1,
    }
    line = refused(tmp_path, "n.edges", edges(links), 8, island_gpus=8)[0]
    assert "an NVSwitch joins the GPUs 0, 1, 2, 3, which are no island of 8; set island_gpus to 4" in line


MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from moesweep.network.build import Rates, topology
from moesweep.network.slowdown import layout_slowdowns
from moesweep.study.networks import read_network
folder = Path(sys.argv[1])
network = read_network(folder / "network.yaml", "network.yaml")
layout = dict(world_size=4096, tp=4, cp=1, dp=256, pp=4, etp=4, ep=16, edp=16, cp_comm_type="p2p")
found = layout_slowdowns(topology(network, 4096, 8, Rates(25e9, 275e9), folder), layout)
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
slow = dict(found.select("group_kind", "slowdown").iter_rows())
print(json.dumps([peak, slow]))
"""


@pytest.mark.slow
def test_4096_gpus_of_a_graph(tmp_path: Path) -> None:
    """A fat tree of 4,096 GPUs as a list of edges: what coordinates say, in 4 GB."""
    k, half = 32, 16
    links = [(f"gpu{g}", f"edge{g // half}") for g in range(4096)]
    links += [(f"edge{e}", f"agg{e // half}-{a}") for e in range(256) for a in range(half)]
    links += [(f"agg{p}-{a}", f"core{a}-{c}") for p in range(half) for a in range(half) for c in range(half)]
    (tmp_path / "big.edges").write_text(edges(links), encoding="utf-8")
    network_file(tmp_path, "big.edges", island_gpus=8)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    import json

    peak_bytes, slowdowns = json.loads(done.stdout)
    assert peak_bytes < 4e9
    from moesweep.network.slowdown import layout_slowdowns
    from moesweep.study.networks import Network

    tree = Network("t", "fat_tree", "up_down", shape={"radix": k, "oversubscription": 1})
    layout = {"world_size": 4096, "tp": 4, "cp": 1, "dp": 256, "pp": 4, "etp": 4, "ep": 16, "edp": 16}
    layout |= {"cp_comm_type": "p2p"}
    expected = layout_slowdowns(topology(tree, 4096, 8, RATES), layout)
    assert slowdowns == pytest.approx(dict(expected.select("group_kind", "slowdown").iter_rows()))
    assert isinstance(expected, pl.DataFrame)
