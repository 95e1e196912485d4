"""How a router spreads tokens over experts: what a sweep may say, and the one text that stands for it.

`balanced` is as even as whole tokens allow. `aux_loss`, `bias` and `uncontrolled` say what evens the load:
how far the busiest rank is from the mean is known of such trainings (moesweep.cost.skew). Any other is
given, and its text says all that the counts depend on: `zipf(alpha=1.2,seed=7,capacity=1.25)`,
`lognormal(sigma=0.5,seed=0)`, `table(file=config/routing/mine.parquet,sha256=0123456789abcdef)`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.natives import kept_back
from moesweep.edge.paths import inside
from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.shapes.layer_kinds import moe_layers
from moesweep.study.words import digest, number, worded

PARAMETERS = {"zipf": "alpha", "lognormal": "sigma"}
"""Routings with popularities drawn from a seed, and what their one number is called."""

WORDS = ("balanced", "aux_loss", "bias", "uncontrolled")
"""Routings that need no more than a word."""

FORMS = (*PARAMETERS, "table")
TABLE_COLUMNS = ("layer", "expert", "tokens")
MAX_TABLE_BYTES = 1 << 26

given = pl.col("routing").str.contains("(", literal=True)
"""Whether a workload's counts are given, so that its experts differ."""


@dataclass(frozen=True)
class Routing:
    """A given routing: `form` is one of FORMS.

    parameter  alpha or sigma
    seed       of the order of the experts, and of their lognormal popularities
    file       of a measured table, from the project; `digest` are the first 16 digits of its SHA-256
    capacity   of every expert, as a multiple of its even part of a rank's copies; None for no limit
    """

    form: str
    parameter: float = 0.0
    seed: int = 0
    file: str = ""
    digest: str = ""
    capacity: Fraction | None = None

    @property
    def text(self) -> str:
        """The canonical text; `parsed` is its inverse."""
        if self.form == "table":
            parts = [f"file={self.file}", f"sha256={self.digest}"]
        else:
            parts = [f"{PARAMETERS[self.form]}={number(self.parameter)}", f"seed={self.seed}"]
        if self.capacity is not None:
            parts.append(f"capacity={number(float(self.capacity))}")
        return f"{self.form}({','.join(parts)})"


def parsed(text: str) -> Routing:
    """Return the routing that a canonical text stands for."""
    form, _, rest = text.removesuffix(")").partition("(")
    values = dict(part.split("=", 1) for part in rest.split(","))
    return Routing(
        form,
        float(values.get(PARAMETERS.get(form, ""), 0)),
        int(values.get("seed", 0)),
        values.get("file", ""),
        values.get("sha256", ""),
        Fraction(values["capacity"]) if "capacity" in values else None,
    )


def as_written(text: str) -> str | dict[str, Any]:
    """Return what a sweep says for a canonical text."""
    if "(" not in text:
        return text
    routing = parsed(text)
    written: dict[str, Any] = {routing.form: routing.file or routing.parameter}
    if routing.seed:
        written["seed"] = routing.seed
    if routing.capacity is not None:
        written["capacity_factor"] = float(routing.capacity)
    return written


def spoken(text: str) -> str:
    """Return what the id of a workload says of a canonical text: `zipf1.2`, `lognormal0.5+seed7`, `table~`.

    A table is told by 8 digits of its name's SHA-256, so that its id lasts when its counts are mended.
    """
    if "(" not in text:
        return text
    routing = parsed(text)
    if routing.form == "table":
        words = [f"table~{digest(routing.file)}"]
    else:
        words = [worded(routing.form, number(routing.parameter))]
    if routing.seed:
        words.append(f"seed{routing.seed}")
    if routing.capacity is not None:
        words.append(worded("capacity", number(float(routing.capacity))))
    return "+".join(words)


def with_texts(
    parts: Mapping[str, dict[str, Any]], root: Path, file: str
) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Return parts of a sweep, by path, with every routing as its text, and what is wrong with them.

    The parts have passed the sweep's schema; a faulty routing becomes balanced.
    """
    problems: list[Problem] = []

    def resolved(value: Any, where: str) -> Any:
        if isinstance(value, list):
            return [_text(item, f"{where}[{i}]", root, file, problems) for i, item in enumerate(value)]
        return _text(value, where, root, file, problems)

    texts = {
        path: part | {"routing": resolved(part["routing"], f"{path}.routing")} if "routing" in part else part
        for path, part in parts.items()
    }
    return texts, problems


def _text(value: Any, path: str, root: Path, file: str, problems: list[Problem]) -> str:
    """Return the text of one routing; append to `problems` instead of raising."""
    if value in WORDS:
        return str(value)
    found = _faults(value, path, file)
    if not found:
        try:
            return _routing(value, root).text
        except BadInput as bad:
            found = [Problem(file, f"{path}.table", p.rule, p.value, p.message) for p in bad.problems]
    problems += found
    return "balanced"


def _faults(value: str | Mapping[str, Any], path: str, file: str) -> list[Problem]:
    """Return what the schema cannot say of a routing that is not balanced."""
    if isinstance(value, str):
        example = {"table": "config/routing/mine.parquet"}.get(value, "1.2")
        message = f"{value} is not said how: it needs a {'file' if value == 'table' else 'number'}"
        return [Problem(file, path, "routing_form", value, message, f"write {{{value}: {example}}}")]
    forms = [form for form in FORMS if form in value]
    if len(forms) != 1:
        message = f"a routing is one of {', '.join(FORMS)}; here are {len(forms)} of them"
        return [Problem(file, path, "routing_form", shown(value), message, "write {zipf: 1.2}, for example")]
    problems = []
    if "table" in value and "seed" in value:
        message = "a measured table has nothing random that a seed could choose"
        problems.append(Problem(file, f"{path}.seed", "unknown_key", shown(value["seed"]), message))
    return problems


def _routing(value: Mapping[str, Any], root: Path) -> Routing:
    factor = value.get("capacity_factor")
    capacity = None if factor is None else Fraction(number(factor))
    if "table" in value:
        name = value["table"]
        read_counts(root, name)
        return Routing("table", file=name, digest=_digest(inside(root, name)), capacity=capacity)
    form = next(form for form in PARAMETERS if form in value)
    return Routing(form, float(value[form]), value.get("seed", 0), capacity=capacity)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _bad(file: str, rule: str, value: object, message: str, suggestion: str = "") -> BadInput:
    return BadInput([Problem(file, "", rule, shown(value), message, suggestion)])


def read_counts(root: Path, name: str, digest: str = "") -> pl.DataFrame:
    """Return layer, expert and tokens of a measured table, ordered by layer and expert.

    Raises BadInput if it cannot be read, lacks a column or holds anything but counts, counts an expert
    twice or not in every layer, if the layers' sums differ, or if it is not the file of that digest.
    """
    path = inside(root, name)
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise _bad(name, "table_size", path.stat().st_size, "is too large for a routing table")
        if not path.is_file():
            raise _bad(name, "readable", name, f"{name} cannot be read as Parquet: not a regular file")
        with kept_back():
            frame = pl.read_parquet(path, hive_partitioning=False, glob=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).partition("\n")[0]
        raise _bad(name, "readable", name, f"{name} cannot be read as Parquet: {reason}") from error
    missing = [column for column in TABLE_COLUMNS if column not in frame.columns]
    if missing:
        needed = f"a routing table has the columns {', '.join(TABLE_COLUMNS)}"
        raise _bad(name, "columns", missing[0], f"{name} has no column {missing[0]}: {needed}")
    if digest and _digest(path) != digest:
        message = f"{name} has changed since the sweep was enumerated"
        raise _bad(name, "digest", digest, message, "run make sweep")
    return _counted(frame.select(TABLE_COLUMNS), name)


def _counted(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    faulty = [column for column, dtype in frame.schema.items() if not dtype.is_integer()]
    # What is more than 64 bits hold is null then, and no narrower type has to hold the bounds.
    counts = frame.with_columns(pl.exclude(faulty).cast(pl.Int64, strict=False))
    sound = counts.select((pl.exclude(faulty).is_between(0, 2**40)).fill_null(False).all())
    faulty += [column for column in sound.columns if not sound[column].item()]
    if faulty:
        dtype = str(frame.schema[faulty[0]])
        message = f"{name}: {faulty[0]} holds something else than counts from 0 to 2^40"
        raise _bad(name, "counts", dtype, message, "whole numbers, none missing")
    frame = counts.sort("layer", "expert")
    experts = int(frame["expert"].max() or 0) + 1 if frame.height else 0  # type: ignore[arg-type]
    layers = frame.group_by("layer", maintain_order=True).agg(
        rows=pl.len(), distinct=pl.col("expert").n_unique(), total=pl.col("tokens").sum()
    )
    wrong = layers.filter((pl.col("rows") != experts) | (pl.col("distinct") != experts))
    if not frame.height or wrong.height:
        place = f"layer {wrong['layer'][0]}" if wrong.height else "it"
        message = f"{name}: {place} does not count each of {experts} experts once"
        raise _bad(name, "experts", experts, message)
    if layers["total"].n_unique() > 1 or not layers["total"][0]:
        sums = sorted(layers["total"].unique().to_list())
        message = f"{name}: every layer routes the same copies, but the layers' tokens sum to {shown(sums)}"
        raise _bad(name, "sums", shown(sums), message)
    return frame


def misfit(routing: str, root: Path, workload: Mapping[str, Any]) -> str:
    """Return why a workload cannot have a measured routing; empty if it can, or has another."""
    if not routing.startswith("table("):
        return ""
    spec = parsed(routing)
    counts = read_counts(root, spec.file)
    found, wanted = counts["expert"].n_unique(), workload["num_experts"]
    if found != wanted:
        return f"{spec.file} counts {found} experts, the workload has {wanted}"
    layers = set(moe_layers(workload))
    missing, extra = sorted(layers - set(counts["layer"])), sorted(set(counts["layer"]) - layers)
    if missing or extra:
        what = f"lacks MoE layers {shown(missing)}" if missing else f"has layers {shown(extra)} too many"
        return f"{spec.file} {what}"
    topk, total = workload["moe_router_topk"], counts["tokens"].sum() // counts["layer"].n_unique()
    full = counts.filter(pl.col("tokens").cast(pl.Int128) * topk > total)
    if full.height:
        layer, expert, tokens = full.row(0)
        return (
            f"{spec.file} gives expert {expert} of layer {layer} {tokens} of {total} copies; "
            f"a token's {topk} experts differ, so one gets {total // topk} at most"
        )
    return ""


def sent_between(table: pl.DataFrame, ep: int, etp: int) -> pl.DataFrame:
    """Return layer, source, ep_rank, copies: what each member of an EP group sends to each, per micro-batch.

    From a table of given_routing. Laid out by expert, the dropped ones among them, copy number q of a
    layer comes from member q mod e: so every member routes as many, what is sent is what is received, and
    to no expert does a member send more than one copy more than another.
    """
    routed, source = (pl.col("rows") + pl.col("dropped")) // etp, pl.col("source")
    end = pl.col("end")
    # Of the copies numbered below x, every e-th from its own number on is a member's.
    all_of_member = (end + ep - 1 - source) // ep - (end - pl.col("routed") + ep - 1 - source) // ep
    # An expert that drops copies is full of every member's.
    full = pl.col("rows") // (etp * ep)
    return (
        table.with_columns(routed=routed)
        .with_columns(end=pl.col("routed").cum_sum().over("layer"))
        .with_columns(source=pl.lit(list(range(ep)), dtype=pl.List(pl.Int64)))
        .explode("source")
        .with_columns(copies=pl.when(pl.col("dropped") > 0).then(full).otherwise(all_of_member))
        .group_by("layer", "source", "ep_rank", maintain_order=True)
        .agg(pl.col("copies").sum())
    )
