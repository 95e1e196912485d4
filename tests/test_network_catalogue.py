"""The catalogue's networks: each is sound and does what it says, and mistakes are named with a way out."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from moesweep.edge.problems import BadInput
from moesweep.network.build import Rates, even_sides, topology
from moesweep.network.lattice import Lattice
from moesweep.network.slowdown import layout_slowdowns
from moesweep.network.slowed import of_layouts
from moesweep.network.topology import Topology
from moesweep.study.networks import ROUTINGS, Network, load_network, load_parts, network_of, read_network

RATES = Rates(25e9, 275e9)
LAYOUT = {
    **{"world_size": 1024, "tp": 8, "cp": 1, "dp": 64, "pp": 2, "etp": 8, "ep": 16, "edp": 4},
    **{"cp_comm_type": "p2p", "use_tp_pp_dp_mapping": False},
}


def names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "config/networks").glob("*.yaml"))


def built(root: Path, name: str, world: int = 1024) -> Topology:
    return topology(load_network(root, name), world, 8, RATES, root)


def slowdowns(found: Topology, **changes: int) -> dict[str, float]:
    frame = layout_slowdowns(found, LAYOUT | changes)
    return dict(frame.select("group_kind", "slowdown").iter_rows())


def test_every_topology_and_routing_has_a_network_or_a_test(root: Path) -> None:
    networks = [load_network(root, name) for name in names(root)]
    assert {network.topology for network in networks} == set(ROUTINGS) - {"graph"}
    assert {network.routing for network in networks} >= {
        "up_down",
        "hashed",
        "minimal",
        "valiant",
        "dimension_order",
    }


def test_what_blocks_nothing_slows_nothing(root: Path) -> None:
    """Exactly 1, whatever the layout: the costs of a cluster without a network stay to the bit."""
    for name in ("non-blocking", "leaf-spine", "fat-tree", "rail-optimised", "hyperx"):
        assert set(slowdowns(built(root, name)).values()) == {1.0}, name
        assert set(slowdowns(built(root, name), tp=16, dp=32, etp=1, edp=32).values()) == {1.0}, name


def test_oversubscription_slows_what_leaves_the_leaf(root: Path) -> None:
    """max(1, o · share that leaves): 4 nodes a leaf, edge switches of 2 nodes, pods of 32 nodes.

    An ep group of 16 has one member a node: of 15 peers 12 stand on other leaves, 14 on other edge switches.
    A dp ring leaves one leaf of 4 nodes once, an edge switch every other node.
    """
    names_ = ("leaf-spine", "fat-tree", "rail-optimised")
    leaf, tree, rail = (slowdowns(built(root, f"{name}-4to1")) for name in names_)
    assert leaf["ep"] == pytest.approx(4 * 12 / 15)
    assert leaf["dp"] == pytest.approx(4 / 4)
    assert tree["ep"] == pytest.approx(4 * 14 / 15)
    assert tree["dp"] == pytest.approx(4 / 2)
    assert leaf["pp"] == tree["pp"] == rail["pp"] == 4
    assert rail["ep"] == rail["dp"] == 1
    # tp 16 over two nodes, ep 16 over every other node of 32, of which a leaf has 32: 16 members inside, 0
    # out.
    assert slowdowns(built(root, "rail-optimised-4to1"), tp=16, etp=16, dp=32, edp=2)["ep"] == 1


def test_rail_pods_by_the_share_that_leaves_them(root: Path) -> None:
    """dp (tp/8)/P, ep of tp 16 with P 16 8/15, pp all of it (P islands below a leaf)."""
    for over in (1, 2, 4):
        shape = {"leaf_islands": 16, "oversubscription": over, "spine_ports": 999}
        network = Network("p", "rail", "up_down", shape=shape)
        found = slowdowns(topology(network, 1024, 8, RATES), tp=16, etp=16, dp=32, edp=2)
        assert found["ep"] == pytest.approx(max(1, over * 8 / 15))
        assert found["dp"] == pytest.approx(max(1, over * 2 / 16))
        assert found["pp"] == over


def test_pxn_keeps_an_exchange_off_the_spines(root: Path) -> None:
    """ep 16 with etp 4: two members a node, on rails 0 and 4; half of what leaves a node changes rails."""
    changes = {"tp": 4, "etp": 4, "dp": 128, "edp": 8}
    shape = {"leaf_islands": 32, "oversubscription": 4, "spine_ports": 128}
    plain, pxn = (
        slowdowns(topology(Network("p", "rail", "up_down", pxn, shape=shape), 1024, 8, RATES), **changes)
        for pxn in (False, True)
    )
    assert plain["ep"] == pytest.approx(4 / 2)
    assert pxn["ep"] == 1
    assert {kind: found for kind, found in plain.items() if kind != "ep"} == {
        kind: found for kind, found in pxn.items() if kind != "ep"
    }


def test_stages_side_by_side_leave_no_island(root: Path) -> None:
    """In the order tp, pp, dp a node of 8 holds both stages of tp 4: only dp, of 128, still leaves it."""
    found = built(root, "leaf-spine-4to1", 1024)
    layout = LAYOUT | {"tp": 4, "dp": 128, "etp": 4, "edp": 8}
    ranked, placed = (
        dict(layout_slowdowns(found, layout, order).select("group_kind", "worst_bundle").iter_rows())
        for order in (None, "tp-pp-dp")
    )
    assert ranked["pp"] >= 0
    assert placed["pp"] == -1
    assert placed["dp"] >= 0
    # Ranks that are numbered so stand so.
    etp1 = layout | {"etp": 4, "ep": 1, "edp": 128}
    numbered = layout_slowdowns(found, etp1 | {"use_tp_pp_dp_mapping": True})
    assert numbered.equals(layout_slowdowns(found, etp1, "tp-cp-pp-dp"))


def test_ports_that_share_a_card(root: Path) -> None:
    """A ring takes one of a GPU's 22 ports: 22 times slower; full ports slow nothing."""
    shared = built(root, "hyperx-shared-ports")
    assert isinstance(shared.fabric, Lattice)
    assert shared.fabric.shape == (16, 8)
    assert shared.fabric.links_of_a_vertex == 22
    assert slowdowns(shared)["pp"] == pytest.approx(22)
    assert slowdowns(shared)["dp"] == pytest.approx(22)


def test_islands_change_what_leaves_them(root: Path) -> None:
    """In islands of 64 a dp ring of 64 with tp 8 has 8 members each, and an ep group of 16 stands on two."""
    large = built(root, "nvl72")
    assert (large.island, large.gpus) == (64, 1024)
    assert slowdowns(large)["dp"] == 1


@pytest.mark.parametrize(
    ("vertices", "dimensions", "sides"),
    [
        (128, 2, (16, 8)),
        (1024, 3, (16, 8, 8)),
        (4096, 3, (16, 16, 16)),
        (127, 2, (12, 11)),
        (1, 3, (1, 1, 1)),
        (7, 1, (7,)),
        (30, 2, (6, 5)),
    ],
)
def test_sides_of_a_lattice(vertices: int, dimensions: int, sides: tuple[int, ...]) -> None:
    assert even_sides(vertices, dimensions) == sides


def test_parts_have_prices_and_delays(root: Path) -> None:
    parts = load_parts(root)
    assert {name: parts[name].value for name in ("switch_port_usd", "switch_seconds")} == {
        "switch_port_usd": 500,
        "switch_seconds": 130e-9,
    }
    assert all(constant.source for constant in parts.values())


def test_parts_of_what_is_built(root: Path) -> None:
    """By hand, for 1,024 GPUs: 64-port leaves, spines as full as they get, and direct links by port."""
    counts = {
        # 32 leaves of 64 ports, and 32 spines whose 32 used ports of 128 make 8 of them.
        "leaf-spine": (32 + 8, 1024 + 1024),
        "leaf-spine-4to1": (32 + 2, 1024 + 256),
        # 64 edge and 64 aggregation switches of 4 pods; 256 cores with 4 of 32 ports used make 32.
        "fat-tree": (64 + 64 + 32, 3 * 1024),
        "rail-only": (32 + 8 * 1, 1024 + 1024),
        "dragonfly": (128, 1024 + 8 * 120 + 8 * 7 * 18 // 2),
        "hyperx": (0, 1024 * 22 // 2),
        "torus-3d": (0, 1024 * 3),
    }
    for name, (switches, links) in counts.items():
        parts = built(root, name).parts()
        assert (parts.switches, parts.links) == (switches, links), name


GOOD = {"description": "a test", "source": "a test"}
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"topology": "fat_tre"}, 'topology: choice: "fat_tre" is not one of the choices; did you mean'),
    ({"topology": "fat_tree", "shape": {"radix": 32}, "colour": 1}, "colour: unknown_key"),
    ({"topology": "fat_tree"}, "shape.radix: missing_key: the key radix is missing; add radix"),
    ({"topology": "fat_tree", "shape": {"radix": 1}}, "shape.radix: range: 1 is below"),
    (
        {"topology": "fat_tree", "shape": {"radix": 32}, "routing": "valiant"},
        "routing: routing: a network of topology fat_tree has no routing valiant; known: hashed, up_down",
    ),
    (
        {
            "topology": "dragonfly",
            "shape": {"switches": 2, "switch_gpus": 2, "global_ports": 1},
            "queue_pairs": 4,
        },
        "queue_pairs: no_effect: queue pairs matter where flows are hashed; leave it out",
    ),
    ({"topology": "torus", "shape": {"dimensions": 2}, "pxn": True}, "pxn: no_effect: a network of"),
    ({"topology": "rail_only", "shape": {"leaf_islands": 4}, "pxn": False}, "pxn: needs_pxn: nothing"),
    (
        {"topology": "torus", "shape": {"dimensions": 2, "sides": [4, 4]}},
        "shape.dimensions: no_effect: sides say how many dimensions there are",
    ),
    ({"topology": "torus", "shape": {"ports": "full"}}, "shape: empty: a lattice needs dimensions or sides"),
    (
        {"topology": "torus", "shape": {"dimensions": 2, "switch_gpus": 4}},
        "shape.switch_gpus: vertices: vertices of GPUs have no switches",
    ),
    (
        {"topology": "torus", "shape": {"dimensions": 2, "vertices": "switch"}},
        "shape.switch_gpus: vertices: vertices are switches: how many GPUs each has",
    ),
    (
        {
            "topology": "leaf_spine",
            "shape": {"leaf_gpus": 32},
            "constants": {
                "link_bytes_per_second": {
                    "value": "0 Gbit/s",
                    "tag": "assumed",
                    "source": "none",
                    "bounds": ["0 Gbit/s", "1 Gbit/s"],
                }
            },
        },
        "constants.link_bytes_per_second.value: positive: a link of 0 bytes a second carries nothing",
    ),
    (
        {
            "topology": "leaf_spine",
            "shape": {"leaf_gpus": 32},
            "constants": {
                "link_bytes_per_second": {
                    "value": "-1 Gbit/s",
                    "tag": "assumed",
                    "source": "none",
                    "bounds": ["0 Gbit/s", "1 Gbit/s"],
                }
            },
        },
        'constants.link_bytes_per_second.value: quantity: "-1 Gbit/s" is negative',
    ),
    ({"topology": "graph", "shape": {"file": "../x.graphml"}}, "shape.file: pattern:"),
    ({"topology": "graph", "shape": {"file": "x.gml"}}, "shape.file: pattern:"),
]


@pytest.mark.parametrize(("data", "message"), MISTAKES)
def test_mistakes_in_a_network(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    path = tmp_path / "n.yaml"
    path.write_text(yaml.safe_dump(GOOD | data), encoding="utf-8")
    with pytest.raises(BadInput) as bad:
        read_network(path, "n.yaml")
    lines = [problem.line() for problem in bad.value.problems]
    assert any(line.startswith(f"n.yaml: {message}") for line in lines), lines


def test_all_mistakes_of_a_network_come_at_once(tmp_path: Path) -> None:
    data = GOOD | {
        "topology": "torus",
        "routing": "ecmp",
        "pxn": True,
        "shape": {"sides": [0], "ports": "some"},
    }
    with pytest.raises(BadInput) as bad:
        network_of("n", data, "n.yaml")
    assert {problem.path for problem in bad.value.problems} == {
        "routing",
        "pxn",
        "shape.sides[0]",
        "shape.ports",
    }


UNFIT: list[tuple[dict[str, Any], int, str]] = [
    (
        {"topology": "fat_tree", "shape": {"radix": 7}},
        8,
        "shape.radix: even: half of the 7 ports lead down; nearest: 6, 8",
    ),
    (
        {"topology": "fat_tree", "shape": {"radix": 12, "oversubscription": 4}},
        8,
        "divides: oversubscription 4 does not divide the 6 links down from an edge switch; nearest: 3, 6",
    ),
    (
        {"topology": "leaf_spine", "shape": {"leaf_gpus": 32, "oversubscription": 3}},
        8,
        "divides: oversubscription 3 does not divide the 32 links down from a leaf; nearest: 2, 4",
    ),
    ({"topology": "fat_tree", "shape": {"radix": 8}}, 1024, "holds: holds 128 GPUs at most,"),
    ({"topology": "rail", "shape": {"leaf_islands": 2, "spine_ports": 16}}, 1024, "holds: holds 32 GPUs"),
    ({"topology": "rail_only", "shape": {"leaf_islands": 2, "spine_ports": 4}}, 1024, "holds: holds 64 GPUs"),
    (
        {"topology": "dragonfly", "shape": {"switches": 2, "switch_gpus": 2, "global_ports": 1}},
        1024,
        "shape.global_ports: holds: 2 global ports of a group join 3 groups at most, and 256 are needed",
    ),
    ({"topology": "torus", "shape": {"sides": [4, 4]}}, 1024, "holds: 4 x 4 vertices are fewer"),
    (
        {"topology": "leaf_spine", "shape": {"leaf_gpus": 32}, "gpus": 512},
        1024,
        "gpus: too_large: a workload of 1024 GPUs is larger than the network's 512; nearest: 1024",
    ),
    ({"topology": "graph", "shape": {"file": "none.graphml"}}, 8, "missing_file"),
]


@pytest.mark.parametrize(("data", "world", "message"), UNFIT)
def test_networks_that_do_not_fit(tmp_path: Path, data: dict[str, Any], world: int, message: str) -> None:
    network = network_of("n", GOOD | data, "n.yaml")
    with pytest.raises(BadInput) as bad:
        topology(network, world, 8, RATES, tmp_path)
    lines = [problem.line() for problem in bad.value.problems]
    assert any(message in line for line in lines), lines


def test_all_that_does_not_fit_comes_at_once() -> None:
    data = GOOD | {"topology": "fat_tree", "gpus": 16, "shape": {"radix": 7}}
    with pytest.raises(BadInput) as bad:
        topology(network_of("n", data, "n.yaml"), 64, 8, RATES)
    assert {problem.rule for problem in bad.value.problems} == {"too_large", "even"}


def test_a_network_keeps_the_size_it_is_built_for(root: Path) -> None:
    network = network_of(
        "n", GOOD | {"topology": "torus", "gpus": 4096, "shape": {"dimensions": 3}}, "n.yaml"
    )
    found = topology(network, 64, 8, RATES)
    assert (found.gpus, found.parts().links) == (4096, 3 * 4096)


def test_an_unknown_network_is_named_where_it_is_mentioned(root: Path) -> None:
    with pytest.raises(BadInput) as bad:
        load_network(root, "fat-tre", ("config/clusters/x.yaml", "network"))
    line = bad.value.problems[0].line()
    assert line.startswith('config/clusters/x.yaml: network: unknown_network: there is no network "fat-tre"')
    assert "did you mean fat-tree" in line


def test_layouts_together_are_what_each_is_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, whatever others are asked for at the same time and in however many parts."""
    shapes = ({"tp": 8}, {"tp": 4, "dp": 16, "etp": 1, "ep": 8, "edp": 8}, {"pp": 1, "dp": 16, "ep": 2})
    layouts = [LAYOUT | {"world_size": 128, "dp": 8, "etp": 8, "ep": 4, "edp": 2} | each for each in shapes]
    layouts[2]["edp"] = 8
    frame = pl.DataFrame(layouts).with_row_index("layout")
    valiant = Network(
        "valiant", "torus", "valiant", shape={"vertices": "gpu", "sides": [4, 4, 8], "ports": "full"}
    )
    chosen = [load_network(root, name) for name in names(root)]
    found = {(each.name, 128): topology(each, 128, 8, RATES, root) for each in (*chosen, valiant)}
    for order in (None, "tp-pp-dp"):
        together = of_layouts(frame, found, order)
        for number, layout in enumerate(layouts):
            for (name, _), own in found.items():
                alone = together.filter(layout=number, network=name).drop("layout", "network")
                assert_frame_equal(alone, layout_slowdowns(own, layout, order), check_exact=True)
    monkeypatch.setattr("moesweep.network.slowed.CELLS", 1000)
    assert_frame_equal(of_layouts(frame, found, "tp-pp-dp"), together, check_exact=True)
