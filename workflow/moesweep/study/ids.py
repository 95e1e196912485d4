"""The id of a workload: its layout and batches, then a word for every option that its entry sets."""

from typing import Any

import polars as pl

from moesweep.study.column import Key
from moesweep.study.keys import WORDED
from moesweep.study.words import digest, number, worded

OF_OPTIONS = " of options"
"""Ends the name of a column that holds what the sweep's options say of the key before it."""

MAX_CHARACTERS = 200

_BASE = "{}-ws{}-tp{}-pp{}-ep{}-gbs{}-mbs{}-seq{}-{}"
_IN_BASE = (
    *("model", "world_size", "tp", "pp", "ep", "global_batch_size", "micro_batch_size", "seq_length"),
    "kind",
)


def with_ids(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `workload`, `{model}-ws{W}-tp{t}-pp{p}-ep{e}-gbs{B}-mbs{b}-seq{s}-{moe|dense}` and words.

    A key has a word where its value differs from that of its column OF_OPTIONS, if there is one; options of
    experts have none in a dense workload. Words stand in the order of keys.WORDED. What is longer than
    MAX_CHARACTERS ends in a digest of the whole.
    """
    words = [_word(frame, key) for key in WORDED if key.name + OF_OPTIONS in frame.columns]
    frame = frame.with_columns(pl.concat_str(pl.format(_BASE, *_IN_BASE), *words).alias("workload"))
    long = pl.col("workload").str.len_bytes() > MAX_CHARACTERS
    if not frame.select(long.any()).item():
        return frame
    short = pl.col("workload").map_elements(_shortened, return_dtype=pl.String)
    return frame.with_columns(pl.when(long).then(short).otherwise("workload").alias("workload"))


def word(key: Key, value: Any) -> str:
    """Return what an id says of a value of a key: `vp4`, `noflash`, `full`, `framework~1b2c3d4e`."""
    if callable(key.word):
        return key.word(value)
    name = key.name if key.word is None else key.word
    if isinstance(value, bool):
        on = name.replace("_", "")
        return on if value else f"no{on}"
    return worded(name, number(value) if isinstance(value, float) else str(value), key.name)


def _word(frame: pl.DataFrame, key: Key) -> pl.Expr:
    """`-` and the word of a key where a workload has one, otherwise nothing."""
    differs = pl.col(key.name).ne_missing(pl.col(key.name + OF_OPTIONS))
    if key.without is not None:
        differs &= pl.col("kind") == "moe"
    values = frame.select(pl.col(key.name).filter(differs).unique()).to_series()
    words = pl.Series([f"-{word(key, value)}" for value in values], dtype=pl.String)
    said = pl.col(key.name).replace_strict(values, words, default="", return_dtype=pl.String)
    return pl.when(differs).then(said).otherwise(pl.lit(""))


def _shortened(id_: str) -> str:
    return id_ if len(id_) <= MAX_CHARACTERS else f"{id_[: MAX_CHARACTERS - 9]}~{digest(id_)}"
