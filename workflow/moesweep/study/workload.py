"""One workload: its columns, its derived numbers, its id, its dense twin.

A frame of workloads, one row each, is also the configuration frame of every later layer.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import polars as pl

from moesweep.shapes.distinct import Distinct
from moesweep.shapes.parallelism import dp_size, edp_size
from moesweep.shapes.weights import parameters
from moesweep.study.column import NEEDED
from moesweep.study.ids import OF_OPTIONS, with_ids
from moesweep.study.keys import KEYS, SCHEMA

GIVEN = tuple(KEYS)
"""Columns that a sweep and the catalogue give; `with_derived` computes the others."""

VOCABULARY_MULTIPLE = 128
"""Megatron pads the vocabulary to a multiple of this times tp."""


def resolve(given: list[dict[str, Any]]) -> pl.DataFrame:
    """Workloads with all their columns from dicts with the GIVEN ones; twin is null.

    What follows from other columns may be left out. Sizes that do not divide are rounded down here, but
    never to 0, so that any positive input has a row for validation to judge.
    """
    return with_derived(frame_of(given)).select(*SCHEMA)


def frame_of(given: list[dict[str, Any]]) -> pl.DataFrame:
    """The GIVEN columns, and those of OF_OPTIONS that any of the dicts has, as a frame."""
    said = [key + OF_OPTIONS for key in GIVEN if any(key + OF_OPTIONS in row for row in given)]
    schema = {column: SCHEMA[column.removesuffix(OF_OPTIONS)] for column in (*GIVEN, *said)}
    rows = [{**{key + OF_OPTIONS: row.get(key) for key in GIVEN}, **row} for row in given]
    return pl.DataFrame([{column: row.get(column) for column in schema} for row in rows], schema=schema)


def derivations() -> dict[str, pl.Expr]:
    """How the derived counts follow from the other columns: dp, edp, num_microbatches, padded_vocab_size.

    num_microbatches = global_batch_size / (micro_batch_size * dp); padded_vocab_size = vocab_size rounded up
    to a multiple of 128 * tp.
    """
    multiple = VOCABULARY_MULTIPLE * pl.col("tp")
    microbatches = pl.col("global_batch_size") // (pl.col("micro_batch_size") * pl.col("dp"))
    return {
        "dp": pl.max_horizontal(dp_size(), 1),
        "edp": pl.max_horizontal(edp_size(), 1),
        "num_microbatches": pl.max_horizontal(microbatches, 1),
        "padded_vocab_size": (pl.col("vocab_size") + multiple - 1) // multiple * multiple,
    }


def with_derived(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame of GIVEN columns with all others computed; those it has beside, such as OF_OPTIONS, stay.

    Defaults that follow from other columns fill nulls. A dense workload's options of experts become what
    one has without them (keys.Key.without); an expert's FFN width of 0 becomes ffn_hidden_size.
    """
    return with_ids(unnamed(frame))


def unnamed(frame: pl.DataFrame, models: Distinct | None = None) -> pl.DataFrame:
    """A frame of GIVEN columns with all others computed, but for the id.

    `models` are rows that differ in what `parameters` read, where they are known: each is counted once.
    """
    *counts, size = steps(tuple(frame.columns))
    for step in counts:
        frame = frame.with_columns(**step)
    if models is None:
        return frame.with_columns(**size)
    return frame.hstack(frame[models.first].select(**size)[models.index])


@cache
def steps(columns: tuple[str, ...]) -> list[dict[str, pl.Expr]]:
    """How the columns of a workload follow from those given, each step from those before."""
    moe = pl.col("num_experts") > 0
    derived = derivations()
    without = {key.name: key.without for key in KEYS.values() if key.without is not None}
    return [
        dict(_filled(columns)),
        {name: value for column in columns for name, value in _followed(column)},
        {
            "kind": pl.when(moe).then(pl.lit("moe")).otherwise(pl.lit("dense")),
            "twin": pl.lit(None, pl.String),
            **{
                name: pl.when(moe).then(name).otherwise(value).cast(SCHEMA[name])
                for name, value in without.items()
            },
            "dp": derived["dp"],
            "padded_vocab_size": derived["padded_vocab_size"],
            "window_keys": _window_keys(),
            "cp_a2a": _exchanging(),
        },
        {"edp": derived["edp"], "num_microbatches": derived["num_microbatches"]},
        parameters(),
    ]


def _filled(columns: Iterable[str]) -> Iterator[tuple[str, pl.Expr]]:
    """Defaults where nothing says a key, one of them another key; what options leave open stays so.

    A null ep is no key that nothing says, but a point that has no largest one.
    """
    for key in KEYS.values():
        if (
            key.name in columns
            and key.name != "ep"
            and key.default is not NEEDED
            and not isinstance(key.default, pl.Expr)
        ):
            default = key.text(key.default) if key.text else key.default
            value = pl.col(default) if default in KEYS else pl.lit(default, SCHEMA[key.name])
            yield key.name, pl.col(key.name).fill_null(value)


def _window_keys() -> pl.Expr:
    """Keys that a query of a windowed layer sees, itself among them; 0 where it sees all anyway."""
    keys = pl.col("window_size").str.extract(r"^\[(\d+),").cast(pl.Int64) + 1
    return pl.when(keys < pl.col("seq_length")).then(keys).otherwise(0)


def _exchanging() -> pl.Expr:
    """Ranks that exchange heads in the first of two steps, as their sizes say; 1 where there is one step."""
    first = pl.col("hierarchical_context_parallel_sizes").str.extract(r"^\[(\d+),").cast(pl.Int64)
    return pl.when(pl.col("cp_comm_type") == "a2a+p2p").then(first).otherwise(1).fill_null(1)


def _followed(column: str) -> Iterator[tuple[str, pl.Expr]]:
    """What follows from other columns where nothing says it, for a key and for what the options say of it."""
    key = KEYS.get(column.removesuffix(OF_OPTIONS))
    if key is None:
        return
    if isinstance(key.default, pl.Expr):
        yield column, pl.coalesce(column, key.default)
    elif key.name == "moe_ffn_hidden_size":
        yield column, pl.when(pl.col(column) == 0).then("ffn_hidden_size").otherwise(column)


def with_value(frame: pl.DataFrame, key: str, value: pl.Expr) -> pl.DataFrame:
    """Workloads with another value of a key, ids apart: what followed from the old one follows from it."""
    follow: dict[str, pl.Expr] = {
        other.name: pl.when(pl.col(other.name) != other.default).then(other.name)
        for other in KEYS.values()
        if isinstance(other.default, pl.Expr)
    }
    follow["etp"] = pl.when(pl.col("etp") != pl.col("tp")).then("etp")
    width = pl.col("moe_ffn_hidden_size")
    follow["moe_ffn_hidden_size"] = pl.when(width != pl.col("ffn_hidden_size")).then(width).otherwise(0)
    follow[key] = value
    return unnamed(frame.with_columns(**follow).with_columns(pl.coalesce("etp", "tp")))


def dense_twins(frame: pl.DataFrame) -> pl.DataFrame:
    """The dense twin of each MoE workload of a derived `frame`, row for row.

    A twin keeps world, tp, pp, cp, batches, sequence and options, and has ep 1 and a standard MLP. The sweep
    does not list it, so `listed` is 0.
    """
    moe = frame.filter(pl.col("kind") == "moe")
    return with_derived(
        moe.with_columns(
            pl.lit(1, pl.Int64).alias("ep"),
            pl.lit(0, pl.Int64).alias("num_experts"),
            pl.lit(0, pl.Int64).alias("listed"),
        )
    )


def description(row: Mapping[str, Any]) -> str:
    """One workload as JSON text: what its trace depends on, so not its twin, nor how often it is listed."""
    return json.dumps({key: row[key] for key in row if key not in ("listed", "twin")}, sort_keys=True)
