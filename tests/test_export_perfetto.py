"""Perfetto's timelines, read back as the Chrome-trace format says."""

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from export_workloads import MICROBATCHES, traced_workload
from moesweep.cost.fold import fold
from moesweep.cost.memory import stage_memory
from moesweep.export import perfetto
from moesweep.export.request import Request
from moesweep.export.unroll import unrolled
from moesweep.shapes.parallelism import groups, ranks
from moesweep.study.keys import SCHEMA
from moesweep.traffic.matrices import leaves_node, rank_matrix
from moesweep.traffic.messages import Placed


def written(name: str, folder: Path, **options: Any) -> tuple[dict[str, Any], Path]:
    each = traced_workload(name)
    perfetto.export(each, Request(format="perfetto", out=folder, **options))
    (path,) = folder.iterdir()
    with gzip.open(path, "rt") as file:
        document: dict[str, Any] = json.load(file)
    return document, path


def slices(document: dict[str, Any]) -> pl.DataFrame:
    """Return the complete events with times in whole nanoseconds, and the names of their tracks."""
    events = document["traceEvents"]
    assert {event["ph"] for event in events} <= {"M", "X", "C", "s", "f"}
    named = {
        what: {
            (event["pid"], event["tid"]): event["args"]["name"]
            for event in events
            if event["name"] == f"{what}_name"
        }
        for what in ("process", "thread")
    }
    processes = {pid: name for (pid, _), name in named["process"].items()}
    return pl.DataFrame(
        [
            {
                "rank": int(processes[event["pid"]].split()[1]),
                "lane": named["thread"][event["pid"], event["tid"]].split(" (")[0],
                "op": event["name"],
                "phase": event["cat"],
                "start": round(event["ts"] * 1000),
                "end": round(event["ts"] * 1000) + round(event["dur"] * 1000),
                **event["args"],
            }
            for event in events
            if event["ph"] == "X"
        ],
        infer_schema_length=None,
    )


@pytest.mark.parametrize("name", ["moe64", "interleaved", "single"])
def test_the_slices_are_the_unrolled_ops_of_one_pipeline(name: str, tmp_path: Path) -> None:
    each = traced_workload(name)
    pipeline = ranks(each.workload).filter(pl.col("pp_group") == 0)["rank"].to_list()
    found, wanted = slices(written(name, tmp_path)[0]), unrolled(each, pipeline).collect()
    assert found["rank"].unique(maintain_order=True).to_list() == pipeline
    for column, other in (
        ("start", "start_nanoseconds"),
        ("end", "end_nanoseconds"),
        ("op", "op"),
        ("rank", "rank"),
    ):
        assert found[column].to_list() == wanted[other].to_list()
    kernels = found.filter(pl.col("lane") == "compute")
    assert kernels["flops"].sum() == wanted["flops"].sum() > 0
    assert found["comm_bytes"].sum() == wanted["comm_bytes"].sum() > 0
    assert set(kernels.columns) >= {"m", "n", "k", "groups", "hbm_bytes", "layer", "microbatch"}


@pytest.mark.parametrize("name", ["moe64", "ring"])
def test_a_lane_holds_one_kind_of_work_and_one_op_at_a_time(name: str, tmp_path: Path) -> None:
    found = slices(written(name, tmp_path)[0])
    lanes = found.group_by("lane").agg(pl.col("group_kind").unique(), pl.col("collective").unique())
    for lane, kinds, collectives in lanes.iter_rows():
        assert kinds == [None if lane == "compute" else lane.split()[0]]
        assert lane[:2] != "pp" or collectives == [lane.split()[1]]
    ordered = found.sort("rank", "lane", "start")
    assert ordered.select((pl.col("start") >= pl.col("end").shift(1).over("rank", "lane")).all()).item()


def test_1f1b_its_bubbles_and_exposed_all_to_alls_can_be_seen(tmp_path: Path) -> None:
    found = slices(written("moe64", tmp_path)[0])
    passes = found.filter(pl.col("microbatch") >= 0, pl.col("op") == "core_attention").group_by(
        "rank", "phase", "microbatch", maintain_order=True
    ).agg(pl.col("start").min())  # fmt: skip
    first, *_, last = passes["rank"].unique(maintain_order=True)
    order = passes.filter(pl.col("rank") == first)["phase"].to_list()
    assert order == ["forward"] * 4 + ["backward", "forward"] * (MICROBATCHES - 4) + ["backward"] * 4
    assert passes.filter(pl.col("rank") == last)["phase"].to_list() == ["forward", "backward"] * MICROBATCHES
    # The last stage starts late by the forward passes before it, its receive included.
    starts = dict(found.group_by("rank").agg(pl.col("start").min()).iter_rows())
    assert starts[first] == 0 < starts[last]
    # Nothing computes while an expert-parallel all-to-all runs.
    mine = found.filter(pl.col("rank") == first)
    busy = mine.filter(pl.col("lane") == "compute").select("start", "end")
    exchanges = mine.filter(pl.col("lane") == "ep").select(from_="start", to="end")
    overlapping = exchanges.join_where(busy, pl.col("start") < pl.col("to"), pl.col("from_") < pl.col("end"))
    assert exchanges.height > 0
    assert overlapping.is_empty()


def test_ranks_and_micro_batches_can_be_chosen_and_bytes_repeat(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    document, path = written("moe64", tmp_path / "a", ranks="3,20-21", microbatches=2)
    found = slices(document)
    assert found["rank"].unique().sort().to_list() == [3, 20, 21]
    assert found["microbatch"].max() == 1
    again = written("moe64", tmp_path / "b", ranks="3,20-21", microbatches=2)[1]
    assert again.read_bytes() == path.read_bytes()


def test_tracks_are_numbered_from_one_and_ordered(tmp_path: Path) -> None:
    events = written("moe64", tmp_path)[0]["traceEvents"]
    assert min(min(event["pid"], event.get("tid", 1)) for event in events) == 1
    places = [event["args"]["sort_index"] for event in events if event["name"] == "process_sort_index"]
    assert places == sorted(places) == [0, 16, 32, 48]


# --- flows and counters ---------------------------------------------------------------------------------
def numbered(document: dict[str, Any], phase: str) -> dict[int, dict[str, Any]]:
    """Flow events of one end by their id, each there once."""
    events = [event for event in document["traceEvents"] if event["ph"] == phase]
    found = {event["id"]: event for event in events}
    assert len(found) == len(events)
    return found


def enclosing(document: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """The slice of an event's track that it binds to."""
    (slice_,) = (
        other
        for other in document["traceEvents"]
        if other["ph"] == "X"
        and (other["pid"], other["tid"]) == (event["pid"], event["tid"])
        and other["ts"] <= event["ts"] < other["ts"] + other["dur"]
    )
    return dict(slice_)


@pytest.mark.parametrize("name", ["moe64", "interleaved", "two_stages_interleaved"])
def test_an_arrow_leads_from_every_send_to_its_receive(name: str, tmp_path: Path) -> None:
    document = written(name, tmp_path)[0]
    starts, ends = numbered(document, "s"), numbered(document, "f")
    assert starts.keys() == ends.keys()
    assert len(starts) == slices(document).filter(pl.col("collective") == "send").height > 0
    for id_, start in starts.items():
        send, receive = enclosing(document, start), enclosing(document, ends[id_])
        assert ends[id_]["bp"] == "e"
        assert send["pid"] != receive["pid"]
        assert (send["args"]["collective"], receive["args"]["collective"]) == ("send", "recv")
        assert send["name"].removeprefix("send_") == receive["name"].removeprefix("recv_")
        for key in ("microbatch", "comm_bytes"):
            assert send["args"][key] == receive["args"][key]
        assert send["ts"] <= receive["ts"]


def test_arrows_to_ranks_that_are_not_shown_are_left_out(tmp_path: Path) -> None:
    document = written("moe64", tmp_path, ranks="0,16,33")[0]
    ends = numbered(document, "f")
    assert {event["pid"] - 1 for event in ends.values()} == {0, 16}
    assert numbered(document, "s").keys() == ends.keys()


def counter(document: dict[str, Any], name: str, rank: int, unit: str) -> list[tuple[float, float]]:
    """A counter's times and values, in microseconds and its unit."""
    events = [event for event in document["traceEvents"] if event["ph"] == "C" and event["name"] == name]
    return [(event["ts"], event["args"][unit]) for event in events if event["pid"] == rank + 1]


@pytest.mark.parametrize("name", ["moe64", "interleaved", "leading_dense", "dense64"])
def test_memory_rises_to_what_the_costs_say_and_falls_to_the_states(name: str, tmp_path: Path) -> None:
    """States, and what micro-batches in flight keep: all of the costs' activations but the head's."""
    each, document = traced_workload(name), written(name, tmp_path)[0]
    workload = pl.DataFrame([each.workload], schema=SCHEMA)
    named = each.program.select(pl.lit(each.workload["workload"]).alias("workload"), pl.all())
    for row in stage_memory(fold(named), workload).iter_rows(named=True):
        rank = row["stage"] * (each.workload["world_size"] // each.workload["pp"])
        levels = counter(document, "memory", rank, "GiB")
        states = sum(row[f"{part}_bytes"] for part in ("weights", "gradients", "optimizer")) / 2**30
        assert levels[0] == (0, pytest.approx(states, rel=1e-6))
        assert levels[-1][1] == pytest.approx(states, rel=1e-6)
        most = max(level for _, level in levels) - states
        if row["stage"] < each.workload["pp"] - 1:
            # The costs count the embedding's mask by whole sets of chunks.
            exact = 1e-5 if each.workload["virtual_pipeline"] == 1 else 3e-3
            assert most == pytest.approx(row["activations_bytes"] / 2**30, rel=exact)
        else:
            assert most < row["activations_bytes"] / 2**30


@pytest.mark.parametrize("name", ["moe64", "etp1", "dense16"])
def test_a_card_sends_what_the_traffic_says(name: str, tmp_path: Path) -> None:
    """The area below the counter is what the rank sends to other nodes in an iteration."""
    each = traced_workload(name)
    world = each.workload["world_size"]
    document = written(name, tmp_path, ranks=f"0-{world - 1}")[0]
    matrix = rank_matrix(
        each.program.with_columns(pl.col("group_kind").cast(pl.String)),
        groups(each.workload),
        ranks(each.workload),
        Placed(8),
    )
    leaving = matrix.filter(leaves_node(8)).group_by("src").agg(pl.col("bytes").sum())
    sent = dict(leaving.iter_rows())
    assert sent
    for rank in range(0, world, 5):
        levels = counter(document, "network card, out", rank, "GB/s")
        area = sum(rate * (then - now) for (now, rate), (then, _) in pairwise(levels)) * 1e3
        assert area == pytest.approx(sent.get(rank, 0), rel=2e-3)
        assert not levels or levels[-1][1] == 0
