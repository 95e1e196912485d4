"""When every op of every stage runs."""

import polars as pl


def nanoseconds(program: pl.DataFrame) -> pl.DataFrame:
    """Return the program with `nanoseconds`, the whole nanoseconds of one execution of each op."""
    return program.with_columns(nanoseconds=(pl.col("seconds") * 1e9).round().cast(pl.Int64))
