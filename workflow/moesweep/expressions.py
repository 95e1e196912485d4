"""Polars expressions that several stages need."""

from collections.abc import Mapping

import polars as pl


def by_word(column: pl.Expr, choices: Mapping[str, pl.Expr], default: pl.Expr) -> pl.Expr:
    """Return the choice named by a column of words, `default` where it names none."""
    chosen = default
    for word, choice in reversed(list(choices.items())):
        chosen = pl.when(column == word).then(choice).otherwise(chosen)
    return chosen
