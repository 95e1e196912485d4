"""Where the layers of a model stand: which stage of the pipeline holds which, in which of its chunks."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import polars as pl

from moesweep.shapes.layer_kinds import KEPT, KIND_READS, KINDS, is_predicting, layer_kinds

COUNTED = ("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage")
ACCOUNTED = ("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split")
LAYOUT = "pipeline_model_parallel_layout"
"""Options that place layers by hand: counts, ends that count as layers, or every part in letters."""

AGAIN = ("recompute_method", "recompute_num_layers")
"""Which layers of a chunk full recomputation repeats, or how many at once."""

READS = (*KIND_READS, "pp", "virtual_pipeline", *COUNTED, *ACCOUNTED, LAYOUT, *AGAIN)
"""The columns of a workload that place its layers, and tell apart those that are recomputed."""

UNSAID = "none"
placed_by_hand = (pl.sum_horizontal(COUNTED) > 0) | pl.any_horizontal(ACCOUNTED) | (pl.col(LAYOUT) != UNSAID)
"""Whether something says which stage has which layers."""

"""A layout that nothing says."""

MOST_LETTERS = 1 << 18
"""Letters and bars of a layout that is written out."""

_REPEATED = (re.compile(r"\(([^()]+)\)\*([0-9]{1,6})"), re.compile(r"([EtmL|])\*([0-9]{1,6})"))

ENDS = ("first", "last")
"""What a chunk runs besides layers: embedding and head."""

ARRIVALS = ("recv_forward", "recv_backward")
"""Messages that a chunk waits for."""


def layer_layout(workloads: pl.DataFrame) -> pl.DataFrame:
    """Return workload, layer, layer_kind, stage, chunk and unit: which stage holds which layer.

    `unit` is the first of several layers that full recomputation repeats together, null where it does not.

    Layers of multi-token prediction follow those of the decoder. Virtual stage c·pp + p is chunk c of
    stage p (Megatron's interleaved assignment). Placements are lists, made once for all workloads that share
    what they are made from.
    """
    distinct = workloads.select(READS).unique(maintain_order=True)
    rows = [*distinct.iter_rows(named=True)]
    stages = [virtual_stages(row) for row in rows]
    again = [_recomputed(row, parts) for row, parts in zip(rows, stages, strict=True)]
    placed = distinct.with_columns(
        pl.Series("layer_kind", [kinds for kinds, _ in again], dtype=pl.List(pl.String)),
        pl.Series("virtual_stage", stages, dtype=pl.List(pl.Int64)),
        pl.Series("unit", [units for _, units in again], dtype=pl.List(pl.Int64)),
    )
    each = workloads.select("workload", *READS).join(placed, on=READS, maintain_order="left")
    return (
        each.with_columns(layer=pl.int_ranges(0, pl.col("layer_kind").list.len(), dtype=pl.Int64))
        .explode("layer", "layer_kind", "virtual_stage", "unit")
        .select(
            "workload",
            "layer",
            "layer_kind",
            stage=pl.col("virtual_stage") % pl.col("pp"),
            chunk=pl.col("virtual_stage") // pl.col("pp"),
            unit="unit",
        )
    )


def _recomputed(workload: Mapping[str, Any], parts: tuple[int, ...]) -> tuple[list[str], list[int | None]]:
    """Return the kind of each layer, and the first of the several layers that are recomputed with it.

    Uniform: every `recompute_num_layers` layers of a chunk together. Block: so many first ones of each chunk,
    one by one, and the others not, nor those of multi-token prediction (Megatron `transformer_block.py`,
    `multi_token_prediction.py`).
    """
    kinds, number = list(layer_kinds(workload)), workload["recompute_num_layers"]
    units: list[int | None] = [None] * len(kinds)
    block, start = workload["recompute_method"] == "block", 0
    if not block and number == 1:
        return kinds, units
    for layer, kind in enumerate(kinds):
        start = start if layer and parts[layer] == parts[layer - 1] else layer
        place = layer - start
        if is_predicting(kind):
            break
        if not block:
            units[layer] = layer - place % number
        elif place >= number:
            kinds[layer] = f"{kind}{KEPT}"
    return kinds, units


def virtual_stages(workload: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the virtual stage of each layer of a workload.

    Multi-token prediction stands on the last one, unless a layout says where.
    """
    told = _prediction_part(workload[LAYOUT])
    part = workload["pp"] * workload["virtual_pipeline"] - 1 if told is None else told
    return *_decoder_stages(*(workload[name] for name in PLACING)), *([part] * workload["mtp_num_layers"])


@cache
def _prediction_part(layout: str) -> int | None:
    """Return the part of a layout that has multi-token prediction, None where none has."""
    try:
        parts = [] if layout == UNSAID else layout_parts(layout)
    except ValueError:
        return None
    return next((part for part, letters in enumerate(parts) if "m" in letters), None)


def stage_of_prediction(workload: Mapping[str, Any]) -> int:
    """Return `prediction_stage` of one workload, of which pp is needed and a layout may be said."""
    part, pp = _prediction_part(workload.get(LAYOUT, UNSAID)), int(workload["pp"])
    return pp - 1 if part is None else part % pp


BEHIND_PREDICTION = r"m[m,]*([|,]*)L$"
"""What stands behind multi-token prediction in the text of a layout: bars, each written out."""

prediction_stage = (
    pl.col("pp")
    - 1
    - pl.col(LAYOUT).str.extract(BEHIND_PREDICTION).str.count_matches("|", literal=True).fill_null(0)
)
"""The stage where a workload's multi-token prediction stands, or would: the last one unless a layout says."""

predicts_apart = prediction_stage < pl.col("pp") - 1
"""Whether that is another stage than the loss's: their hidden states travel there side by side."""

_stage = pl.col("stage")
carries = {
    "forward": predicts_apart & (_stage > prediction_stage),
    "backward": predicts_apart & (_stage >= prediction_stage) & (_stage < pl.col("pp") - 1),
}
"""Whether the last chunk of a stage gets hidden states, or their gradients, of both as two messages."""


PLACING = ("num_layers", "pp", "virtual_pipeline", *COUNTED, *ACCOUNTED, LAYOUT)


@cache
def _decoder_stages(
    layers: int, pp: int, chunks: int, first: int, last: int, embedding: bool, loss: bool, layout: str
) -> tuple[int, ...]:
    """Return the virtual stage of each of the decoder's layers (Megatron `get_num_layers_to_build`)."""
    if layout != UNSAID:
        held = [part.count("t") for part in layout_parts(layout)]
    elif first or last:
        stages = _counted(layers, pp, first, last)
        held = [stages[part % pp] // chunks for part in range(pp * chunks)]
    elif embedding or loss:
        held = [(layers + embedding + loss) // (pp * chunks)] * (pp * chunks)
        held[0], held[-1] = held[0] - embedding, held[-1] - loss
    else:
        held = _spread(layers, pp * chunks)
    return tuple(part for part, count in enumerate(held) for _ in range(count))


def _counted(layers: int, pp: int, first: int, last: int) -> list[int]:
    """Return the layers of each stage: those said of the ends (0: not said), the others alike."""
    others = pp - (first > 0) - (last > 0)
    each = (layers - first - last) // others if others else 0
    return [first or each, *([each] * (pp - 2)), last or each]


def _spread(layers: int, parts: int) -> list[int]:
    """Return ⌊L/q⌋ layers for each of q parts, the remainder one each for the middle ones.

    The first and the last part also hold the embedding and the head.
    """
    base, rest = divmod(layers, parts)
    before = (parts - rest) // 2
    return [base + (before <= part < before + rest) for part in range(parts)]


@cache
def layout_parts(text: str) -> tuple[str, ...]:
    """Return the parts of a layout such as `Et*3|(tt|)*29tL`, one a virtual stage, written out.

    E embedding, t a layer of the decoder, m one of multi-token prediction, L loss; `*n` repeats a letter or
    what stands in parentheses; commas mean nothing (Megatron `pipeline_parallel_layer_layout.py`). Raises
    ValueError for other texts and those of more than MOST_LETTERS.
    """
    text = text.replace(",", "")
    for pattern in _REPEATED:
        length = sum(len(one[1]) * int(one[2]) for one in pattern.finditer(text))
        if length > MOST_LETTERS:
            raise ValueError(f"more than {MOST_LETTERS} letters")
        text = pattern.sub(lambda one: one[1] * int(one[2]), text)
    if set(text) - set("EtmL|"):
        raise ValueError("letters E, t, m, L, | between parts, * and a number to repeat")
    return tuple(text.split("|"))


def layers_of_stages(workloads: pl.DataFrame) -> pl.DataFrame:
    """Return workload, stage and `<kind>_layers`, one row a stage: how many layers of each kind it holds."""
    layout = layer_layout(workloads)
    counts = layout.group_by("workload", "stage", maintain_order=True).agg(
        (pl.col("layer_kind") == kind).sum().cast(pl.Int64).alias(f"{kind}_layers") for kind in KINDS
    )
    return (
        workloads.select("workload", stage=pl.int_ranges(0, "pp", dtype=pl.Int64))
        .explode("stage")
        .join(counts, on=["workload", "stage"], how="left", maintain_order="left")
        .with_columns(pl.exclude("workload", "stage").fill_null(0))
    )


def kinds_of(layers: pl.DataFrame) -> list[str]:
    """Return the kinds that some rows of `layer_layout` tell apart, those of KINDS first and in order."""
    found = layers["layer_kind"].unique(maintain_order=True).to_list()
    return [*(kind for kind in KINDS if kind in found), *(kind for kind in found if kind not in KINDS)]


def chunk_contents(workloads: pl.DataFrame, layers: pl.DataFrame) -> pl.DataFrame:
    """Return one row a chunk, stage by stage: workload, stage, chunk, layers by kind, ENDS and ARRIVALS.

    `layers` are rows of `layer_layout`, whatever kinds of layers it tells apart. The first chunk of the first
    stage and the last chunk of the last stage have no neighbour that sends to them. From multi-token
    prediction to a loss on another stage, two messages arrive (`carries`).
    """
    first = (pl.col("stage") == 0) & (pl.col("chunk") == 0)
    closing = pl.col("chunk") == pl.col("virtual_pipeline") - 1
    last = (pl.col("stage") == pl.col("pp") - 1) & closing
    kinds = kinds_of(layers)
    held = layers.group_by("workload", "stage", "chunk").agg(
        (pl.col("layer_kind") == kind).sum().cast(pl.Int64).alias(kind) for kind in kinds
    )
    several = pl.col("pp") > 1
    return (
        workloads.select(
            "workload",
            "pp",
            "virtual_pipeline",
            LAYOUT,
            stage=pl.int_ranges(0, "pp", dtype=pl.Int64),
            chunk=pl.int_ranges(0, "virtual_pipeline", dtype=pl.Int64),
        )
        .explode("stage")
        .explode("chunk")
        .join(held, on=["workload", "stage", "chunk"], how="left", maintain_order="left")
        .select(
            "workload",
            "stage",
            "chunk",
            *(pl.col(kind).fill_null(0) for kind in kinds),
            first=first.cast(pl.Int64),
            last=last.cast(pl.Int64),
            recv_forward=(several & ~first).cast(pl.Int64) + (closing & carries["forward"]).cast(pl.Int64),
            recv_backward=(several & ~last).cast(pl.Int64) + (closing & carries["backward"]).cast(pl.Int64),
        )
    )


def alike(chunks: pl.DataFrame) -> pl.DataFrame:
    """Return workload and `alike`: whether its stages hold as many layers of each kind, in one chunk."""
    kinds = [name for name in chunks.columns if name not in ("workload", "stage", "chunk", *ENDS, *ARRIVALS)]
    same = [pl.col(kind).n_unique() == 1 for kind in kinds]
    one = pl.col("chunk").max() == 0
    return chunks.group_by("workload", maintain_order=True).agg(alike=pl.all_horizontal(one, *same))
