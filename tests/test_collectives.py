"""Collectives: each way worked out by hand, measured ones predicted, and `moesweep collectives`."""

import csv
import math
from pathlib import Path

import polars as pl
import pytest

from costing import cluster, constants
from moesweep.cli import main
from moesweep.cost.predicted_collectives import COLUMNS, predicted

MEASURED = Path(__file__).parent / "data/collectives_measured.csv"
CLUSTERS = {
    "A100-SXM-80GB 8x200 Gbit/s": "dgx-a100-80gb-8xhdr200",
    "A100-SXM-80GB 4x200 Gbit/s": "a100-80gb-4xhdr200",
    "A100 4x200 Gbit/s": "a100-80gb-4xhdr200",
    "A800-SXM-80GB 4x200 Gbit/s": "a800-80gb-4xhdr200",
}
LARGE = 8 << 30


def one(collective: str, nodes: int, ranks: int, size: int, **changes: float) -> tuple[float, str]:
    """Seconds and way of one collective with round constants."""
    found = predicted(constants(**changes), [collective], nodes, ranks, [size]).row(0, named=True)
    return found["seconds"], found["way"]


# 80 MB over 8 GPUs at 100 GB/s: 7/8 of it on the wire, twice for an all_reduce: 0.7 and 1.4 ms
@pytest.mark.parametrize(
    ("collective", "seconds"),
    [("all_gather", 7e-4), ("reduce_scatter", 7e-4), ("all_reduce", 14e-4), ("all_to_all", 7e-4)],
)
def test_what_is_on_the_wire_inside_a_node(collective: str, seconds: float) -> None:
    assert one(collective, 1, 8, 80_000_000)[0] == pytest.approx(seconds)


def test_small_messages_inside_a_node_take_few_steps() -> None:
    # An all_reduce of 800 bytes: base 10 us, 14 steps of 1 us, 1400 bytes at half of 100 GB/s.
    ll = {"ll_ring_base_seconds": 1e-5, "ll_node_hop_seconds": 1e-6, "ll_bytes_per_second": 1e12}
    slow = {"node_latency_8_seconds": 1e-4}
    assert one("all_reduce", 1, 8, 800, **ll, **slow) == (pytest.approx(2.4e-5 + 1400 / 50e9), "ring LL")
    assert one("all_gather", 1, 8, 800, **ll, **slow) == (pytest.approx(1.7e-5 + 700 / 50e9), "ring LL")
    # At most what the protocol carries.
    found = one("all_reduce", 1, 8, 800, **ll | {"ll_bytes_per_second": 1e8}, **slow)
    assert found == (pytest.approx(2.4e-5 + 1400 / 1e8), "ring LL")
    assert one("all_reduce", 1, 8, 8_000_000, **ll, **slow)[1] == "ring"


def test_switches_that_add() -> None:
    assert one("all_reduce", 1, 8, 8_000_000, nvls_bytes_per_second=200e9) == (pytest.approx(7e-5), "NVLS")
    assert one("all_reduce", 1, 8, 8_000_000, nvls_bytes_per_second=50e9)[1] == "ring"
    assert one("all_gather", 1, 8, 8_000_000, nvls_bytes_per_second=200e9)[1] == "ring"
    assert one("all_reduce", 2, 16, 8_000_000, nvls_bytes_per_second=200e9)[1] == "ring"


def test_trees_have_few_steps_and_less_bandwidth() -> None:
    # 64 ranks on 8 nodes. Ring: 14 steps between nodes of 1 ms. Tree: 2 (7 x 10 us + 3 x 1 ms), half of the
    # 80 GB/s.
    steps = {"network_hop_seconds": 1e-3, "tree_node_hop_seconds": 1e-5, "tree_efficiency": 0.5}
    wire = 2 * 63 / 64 * 64_000_000
    found = one("all_reduce", 8, 64, 64_000_000, **steps)
    assert found == (pytest.approx(6.14e-3 + wire / 40e9), "tree")
    # The same by a ring, 0.014 s more and all of the bandwidth, for a buffer 16 times as large
    found = one("all_reduce", 8, 64, 1_024_000_000, **steps)
    assert found == (pytest.approx(14e-3 + 16 * wire / 80e9), "ring")
    # LL: base 1 us, 2 (7 x 1 us + 3 x 2 us), 0.25 of the tree's bandwidth
    short = {"ll_ring_base_seconds": 1e-6, "ll_node_hop_seconds": 1e-6, "ll_tree_network_hop_seconds": 2e-6}
    short |= {"ll_tree_share": 0.25, "ll_bytes_per_second": 1e12, "ll_network_hop_seconds": 1.0}
    found = one("all_reduce", 8, 64, 64_000, **steps, **short)
    assert found == (pytest.approx(27e-6 + wire / 1000 / 10e9), "tree LL")
    assert one("all_gather", 8, 64, 64_000, **steps, **short)[1] == "ring"


def test_an_exchange_in_two_steps() -> None:
    # 64 ranks on 8 nodes, 6.4 MB: 56/64 of it beyond at 10 GB/s, 0.56 ms; 7/8 inside twice at 100 GB/s,
    # 0.112 ms. Direct: 56 peers of 3 us more; in two steps 7 peers.
    found = one("all_to_all", 8, 64, 6_400_000, all_to_all_peer_seconds=3e-6)
    assert found == (pytest.approx(0.56e-3 + 0.112e-3 + 21e-6), "hierarchical")
    found = one("all_to_all", 8, 64, 64_000_000, all_to_all_peer_seconds=3e-6)
    assert found == (pytest.approx(5.6e-3 + 168e-6), "direct")
    # One rank a node has nobody to gather with; a fixed latency counts once.
    found = one("all_to_all", 8, 8, 800_000, all_to_all_peer_seconds=3e-6, all_to_all_latency_seconds=1e-3)
    assert found == (pytest.approx(700_000 / 10e9 + 21e-6 + 1e-3), "direct")


def test_an_exchange_loses_with_every_doubling_of_its_nodes() -> None:
    share = {"all_to_all_efficiency": 0.8, "all_to_all_doubling_efficiency": 0.5}
    for nodes, efficiency in ((2, 0.8), (4, 0.4), (8, 0.2)):
        beyond = (1 - 1 / nodes) * 80e6 / 10e9
        assert one("all_to_all", nodes, 8 * nodes, 80_000_000, **share)[0] == pytest.approx(
            beyond / efficiency
        )


def measured() -> list[dict[str, str]]:
    with MEASURED.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def error(row: dict[str, str], **changes: float) -> float:
    """Predicted over measured seconds of a point, minus 1."""
    name = CLUSTERS[f"{row['gpu']} {row['network']}"]
    size = int(row["buffer_bytes"] or LARGE)
    values = cluster(name).values | changes
    found = predicted(values, [row["collective"]], int(row["nodes"]), int(row["ranks"]), [size])
    if row["seconds"]:
        return float(found["seconds"].item()) / float(row["seconds"]) - 1
    return float(row["bus_bytes_per_second"]) / float(found["busbw_bytes_per_second"].item()) - 1


def test_measured_rings_across_nodes() -> None:
    errors = [error(row) for row in measured() if row["collective"] == "all_reduce"]
    assert len(errors) == 7
    assert max(map(abs, errors)) < 0.10
    assert sum(map(abs, errors)) / 7 < 0.065


def test_measured_exchanges_across_nodes() -> None:
    points = [row for row in measured() if row["collective"] == "all_to_all"]
    before_pxn, without_pxn = (
        next(row for row in points if words in row["note"]) for words in ("before PXN", "PXN off")
    )
    for row in points:
        if row not in (before_pxn, without_pxn):
            assert abs(error(row)) < 0.05
    # Without PXN every GPU's messages to a node take its own card and a switch more: said by one constant.
    assert abs(error(without_pxn, all_to_all_doubling_efficiency=0.88)) < 0.05


@pytest.mark.parametrize("name", ["dgx-a100-80gb-8xhdr200", "dgx-h100-80gb-8xndr400", "gb200-nvl72"])
@pytest.mark.parametrize("collective", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
def test_more_takes_longer(name: str, collective: str) -> None:
    """More bytes, and from one node on more nodes of as many ranks, never take less time."""
    node = int(cluster(name).value("gpus_per_node"))
    sizes = [4**step for step in range(1, 17)]
    before = None
    for nodes in (1, 2, 4, 64, 512):
        seconds = predicted(cluster(name).values, [collective], nodes, nodes * node, sizes)["seconds"]
        assert (seconds.diff().drop_nulls() > 0).all()
        assert before is None or (seconds >= before).all()
        before = seconds


def test_few_bytes_on_many_ranks_take_no_milliseconds() -> None:
    assert predicted(cluster().values, ["all_reduce"], 512, 4096, [4])["seconds"].item() < 2e-4


def test_the_command_prints_what_nccl_tests_would(
    root: Path, in_root: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["collectives", "--cluster", "dgx-a100-80gb-8xhdr200", "--nodes", "2", "--sizes", "1MiB,1 GiB"]
    assert main([*command, "--csv"]) == 0
    table = pl.read_csv(capsys.readouterr().out.encode())
    assert table.columns == list(COLUMNS)
    assert table.height == 8
    assert set(table["ranks"]) == {16}
    for row in table.iter_rows(named=True):
        factor = {"all_reduce": 2}.get(row["collective"], 1) * 15 / 16
        assert row["algbw_bytes_per_second"] == pytest.approx(row["buffer_bytes"] / row["seconds"])
        assert row["busbw_bytes_per_second"] == pytest.approx(factor * row["algbw_bytes_per_second"])
    assert main([*command, "--collective", "all_to_all", "--ranks", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "# all_to_all: 4 ranks on 2 nodes"
    size, time, algbw, busbw, _ = lines[-1].split()
    assert int(size) == 1 << 30
    assert float(algbw) == pytest.approx((1 << 30) / float(time) / 1e3, abs=0.01)
    assert float(busbw) == pytest.approx(0.75 * float(algbw), abs=0.01)


def test_the_command_names_all_mistakes_at_once(in_root: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--nodes", "2", "--ranks", "5", "--sizes", "4,-1 B,1 MiB", "--collective", "alltoall"]
    assert main(["collectives", "--cluster", "dgx-a100-80gb-8xhdr200", *words]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in said] == [
        ["--collective", "choice"],
        ["--sizes", "quantity"],
        ["--sizes", "quantity"],
        ["--ranks", "ranks_by_nodes"],
    ]
    assert said[-1].endswith("nearest: 4, 6")
    assert main(["collectives", "--cluster", "dgx", "--nodes", "0", "--sizes", "0 B,2000 TiB"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in said] == ["unknown_cluster", "range", "range", "range"]


def test_every_way_is_finite() -> None:
    for nodes in (1, 4):
        table = predicted(cluster().values, ["all_reduce", "all_to_all"], nodes, 8 * nodes, [1, 1 << 40])
        assert all(math.isfinite(each) for each in table["seconds"])
