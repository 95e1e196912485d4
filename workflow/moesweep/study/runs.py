"""Lists of training runs as CSV: read, checked cell by cell, and turned into workloads.

A run says the keys of a workload, or a model by name and the rest; what it leaves out is the default. Columns
that are no keys pass through.
"""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from moesweep.edge.problems import Problem, collect, did_you_mean, shown
from moesweep.study.axes import encoded, with_rules_applied
from moesweep.study.catalog import load_cluster
from moesweep.study.column import NEEDED, Key
from moesweep.study.csv_table import read_table
from moesweep.study.keys import KEYS, SCHEMA
from moesweep.study.models import given_by_model
from moesweep.study.run_cells import ROUTINGS, SAID_BY, parsed
from moesweep.study.run_columns import MEASURED, unread
from moesweep.study.validation import findings
from moesweep.study.workload import with_derived

ROW = "row"
_INSTEAD = {"tp": 1, "pp": 1, "routing": ROUTINGS[0], "listed": 1}
"""Defaults of a list where they are not a sweep's."""


@dataclass(frozen=True)
class Runs:
    """A list of runs.

    given      the file's rows, all text
    workloads  one row per run that can be modelled: `row` (its number in the file, from 0), `cluster`,
               and the workload columns; `workload` is the row number as text
    problems   what is wrong with the others, by row number
    unread     the columns that pass through
    """

    given: pl.DataFrame
    workloads: pl.DataFrame
    problems: dict[int, list[Problem]]
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class _List:
    """A list being read: its cells, the line of each row, and the problems found so far, by row."""

    file: str
    given: pl.DataFrame
    lines: list[int]
    problems: dict[int, list[Problem]] = field(default_factory=dict)

    def add(self, row: int, column: str, rule: str, value: str, message: str, advice: str = "") -> None:
        """Note a problem of a cell, with its line and column."""
        place = f"line {self.lines[row]}, column {column}"
        found = self.problems.setdefault(row, [])
        found.append(Problem(self.file, place, rule, value, message, advice))


def read_runs(path: Path, clusters: list[str], root: Path = Path(), cluster: str = "") -> Runs:
    """Read a CSV file of runs; raise BadInput if it is no table, or a column is missing or none of a list.

    Models are those of the catalogue in `root`; runs that name none of the `clusters` have `cluster`.
    """
    given, lines = read_table(path)
    passing = unread(given, str(path), bool(cluster))
    runs = _List(str(path), given, lines)
    frame = _typed(runs, root)
    _judge_measured(runs)
    names = given.get_column("cluster", default=pl.Series([None] * given.height, dtype=pl.String))
    frame = frame.with_columns(names.fill_null(cluster).alias("cluster"))
    if "run" in given.columns:
        frame = frame.with_columns(given["run"])
    for row, name in enumerate(frame["cluster"]):
        if name not in clusters:
            runs.add(
                row, "cluster", "known_cluster", name, f"no cluster {name}", did_you_mean(name, clusters)
            )
    workloads = _resolved(frame.filter(~pl.col(ROW).is_in(list(runs.problems))))
    in_fp8 = workloads.filter(pl.col("fp8") != "none")["cluster"].unique().sort()
    machines = {name: load_cluster(root, name).values for name in in_fp8}
    broken = findings(workloads, clusters=machines).filter(severity="error")
    for found in broken.iter_rows(named=True):
        about = [found[key] for key in ("key", "rule", "value", "message", "suggestion")]
        runs.add(int(found["workload"]), *about)
    return Runs(given, workloads.filter(~pl.col(ROW).is_in(list(runs.problems))), runs.problems, passing)


def _typed(runs: _List, root: Path) -> pl.DataFrame:
    """The columns that the cells say, models and defaults in their place; faults go into `runs`."""
    frame = pl.DataFrame({ROW: pl.int_range(runs.given.height, dtype=pl.Int64, eager=True)})
    for key in KEYS.values():
        if key.name in runs.given.columns and key.name != "listed":
            columns, faults = parsed(key, text := runs.given[key.name])
            for row in text.is_in(list(faults)).fill_null(False).arg_true():
                runs.add(row, key.name, "cell", shown(text[row]), faults[text[row]])
            frame = _merged(runs, frame, key.name, columns)
    absent = [name for name in (*KEYS, "per_gpu", "largest_at") if name not in frame.columns]
    frame = frame.with_columns(pl.lit(None, SCHEMA.get(name, pl.Int64())).alias(name) for name in absent)
    frame = _with_models(runs, frame, root)
    frame = frame.with_columns(_default(key) for key in KEYS.values())
    for key in KEYS.values():
        if key.default is NEEDED and key.name not in ("model", "global_batch_size"):
            _missing(runs, key.name, frame[key.name])
    _missing(runs, "global_batch_size", frame.select(pl.coalesce("global_batch_size", "per_gpu")).to_series())
    return frame


def _missing(runs: _List, key: str, values: pl.Series) -> None:
    """Add a fault for each row without a value of a key, unless it has a meaningless one."""
    place = f"column {key}"
    for row in values.is_null().arg_true():
        if not any(problem.path.endswith(place) for problem in runs.problems.get(row, ())):
            runs.add(row, key, "missing", "", f"{key} is said neither here nor by a model")


def _judge_measured(runs: _List) -> None:
    """Add a fault for each measured time that is none, though it is never read."""
    if MEASURED not in runs.given.columns:
        return
    text = runs.given[MEASURED].str.strip_chars()
    seconds = text.cast(pl.Float64, strict=False)
    sound = (seconds >= 0) & seconds.is_finite()
    for row in (text.is_not_null() & ~sound.fill_null(False)).arg_true():
        message = f"{shown(text[row])} where a number of at least 0 is needed"
        runs.add(row, MEASURED, "cell", shown(text[row]), message)


def _merged(runs: _List, frame: pl.DataFrame, key: str, columns: pl.DataFrame) -> pl.DataFrame:
    """The frame with what the cells of a key say; what mla(...) or `padded` say otherwise is a fault."""
    for column in columns:
        if column.name in frame.columns:
            before = frame[column.name]
            for row in (before != column).fill_null(False).arg_true():
                own, other = (column, before) if column.name == key else (before, column)
                message = f"{own[row]} where {SAID_BY[column.name]} says {other[row]}"
                runs.add(row, column.name, "cell", shown(own[row]), message, "say it once")
            frame = frame.with_columns(before.zip_with(before.is_not_null(), column))
        else:
            frame = frame.with_columns(column)
    return frame


def _with_models(runs: _List, frame: pl.DataFrame, root: Path) -> pl.DataFrame:
    """The frame with what the named models say of keys that cells leave out."""
    models = {}
    for name in frame["model"].drop_nulls().unique(maintain_order=True):
        problems: list[Problem] = []
        found = collect(problems, given_by_model, root, name)
        if found is not None:
            models[name] = found
            continue
        about = problems[0]
        for row in (frame["model"] == name).fill_null(False).arg_true():
            runs.add(row, "model", about.rule, about.value, about.message, about.suggestion)
    at = frame["model"].replace_strict(list(models), range(len(models)), default=None, return_dtype=pl.Int64)
    said = [
        encoded(key.name, [model.get(key.name) for model in models.values()])[key.name].gather(at)
        for key in KEYS.values()
        if key.of_model
    ]
    return frame.with_columns(pl.coalesce(values.name, values).alias(values.name) for values in said)


def _default(key: Key) -> pl.Expr:
    """A key with its default where nothing says it; null where it has none or follows from others."""
    said, gated = pl.col(key.name), pl.col("gated_mlp")
    like_llama = {
        "normalization": pl.when(gated).then(pl.lit("rmsnorm")).otherwise(pl.lit("layernorm")),
        "position_embedding": pl.when(gated).then(pl.lit("rope")).otherwise(pl.lit("learned")),
        "tied_embeddings": ~gated,
    }
    if key.name in like_llama:
        alone = said.is_null() & pl.col("model").is_null()
        return pl.when(alone).then(like_llama[key.name]).otherwise(said).alias(key.name)
    default = _INSTEAD.get(key.name, key.default)
    if default is NEEDED or isinstance(default, pl.Expr):
        return said
    value = pl.lit(encoded(key.name, [default])[key.name]).first()
    if key.name == "ep":
        return pl.when(pl.col("largest_at").is_null()).then(pl.coalesce(said, value)).alias("ep")
    return pl.coalesce(said, value)


def _resolved(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows as workloads, named by their number."""
    run = ["run"] if "run" in frame.columns else []
    named = frame.with_columns(pl.coalesce("model", *run, pl.format("run{}", ROW)).alias("model"))
    workloads = with_derived(with_rules_applied(named))
    return workloads.with_columns(workload=pl.col(ROW).cast(pl.String)).select(*SCHEMA, ROW, "cluster")
