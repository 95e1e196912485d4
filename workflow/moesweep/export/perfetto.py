"""A timeline to look at: Chrome-trace JSON, gzipped, as ui.perfetto.dev and chrome://tracing open it.

A rank is a process, its lanes are threads: computation, each kind of group, sends and receives. Both are
numbered from 1, because 0 is the idle process and thread of the system traces that Perfetto also reads: rank
r is process r + 1. The format counts time in microseconds; three decimals keep whole nanoseconds.
"""

import gzip
import json
from collections.abc import Iterator
from typing import Any

import polars as pl

from moesweep.export.perfetto_tracks import Tracks, microseconds
from moesweep.export.request import Request, chosen_ranks
from moesweep.export.skewed_costs import alike
from moesweep.export.source import Traced
from moesweep.export.unroll import by_stage
from moesweep.shapes.communication import GROUP_KINDS
from moesweep.shapes.parallelism import ranks
from moesweep.store.tablefile import whole

EVENTS_AT_ONCE = 1 << 16
LANES = ("compute", *(kind for kind in GROUP_KINDS if kind != "pp"), "pp send", "pp recv", "cp send")
"""Threads in order. A send may still run when the next receive begins, so each has a lane of its own."""

_SHAPE = ("m", "n", "k", "groups", "flops", "hbm_bytes")
_MESSAGE = ("group_size", "comm_bytes", "wire_bytes")


def export(traced: Traced, request: Request) -> None:
    """Write `<workload>.json.gz` with the chosen ranks, or one pipeline: rank 0's."""
    path = request.out / f"{traced.workload['workload']}.json.gz"
    # No name and no time in gzip's header: the same trace gives the same bytes.
    with (
        whole(path) as partial,
        partial.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=file, mtime=0) as packed,
    ):
        _write(packed, traced, chosen_ranks(request), request.microbatches)


def _write(
    file: gzip.GzipFile, traced: Traced, chosen: list[int] | None, microbatches: int | None = None
) -> None:
    everyone = ranks(traced.workload)
    wanted = pl.col("pp_group") == 0 if chosen is None else pl.col("rank").is_in(chosen)
    facts = json.dumps({"workload": traced.workload["workload"]})
    file.write(f'{{"displayTimeUnit":"ns","otherData":{facts},"traceEvents":[\n'.encode())
    members = everyone.filter(wanted)
    shown = frozenset(members["rank"])
    named = (pair for member in members.iter_rows(named=True) for pair in _names(member, traced.program))
    names = [name for pair in named for name in pair]
    file.write(",\n".join(json.dumps(name, separators=(",", ":")) for name in names).encode())
    for stage, ops in by_stage(traced, members["stage"].unique().sort(), microbatches):
        for own, part in alike(traced, members.filter(pl.col("stage") == stage)):
            heads = _heads(own.program.filter(pl.col("stage") == stage)).lazy()
            events = ops.join(heads, on=["stage", "op_index"], how="left", maintain_order="left").collect()
            wire = own.program.filter(pl.col("stage") == stage).select("op_index", "wire_bytes")
            tracks = Tracks(own, shown)
            for rank in part["rank"]:
                for some in events.iter_slices(EVENTS_AT_ONCE):
                    file.write(_events(some, rank).encode())
                    file.write(tracks.messages(some, rank, _lane_of_messages()).encode())
                file.write(tracks.memory(events, rank).encode())
                file.write(tracks.card(events, wire, rank).encode())
    file.write(b"\n]}\n")


def _lane(collective: pl.Expr, group_kind: pl.Expr) -> pl.Expr:
    """Return an op's thread: its place in LANES."""
    name = (
        pl.when(collective.is_in(["send", "recv"]) & (group_kind == "pp"))
        .then(pl.format("pp {}", collective))
        .when(collective == "send")
        .then(pl.lit("cp send"))
        .otherwise(group_kind)
    )
    return name.fill_null("compute").replace_strict({lane: i for i, lane in enumerate(LANES, start=1)})


def _lane_of_messages() -> pl.Expr:
    return pl.format("pp {}", pl.col("collective").cast(pl.String)).replace_strict(
        {lane: i for i, lane in enumerate(LANES, start=1)}
    )


def _heads(program: pl.DataFrame) -> pl.DataFrame:
    """Return the part of an op's event that is the same each time, by stage and op_index."""
    words = program.with_columns(pl.col("phase", "collective", "group_kind", "bound").cast(pl.String))
    collective, group_kind = pl.col("collective"), pl.col("group_kind")
    message = _text('"collective":"', collective, '","group_kind":"', group_kind, '",', _numbers(_MESSAGE))
    head = _text(
        ',\n{"ph":"X","name":"',
        pl.col("op"),
        '","cat":"',
        pl.col("phase"),
        '","tid":',
        _lane(collective, group_kind),
        ',"dur":',
        microseconds((pl.col("seconds") * 1e9).round().cast(pl.Int64)),
        ',"args":{"layer":',
        pl.col("layer"),
        ",",
        pl.when(collective.is_null()).then(_numbers(_SHAPE)).otherwise(message),
        ',"bound":"',
        pl.col("bound"),
        '","microbatch":',
    )
    return words.select("stage", "op_index", head=head)


def _events(ops: pl.DataFrame, rank: int) -> str:
    """Return the events of one rank's ops."""
    start = microseconds(pl.col("start_nanoseconds"))
    place = f',"pid":{rank + 1},"ts":'
    event = _text(pl.col("head"), pl.col("microbatch"), ',"chunk":', pl.col("chunk"), "}" + place, start, "}")
    text: str = ops.select(event.str.join("")).item()
    return text


def _text(*parts: pl.Expr | str) -> pl.Expr:
    return pl.concat_str(pl.lit(part) if isinstance(part, str) else part for part in parts)


def _numbers(columns: tuple[str, ...]) -> pl.Expr:
    """Return columns as JSON members."""
    members = [_text(f'"{column}":', pl.col(column)) for column in columns]
    return pl.concat_str(members, separator=",")


def _names(member: dict[str, Any], program: pl.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """Yield the events that name and order a rank's tracks; a lane's name says which group it is."""
    rank, stage = member["rank"], member["stage"]
    own = program.filter(pl.col("stage") == stage)
    used = set(own["group_kind"].drop_nulls().unique())
    titles = {kind: f"{kind} (group {member[f'{kind}_group']})" for kind in used - {"pp"}}
    titles |= {"compute": "compute"} | ({"pp send": "pp send", "pp recv": "pp recv"} if "pp" in used else {})
    rings = pl.col("group_kind").is_in(["cp", "cp_p2p"])
    if own.filter(rings & (pl.col("collective") == "send")).height:
        titles["cp send"] = "cp send"
    yield _named("process", rank, 1, f"rank {rank} (stage {stage})", rank)
    for lane, name in enumerate(LANES, start=1):
        if name in titles:
            yield _named("thread", rank, lane, titles[name], lane)


def _named(what: str, rank: int, lane: int, name: str, place: int) -> list[dict[str, Any]]:
    """Return the two events that name a track and give it its place among its like."""
    where = {"ph": "M", "pid": rank + 1, "tid": lane}
    return [
        {**where, "name": f"{what}_name", "args": {"name": name}},
        {**where, "name": f"{what}_sort_index", "args": {"sort_index": place}},
    ]
