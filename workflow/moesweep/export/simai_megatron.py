"""SimAI text that says what the trace says, within the limits of SimAI (docs/exports.md).

SimAI runs the forward columns of a file from its first row to its last, then the gradient columns from
its last row to its first. So the rows stand in forward order, each beside the backward op that
mirrors it, and what follows the last micro-batch stands at the top, last op first.
A row's time is that of the kernels before its collective.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from moesweep.edge.problems import Problem, shown
from moesweep.export.request import Request
from moesweep.export.simai_text import NONE, Block, Communication, header, row, write
from moesweep.export.source import Traced
from moesweep.export.timeline import nanoseconds
from moesweep.shapes.parallelism import STAGES_BESIDE
from moesweep.shapes.placement import LAYOUT, stage_of_prediction
from moesweep.shapes.schedule import GROUP

MAX_COMM_BYTES = 17_179_869_184
MAX_NANOSECONDS = 2**31 - 1

_WORDS = {
    "all_gather": "ALLGATHER",
    "reduce_scatter": "REDUCESCATTER",
    "all_reduce": "ALLREDUCE",
    "all_to_all": "ALLTOALL",
}
_SUFFIXES = {
    "tp": "",
    "etp": "",
    "ep": "_EP",
    "tp_ep": "_EP",
    "dp": "",
    "edp": "_DP_EP",
    "embedding": "",
    "world": "",
    "model": "",
    "expert_model": "_DP_EP",
    "tp_cp_dp": "",
}
"""SimAI has four groups. The token counts' tp_ep goes over EP; embedding, gradient norms and what experts of
a whole stage got over DP."""
_IN_WEIGHT_GRADIENT = ("dp", "edp", "embedding", "world", "model", "expert_model", "tp_cp_dp")


@dataclass(frozen=True)
class _Part:
    """A run of kernels and the collective that ends it (none at the end of a pass)."""

    layer: int
    op: str
    communication: Communication
    nanoseconds: int
    weight_nanoseconds: int
    group_kind: str | None


def inexpressible(workload: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for each thing of which SimAI has one for all.

    One size for the experts' tensor groups and the tp groups; one for all messages between stages; one order
    of chunks; one group, of tp ranks, for what all add up in a pass.
    """
    id_, etp, tp, found = workload["workload"], workload["etp"], workload["tp"], []
    if workload["kind"] == "moe" and etp != tp:
        message = f"SimAI has no expert-tensor groups of their own: etp {etp} is not tp {tp}"
        found.append(Problem(id_, "etp", "simai", shown(etp), message, f"only {tp}", workload=id_))
    if stage_of_prediction(workload) < workload["pp"] - 1:
        message, advice = "SimAI's messages between stages are all of one size", "only m in the last part"
        layout = shown(workload[LAYOUT])
        found.append(Problem(id_, LAYOUT, "simai", layout, message, advice, workload=id_))
    if workload[GROUP] != workload["pp"]:
        message = f"SimAI's pipelines go through chunks in groups of pp, not of {GROUP} {workload[GROUP]}"
        advice = f"only {workload['pp']}"
        found.append(Problem(id_, GROUP, "simai", shown(workload[GROUP]), message, advice, workload=id_))
    if workload[STAGES_BESIDE]:
        message, advice = "SimAI numbers data-parallel ranks before stages", "only false"
        found.append(Problem(id_, STAGES_BESIDE, "simai", shown(True), message, advice, workload=id_))
    if workload[_LOSS] == "global_aux_loss":
        message, advice = "SimAI's passes add up over tp ranks alone, not over a stage", "only aux_loss"
        found.append(Problem(id_, _LOSS, "simai", shown(workload[_LOSS]), message, advice, workload=id_))
    return found


_LOSS = "moe_router_load_balancing_type"


def export(traced: Traced, request: Request) -> None:
    """Write the asked stages of a workload, each as `<workload>-stage<p>.txt`.

    Where routing is given, as `<workload>-stage<p>-busiest.txt`: what everybody waits for, op by op.
    """
    program = nanoseconds(traced.program)
    of = "" if traced.each is None else "-busiest"
    for stage in _stages(program, request.stage):
        first_line, blocks = stage_text(traced.workload, program.filter(pl.col("stage") == stage))
        write(request.out / f"{traced.workload['workload']}-stage{stage}{of}.txt", first_line, blocks)


def _stages(program: pl.DataFrame, asked: str | None) -> list[int]:
    if asked == "all":
        return program["stage"].unique().sort().to_list()
    return [slowest_stage(program) if asked is None else int(asked)]


def slowest_stage(program: pl.DataFrame) -> int:
    """Return the stage with the longest iteration, kernels and communication: it sets the pace."""
    busy = program.group_by("stage", maintain_order=True).agg(
        (pl.col("nanoseconds") * pl.col("num_microbatches")).sum().alias("busy")
    )
    return int(busy["stage"][busy["busy"].arg_max() or 0])


def stage_text(workload: Mapping[str, Any], program: pl.DataFrame) -> tuple[str, list[Block]]:
    """Return the first line and the rows of one stage; `program` has `nanoseconds`."""
    sends = program.filter(pl.col("collective") == "send")["comm_bytes"]
    fields = [
        ("model_parallel_NPU_group", workload["tp"]),
        ("ep", workload["ep"]),
        ("pp", workload["pp"]),
        ("vpp", workload["virtual_pipeline"]),
        ("ga", workload["num_microbatches"]),
        ("all_gpus", workload["world_size"]),
        ("checkpoints", 0),
        ("checkpoint_initiates", 0),
    ]
    parts = {
        phase: _parts(program.filter(pl.col("phase") == phase))
        for phase in ("forward", "backward", "optimizer")
    }
    opening = [text for part in reversed(parts["optimizer"]) for text in _rows(None, part)]
    microbatch = [text for pair in _paired(parts["forward"], parts["backward"]) for text in _rows(*pair)]
    blocks = [Block(opening), Block(microbatch, workload["num_microbatches"])]
    return header(fields, str(sends.max() or 0)), blocks


def _parts(ops: pl.DataFrame) -> list[_Part]:
    """Return one pass as its collectives, each with the kernels since the one before; no messages."""
    is_collective = pl.col("kind") == "collective"
    weight = pl.col("op").str.ends_with("_wgrad")
    own = pl.col("nanoseconds") * ~is_collective
    last = pl.col("op", "layer", "group_kind", "collective", "comm_bytes").last()
    frame = (
        ops.filter(pl.col("kind") != "p2p")
        .with_columns(part=is_collective.shift(1, fill_value=False).cum_sum())
        .group_by("part", maintain_order=True)
        .agg(last, other=(own * ~weight).sum(), weight=(own * weight).sum())
    )
    return [
        _Part(layer, op, _communication(collective, kind, size), other, wgrad, kind)
        for op, layer, kind, collective, size, other, wgrad in frame.drop("part").iter_rows()
    ]


def _communication(collective: str | None, group_kind: str | None, size: int) -> Communication:
    if collective is None or group_kind is None:
        return NONE
    return _WORDS[collective] + _SUFFIXES[group_kind], size


def _paired(forward: list[_Part], backward: list[_Part]) -> Iterator[tuple[_Part | None, _Part | None]]:
    """Yield rows' (forward, backward) parts: forward in order, backward in reverse, mirrors together."""
    mirrored = backward[::-1]
    place = {(part.layer, part.op): i for i, part in enumerate(mirrored)}
    done = 0
    for part in forward:
        twin = place.get((part.layer, part.op), -1)
        if twin < done:
            yield part, None
            continue
        yield from ((None, alone) for alone in mirrored[done:twin])
        yield part, mirrored[twin]
        done = twin + 1
    yield from ((None, alone) for alone in mirrored[done:])


def _rows(forward: _Part | None, gradient: _Part | None) -> list[str]:
    """Return a row, or several equal ones that together hold a message or a time beyond SimAI's limits."""
    name = (forward or gradient or _NOTHING).op
    there, back = forward or _NOTHING, gradient or _NOTHING
    input_, weight = back.communication, NONE
    if back.group_kind in _IN_WEIGHT_GRADIENT:
        input_, weight = NONE, back.communication
    communications = (there.communication, input_, weight)
    times = (there.nanoseconds, back.nanoseconds, back.weight_nanoseconds)
    largest = max(size for _, size in communications)
    count = max(1, -(-largest // MAX_COMM_BYTES), -(-max(times) // MAX_NANOSECONDS))
    return [
        row(
            name,
            *(_share_of(each, i, count) for each in communications),
            nanoseconds=[_share(time, i, count) for time in times],
            update_nanoseconds=0,
        )
        for i in range(count)
    ]


def _share_of(communication: Communication, i: int, count: int) -> Communication:
    word, size = communication
    return word, _share(size, i, count)


def _share(whole: int, i: int, count: int) -> int:
    """Return the i-th of `count` parts of a whole number, which add up to it."""
    return (i + 1) * whole // count - i * whole // count


_NOTHING = _Part(-1, "", NONE, 0, 0, None)
