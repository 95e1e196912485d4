"""Strangers' results: sound Parquet of the right table and version, in which one thing has no sense.

`strange` makes them from a finished project's own tables, seeded; tests/malformed.py hands them to commands.
"""

import random
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import polars as pl

from malformed import Input

READERS: dict[str, tuple[str, ...]] = {
    "workloads.parquet": ("cost", "traffic", "tables", "figures", "report", "explain", "diff", "archive"),
    "validation.parquet": ("tables", "report"),
    "costs.parquet": ("tables", "figures", "report", "diff"),
    "costs/sensitivity.parquet": ("report",),
    "costs/ops/*": ("tables", "figures", "export", "report"),
    "traces/programs/*": ("cost", "traffic", "export"),
    "traces/ranks/*": ("traffic", "figures"),
    "traces/groups/*": ("traffic",),
    "traces/schedules/*": ("figures", "report"),
    "traffic/links.parquet": ("tables", "report"),
    "traffic/node/*": ("figures", "report"),
    "tables/ep_claims.parquet": ("report",),
    "tables/exposed_communication.parquet": ("report", "figures"),
}
"""Tables of the results, and commands that read them."""

COMMANDS = frozenset(command for commands in READERS.values() for command in commands)

NUMBERS = (0, -1, 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, -0.0, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"), 0.5)
TEXTS = ("", "x", "../../etc/passwd", "\x1b[31m", "\n", "x" * 10_000, "{}", "<script>", "nan", "tiny")


def strange(
    project: Path, count: int, seed: int = 0, commands: Collection[str] = COMMANDS
) -> Iterator[Input]:
    """Yield `count` inputs: each one of some commands, and a table that has one thing without sense."""
    dice = random.Random(f"strange {seed}")
    readers = [(file, command) for file, of in READERS.items() for command in of if command in commands]
    for number in range(count):
        pattern, command = dice.choice(readers)
        file = dice.choice(sorted(_files(project / "results", pattern)))
        change = dice.choice(CHANGES)
        name = (
            f"strange {seed}.{number}: {file.relative_to(project)} {change.__name__.strip('_')} for {command}"
        )
        where = str(file.relative_to(project))
        yield Input(name, arguments(command), partial(_spoil, where, change, f"{seed}.{number}"))


def arguments(command: str) -> tuple[str, ...]:
    """Return a command with what it needs, on the results of the project that it runs in."""
    workload = "tiny-ws16-tp2-pp2-ep2-gbs32-mbs1-seq128-moe"
    more = {
        "explain": (workload, "iteration_seconds"),
        "diff": ("results", "results"),
        "export": ("--format", "perfetto", "--out", "exported", "--workload", workload),
        "archive": ("--out", "archived"),
    }
    return (command, *more.get(command, ()))


def _files(results: Path, pattern: str) -> list[Path]:
    if not pattern.endswith("/*"):
        return [results / pattern]
    return list((results / pattern.removesuffix("/*")).rglob("*.parquet"))


def _spoil(
    file: str, change: Callable[[pl.DataFrame, random.Random], pl.DataFrame], seed: str, project: Path
) -> None:
    path = project / file
    said = {key: text for key, text in pl.read_parquet_metadata(path).items() if key.startswith("moesweep.")}
    frame = change(pl.read_parquet(path, hive_partitioning=False), random.Random(seed))
    frame.write_parquet(path, metadata=said)


def _a_value(frame: pl.DataFrame, dice: random.Random) -> pl.DataFrame:
    """Put another value into one place, of the column's own type."""
    if not frame.height:
        return frame
    name = dice.choice(frame.columns)
    dtype, row = frame.schema[name], dice.randrange(frame.height)
    words = list(dtype.categories) if isinstance(dtype, pl.Enum) else []
    choices = {pl.Int64: NUMBERS, pl.Float64: FLOATS, pl.String: TEXTS, pl.Boolean: (True, False)}
    value = dice.choice((None, *(words or choices.get(dtype.base_type(), ()))))
    here = pl.int_range(pl.len()) == row
    return frame.with_columns(pl.when(here).then(pl.lit(value, dtype)).otherwise(name).alias(name))


def _a_column(frame: pl.DataFrame, dice: random.Random) -> pl.DataFrame:
    """Put one value into a whole column."""
    name = dice.choice(frame.columns)
    one = _a_value(frame.select(name).head(1), dice)
    return frame.with_columns(pl.lit(one[name][0] if one.height else None, frame.schema[name]).alias(name))


def _a_row_twice(frame: pl.DataFrame, dice: random.Random) -> pl.DataFrame:
    return pl.concat([frame, frame.sample(min(1, frame.height), seed=dice.randrange(1 << 30))])


def _no_rows(frame: pl.DataFrame, dice: random.Random) -> pl.DataFrame:
    return frame.clear()


def _a_row_less(frame: pl.DataFrame, dice: random.Random) -> pl.DataFrame:
    return frame.filter(pl.int_range(pl.len()) != dice.randrange(max(frame.height, 1)))


def _a_column_less(frame: pl.DataFrame, dice: random.Random) -> pl.DataFrame:
    return frame.drop(dice.choice(frame.columns))


def _another_type(frame: pl.DataFrame, dice: random.Random) -> pl.DataFrame:
    name = dice.choice(frame.columns)
    text = frame[name].cast(pl.String)
    # Texts do not become truths by a cast.
    others = [*(text.cast(dtype, strict=False) for dtype in (pl.Float32, pl.Int8, pl.Binary)), text.is_null()]
    return frame.with_columns(dice.choice((text, *others)))


CHANGES = (
    _a_value,
    _a_value,
    _a_value,
    _a_column,
    _a_row_twice,
    _no_rows,
    _a_row_less,
    _a_column_less,
    _another_type,
)
