"""Costs on networks: by hand, the same in both forms, unchanged where nothing blocks, asked of results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from costing import ROOT, cluster, constants
from explained import everything_below
from moesweep.cost.collectives import exchange_ways, outside_ways
from moesweep.cost.model import Costs, cost, with_constants
from moesweep.cost.words import Words
from moesweep.diff.comparison import Comparison
from moesweep.diff.folder import read_folder
from moesweep.diff.whatif import what_if
from moesweep.edge.problems import BadInput
from moesweep.evaluate.costs import costed_on, on_cluster, on_networks
from moesweep.evaluate.files import constants_but_prices, write_costs
from moesweep.explain.ledger import Ledger
from moesweep.network.slowed import slowed
from moesweep.network.topology import NVLINK
from moesweep.store.layout import Results
from moesweep.store.tablefile import write_table
from moesweep.study.catalog import load_cluster
from moesweep.study.networks import Network, load_network
from moesweep.topologies.chosen import catalogue_networks
from moesweep.topologies.compared import compared_where_they_fit
from moesweep.trace.files import write_traces
from moesweep.trace.programs import folded
from small import DENSE, small

# Leaves of one node, a quarter of its cards' links up.
THIN = Network(
    "thin", "leaf_spine", "up_down", shape={"leaf_gpus": 8, "oversubscription": 4, "spine_ports": 64}
)
CASES: dict[str, dict[str, Any]] = {
    "moe": {"world_size": 32, "ep": 4, "tp": 1},
    "wide": {"world_size": 32, "tp": 16, "ep": 2, "pp": 1, "num_attention_heads": 16, "num_query_groups": 16},
    "dense": DENSE | {"pp": 1},
    "skewed": {"routing": "zipf(alpha=1,seed=1)", "world_size": 32},
}


def workloads(*names: str) -> pl.DataFrame:
    return pl.concat(small(**CASES[name]).with_columns(workload=pl.lit(name)) for name in names or CASES)


def on(network: Network, case: dict[str, Any]) -> Costs:
    frame = small(**case)
    return cost(folded(frame), with_constants(slowed(frame, network, constants()), constants()))


def op_seconds(found: Costs, op: str, kind: str) -> float:
    rows = found.ops.filter((pl.col("op") == op) & (pl.col("group_kind") == kind))
    return float(rows["seconds"].max())  # type: ignore[arg-type]


def test_a_message_between_nodes_waits_for_the_leaf() -> None:
    """Two stages of a node each: 8 cards of 10 GB/s send up 2 links: a message takes 4 times longer."""
    free, thin = (on(network, DENSE) for network in (Network("free", "non_blocking"), THIN))
    message = 1 * 64 * 64 * 2 / 2  # micro-batch, sequence, hidden size, bytes an element, split over tp
    assert op_seconds(free, "recv_forward", "pp") == pytest.approx(message / 10e9)
    assert op_seconds(thin, "recv_forward", "pp") == pytest.approx(4 * message / 10e9)


def test_a_ring_and_an_exchange_between_nodes() -> None:
    """All rings of dp leave their node on all 8 cards, over 2 links: 4 times longer. Inside a node: none."""
    case = DENSE | {"pp": 1, "distributed_optimizer": False}
    free, thin = (on(network, case) for network in (Network("free", "non_blocking"), THIN))
    kinds = free.ops.filter(pl.col("group_kind").is_not_null()).select("op", "group_kind", a="seconds")
    both = kinds.hstack(thin.ops.filter(pl.col("group_kind").is_not_null()).select(b="seconds"))
    ratio = (
        both.with_columns(ratio=pl.col("b") / pl.col("a"))
        .group_by("group_kind")
        .agg(low=pl.col("ratio").min(), high=pl.col("ratio").max())
    )
    found = {str(kind): (low, high) for kind, low, high in ratio.iter_rows()}
    assert found["dp"] == pytest.approx((4, 4))
    assert found["tp"] == (1, 1)


def test_an_exchange_takes_the_larger_of_both_links() -> None:
    """ep 8 on two nodes: 4 of 8 shares leave at 10 GB/s, 3 go to others inside at 100."""
    case = {"world_size": 16, "tp": 1, "etp": 2, "ep": 8, "pp": 1, "num_experts": 8}
    found = {}
    for network in (Network("free", "non_blocking"), THIN):
        ops = on(network, case).ops.filter(pl.col("op") == "moe_dispatch")
        found[network.name] = (ops["seconds"][0], ops["comm_bytes"][0])
    seconds, buffer = found["free"]
    assert seconds == pytest.approx(4 * buffer / 8 / 10e9)
    assert found["thin"][0] == pytest.approx(4 * seconds)


@pytest.mark.parametrize("collective", ["all_gather", "all_reduce", "all_to_all"])
def test_a_slowdown_takes_the_transfer_of_every_way_between_nodes_longer(collective: str) -> None:
    """16 ranks on 2 nodes. Latencies stay, and of an exchange in two steps the passes inside nodes."""
    latencies = dict.fromkeys(
        ("ring_base_seconds", "ll_ring_base_seconds", "all_to_all_latency_seconds"), 1e-5
    )
    numbers = constants(ll_bytes_per_second=20e9, **latencies)
    op = Words(collective, "collective", "forward", collective, "world")
    ways = exchange_ways(op) if collective == "all_to_all" else outside_ways(op)
    buffer, pairs = 80e6, [*ways.items()]
    frame = pl.DataFrame({"slowdown": [1.0, 4.0]}).with_columns(
        comm_bytes=pl.lit(buffer),
        wire_bytes=pl.lit(buffer * 15 / 16),
        group_size=pl.lit(16),
        world_size=pl.lit(16),
        members_per_node=pl.lit(8),
        nodes=pl.lit(2),
        stride=pl.lit(1),
        routing=pl.lit("balanced"),
        ep=pl.lit(1),
        num_experts=pl.lit(1),
        deterministic_mode=pl.lit(False),
        **{name: pl.lit(value) for name, value in numbers.items()},
    )
    found = frame.select(
        *(latency.alias(f"{name} latency") for name, (latency, _) in pairs),
        *(transfer.alias(name) for name, (_, transfer) in pairs),
    )
    for name in ways:
        (latency, again), (free, slow) = found[f"{name} latency"], found[name]
        assert latency == again > 0
        # Gathered and spread inside: two passes of 7/8 of the buffer at 100 GB/s.
        inside = 2 * 7 / 8 * buffer / 100e9 if name == "hierarchical" else 0.0
        assert slow - inside == pytest.approx(4 * (free - inside))


def test_costs_are_made_again_where_the_network_is_another(tmp_path: Path) -> None:
    """Words do not count: neither a description nor where a network stands."""
    graph = tmp_path / "graph.txt"
    graph.write_text("one")
    networks = {
        "thin": THIN,
        "told": replace(THIN, file="thin.yaml", description="thin"),
        "queues": replace(THIN, queue_pairs=2),
        "graph": Network("thin", "graph", "ecmp", shape={"file": str(graph)}),
    }
    made = {name: constants_but_prices(cluster().on(network)) for name, network in networks.items()}
    assert made.pop("told") == made["thin"]
    graph.write_text("two")
    made["other graph"] = constants_but_prices(cluster().on(networks["graph"]))
    made["default"] = constants_but_prices(cluster())
    assert len(set(made.values())) == len(made) == 5


def test_both_forms_of_the_model_agree() -> None:
    frame, slow = workloads("moe", "wide", "dense"), cluster().on(THIN)
    rows = cost(folded(frame), on_cluster(frame, slow)).workloads
    found = costed_on(frame, [slow])
    for column in ("iteration_seconds", "ep_comm_seconds", "dp_comm_seconds", "tp_comm_seconds"):
        assert found[column].to_list() == pytest.approx(rows[column].to_list(), rel=1e-12)
    free = costed_on(frame, [cluster()])
    assert (found["iteration_seconds"] > free["iteration_seconds"]).all()


def test_nothing_leaves_a_world_of_one_island() -> None:
    """16 GPUs of an NVLink domain of 72: a torus or a HyperX of one island has no link at all."""
    rack = load_cluster(ROOT, "gb200-nvl72")
    networks = catalogue_networks(ROOT, rack)
    found, left_out = compared_where_they_fit(
        small(world_size=16), [rack.on(each) for each in networks], ROOT
    )
    assert len(found.topologies) == len(networks) - len(left_out) > 8
    assert any(not (built.bundles.class_ != NVLINK).any() for built in found.topologies.values())
    slowdowns = found.slowdowns()
    assert slowdowns["network"].n_unique() == len(found.topologies)
    assert (slowdowns["slowdown"] == 1).all()
    assert (slowdowns["worst_bundle"] == -1).all()


def test_what_blocks_nothing_changes_no_number() -> None:
    frame = workloads()
    for name in ("leaf-spine", "fat-tree", "rail-optimised"):
        free = cluster().on(load_network(ROOT, name))
        assert on_networks(frame, [free]).columns == frame.columns
        assert_frame_equal(costed_on(frame, [free]), costed_on(frame, [cluster()]), check_exact=True)


def test_clusters_of_several_networks_stand_side_by_side() -> None:
    frame = workloads("moe", "wide", "dense", "skewed")
    named = pl.concat(frame.with_columns(cluster=pl.lit(name)) for name in ("thin", "free"))
    mixed = named.gather([0, 4, 5, 1, 2, 3, 7, 6])
    clusters = [replace(cluster().on(THIN), name="thin"), replace(cluster(), name="free")]
    found = costed_on(mixed, clusters)["iteration_seconds"].to_list()
    alone = {each.name: costed_on(frame, [each])["iteration_seconds"].to_list() for each in clusters}
    order = list(frame["workload"])
    expected = [
        alone[where][order.index(id_)] for id_, where in mixed.select("workload", "cluster").iter_rows()
    ]
    assert found == expected


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same workloads on the default network, and on a thin one."""
    made = []
    for network in (cluster().network, THIN):
        results = Results(tmp_path_factory.mktemp("results"))
        write_table(workloads(), results.workloads, "workloads")
        write_traces(workloads(), results)
        write_costs(results, cluster().on(network))
        made.append(results.root)
    return made[0], made[1]


def test_a_network_as_a_what_if_is_what_a_sweep_on_it_costs(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tmp_path / "thin.yaml"
    described = {
        "description": "thin",
        "source": "a test",
        "topology": THIN.topology,
        "shape": dict(THIN.shape),
    }
    file.write_text(yaml.safe_dump(described))
    free, thin = map(read_folder, folders)
    found = what_if(free, cluster(), {"network": str(file)}, 1e-9)
    expected = dict(thin.costs.select("workload", "iteration_seconds").iter_rows())
    assert dict(found.b.costs.select("workload", "iteration_seconds").iter_rows()) == pytest.approx(
        expected, rel=1e-12
    )
    assert [(each.kind, each.a, each.b) for each in found.inputs] == [("network", "non-blocking", "thin")]


def test_a_comparison_says_that_the_network_did_it(folders: tuple[Path, Path]) -> None:
    found = Comparison(*map(read_folder, folders), 1e-9)
    assert set(found.moved_ids) == set(CASES)
    effects = found.effects
    assert set(effects["input"]) == {"network"}
    moved = found.moved.filter(column="iteration_seconds").select("workload", "change")
    both = effects.join(moved, on="workload", maintain_order="left")
    assert both["iteration_seconds"].to_list() == pytest.approx(both["change"].to_list(), rel=1e-9)


def test_an_explanation_ends_at_the_link_that_binds() -> None:
    """In leaves of a node, the first link up from a leaf is the first of the busiest."""
    ledger = Ledger(workloads("moe"), cluster().on(replace(THIN, file="thin.yaml")), {})
    rows = ledger.ops.frame.filter(group_kind="pp")
    node = ledger.ops.column(rows[0], "slowdown")
    names = {each.name: each for each in everything_below(node)}
    origin = names["pp_slowdown"].origin
    assert origin is not None
    assert (origin.file, names["pp_slowdown"].value) == ("thin.yaml", rows["slowdown"][0])
    assert origin.source == "its busiest link: leaf link leaf 0 -> spine 0"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"network": "fat-treee"}, "did you mean fat-tree"),
        ({"network": "nvl72", "gpus_per_node": "8"}, "given_twice: .*islands of network nvl72"),
        ({"netwrk": "fat-tree"}, "did you mean network"),
    ],
)
def test_mistakes(folders: tuple[Path, Path], given: dict[str, str], expected: str) -> None:
    with pytest.raises(BadInput, match=expected):
        what_if(read_folder(folders[0]), cluster(), given, 1e-9, ROOT)


def test_workloads_larger_than_the_network_are_named_with_what_would_hold_them() -> None:
    few = replace(THIN, gpus=16, file="few.yaml")
    with pytest.raises(BadInput) as bad:
        costed_on(workloads("moe", "dense"), [cluster().on(few)])
    assert [(each.file, each.rule, each.suggestion) for each in bad.value.problems] == [
        ("few.yaml", "too_large", "nearest: 32")
    ]


def project(folder: Path, network: str) -> Path:
    """A project whose one cluster names a network; all else comes with the code."""
    data = yaml.safe_load((ROOT / f"config/clusters/{cluster().name}.yaml").read_text())
    (folder / "config/clusters").mkdir(parents=True)
    (folder / "config/clusters/own.yaml").write_text(yaml.safe_dump({**data, "network": network}))
    return folder


def test_a_cluster_names_its_network(tmp_path: Path) -> None:
    own = load_cluster(project(tmp_path, "fat-tree-4to1"), "own")
    assert own.network == load_network(ROOT, "fat-tree-4to1")
    assert cluster().network.blocks is False


@pytest.mark.parametrize(
    ("network", "rule", "advice"),
    [
        ("fat-tree-4to2", "unknown_network", "did you mean fat-tree-4to1"),
        ("nvl72", "islands", "island_gpus: 8"),
    ],
)
def test_a_cluster_with_a_network_that_it_cannot_have(
    tmp_path: Path, network: str, rule: str, advice: str
) -> None:
    with pytest.raises(BadInput) as bad:
        load_cluster(project(tmp_path, network), "own")
    (problem,) = bad.value.problems
    assert (problem.file, problem.path, problem.rule) == ("config/clusters/own.yaml", "network", rule)
    assert advice in problem.suggestion
