"""`moesweep network`: its tables by hand and against the costs, its mistakes all at once."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from costing import ROOT, cluster
from moesweep.cli import main
from moesweep.edge.said import QUIET
from moesweep.evaluate.costs import costed_on
from moesweep.evaluate.files import write_costs
from moesweep.report.figures import link_loads
from moesweep.report.figures.style import as_svg
from moesweep.report.figures.topologies import draw
from moesweep.report.networks import sentences, slower
from moesweep.store.layout import Results
from moesweep.store.tablefile import read_table, write_table
from moesweep.study.networks import load_network, load_parts, named_network
from moesweep.topologies.compared import compared
from moesweep.topologies.needs import SHARES, first_that_suffices, nic_need
from moesweep.topologies.thinned import thinned
from moesweep.trace.files import write_traces
from small import DENSE, small

CASES = {"moe": {"world_size": 32, "ep": 8, "tp": 2, "num_experts": 8}, "dense": DENSE | {"world_size": 32}}
THIN = {
    "description": "leaves of a node, a quarter of its cards' links up",
    "source": "a test",
    "topology": "leaf_spine",
    "shape": {"leaf_gpus": 8, "oversubscription": 4, "spine_ports": 64},
}


def workloads() -> pl.DataFrame:
    return pl.concat(small(**case).with_columns(workload=pl.lit(id_)) for id_, case in CASES.items())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with traced workloads and a network of its own."""
    root = tmp_path_factory.mktemp("project")
    (root / "config").mkdir()
    config = {"sweep": "config/s.yaml", "cluster": cluster().name}
    (root / "config/config.yaml").write_text(yaml.safe_dump(config))
    (root / "thin.yaml").write_text(yaml.safe_dump(THIN))
    results = Results(root / "results")
    write_table(workloads(), results.workloads, "workloads")
    write_traces(workloads(), results)
    write_costs(results, cluster())
    return root


@pytest.fixture(autouse=True)
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


ASKED = ["--topology", "thin.yaml", "--topology", "rail-only"]


@pytest.fixture(scope="module")
def out(project: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert main(["network", *ASKED, "--order", "tp-pp-dp", "--links", "--out", "out"]) == 0
    return project / "out"


def test_iterations_are_those_of_the_costs(out: Path) -> None:
    found = read_table(out / "topologies.parquet", "topologies")
    assert found["network"].unique(maintain_order=True).to_list() == ["non-blocking", "thin", "rail-only"]
    free = costed_on(workloads(), [cluster()])["iteration_seconds"].to_list()
    assert found.filter(network="non-blocking")["iteration_seconds"].to_list() == free
    assert found.filter(network="rail-only")["iteration_seconds"].to_list() == free
    assert (found.filter(network="thin")["iteration_seconds"] > pl.Series(free)).all()


def test_parts_and_prices(out: Path) -> None:
    """Four leaves of 8 cards and 2 links up: 40 links; 8 links up fill one of the spines of 64 ports.

    Ports in use are those at leaves, 32 + 8, and at spines, 8. A rail-only network of 4 islands has a leaf
    and 4 links for each of 8 rails.
    """
    found = read_table(out / "topologies.parquet", "topologies").filter(kind="moe")
    parts = {row["network"]: (row["links"], row["switches"]) for row in found.iter_rows(named=True)}
    assert parts["thin"] == (40, 4 + 1)
    assert parts["rail-only"] == (32, 8)
    prices = {name: part.value for name, part in load_parts(ROOT).items()}
    (usd,) = found.filter(network="thin")["usd"]
    assert usd == pytest.approx(40 * prices["link_usd"] + 48 * prices["switch_port_usd"])


def test_kinds_by_hand(out: Path) -> None:
    """pp leaves its leaf on all 8 cards over 2 links; of an ep group on two nodes 4 of 7 peers do.

    In tp-pp-dp order stages stand side by side, and nothing of pp leaves a node.
    """
    found = read_table(out / "network_kinds.parquet", "network_kinds").filter(workload="moe", network="thin")
    ranked = {row["group_kind"]: row for row in found.filter(order="tp-cp-dp-pp").iter_rows(named=True)}
    assert ranked["pp"]["slowdown"] == pytest.approx(4)
    assert ranked["ep"]["slowdown"] == pytest.approx(4)
    rate = cluster().value("nic_bytes_per_second")
    assert ranked["ep"]["card_seconds_per_byte"] == pytest.approx(4 / 7 / rate)
    assert (ranked["pp"]["class"], ranked["pp"]["source"], ranked["pp"]["target"]) == (
        "leaf",
        "leaf 0",
        "spine 0",
    )
    other = {row["group_kind"]: row for row in found.filter(order="tp-pp-dp").iter_rows(named=True)}
    assert (other["pp"]["slowdown"], other["pp"]["link_seconds_per_byte"], other["pp"]["class"]) == (
        1,
        0,
        None,
    )
    assert set(found["group_kind"]) >= {"ep", "etp"}


def test_dense_workloads_have_no_experts(out: Path) -> None:
    kinds = read_table(out / "network_kinds.parquet", "network_kinds").filter(workload="dense")["group_kind"]
    assert not set(kinds) & {"ep", "etp", "edp", "tp_ep", "expert_model"}


def test_links_carry_bytes_times_hops(out: Path) -> None:
    loads = read_table(out / "network_loads.parquet", "network_loads").filter(workload="moe", network="thin")
    links = read_table(out / "links/network=thin/workload=moe.parquet", "network_links")
    both = (
        links.group_by("group_kind", "phase")
        .agg(pl.col("bytes").sum(), pl.col("seconds").max())
        .sort("group_kind", "phase")
    )
    assert both["bytes"].to_list() == pytest.approx(loads["bytes_hops"].to_list())
    assert both["seconds"].to_list() == pytest.approx(loads["seconds"].to_list())


def test_bursts_by_hand(project: Path, out: Path) -> None:
    """A stage of two nodes sends on all 8 cards of a leaf over 2 links, one way a pass.

    Of an ep group on two nodes each member sends 4 of 7 parts to the other one: 8 cards' over 2 links.
    """
    found = read_table(out / "network_demand.parquet", "network_demand")
    own = found.filter(workload="moe", network="thin", phase="forward")
    pp = {row["class"]: row for row in own.filter(group_kind="pp").iter_rows(named=True)}
    assert {name: (row["flows"], row["incast"]) for name, row in pp.items()} == {
        "nic": (1, 1),
        "leaf": (4, 1),
    }
    ops = read_table(Results(project / "results").distinct_ops, "distinct_ops").filter(workload="moe")
    (message,) = ops.filter(op="send_forward").iter_rows(named=True)
    assert pp["leaf"]["burst_bytes"] == 4 * message["wire_bytes"]
    assert pp["leaf"]["burst_seconds"] == message["seconds"]
    assert pp["leaf"]["peak_bytes_per_second"] == pytest.approx(
        4 * message["wire_bytes"] / message["seconds"]
    )
    assert pp["leaf"]["bursts"] == message["num_microbatches"]
    iteration = read_table(Results(project / "results").costs, "costs").filter(workload="moe")
    sent = 4 * message["wire_bytes"] * message["num_microbatches"]
    assert pp["leaf"]["mean_bytes_per_second"] == pytest.approx(sent / iteration["iteration_seconds"][0])
    assert pp["leaf"]["capacity_bytes_per_second"] == cluster().value("nic_bytes_per_second")
    ep = {row["class"]: row for row in own.filter(group_kind="ep").iter_rows(named=True)}
    assert {name: row["incast"] for name, row in ep.items()} == {"nic": 4, "leaf": 4}
    assert ep["nic"]["flows"] == 4
    assert ep["leaf"]["flows"] == pytest.approx(16)
    assert ep["leaf"]["burst_bytes"] == pytest.approx(4 * ep["nic"]["burst_bytes"])
    dispatch = ops.filter(group_kind="ep", phase="forward")
    assert ep["nic"]["peak_bytes_per_second"] == pytest.approx(
        (dispatch["wire_bytes"] / dispatch["seconds"]).max() * 4 / 7
    )


def test_dense_workloads_need_nothing_for_experts() -> None:
    assert nic_need(workloads().filter(kind="dense"), cluster()).is_empty()


def test_the_first_rate_that_suffices_lies_above_the_last_that_does_not() -> None:
    tried = np.array([[0.3, 0.1, 0.2, 0.05], [0.1, 0.1, 0.1, 0.1], [0.3, 0.3, 0.3, 0.3]])
    assert first_that_suffices(tried, np.array([0.15, 0.15, 0.15])).tolist() == [3, 0, 4]


LINKS = pl.DataFrame(
    [
        ("thin", "nvlink", 0, "gpu 0", "nvswitch 0", 9.0),
        ("thin", "leaf", 1, "leaf 10", "spine 0", 1.0),
        ("thin", "leaf", 1, "leaf 10", "spine 0", 4.0),
        ("thin", "leaf", 2, "leaf 9", "spine 0", 1.0),
        ("thin", "leaf", 3, "leaf 9", "spine 1", 2.0),
        ("wide", "leaf", 1, "leaf 9", "spine 0", 3.0),
    ],
    ["network", "class", "link", "source", "target", "seconds"],
    orient="row",
)


def test_links_by_class_and_one_by_one_where_they_carry_most() -> None:
    """Kinds on a link add; NVLink is busier, but it is no layer of the network."""
    rows = link_loads.by_class(LINKS)
    assert rows.rows() == [
        ("thin", "nvlink", 9, 9, 9),
        ("thin", "leaf", 1, 2, 5),
        ("wide", "leaf", 3, 3, 3),
    ]
    layer = link_loads.worst_layer(LINKS)
    assert layer["seconds"].to_list() == [5, 1, 2]
    # Leaf 9 stands before leaf 10; nothing joins leaf 10 and spine 1.
    image = link_loads.squares(layer, ["leaf 9", "leaf 10"], ["spine 0", "spine 1"])
    assert np.array_equal(image, [[1, 2], [5, np.nan]], equal_nan=True)
    drawn = as_svg("x", link_loads.draw_layer, {"workload": "w", "rows": layer})
    assert drawn.index(">leaf 9<") < drawn.index(">leaf 10<")
    assert ">thin: leaf</text>" in as_svg("x", link_loads.draw, {"workload": "w", "rows": rows})


def test_what_oversubscription_costs(out: Path) -> None:
    """At 4:1 it is what the network of the catalogue does; at 1:1 nothing blocks."""
    thin = named_network(Path(), "thin.yaml", ("", "--topology"))
    found = thinned(compared(workloads(), [cluster().on(thin)]), {"link_usd": 1.0, "switch_port_usd": 1.0})
    assert found["network"].unique().to_list() == ["thin"]
    own = {kind: each.sort("oversubscription") for (kind,), each in found.group_by("kind")}
    table = slower(read_table(out / "topologies.parquet", "topologies")).filter(network="thin")
    for kind, median in table.select(pl.col("kind").cast(pl.String), "median").rows():
        assert own[kind]["oversubscription"].to_list() == [1, 2, 4, 8]
        assert own[kind]["median"][0] == pytest.approx(0, abs=1e-12)
        assert own[kind]["median"][2] == pytest.approx(median, rel=1e-12)
        assert own[kind]["median"].is_sorted()
    names = {file.name for file in out.glob("*.svg")}
    assert names == {"topologies.svg", "oversubscription.svg", "link_loads.svg", "worst_layer.svg"}


@pytest.mark.slow
@pytest.mark.endurance
def test_a_card_s_need_is_where_exchanges_take_their_share(out: Path) -> None:
    """At the rate found they take the share, just below it more; and a faster card takes no more."""
    wide = small(world_size=64, tp=4, ep=8, num_experts=8, hidden_size=2048, seq_length=2048, num_layers=4)
    found = nic_need(wide, cluster())
    assert found["share"].to_list() == list(SHARES)
    assert read_table(out / "nic_need.parquet", "nic_need").columns == found.columns
    for share, rate in (
        found.filter(pl.col("nic_bytes_per_second") > 0).select("share", "nic_bytes_per_second").rows()
    ):
        for factor, fits in ((1.001, True), (0.98, False), (4, True)):
            constants = pl.DataFrame([cluster().values | {"nic_bytes_per_second": rate * factor}])
            costs = costed_frame(wide, constants)
            assert (costs["ep_comm_seconds"][0] / costs["iteration_seconds"][0] <= share) == fits
    assert (found["nic_bytes_per_second"] > 0).any()


def costed_frame(frame: pl.DataFrame, constants: pl.DataFrame) -> pl.DataFrame:
    from moesweep.evaluate.costs import costed

    return costed(frame, constants)


def test_all_mistakes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--topology", "fat-treee", "--workload", "nobody", "--order", "tp-dp", "--links"]
    assert main(["network", *words]) == 2
    found = capsys.readouterr().err
    assert len(found.splitlines()) == 4
    assert all(
        part in found
        for part in ("did you mean fat-tree", "nobody", "there is no order tp-dp", "no --out is given")
    )


def test_a_folder_in_use_and_the_results_are_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["network", *ASKED, "--out", "out"]) == 2
    assert "is no empty folder" in capsys.readouterr().err
    assert main(["network", *ASKED, "--out", "results/network"]) == 2
    assert "lies in the results" in capsys.readouterr().err


def test_sentences_and_figure_by_hand(out: Path) -> None:
    """Rounding lengthens nothing; what shortens iterations does not either."""
    rows = {
        "non-blocking": (0.0, 0.0, 0.0, 0.0),
        "even": (1e-12, 1e-12, 0.0, 0.0),
        "nvl": (-0.05, -0.01, -0.02, 0.0),
        "thin": (0.2, 0.5, 0.05, 0.4),
        "torus": (2.0, 9.0, 2.5, 8.0),
        "leaf": (0.1, 0.1, 0.04, 0.1),
    }
    columns = [
        {"network": name, "kind": kind, "median": row[at], "most": row[at + 1]}
        for name, row in rows.items()
        for kind, at in (("moe", 0), ("dense", 2))
    ]
    found = pl.DataFrame(columns)
    assert list(sentences(found)) == [
        "Of 5 networks, 2 lengthen no iteration: even, nvl.",
        "In the median they lengthen iterations at the most: "
        "MoE ones by 200 % on torus, dense ones by 250 % on torus.",
        "In the median MoE loses more than dense on 2, most on thin (20 % against 5 %); "
        "dense loses more than MoE on 1, most on torus (250 % against 200 %).",
    ]
    assert list(sentences(found.filter(network="non-blocking"))) == []
    assert list(sentences(found.filter(kind="moe")))[1:] == [
        "In the median they lengthen iterations at the most: MoE ones by 200 % on torus."
    ]
    table = read_table(out / "topologies.parquet", "topologies")
    assert dict(slower(table).filter(network="thin").select("kind", "median").iter_rows()) == {
        kind: pytest.approx(thin / free - 1)
        for kind in ("moe", "dense")
        for free, thin in [table.filter(kind=kind)["iteration_seconds"][:2]]
    }
    drawn = (out / "topologies.svg").read_text(encoding="utf-8")
    assert drawn == as_svg("topologies", draw, {"rows": slower(table)})
    assert all(f">{name}</text>" in drawn for name in ("non-blocking", "thin", "rail-only"))


NARROW = {
    "description": "sides of 8 and 2, which hold 16 GPUs and no more",
    "source": "a test",
    "topology": "torus",
    "shape": {"vertices": "gpu", "sides": [8, 2], "ports": "full"},
}


def test_the_stage_compares_the_catalogue_and_says_what_holds_no_workload(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All networks but hashed ones, the default first."""
    narrow = project / "config/networks/narrow.yaml"
    narrow.parent.mkdir()
    narrow.write_text(yaml.safe_dump(NARROW))
    try:
        assert main(["network"]) == 0
        said = capsys.readouterr()
        left_out, made = said.err.splitlines()
        assert left_out.startswith("left out: config/networks/narrow.yaml:4: shape.sides: holds: ")
        file = Results(Path("results")).topologies
        assert made.startswith(f"{file}: ")
        found = read_table(file, "topologies")
        networks = found["network"].unique(maintain_order=True).to_list()
        assert networks[0] == "non-blocking"
        assert set(networks) == {path.stem for path in (ROOT / "config/networks").glob("*.yaml")} - {
            "fat-tree-hashed"
        }
        assert found.height == 2 * len(networks)
        thin = found.filter(network="fat-tree-4to1")["iteration_seconds"].to_list()
        own = cluster().on(load_network(ROOT, "fat-tree-4to1"))
        assert thin == costed_on(workloads(), [own])["iteration_seconds"].to_list()
    finally:
        narrow.unlink()
        narrow.parent.rmdir()


def test_the_summary_says_by_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["network", *ASKED]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "2 workloads; parts are those for 32 GPUs"
    (thin,) = (line.split() for line in printed if line.startswith("thin"))
    (free,) = (line.split() for line in printed if line.startswith("non-blocking"))
    assert free[1:3] == ["0", "%"]
    assert float(thin[1]) > 0
    assert printed[-3] == "Of 2 networks, 1 lengthens no iteration: rail-only."


def test_a_run_s_progress_is_not_broken_by_the_summary(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(QUIET, "1")
    assert main(["network", *ASKED]) == 0
    assert capsys.readouterr().out == ""
