"""Which options a sweep varies: what of its workloads there is to compare."""

import polars as pl

from moesweep.study.keys import KEYS

OPTIONS = tuple(name for name in KEYS if name not in ("listed", "model"))
"""What a sweep says of a workload beside its model; other columns follow from these, or name it."""

APART = ("kind", "model")
"""What is not compared: twins with their MoE workloads, and models whose every size differs."""


DEFAULTS = {name: KEYS[name].default for name in OPTIONS if isinstance(KEYS[name].default, pl.Expr)}
"""Options that follow from others where nothing is said of them, and how."""


def varying(workloads: pl.DataFrame) -> list[str]:
    """Return the options of which a model has several values, MoE or dense, in the catalogue's order.

    One that follows from others in every workload is none of them: it differs where these do.
    """
    values = workloads.group_by(APART).agg(pl.col(OPTIONS).n_unique())
    said = workloads.select(pl.col(name).ne_missing(follows).any() for name, follows in DEFAULTS.items())
    own = {name for name in OPTIONS if name not in DEFAULTS or said[name].item()}
    return [name for name in OPTIONS if name in own and (values[name] > 1).any()]


def in_order(option: str) -> pl.Expr:
    """Return the values of an option so that they sort: words as their schema lists them."""
    words = KEYS[option].column.get("enum", [])
    listed = words and all(isinstance(word, str) for word in words)
    return pl.col(option).cast(pl.Enum(words)) if listed else pl.col(option)
