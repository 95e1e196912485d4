"""What a timeline shows besides slices: messages from send to receive, memory, and what the cards carry.

Flow events (`s` to `f`, `bp` e) bind to the slices that enclose them, counters (`C`) have a track of their
own.
"""

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from moesweep.cost.memory import kept_bytes, recomputed_together
from moesweep.export.source import Traced
from moesweep.network.cards import card_shares
from moesweep.shapes.layer_kinds import DECODER, KINDS
from moesweep.shapes.parallelism import stages_on
from moesweep.shapes.placement import AGAIN, layer_layout
from moesweep.shapes.states import state_bytes
from moesweep.study.keys import SCHEMA

MEMORY, CARD = "memory", "network card, out"
"""The counters: GiB that a rank holds, and GB/s that its card sends."""


@dataclass(frozen=True)
class Tracks:
    """The further events of a workload's ranks. `chosen` are those that the timeline shows."""

    traced: Traced
    chosen: frozenset[int]

    @cached_property
    def _frame(self) -> pl.DataFrame:
        return pl.DataFrame([self.traced.workload], schema=SCHEMA)

    def _neighbours(self, rank: int) -> tuple[int, int]:
        workload = self.traced.workload
        return stages_on(rank, 1, workload), stages_on(rank, -1, workload)

    def messages(self, ops: pl.DataFrame, rank: int, lane: pl.Expr) -> str:
        """Return a rank's ends of the messages whose other end is shown too: start events and finish events.

        A message is known by its receiver, and the receiver's chunk, micro-batch and pass.
        """
        pp, chunks = (self.traced.workload[name] for name in ("pp", "virtual_pipeline"))
        world = self.traced.workload["world_size"]
        sends, backward = pl.col("collective") == "send", pl.col("phase") == "backward"
        onward = sends ^ backward
        after, before = self._neighbours(rank)
        peer = pl.when(onward).then(after).otherwise(before)
        step = pl.when(backward).then(-1).otherwise(1)
        chunk = (pl.col("chunk") * pp + pl.col("stage") + pl.when(sends).then(step).otherwise(0)) // pp
        tag = 2 * (pl.col("microbatch") * chunks + chunk) + backward.cast(pl.Int64)
        receiver = pl.when(sends).then(peer).otherwise(rank)
        between_stages = pl.col("collective").is_in(["send", "recv"]) & (pl.col("group_kind") == "pp")
        rows = ops.filter(between_stages).filter(peer.is_in(list(self.chosen)))
        event = pl.concat_str(
            pl.lit(',\n{"ph":'),
            pl.when(sends).then(pl.lit('"s"')).otherwise(pl.lit('"f","bp":"e"')),
            pl.lit(',"cat":"message","name":"message","id":'),
            tag * world + receiver,
            pl.lit(f',"pid":{rank + 1},"tid":'),
            lane,
            pl.lit(',"ts":'),
            microseconds(pl.col("start_nanoseconds")),
            pl.lit("}"),
        )
        return _joined(rows.select(event))

    @cached_property
    def _levels(self) -> tuple[dict[int, float], pl.DataFrame]:
        """Return the bytes of each stage's states, and what a micro-batch keeps of each of its chunks."""
        adam = self.traced.program.filter(pl.col("op") == "adam").select("stage", "m", "n", "k")
        states = self._frame.join(adam, how="cross").select(
            "stage", bytes=pl.sum_horizontal(*state_bytes(*map(pl.col, "mnk")).values())
        )
        layers = layer_layout(self._frame).group_by("stage", "chunk", "layer_kind").len()
        kept = self._frame.with_columns(**kept_bytes()).row(0, named=True)
        of_layers = layers.with_columns(
            bytes=pl.col("len")
            * pl.col("layer_kind").replace_strict(
                {kind: float(kept[f"{kind}_kept_bytes"]) for kind in KINDS}, return_dtype=pl.Float64
            )
        )
        first = (pl.col("stage") == 0) & (pl.col("chunk") == 0)
        embedding = pl.when(first).then(float(kept["embedding_kept_bytes"])).otherwise(0.0)
        shared = recomputed_together(pl.col("joined")) * pl.lit(float(kept["shared_input_bytes"]))
        chunks = (
            of_layers.join(self._frame.select("recompute", *AGAIN), how="cross")
            .group_by("stage", "chunk", "recompute", *AGAIN)
            .agg(
                pl.col("bytes").sum(), joined=pl.col("len").filter(pl.col("layer_kind").is_in(DECODER)).sum()
            )
            .with_columns(kept=pl.col("bytes") + embedding - shared)
        )
        return {stage: float(size) for stage, size in states.iter_rows()}, chunks.select(
            "stage", "chunk", "kept"
        )

    def memory(self, ops: pl.DataFrame, rank: int) -> str:
        """Return the memory of a rank: states, and what forward passes keep until their backward pass ends.

        The peak of the costs also holds what one layer works with while it is recomputed, and the head's.
        """
        states, chunks = self._levels
        stage = int(ops["stage"][0])
        ends = (
            ops.filter(pl.col("step") >= 0)
            .group_by("step", maintain_order=True)
            .agg(pl.col("end_nanoseconds").max(), pl.col("stage", "chunk", "phase").first())
            .join(chunks, on=["stage", "chunk"], how="left", maintain_order="left")
        )
        change = pl.when(pl.col("phase") == "forward").then(pl.col("kept")).otherwise(-pl.col("kept"))
        level = (states.get(stage, 0.0) + change.cum_sum()) / 2**30
        levels = ends.select(ts="end_nanoseconds", value=level)
        start = pl.DataFrame({"ts": [0], "value": [states.get(stage, 0.0) / 2**30]})
        return _counter(pl.concat([start, levels]), MEMORY, rank, "GiB")

    @cached_property
    def _shares(self) -> pl.DataFrame:
        return card_shares(self.traced.workload, self.traced.gpus_per_node)

    def card(self, ops: pl.DataFrame, wire: pl.DataFrame, rank: int) -> str:
        """Return what a rank's card sends: every op's bytes to other nodes, evenly while it runs.

        wire   op_index and wire_bytes of the rank's program
        """
        node = self.traced.gpus_per_node
        after, before = self._neighbours(rank)
        onward = pl.when(pl.col("phase") == "backward").then(before).otherwise(after)
        mine = self._shares.filter(pl.col("rank") == rank).select(
            pl.col("group_kind").cast(ops.schema["group_kind"]), "share"
        )
        crosses = (onward // node != rank // node).cast(pl.Float64)
        lasts = pl.col("end_nanoseconds") - pl.col("start_nanoseconds")
        share = pl.when(pl.col("group_kind") == "pp").then(crosses).otherwise(pl.col("share"))
        rates = (
            ops.join(wire, on="op_index", how="left", maintain_order="left")
            .filter((pl.col("wire_bytes") > 0) & (lasts > 0))
            .join(mine, on="group_kind", how="left", maintain_order="left")
            .select("start_nanoseconds", "end_nanoseconds", rate=share * pl.col("wire_bytes") / lasts)
            .filter(pl.col("rate") > 0)
        )
        changes = pl.concat(
            [
                rates.select(ts="start_nanoseconds", change="rate"),
                rates.select(ts="end_nanoseconds", change=-pl.col("rate")),
            ]
        )
        steps = changes.group_by("ts").agg(pl.col("change").sum()).sort("ts")
        value = pl.col("change").cum_sum().round(6).clip(lower_bound=0)
        return _counter(steps.select("ts", value=value), CARD, rank, "GB/s")


def microseconds(nanoseconds: pl.Expr) -> pl.Expr:
    """Return whole nanoseconds as text in microseconds with three decimals."""
    return pl.concat_str(
        (nanoseconds // 1000).cast(pl.String), pl.lit("."), (nanoseconds % 1000).cast(pl.String).str.zfill(3)
    )


def _counter(levels: pl.DataFrame, name: str, rank: int, unit: str) -> str:
    """Return the events of a counter: `ts` in nanoseconds, and the `value` from then on."""
    head = f',\n{{"ph":"C","name":"{name}","pid":{rank + 1},"ts":'
    event = pl.concat_str(
        pl.lit(head),
        microseconds(pl.col("ts")),
        pl.lit(f',"args":{{"{unit}":'),
        pl.col("value").round(6).cast(pl.String),
        pl.lit("}}"),
    )
    return _joined(levels.select(event))


def _joined(events: pl.DataFrame) -> str:
    text: str = events.to_series().str.join("").item()
    return text or ""
