"""Exports of given routing: every rank's own program, the times of the rank that all others wait for."""

import gzip
import json
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from chakra_changes import joined, set_number, split
from export_workloads import CLUSTER, ROOT
from moesweep.cost.model import OF_THE_WORKLOAD, with_constants
from moesweep.cost.ops import timed
from moesweep.export import chakra, perfetto, simai_megatron
from moesweep.export.chakra_check import check_folder
from moesweep.export.chakra_read import nodes
from moesweep.export.chakra_schema import message_classes
from moesweep.export.request import Request
from moesweep.export.source import Traced, traced
from moesweep.export.unroll import executed, unrolled
from moesweep.shapes.parallelism import ranks
from moesweep.store.layout import Results
from moesweep.study.catalog import load_cluster
from moesweep.study.routing import Routing
from moesweep.trace.ops import ops
from moesweep.trace.skewed_programs import rank_programs
from naive_routing import Exchange, popularities, uneven_ops
from skewed import CHANGES, costs_of, measured
from small import small
from test_export_perfetto import slices
from test_export_simai import assert_same_times, parse, read_totals, trace_totals

WIDE = {"ep": 4, "hidden_size": 1024, "seq_length": 1024, "ffn_hidden_size": 4096}
SIZES: dict[str, dict[str, Any]] = CHANGES | {"wide": WIDE}
"""`wide` has kernels long enough to differ by microseconds."""
CASES = [(name, None) for name in SIZES] + [("base", "0.3"), ("top-1 of 8", "1.25"), ("full", "0.5")]
EXCHANGE = pl.col("collective").eq_missing(pl.lit("all_to_all"))
LENGTH = (pl.col("end_nanoseconds") - pl.col("start_nanoseconds")).alias("length")


def workload(name: str, capacity: str | None = None) -> pl.DataFrame:
    limit = None if capacity is None else Fraction(capacity)
    return small(**SIZES[name], routing=Routing("zipf", 1.1, 3, capacity=limit).text)


@cache
def skewed(name: str, capacity: str | None = None) -> Traced:
    (each,) = traced(workload(name, capacity), Results(Path("none")), load_cluster(ROOT, CLUSTER))
    return each


def naive_rows(row: dict[str, Any], capacity: str | None) -> pl.DataFrame:
    """Every op of every rank from copies dealt out one by one, none of it by the library's code."""
    limit = None if capacity is None else Fraction(capacity)
    layers = {
        layer: Exchange(
            row, popularities("zipf", 1.1, 3, layer, row["num_experts"], row["moe_router_topk"]), limit
        )
        for layer in range(row["num_layers"])
    }
    return pl.DataFrame(uneven_ops(row, layers), infer_schema_length=None)


# --- the linear trace -----------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "capacity"), CASES)
def test_unrolled_sums_are_those_of_every_ranks_own_rows(name: str, capacity: str | None) -> None:
    found = (
        unrolled(skewed(name, capacity), None)
        .group_by("rank", "op_index", maintain_order=True)
        .agg(pl.col("op", "group_id").first(), pl.len().cast(pl.Int64), pl.sum("flops", "comm_bytes"))
        .sort("rank", "op_index")
        .collect()
    )
    naive = naive_rows(skewed(name, capacity).workload, capacity)
    times = pl.col("num_microbatches")
    wanted = naive.select(
        *("rank", "op_index", "op", "group_id"), len=times, flops=pl.col("flops") * times,
        comm_bytes=pl.col("comm_bytes") * times,
    )  # fmt: skip
    assert found.rows() == wanted.rows()


@pytest.mark.parametrize(("name", "capacity"), CASES)
def test_kernels_take_their_own_rows_seconds_and_exchanges_those_of_all(
    name: str, capacity: str | None
) -> None:
    frame, cluster = workload(name, capacity), load_cluster(ROOT, CLUSTER)
    rows = ops(rank_programs(frame, ROOT), ranks(frame.row(0, named=True)))
    rows = rows.with_columns(pl.col("op").cast(pl.String), workload=pl.lit(frame["workload"].item()))
    costed = timed(rows, with_constants(frame, cluster.values).rename(OF_THE_WORKLOAD))
    own = costed.select("rank", "op_index", own=(pl.col("seconds") * 1e9).round().cast(pl.Int64))
    found = (
        unrolled(skewed(name, capacity), None)
        .join(own.lazy(), on=["rank", "op_index"])
        .join(executed(skewed(name, capacity)).lazy(), on=["stage", "step", "op_index"], suffix="_common")
        .with_columns(common=pl.col("end_nanoseconds_common") - pl.col("start_nanoseconds_common"))
        .collect()
    )
    assert found.height == unrolled(skewed(name, capacity), None).select(pl.len()).collect().item()
    assert (found["start_nanoseconds"] == found["start_nanoseconds_common"]).all()
    wanted = pl.when(EXCHANGE).then("common").otherwise("own")
    lengths = found.select(LENGTH, "common", "op", wanted=wanted)
    assert lengths["length"].to_list() == lengths["wanted"].to_list()
    assert lengths.filter(pl.col("length") > pl.col("common")).is_empty()
    shorter = lengths.filter(pl.col("length") < pl.col("common"))["op"].unique()
    if capacity is None:
        assert shorter.str.starts_with("expert_fc").any() == (frame["ep"][0] > 1)


def test_a_rank_without_rows_still_reads_its_weights(tmp_path: Path) -> None:
    frame = small(routing=measured(tmp_path, [[1, 0, 0, 0]] * 4), hidden_size=1024, ffn_hidden_size=4096)
    (each,) = traced(frame, Results(tmp_path), load_cluster(ROOT, CLUSTER), tmp_path)
    products = unrolled(each, None).filter(pl.col("op") == "expert_fc1").with_columns(LENGTH).collect()
    idle, busy = (products.filter((pl.col("flops") == 0) == without) for without in (True, False))
    assert idle["rank"].unique().to_list() == [2, 3, 6, 7, 10, 11, 14, 15]
    assert 0 < idle["length"].max() < busy["length"].min()  # type: ignore[operator]
    assert each.of(1).program.filter(op="expert_fc1")["bound"].unique().to_list() == ["memory"]


@pytest.mark.parametrize(("name", "capacity"), CASES)
def test_the_last_op_ends_when_the_costs_say_that_the_iteration_does(name: str, capacity: str | None) -> None:
    values = load_cluster(ROOT, CLUSTER).values
    costed = costs_of(workload(name, capacity), ROOT, **values).workloads["iteration_seconds"][0]
    end = unrolled(skewed(name, capacity), None).select(pl.col("end_nanoseconds").max()).collect().item()
    assert end == pytest.approx(costed * 1e9, rel=0.02)


# --- Chakra ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    root = tmp_path_factory.mktemp("chakra")

    def written(name: str, capacity: str | None = None) -> Path:
        folder = root / f"{name} {capacity}"
        if not folder.exists():
            folder.mkdir()
            chakra.write_set(skewed(name, capacity), folder)
        return folder

    return written


@pytest.mark.parametrize(("name", "capacity"), CASES)
def test_sets_pass_the_check(name: str, capacity: str | None, folders: Callable[..., Path]) -> None:
    found = check_folder(folders(name, capacity))
    assert [problem.line() for problem in found.problems] == []
    each = skewed(name, capacity)
    assert found.ranks == each.workload["world_size"]
    per_stage = each.workload["world_size"] // each.workload["pp"]
    assert found.nodes == each.program["num_microbatches"].sum() * per_stage


@pytest.mark.parametrize(("name", "capacity"), [("base", None), ("odd", None), ("top-1 of 8", "1.25")])
def test_nodes_carry_their_own_ranks_sizes_and_times(
    name: str, capacity: str | None, folders: Callable[..., Path]
) -> None:
    each = skewed(name, capacity)
    naive = naive_rows(each.workload, capacity).select("rank", "op_index", "group_size")
    mine = unrolled(each, None).join(naive.lazy(), on=["rank", "op_index"], maintain_order="left")
    for (rank,), rows in mine.collect().group_by("rank", maintain_order=True):
        stage = rank // (each.workload["world_size"] // each.workload["pp"])
        most = most_sent(each, stage)
        for node, row in zip(
            nodes(folders(name, capacity) / f"trace.{rank}.et"), rows.iter_rows(named=True), strict=True
        ):
            have = node.attributes
            assert node.name.split(".")[0] == row["op"]
            if row["collective"] == "all_to_all":
                assert (have["own_comm_size"], have["comm_size"]) == (
                    row["comm_bytes"],
                    most[row["op_index"]],
                )
            elif row["collective"]:
                shards = row["group_size"] if row["collective"] == "all_gather" else 1
                assert have["comm_size"] == row["comm_bytes"] // shards
                assert "own_comm_size" not in have
            else:
                assert have["num_ops"] == max(1, row["flops"])


def most_sent(each: Traced, stage: int) -> dict[int, int]:
    """What any rank of a stage sends at most in each exchange, by op_index."""
    naive = naive_rows(each.workload, None if "capacity" not in each.workload["routing"] else "1.25")
    rows = naive.filter((pl.col("stage") == stage) & (pl.col("collective") == "all_to_all"))
    return dict(rows.group_by("op_index").agg(pl.col("comm_bytes").max()).iter_rows())


def test_all_members_of_an_exchange_say_one_size(folders: Callable[..., Path]) -> None:
    """ASTRA-sim stops without a word where members differ: all groups of 16 ranks; own sizes stand beside."""
    members = json.loads((folders("base") / "comm_groups.json").read_text())
    sizes: dict[str, list[tuple[int, ...]]] = {}
    own: set[int] = set()
    for rank in range(16):
        exchanges: dict[str, list[int]] = {}
        for node in nodes(folders("base") / f"trace.{rank}.et"):
            if node.attributes.get("comm_type") == 6:
                exchanges.setdefault(node.attributes["pg_name"], []).append(node.attributes["comm_size"])
                own.add(node.attributes["own_comm_size"])
        for group, found in exchanges.items():
            assert rank in members[group]
            sizes.setdefault(group, []).append(tuple(found))
    assert len(sizes) == 8
    assert all(len(each) == 2 and len(set(each)) == 1 for each in sizes.values())
    assert len(own) > 2


def test_durations_are_those_of_the_ranks_own_rows(folders: Callable[..., Path]) -> None:
    rows = unrolled(skewed("wide"), None).filter(pl.col("op") == "expert_fc1").with_columns(LENGTH)
    lengths = rows.group_by("rank", maintain_order=True).agg(pl.col("length").first()).collect()
    assert lengths["length"].n_unique() > 2
    for rank, length in lengths.iter_rows():
        (metadata, *found) = split((folders("wide") / f"trace.{rank}.et").read_bytes())
        kernels = [node_of(message) for message in found]
        first = next(node for node in kernels if node.name.startswith("expert_fc1"))
        assert b"zipf(alpha=1.1,seed=3)" in metadata
        assert first.duration_micros == max(1, round(length / 1000))


def node_of(message: bytes) -> Any:
    return message_classes()["Node"].FromString(message)


def changed_size(messages: list[bytes]) -> None:
    at = next(i for i, each in enumerate(messages) if i and node_of(each).name.startswith("moe_combine"))
    node = node_of(messages[at])
    set_number(node, "own_comm_size", "int64", 5)
    messages[at] = node.SerializeToString()


def without_own_size(messages: list[bytes]) -> None:
    at = next(i for i, each in enumerate(messages) if i and node_of(each).name.startswith("moe_combine"))
    node = node_of(messages[at])
    kept = [each for each in node.attr if each.name != "own_comm_size"]
    del node.attr[:]
    node.attr.extend(kept)
    messages[at] = node.SerializeToString()


def members_differ(messages: list[bytes]) -> None:
    at = next(i for i, each in enumerate(messages) if i and node_of(each).name.startswith("moe_combine"))
    node = node_of(messages[at])
    set_number(node, "comm_size", "int64", 1 << 30)
    messages[at] = node.SerializeToString()


def changed_gather(messages: list[bytes]) -> None:
    at = next(i for i, each in enumerate(messages) if i and node_of(each).name.startswith("expert_gather"))
    node = node_of(messages[at])
    set_number(node, "comm_size", "int64", 12345)
    messages[at] = node.SerializeToString()


@pytest.mark.parametrize(
    ("change", "everywhere", "reason"),
    [
        (changed_size, False, "its ranks send "),
        (changed_gather, False, "expert_gather.0 (type 2, 12345 bytes)"),
        (without_own_size, False, "own_comm_size: attribute: is no number from 0 to comm_size"),
        (members_differ, True, ""),
        (members_differ, False, "on rank 5 it is moe_combine.0 (type 6, 1073741824 bytes)"),
    ],
)
def test_mutated_sets_are_refused_with_the_reason(
    change: Callable[[list[bytes]], None], everywhere: bool, reason: str, folders: Callable[..., Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Members of an exchange say one size, and what they send themselves gets lost nowhere."""
    for path in folders("base").iterdir():
        data = path.read_bytes()
        if path.suffix == ".et" and (everywhere or path.name == "trace.5.et"):
            messages = split(data)
            change(messages)
            data = joined(messages)
        (tmp_path / path.name).write_bytes(data)
    lines = [problem.line() for problem in check_folder(tmp_path).problems]
    assert any(reason in line for line in lines) if reason else not lines, lines


def test_a_part_of_a_set_is_byte_for_byte_that_of_the_whole(
    folders: Callable[..., Path], tmp_path: Path
) -> None:
    chakra.write_set(skewed("base"), tmp_path, [1, 2, 15])
    assert len(list(tmp_path.iterdir())) == 4
    assert all(path.read_bytes() == (folders("base") / path.name).read_bytes() for path in tmp_path.iterdir())
    found = check_folder(tmp_path)
    assert (found.problems, found.ranks, found.absent) == ([], 3, 13)


# --- Perfetto -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "capacity"), [("wide", None), ("interleaved", None), ("base", "0.3")])
def test_slices_have_their_ranks_own_lengths_and_arguments(
    name: str, capacity: str | None, tmp_path: Path
) -> None:
    each = skewed(name, capacity)
    perfetto.export(each, Request(format="perfetto", out=tmp_path, ranks="0-15"))
    (path,) = tmp_path.iterdir()
    with gzip.open(path, "rt") as file:
        found = slices(json.load(file)).sort("rank", maintain_order=True)
    naive = naive_rows(each.workload, capacity)
    shape = ["m", "n", "k", "groups", "flops"]
    times = unrolled(each, list(range(16))).select(
        "rank", "op_index", "op", start="start_nanoseconds", end="end_nanoseconds"
    )
    own = naive.select("rank", "op_index", "comm_bytes", "wire_bytes", "collective", *shape)
    wanted = times.collect().join(own, on=["rank", "op_index"], maintain_order="left")
    assert found["rank"].unique().to_list() == list(range(16))
    same = ["rank", "op", "start", "end"]
    assert found.select(same).rows() == wanted.select(same).rows()
    kernels, messages = pl.col("collective").is_null(), pl.col("collective").is_not_null()
    assert found.filter(kernels).select(shape).rows() == wanted.filter(kernels).select(shape).rows()
    sizes = ["comm_bytes", "wire_bytes"]
    assert found.filter(messages).select(sizes).rows() == wanted.filter(messages).select(sizes).rows()
    ordered = found.sort("rank", "lane", "start")
    assert ordered.select((pl.col("start") >= pl.col("end").shift(1).over("rank", "lane")).all()).item()


def test_a_fuller_rank_is_waited_for_visibly(tmp_path: Path) -> None:
    """On the fullest rank kernels fill the time up to the combine; on the others they leave gaps."""
    rows = unrolled(skewed("wide"), None).filter(
        pl.col("stage") == 0, pl.col("microbatch") == 0, pl.col("layer") == 0,
        pl.col("phase") == "forward", pl.col("op").is_in(["expert_fc1", "expert_activation"]),
    ).collect()  # fmt: skip
    first, then = (rows.filter(op=op).sort("rank") for op in ("expert_fc1", "expert_activation"))
    gaps = then["start_nanoseconds"] - first["end_nanoseconds"]
    fullest = first["flops"] == first["flops"].max()
    assert 0 < fullest.sum() < first.height
    assert set(gaps.filter(fullest)) == {0}
    assert (gaps.filter(~fullest) > 0).all()


# --- SimAI ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "capacity"), [("base", None), ("wide", None), ("full", "0.5"), ("interleaved", None)]
)
def test_simais_rows_are_what_everybody_waits_for(name: str, capacity: str | None, tmp_path: Path) -> None:
    each = skewed(name, capacity)
    simai_megatron.export(each, Request(format="simai", out=tmp_path, stage="all"))
    naive = naive_rows(each.workload, capacity).join(
        ranks(each.workload).select("rank", "stage"), on="rank", maintain_order="left"
    )
    largest = pl.when(EXCHANGE).then(pl.col("comm_bytes").max().over("layer", "collective"))
    busiest = (
        naive.with_columns(comm_bytes=largest.otherwise("comm_bytes"))
        .group_by("stage", "op_index")
        .agg(pl.exclude("comm_bytes").first(), pl.col("comm_bytes").max())
    )
    assert len(list(tmp_path.iterdir())) == each.workload["pp"]
    for stage in range(each.workload["pp"]):
        _, rows = parse(tmp_path / f"{each.workload['workload']}-stage{stage}-busiest.txt")
        assert_frame_equal(read_totals(rows), trace_totals(busiest.filter(stage=stage)))
        assert_same_times(rows, each.program.filter(stage=stage))
