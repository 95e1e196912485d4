"""Passes in the wide form: the ops of a section evaluated side by side, once for each distinct configuration.

What the row form reads off the words of each row (which timing, which part of a pass) is chosen here once an
op (moesweep.cost.words). The rest are the very expressions of the row form.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl

from moesweep.cost.collectives import PLACE
from moesweep.cost.model import MODEL_FLOPS, needed_once
from moesweep.cost.ops import QUANTITIES, timing
from moesweep.cost.pairs import OF_A_PAIR, OF_TURNS
from moesweep.cost.stages import (
    COMM,
    PARTS,
    busy_seconds,
    counts_as,
    dispatches,
    meets_peers,
    repeats_forward,
)
from moesweep.cost.words import Words
from moesweep.shapes.communication import (
    BESIDE_EXCHANGES,
    BESIDE_LINEARS,
    HIDES_BEHIND,
    RING_ARRIVALS,
    share_beside_ring,
)
from moesweep.shapes.distinct import Array
from moesweep.shapes.expressions import exact, total
from moesweep.trace.programs import Section, quantities
from moesweep.trace.vocabulary import Op

SUMS = (
    *PARTS,
    "hidden",
    "ring_hidden",
    "linears_hidden",
    "exchanges_hidden",
    "peers",
    "dispatches",
    "recomputes",
    *OF_TURNS,
    *MODEL_FLOPS,
)
"""What the ops of a pass add up to, besides what is asked for by name."""

IN_PARTS = {*RING_ARRIVALS, *(collective for collective, _ in BESIDE_LINEARS)}
"""Communication of which one part of as many as a group has ranks runs beside nothing."""

OF_A_PASS = ("seconds", "exposed", "cp_hidden", "ep_hidden", *COMM, *MODEL_FLOPS, *OF_A_PAIR)
"""What is kept of a pass through a layer."""


@dataclass(frozen=True)
class Wide:
    """One op of a section, ready to be evaluated.

    own      its quantities and place, as far as its seconds and its flops read them
    reads    the columns of a configuration that all of it reads, constants among them
    values   seconds and MODEL_FLOPS of one execution, over `own` and `reads`
    key      equal for ops that take their values from the same expressions
    """

    op: Op
    words: Words
    own: dict[str, pl.Expr]
    reads: frozenset[str]
    values: dict[str, pl.Expr]
    key: bytes

    @property
    def beside(self) -> list[str]:
        """The columns of a configuration that `values` read besides `own`."""
        return sorted(roots(*self.values.values()) - set(self.own))


def wide(section: Section) -> list[Wide]:
    """Return the ops of a section."""
    return [_wide(op, section.phase) for op in section.ops]


def _wide(op: Op, phase: str) -> Wide:
    words = Words(op.name, op.kind, phase, op.collective, op.group_kind)
    values, key = _values(words)
    # How often an op runs is its pass's to say.
    given = {name: value for name, value in quantities(op).items() if name != "num_microbatches"}
    read = roots(*values.values()) | ({"group_size"} if meets_peers(words) else set())
    own = {name: value for name, value in (given | _placed(op.group_kind)).items() if name in read}
    reads = roots(op.when, *own.values()) | (read - set(own))
    return Wide(op, words, own, frozenset(reads), values, key)


@cache
def _values(words: Words) -> tuple[dict[str, pl.Expr], bytes]:
    """Return seconds and MODEL_FLOPS of ops of these words, and their key: many sections share them."""
    needs = words.phase == "forward" and words.collective is None
    values = {"seconds": timing(words).seconds}
    for name, causal in MODEL_FLOPS.items():
        values[name] = needed_once(words, causal) if needs else pl.lit(0.0)
    return values, b"".join(value.meta.serialize() for value in values.values())


def _placed(group_kind: str | None) -> dict[str, pl.Expr]:
    """Return PLACE of an op's communicators as a batch finds it for their kind, once for all ops."""
    return {} if group_kind is None else {part: pl.col(f"{group_kind} {part}") for part in PLACE}


def roots(*expressions: pl.Expr) -> set[str]:
    """Return the columns that expressions read."""
    return {name for expression in expressions for name in expression.meta.root_names()}


def sums(ops: Sequence[Wide], rows: pl.DataFrame, also: Mapping[str, Iterable[str]] = {}) -> dict[str, Array]:
    """Return what the ops of a section add up to on each row: SUMS, and `<op>_<quantity>` for `also`.

    `rows` are distinct configurations with the columns that the ops read, constants among them.
    """
    ops = _present(ops, rows, also)
    declared = exact(rows).select(
        *(each.op.when.fill_null(False).alias(f"{at} there") for at, each in enumerate(ops)),
        *(value.alias(f"{at} {name}") for at, each in enumerate(ops) for name, value in _typed(each).items()),
    )
    found = {name: np.zeros(rows.height) for name in SUMS}
    seconds: dict[str, Array] = {}
    shares: dict[str, Array] = {}
    for at, once in _executed(ops, rows, declared):
        name, words, there = ops[at].op.name, ops[at].words, declared[f"{at} there"].to_numpy()
        own = np.where(there, once["seconds"], 0.0)
        seconds[name] = seconds.get(name, 0.0) + own
        for part in PARTS:
            if counts_as(words, part):
                found[part] += own
        for part, counts in OF_TURNS.items():
            if counts(words):
                found[part] += own
        if name in IN_PARTS:
            shares[name] = share_beside_ring(declared[f"{at} group_size"].to_numpy())
        if meets_peers(words):
            found["peers"] += np.where(there, declared[f"{at} group_size"].to_numpy() - 1.0, 0.0)
        if dispatches(words):
            found["dispatches"] += there
        if repeats_forward(words):
            found["recomputes"] = np.maximum(found["recomputes"], there)
        for needed in MODEL_FLOPS:
            found[needed] += np.where(there, once[needed], 0.0)
        for quantity in also.get(name, ()):
            if quantity == "seconds":
                found[f"{name}_seconds"] = seconds[name]
                continue
            found[f"{name}_{quantity}"] = (
                exact(rows).select(quantities(ops[at].op)[quantity].cast(pl.Float64)).to_series().to_numpy()
            )
    return found | _hidden(seconds, shares, np.zeros(rows.height))


def _present(ops: Sequence[Wide], rows: pl.DataFrame, also: Container[str]) -> list[Wide]:
    """Return the ops that some row has, and those `also` asked for: a section lists those of all options."""
    there = rows.select(each.op.when.any().alias(f"{at}") for at, each in enumerate(ops)).row(0)
    return [each for each, some in zip(ops, there, strict=True) if some or each.op.name in also]


def _hidden(seconds: Mapping[str, Array], shares: Mapping[str, Array], none: Array) -> dict[str, Array]:
    """Return what of a pass's communication could run beside its kernels, from the seconds of its ops."""
    found = dict.fromkeys(("hidden", "ring_hidden", "linears_hidden", "exchanges_hidden"), none)
    for hidden, behind in HIDES_BEHIND.items():
        if hidden in seconds and behind in seconds:
            ring = hidden in RING_ARRIVALS
            beside = np.minimum(seconds[hidden], seconds[behind] * (shares[hidden] if ring else 1.0))
            found["hidden"] = found["hidden"] + beside
            if ring:
                found["ring_hidden"] = found["ring_hidden"] + beside
    for collective, linear in BESIDE_LINEARS:
        if collective in seconds and linear in seconds:
            beside = np.minimum(seconds[collective], seconds[linear] * shares[collective])
            found["linears_hidden"] = found["linears_hidden"] + beside
    for exchange, kernels in BESIDE_EXCHANGES.items():
        own = [seconds[name] for name in kernels if name in seconds]
        if exchange in seconds and own:
            beside = np.minimum(seconds[exchange], np.sum(own, axis=0))
            found["exchanges_hidden"] = found["exchanges_hidden"] + beside
    return found


def _typed(each: Wide) -> dict[str, pl.Expr]:
    """Return an op's own columns: whole numbers, of which the model reads QUANTITIES as floats."""
    whole = {name: value.cast(pl.Int128) for name, value in each.own.items()}
    return {name: value.cast(pl.Float64 if name in QUANTITIES else pl.Int64) for name, value in whole.items()}


def _executed(
    ops: Sequence[Wide], rows: pl.DataFrame, declared: pl.DataFrame
) -> Iterator[tuple[int, dict[str, Array]]]:
    """Yield each op's number and its values on every row, in the order of the ops.

    Ops that take them from the same expressions stand one below the other, so that there are few of those.
    """
    alike: dict[bytes, list[int]] = {}
    for at, each in enumerate(ops):
        alike.setdefault(each.key, []).append(at)
    done: dict[int, dict[str, Array]] = {}
    for numbers in alike.values():
        one = ops[numbers[0]]
        beside = rows.select(one.beside)
        stacked = pl.concat(
            declared.select(pl.col(f"{at} {name}").alias(name) for name in one.own).hstack(beside)
            for at in numbers
        )
        frame = stacked.select(**one.values)
        found = {name: _of_height(frame[name], stacked.height) for name in one.values}
        for place, at in enumerate(numbers):
            here = slice(place * rows.height, (place + 1) * rows.height)
            done[at] = {name: values[here] for name, values in found.items()}
    for at in range(len(ops)):
        yield at, done[at]


def _of_height(column: pl.Series, height: int) -> Array:
    """Return a column as an array; one number stands for every row."""
    return np.broadcast_to(column.to_numpy(), (height,)) if len(column) == 1 else column.to_numpy()


def of_a_layer(
    section: Section, found: Mapping[str, Array], rows: pl.DataFrame, also: tuple[str, ...] = ()
) -> dict[str, Array]:
    """Return OF_A_PASS from the sums of a section, on the rows that they are of, and what else is asked for.

    Nothing goes over data-parallel ranks, so nothing of that is hidden.
    """
    frame = rows.with_columns(
        **{name: pl.Series(values) for name, values in found.items() if name in SUMS},
        phase=pl.lit(section.phase),
        layer_kind=pl.lit(section.layer_kind, dtype=pl.String),
    ).with_columns(pl.col("recomputes") > 0)
    kept = {name: pl.col(name) for name in (*COMM, *MODEL_FLOPS)}
    passed = frame.select(**busy_seconds(total(COMM)), **kept)
    nothing = dict.fromkeys(("dp_hidden", "edp_hidden"), np.zeros(rows.height))
    return {name: passed[name].to_numpy() for name in (*OF_A_PASS, *also)} | nothing
