"""Traffic matrices: worked out by hand, against a naive count, and at the scale of 4,096 ranks."""

import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from moesweep.cli import main
from moesweep.shapes.parallelism import groups, ranks
from moesweep.store.layout import Results
from moesweep.store.tablefile import read_table, write_table
from moesweep.trace.files import write_traces
from moesweep.trace.programs import programs
from moesweep.traffic.links import links
from moesweep.traffic.matrices import aggregated, rank_matrix
from moesweep.traffic.messages import Placed
from moesweep.traffic.shares import to_offsets
from naive_dispatch import spread
from naive_layout import naive_groups
from naive_rings import naive_ring
from naive_sizes import own_tokens
from naive_trace import naive_ops
from small import DENSE, small
from varied import VARIED

Cells = dict[tuple[int, int, str, str], int]

# tp = pp = ep = edp = 2 on 16 ranks, 8 micro-batches of 64 tokens, hidden 64, T = 8192 bytes, two layers a
# stage. Every sum below is one rank's, over the iteration, in bytes: executions * wire bytes of one.
# Stage 0 is ranks 0-7, stage 1 ranks 8-15.
MICROBATCHES, LAYERS = 8, 2
HALF = 8192 // 2  # what all_gather and reduce_scatter of T put on links in a group of two
BY_HAND: dict[tuple[str, str], tuple[int, int]] = {
    # attention's gather and scatter; stage 0 also all_reduces T after the embedding, stage 1 gathers T for
    # the logits and all_reduces three times 4bs = 256 bytes for the cross entropy
    ("tp", "forward"): (8 * (2 * 2 * HALF + 2 * HALF), 8 * (2 * 2 * HALF + HALF + 3 * 256)),
    # attention: two gathers and a scatter; stage 0 gathers for the embedding, stage 1 twice at the head
    ("tp", "backward"): (8 * (2 * 3 * HALF + HALF), 8 * (2 * 3 * HALF + 2 * HALF)),
    # fp32 gradients of 4h norms and 4h router weights a layer; stage 1 adds 2h of the final norm
    ("tp", "optimizer"): (4 * 1024, 4 * (1024 + 128)),
    # gather and scatter of 2T, experts cut in two
    ("etp", "forward"): (8 * 2 * 2 * 8192, 8 * 2 * 2 * 8192),
    ("etp", "backward"): (8 * 2 * 2 * 8192, 8 * 2 * 2 * 8192),
    # dispatch and combine of kT/t = 8192 bytes, half of which stays
    ("ep", "forward"): (8 * 2 * 2 * 4096, 8 * 2 * 2 * 4096),
    ("ep", "backward"): (8 * 2 * 2 * 4096, 8 * 2 * 2 * 4096),
    # counts of 4 experts, 8 bytes each, from 4 ranks: 128 bytes, three quarters of them received
    ("tp_ep", "forward"): (8 * 2 * 96, 8 * 2 * 96),
    # T/t a micro-batch, from stage 0 forward and from stage 1 backward
    ("pp", "forward"): (8 * 4096, 0),
    ("pp", "backward"): (0, 8 * 4096),
    # 4 + 2 bytes of 54,272 and 50,304 parameters, three quarters of them on links
    ("dp", "optimizer"): (244_224, 226_368),
    # 4 + 2 bytes of 65,536 expert parameters, half of them
    ("edp", "optimizer"): (196_608, 196_608),
    # the fp32 gradients of half of 1,024 words by 64
    ("embedding", "optimizer"): (131_072, 131_072),
    # 4 bytes: 2 * 15 / 16 * 4 rounded down
    ("world", "optimizer"): (7, 7),
}
RINGS: dict[str, list[list[int]]] = {
    "tp": [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13], [14, 15]],
    "etp": [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11], [12, 13], [14, 15]],
    "ep": [[0, 2], [1, 3], [4, 6], [5, 7], [8, 10], [9, 11], [12, 14], [13, 15]],
    "tp_ep": [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]],
    "pp": [[0, 8], [1, 9], [2, 10], [3, 11], [4, 12], [5, 13], [6, 14], [7, 15]],
    "dp": [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]],
    "edp": [[0, 4], [1, 5], [2, 6], [3, 7], [8, 12], [9, 13], [10, 14], [11, 15]],
    "embedding": [[0, 8], [1, 9], [2, 10], [3, 11], [4, 12], [5, 13], [6, 14], [7, 15]],
    "world": [list(range(16))],
}


def matrix_of(workload: pl.DataFrame, gpus_per_node: int = 8) -> pl.DataFrame:
    row = workload.row(0, named=True)
    return rank_matrix(programs(workload), groups(row), ranks(row), Placed(gpus_per_node), row)


def cells(matrix: pl.DataFrame) -> Cells:
    return {(src, dst, kind, phase): size for src, dst, kind, phase, size in matrix.rows()}


def one_way(kind: str) -> Cells:
    """What every rank sends to the next of its ring, where its group stands on one node."""
    return {
        (src, ring[(place + 1) % len(ring)], kind, phase): by_stage[src // 8]
        for (of_kind, phase), by_stage in BY_HAND.items()
        for ring in RINGS[kind]
        for place, src in enumerate(ring)
        if kind == of_kind and by_stage[src // 8]
    }


def test_sixteen_ranks_by_hand() -> None:
    expected: Cells = {}
    for kind in RINGS:
        expected |= one_way(kind)
    # The gradient norm's ring: an eighth of 7 bytes is none, and the second node is passed downwards.
    for src in range(16):
        expected.pop((src, (src + 1) % 16, "world", "optimizer"))
        expected[src, (src + 1) % 8 if src < 8 else 8 + (src - 1) % 8, "world", "optimizer"] = 7
    assert cells(matrix_of(small())) == expected


def test_rings_across_nodes_of_four_by_hand() -> None:
    """A dp group such as {0, 2, 4, 6} has two members a node: two channels, half of the bytes on each."""
    found = {cell: size for cell, size in cells(matrix_of(small(), 4)).items() if cell[2] == "dp"}
    expected = {}
    for first in (0, 1, 8, 9):
        half = BY_HAND["dp", "optimizer"][first // 8] // 2
        for rank in (first, first + 2):
            expected |= {(rank, rank + 4, "dp", "optimizer"): half, (rank + 4, rank, "dp", "optimizer"): half}
        for a, b in ((first, first + 2), (first + 4, first + 6)):
            expected |= {(a, b, "dp", "optimizer"): half, (b, a, "dp", "optimizer"): half}
    assert found == expected


def naive_matrix(workload: pl.DataFrame, gpus_per_node: int) -> Cells:
    """Every op of every rank, one message after the other."""
    row = workload.row(0, named=True)
    members = naive_groups(row)
    sent: Cells = Counter()
    for op in naive_ops(row):
        kind, phase, size = op["group_kind"], op["phase"], op["wire_bytes"]
        if not size:
            continue
        group = members[kind][op["group_id"]]
        if "fused_" in op["op"]:
            for (src, dst), part in naive_relays(row, op, group, gpus_per_node).items():
                sent[src, dst, kind, phase] += part * op["num_microbatches"]
            continue
        for peer, part in naive_sends(op, group, gpus_per_node).items():
            sent[op["rank"], peer, kind, phase] += part * op["num_microbatches"]
    return {cell: size for cell, size in sent.items() if size}


def naive_sends(op: dict[str, Any], group: list[int], gpus_per_node: int) -> Counter[int]:
    """What a rank sends in one execution of an op."""
    n, rank, size = len(group), op["rank"], op["wire_bytes"]
    place, sends = group.index(rank), Counter[int]()
    if op["collective"] == "send":
        sends[group[(place + (-1 if op["phase"] == "backward" else 1)) % n]] += size
    elif op["collective"] == "all_to_all":
        left = size
        for step in range(1, n):
            part = -(-left // (n - step))
            sends[group[(place + step) % n]] += part
            left -= part
    else:
        sends.update(naive_neighbours(tuple(group), gpus_per_node, size)[rank])
    return sends


def naive_relays(
    w: dict[str, Any], op: dict[str, Any], group: list[int], gpus_per_node: int
) -> Counter[tuple[int, int]]:
    """The way of one rank's tokens, or of their results: each node once, and from there to its ranks."""
    row_bytes, each = 2 * w["hidden_size"], op["comm_bytes"] // len(group)
    legs: Counter[tuple[int, int]] = Counter()
    own = op["rank"] // gpus_per_node
    place = [rank for rank in group if rank // gpus_per_node == own].index(op["rank"])
    for node in sorted({rank // gpus_per_node for rank in group}):
        there = [rank for rank in group if rank // gpus_per_node == node]
        first = op["rank"] if node == own else there[place % len(there)]
        if node != own:
            parts = len({group.index(rank) // w["etp"] for rank in there})
            tokens = int(own_tokens(w) * spread(w, parts * w["num_experts"] // w["ep"]))
            legs[op["rank"], first] += tokens * row_bytes
        for rank in there:
            if rank != first:
                legs[first, rank] += each
    recomputed = op["op"].startswith("recompute_")
    back = op["op"].endswith("combine") == (op["phase"] == "forward" or recomputed)
    return Counter({(dst, src) if back else (src, dst): part for (src, dst), part in legs.items()})


@cache
def naive_neighbours(group: tuple[int, ...], gpus_per_node: int, size: int) -> dict[int, Counter[int]]:
    """What each member of a ring sends to whom."""
    sends: dict[int, Counter[int]] = {rank: Counter() for rank in group}
    ring = naive_ring(list(group), gpus_per_node, dict.fromkeys(group, size))
    for (source, peer), part in ring.items():
        sends[source][peer] += part
    return sends


@pytest.mark.parametrize("gpus_per_node", [3, 4, 8])
@pytest.mark.parametrize("name", VARIED)
def test_every_option_against_a_naive_count(name: str, gpus_per_node: int) -> None:
    workload = small(**VARIED[name])
    matrix = matrix_of(workload, gpus_per_node)
    assert cells(matrix) == naive_matrix(workload, gpus_per_node)
    assert matrix.select("src", "dst", "group_kind", "phase").is_duplicated().sum() == 0


@pytest.mark.parametrize("ep", [2, 4, 8])
def test_every_peer_of_an_all_to_all_is_there(ep: int) -> None:
    workload = small(ep=ep, num_experts=8, world_size=32)
    exchanged = matrix_of(workload).filter(pl.col("group_kind") == "ep")
    assert exchanged.height == 2 * 32 * (ep - 1)
    assert exchanged["bytes"].n_unique() == 1
    assert not (exchanged["src"] == exchanged["dst"]).any()


@pytest.mark.parametrize("wire", [0, 1, 2, 3, 4, 1000, 1001, 10**15 + 1])
def test_remainders_of_an_all_to_all_lose_nothing(wire: int) -> None:
    program = programs(small(ep=4, world_size=32)).filter(pl.col("op") == "moe_dispatch").head(1)
    one = program.with_columns(wire_bytes=pl.lit(wire), num_microbatches=pl.lit(1, dtype=pl.Int64))
    parts = to_offsets(one)["bytes"].to_list()
    assert sum(parts) == wire
    assert wire < 3 or max(parts) - min(parts) <= 1
    # The same offsets for every member: what a rank receives is what it sends.
    assert to_offsets(one)["offset"].n_unique() == len(parts)


def test_sent_is_received_within_a_stage() -> None:
    matrix = matrix_of(small(num_experts=8, ep=8, world_size=64)).filter(~pl.col("group_kind").is_in(["pp"]))
    for kind in ("tp", "etp", "ep", "dp", "edp", "tp_ep"):
        rows = matrix.filter(pl.col("group_kind") == kind)
        sent, received = (
            rows.group_by(pl.col(end).alias("rank"), "phase").agg(pl.col("bytes").sum()).sort("rank", "phase")
            for end in ("src", "dst")
        )
        assert sent.equals(received)


def test_a_single_rank_talks_to_nobody() -> None:
    matrix = matrix_of(small(**VARIED["dense, alone"]))
    assert matrix.is_empty()
    assert aggregated(matrix, "node", 8).is_empty()
    assert links(matrix, 1, 8).is_empty()


def test_nodes_and_rails_are_sums_of_ranks() -> None:
    matrix = matrix_of(small(world_size=64, ep=4))
    expected: dict[str, Cells] = {"node": Counter(), "rail": Counter()}
    for (src, dst, kind, phase), size in cells(matrix).items():
        expected["node"][src // 8, dst // 8, kind, phase] += size
        if src // 8 != dst // 8:
            expected["rail"][src % 8, dst % 8, kind, phase] += size
    assert cells(aggregated(matrix, "node", 8)) == dict(expected["node"])
    assert cells(aggregated(matrix, "rail", 8)) == dict(expected["rail"])


def test_links_split_what_leaves_a_node_from_what_stays() -> None:
    # tp pairs are neighbours; with two GPUs a node everything else crosses.
    matrix = matrix_of(small(), 2)
    found = links(matrix, 16, 2)
    inside = found.filter(pl.col("link") == "node")
    assert set(inside["group_kind"]) == {"tp", "etp", "tp_ep", "world"}
    tp = inside.filter((pl.col("group_kind") == "tp") & (pl.col("phase") == "forward")).row(0, named=True)
    first, last = BY_HAND["tp", "forward"]
    assert tp["total_bytes"] == 8 * (first + last)
    assert tp["bytes_per_gpu"] == (first + last) / 2
    assert tp["busiest_gpu_bytes"] == max(first, last)
    assert found["total_bytes"].sum() == matrix["bytes"].sum()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The traces of two workloads with their catalogue."""
    results = Results(tmp_path_factory.mktemp("results"))
    workloads = pl.concat([small(), small(**DENSE, world_size=32)])
    write_table(workloads, results.workloads, "workloads")
    write_traces(workloads, results)
    return results


def test_the_command_writes_every_node_matrix_and_the_links(results: Results) -> None:
    assert main(["traffic", "--results", str(results.root)]) == 0
    workloads = read_table(results.workloads, "workloads")
    for id_ in workloads["workload"]:
        ops = read_table(results.trace("ops", id_), "ops")
        on_links = (ops["wire_bytes"] * ops["num_microbatches"]).sum()
        node = read_table(results.traffic("node", id_), "traffic")
        assert node["bytes"].sum() == on_links
        of_links = read_table(results.links, "links").filter(pl.col("workload") == id_)
        assert of_links["total_bytes"].sum() == on_links


def written(results: Results, id_: str, level: str, out: Path) -> pl.DataFrame:
    command = [
        "traffic",
        "--results",
        str(results.root),
        "--workload",
        id_,
        "--level",
        level,
        "--out",
        str(out),
    ]
    assert main(command) == 0
    assert pl.read_parquet_metadata(out)["moesweep.level"] == level
    return read_table(out, "traffic")


def test_one_workload_at_any_level(results: Results, tmp_path: Path) -> None:
    id_ = read_table(results.workloads, "workloads")["workload"][0]
    matrices = {
        level: written(results, id_, level, tmp_path / "out.parquet") for level in ("rank", "node", "rail")
    }
    assert matrices["node"].equals(read_table(results.traffic("node", id_), "traffic"))
    assert matrices["rank"]["bytes"].sum() == matrices["node"]["bytes"].sum()
    leaving = matrices["node"].filter(pl.col("src") != pl.col("dst"))["bytes"].sum()
    assert matrices["rail"]["bytes"].sum() == leaving


def test_row_sums_are_the_trace_of_each_rank(results: Results, tmp_path: Path) -> None:
    for id_ in read_table(results.workloads, "workloads")["workload"]:
        matrix = written(results, id_, "rank", tmp_path / "out.parquet")
        sent = matrix.group_by("src").agg(pl.col("bytes").sum())
        wire = pl.col("wire_bytes") * pl.col("num_microbatches")
        traced = read_table(results.trace("ops", id_), "ops").group_by("rank").agg(wire.sum())
        assert dict(sent.rows()) == dict(traced.rows())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--level", "rak", "--workload", "{id}"],
            "--level: known: there is no level rak; did you mean rank?",
        ),
        (
            ["--workload", "{id}x"],
            "--workload: known: there is no workload {id}x in the sweep; did you mean {id}",
        ),
        (["--level", "rail"], "--level: needs_workload: is for one workload's matrix"),
        (["--workload", "{id}"], "--out: missing: one workload's matrix needs a file; add --out OUT.parquet"),
        (["--out", "x.parquet"], "--out: needs_workload: is for one workload's matrix"),
    ],
)
def test_mistakes(
    results: Results, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    id_ = read_table(results.workloads, "workloads")["workload"][0]
    filled = [argument.format(id=id_) for argument in arguments]
    assert main(["traffic", "--results", str(results.root), *filled]) == 2
    assert message.format(id=id_) in capsys.readouterr().err


def test_a_missing_trace_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(small(), Results(tmp_path).workloads, "workloads")
    assert main(["traffic", "--results", str(tmp_path)]) == 2
    assert "programs.parquet" in capsys.readouterr().err
    assert not (tmp_path / "traffic").exists()


MEASURE = """
import json, re, sys
from pathlib import Path
from moesweep.cli import main
where = ["--results", sys.argv[1], "--out", sys.argv[3]]
code = main(["traffic", "--workload", sys.argv[2], "--level", "rank", *where])
# ru_maxrss would count what the process that started this one held before.
status = Path("/proc/self/status")
peak = int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1]) * 1024 if status.exists() else 0
print(json.dumps([code, peak]))
"""


def test_four_thousand_ranks_in_a_gigabyte(tmp_path: Path) -> None:
    results = Results(tmp_path)
    workload = small(world_size=4096, tp=8, pp=4, ep=64, num_experts=64, global_batch_size=1024)
    row = workload.row(0, named=True)
    write_table(workload, results.workloads, "workloads")
    for name, frame in {"programs": programs(workload), "groups": groups(row), "ranks": ranks(row)}.items():
        write_table(frame, results.trace(name, row["workload"]), name)
    command = [sys.executable, "-c", MEASURE, str(tmp_path), row["workload"], str(tmp_path / "out.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, peak_bytes = json.loads(done.stdout)
    assert code == 0
    assert peak_bytes < 2**30
    matrix = read_table(tmp_path / "out.parquet", "traffic")
    assert matrix.filter(pl.col("group_kind") == "ep").height == 2 * 4096 * 63
