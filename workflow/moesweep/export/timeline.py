"""When every op of every stage runs: the schedule step by step, in whole nanoseconds.

A step is one pass of one micro-batch through one chunk of a stage's layers. It starts when the stage's
step before it has ended and the message it waits for has been sent; inside it the ops run one after
another. A message takes its time where it arrives: its sender goes on. All ranks of a stage are alike,
or wait for the fullest one where routing is given, so times belong to stages.
"""

import polars as pl

from moesweep.cost.iteration import overlaps_messages
from moesweep.export.source import Traced
from moesweep.shapes.communication import BESIDE_LINEARS, HIDES_BEHIND, RING_ARRIVALS, share_beside_ring
from moesweep.shapes.placement import layer_layout, stage_of_prediction
from moesweep.shapes.schedule import schedules
from moesweep.shapes.steps import step_ends
from moesweep.study.keys import SCHEMA

_STEP = ("stage", "phase", "chunk")


def nanoseconds(program: pl.DataFrame) -> pl.DataFrame:
    """Return the program with `nanoseconds`, the whole nanoseconds of one execution of each op."""
    return program.with_columns(nanoseconds=(pl.col("seconds") * 1e9).round().cast(pl.Int64))


def step_programs(traced: Traced) -> pl.DataFrame:
    """Return the ops of each kind of step: the program with `chunk`, `nanoseconds` and its `offset` there.

    `advance` of all ops adds up to the step's length.

    A layer belongs to its chunk, the embedding to the first one and the head to the last; a stage
    exchanges messages for every chunk but the model's first input and last output. Two hidden states that
    travel together are one message (`_together`).
    """
    pp, chunks = traced.workload["pp"], traced.workload["virtual_pipeline"]
    workload = pl.DataFrame([traced.workload], schema=SCHEMA)
    layout = layer_layout(workload).select("layer", "chunk")
    repeated = nanoseconds(traced.program).filter(pl.col("phase") != "optimizer")
    is_message = (pl.col("kind") == "p2p") & (pl.col("group_kind") == "pp")
    outside = pl.when(pl.col("op").str.starts_with("embedding")).then(0).otherwise(chunks - 1)
    computed = (
        repeated.filter(~is_message)
        .join(layout, on="layer", how="left", maintain_order="left")
        .with_columns(pl.col("chunk").fill_null(outside))
    )
    first = pl.col("op").is_in(["recv_forward", "send_backward"]) & (
        pl.col("chunk") * pp + pl.col("stage") == 0
    )
    end = pl.col("chunk") * pp + pl.col("stage") == chunks * pp - 1
    last = pl.col("op").is_in(["send_forward", "recv_backward"]) & end
    each_chunk = pl.DataFrame({"chunk": range(chunks)}, schema={"chunk": pl.Int64})
    messages = repeated.filter(is_message).join(each_chunk, how="cross").filter(~first & ~last)
    messages = messages.with_columns(**_together(workload))
    both = pl.concat([computed, messages.select(computed.columns)])
    return (
        both.sort(*_STEP, "op_index")
        .with_columns(own=_own(_overlapped(workload)), overlap=_overlap(traced).over(_STEP))
        .with_columns(advance=pl.col("own") - pl.col("overlap"))
        .with_columns(offset=pl.col("advance").cum_sum().over(_STEP) - pl.col("own") - _early(workload))
        .drop("own", "overlap")
    )


def _together(workload: pl.DataFrame) -> dict[str, pl.Expr]:
    """Return bytes and nanoseconds of messages, over a workload's: of both where a prediction travels along.

    One that is overlapped takes no longer with it: nobody is taken to wait for the other tensor.
    """
    apart, pp = stage_of_prediction(workload.row(0, named=True)), workload["pp"].item()
    backward, sends = pl.col("phase").cast(pl.String) == "backward", pl.col("collective") == "send"
    # The one of both stages that is further from the loss.
    further = pl.col("stage") - pl.when(backward == sends).then(1).otherwise(0)
    closing = pl.col("chunk") == workload["virtual_pipeline"].item() - 1
    along = closing & (further >= apart) & (further < pp - 1)
    sizes = ["comm_bytes", "wire_bytes", *(() if _overlapped(workload) else ("nanoseconds",))]
    return {name: pl.col(name) * pl.when(along).then(2).otherwise(1) for name in sizes}


_ARRIVES = pl.col("collective").eq_missing(pl.lit("recv")) & pl.col("group_kind").eq_missing(pl.lit("pp"))


def _overlapped(workload: pl.DataFrame) -> bool:
    """Return whether messages travel while their receiver still works on another chunk."""
    return bool(workload.select(overlaps_messages).item())


def _own(overlapped: bool) -> pl.Expr:
    """Return how long an op holds up the next one: its time and the wait for the host.

    A send holds up nobody, nor does a message that travels while its receiver works.
    """
    wait = (pl.col("wait_seconds") * 1e9).round().cast(pl.Int64)
    free = pl.col("collective").eq_missing("send") | (_ARRIVES & pl.lit(overlapped))
    return pl.when(free).then(0).otherwise(pl.col("nanoseconds") + wait)


def _early(workload: pl.DataFrame) -> pl.Expr:
    """Return how long before its step an op starts: an overlapped message arrives as the step begins."""
    arrives = _ARRIVES & pl.lit(_overlapped(workload))
    return pl.when(arrives).then(pl.col("nanoseconds")).otherwise(0)


def _overlap(traced: Traced) -> pl.Expr:
    """Return how much of an op runs beside the one before it."""
    before = pl.col("op").shift(1)
    beside = before.replace_strict(HIDES_BEHIND, default=None) == pl.col("op")
    ring = share_beside_ring(pl.col("group_size").shift(1))
    share = pl.when(before.is_in(list(RING_ARRIVALS))).then(ring).otherwise(1.0)
    shorter = pl.min_horizontal(pl.col("nanoseconds") * share, pl.col("nanoseconds").shift(1))
    shared = (shorter * traced.tp_overlap).round().cast(pl.Int64)
    hidden = pl.when(beside).then(shared).otherwise(0)
    return hidden + _in_parts(traced.userbuffers_overlap) if traced.workload["tp_comm_overlap"] else hidden


def _in_parts(share: float) -> pl.Expr:
    """Return how much of a linear runs beside parts of the collective before it, or the other way round."""
    before, op, length = pl.col("op").shift(1), pl.col("op"), pl.col("nanoseconds")
    gathers, scatters = (
        pl.any_horizontal(((a == collective) & (b == linear)) for collective, linear in BESIDE_LINEARS)
        for a, b in ((before, op), (op, before))
    )
    parts = pl.max_horizontal("group_size", pl.col("group_size").shift(1))
    least = [
        pl.min_horizontal(collective, linear * share_beside_ring(parts))
        for collective, linear in ((length.shift(1), length), (length, length.shift(1)))
    ]
    shorter = pl.when(gathers).then(least[0]).when(scatters).then(least[1]).otherwise(0)
    return (shorter * share).round().cast(pl.Int64)


def steps(traced: Traced, programs: pl.DataFrame, microbatches: int | None = None) -> pl.DataFrame:
    """Return the schedule with `start` and `end` of each step: stage step phase microbatch chunk start end.

    `microbatches` shortens the iteration to as many.
    """
    workload = pl.DataFrame([traced.workload], schema=SCHEMA)
    if microbatches is not None:
        workload = workload.with_columns(num_microbatches=pl.lit(microbatches, pl.Int64))
    schedule = schedules(workload).drop("workload")
    lengths = programs.group_by(_STEP, maintain_order=True).agg(length=pl.col("advance").sum())
    described = schedule.join(
        lengths.with_columns(pl.col("phase").cast(pl.String)), on=_STEP, how="left", maintain_order="left"
    )
    delays = _delays(programs) if _overlapped(workload) else (0, 0)
    return described.with_columns(end=pl.Series(step_ends(described, delays), dtype=pl.Int64)).select(
        *schedule.columns, start=pl.col("end") - pl.col("length"), end="end"
    )


def _delays(programs: pl.DataFrame) -> tuple[int, int]:
    """Return the nanoseconds of a message, forward and backward."""
    found = (
        programs.filter(_ARRIVES & (pl.col("phase") == phase))["nanoseconds"].max()
        for phase in ("forward", "backward")
    )
    forward, backward = (int(most or 0) for most in found)  # type: ignore[arg-type]
    return forward, backward


def optimizer_ops(traced: Traced, steps_: pl.DataFrame) -> pl.DataFrame:
    """Return the ops after the last micro-batch, with `nanoseconds`, `start` and `end`.

    Each stage starts when it is done. First and last stage meet for the tied embeddings' all_reduce, and
    all stages for the gradient norm. What of a reduction is hidden lies before that, beside the last backward
    passes; what of a gather is, reaches beyond the iteration into the next one's first forward passes.
    """
    norm = pl.col("group_kind").is_in(["world", "model", "expert_model"])
    meeting = pl.when(norm).then(2).when(pl.col("group_kind") == "embedding").then(1)
    ops = (
        nanoseconds(traced.program)
        .filter(pl.col("phase") == "optimizer")
        .with_columns(
            part=meeting.otherwise(0).cum_max().over("stage").cast(pl.Int64),
            hidden=(pl.col("hidden_seconds") * 1e9).round().cast(pl.Int64),
        )
    )
    later = pl.when(pl.col("op").str.starts_with("param_gather")).then("hidden").otherwise(0)
    ready = dict(steps_.group_by("stage").agg(pl.col("end").max()).iter_rows())
    starts = []
    for part in range(3):
        here = ops.filter(pl.col("part") == part)
        present = here["stage"].unique().to_list()
        if part and present:
            ready.update(dict.fromkeys(present, max(ready[stage] for stage in present)))
        total = (pl.col("nanoseconds") - pl.col("hidden")).cum_sum().over("stage")
        timed = here.with_columns(end=pl.col("stage").replace_strict(ready, return_dtype=pl.Int64) + total)
        ready.update(timed.group_by("stage").agg(pl.col("end").max()).iter_rows())
        starts.append(timed.with_columns(end=pl.col("end") + later))
    placed = pl.concat(starts).with_columns(start=pl.col("end") - pl.col("nanoseconds"))
    return placed.drop("part", "hidden").sort("stage", "op_index")
