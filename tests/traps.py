"""Hand-made traps: inputs that a stranger would send, not a careless user."""

import json
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from archives import rewritten, signed
from malformed import PAYLOADS, Input
from moesweep.store.tablefile import dictionary, dtypes, metadata

SWEEP, CONFIG, CLUSTER = "config/sweeps/small.yaml", "config/config.yaml", "config/clusters/mine.yaml"
GIGABYTE = 1 << 30
LAUGHS = "\n".join(
    ["a0: &a0 [lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 40)]
)
ROW = "rows:\n  - {model: %s, world_size: 16, tp: 2, pp: 2, ep: 2, global_batch_size: 32, seq_length: 128}\n"


def traps() -> Iterator[Input]:
    """Every trap, each with the command that walks into it."""
    for name, prepare in _files().items():
        yield Input(name, ("validate",), prepare)
    for number, payload in enumerate(PAYLOADS):
        named = json.dumps(payload.replace("\n", " "))
        for key, config in (("sweep", {"cluster": "mine"}), ("cluster", {"sweep": SWEEP})):
            text = json.dumps({"workloads_per_trace_job": 1, **config, key: payload})
            yield Input(f"{key} {number}", ("validate",), partial(_write, CONFIG, text))
        yield Input(f"model name {number}", ("validate",), partial(_write, SWEEP, ROW % named))
        yield Input(f"workload {number}", ("trace", "--workload", f"x{payload}"), _nothing)
    for name, prepare in _tables().items():
        yield Input(name, ("cost",), prepare)
    for name, prepare in _manifests().items():
        yield Input(name, ("verify", "archive"), prepare)
    yield Input(
        "runs of a gigabyte",
        ("predict", "runs.csv", "--out", "results/out.csv"),
        partial(_sparse, "runs.csv"),
    )
    yield Input("runs are a folder", ("predict", "config", "--out", "results/out.csv"), _nothing)
    yield Input("runs are binary", ("predict", "results/costs.parquet", "--out", "results/out.csv"), _nothing)
    yield Input("exchanges of 2^62 bytes", ("traffic",), _huge_exchanges)
    yield Input("the output is outside", ("validate",), partial(_link, "results", "../outside"))
    yield Input("traces are outside", ("validate",), partial(_link, "results/traces", "../../outside"))
    yield Input("records are outside", ("validate",), partial(_link, ".snakemake", "../outside"))
    yield Input("costs are outside", ("cost",), partial(_link, "results/costs", "../../outside"))


def _files() -> dict[str, Callable[[Path], object]]:
    return {
        "billion laughs": partial(_write, SWEEP, LAUGHS),
        "billion laughs in the configuration": partial(_write, CONFIG, LAUGHS),
        "a gigabyte": partial(_sparse, SWEEP),
        "a gigabyte of configuration": partial(_sparse, CONFIG),
        "a pipe": partial(_pipe, SWEEP),
        "a pipe as configuration": partial(_pipe, CONFIG),
        "a device": partial(_link, SWEEP, "/dev/zero"),
        "a folder": partial(_folder, SWEEP),
        "a link out": partial(_link, SWEEP, "../../../outside/sweep.yaml"),
        "a linked model": partial(_link, "config/models/tiny.yaml", "/etc/passwd"),
        "linked models": partial(_link, "config/models", "/etc"),
        "a linked folder": partial(_link, "config/sweeps", "../../outside"),
        "a linked configuration": partial(_link, CONFIG, "/etc/passwd"),
        "a link to itself": partial(_link, SWEEP, "small.yaml"),
        "nothing": partial(_write, CONFIG, ""),
        "zeros": partial(_write, CONFIG, "\0" * 1000),
        "another encoding": partial(_bytes, SWEEP, ROW.encode("utf-16")),
        "a constructed object": partial(_write, CONFIG, f"!!python/object/apply:os.system ['touch {SWEEP}']"),
        "a merged mapping": partial(_write, CONFIG, "<<: {sweep: x}\nsweep: y\n"),
        "a hundred thousand rows": partial(_write, SWEEP, "rows:\n" + "  - {}\n" * 100_001),
        "a huge grid": partial(_write, SWEEP, f"grids: [{{model: tiny, tp: {list(range(1, 999))}}}]"),
        "deep nesting": partial(_write, SWEEP, "rows: " + "[" * 100_000),
        "deep flow mappings": partial(_write, SWEEP, "rows: " + "{a: " * 5000),
        "one long line": partial(_write, SWEEP, "rows: [" + "1, " * 300_000 + "1]"),
        "many keys": partial(_write, CONFIG, "".join(f"k{i}: 1\n" for i in range(50_000))),
    }


def _tables() -> dict[str, Callable[[Path], object]]:
    file = "results/workloads.parquet"
    paths = ["../../outside/x", "/etc/passwd", "a/../../../outside", "..", "", "a\nb", "x" * 300, "{params}"]
    ids = {f"the id {path[:20]!r}": partial(_column, file, "workload", path) for path in paths}
    return {
        **ids,
        "a missing column": partial(_table, file, lambda frame: frame.drop("tp")),
        "a column of another type": partial(_table, file, lambda f: f.with_columns(tp=pl.lit("many"))),
        "another word": partial(_table, file, lambda f: f.with_columns(kind=pl.lit("sparse"))),
        "no rows": partial(_table, file, lambda frame: frame.clear()),
        "nulls": partial(_table, file, lambda f: f.with_columns(workload=pl.lit(None, pl.String))),
        "too many rows": partial(_many_rows, file),
        "too many columns": partial(_table, file, _wide),
        "another table": partial(_copied, "results/costs.parquet", file),
        "no Parquet": partial(_write, file, "PAR1" + "x" * 100 + "PAR1"),
        "an empty file": partial(_write, file, ""),
        "a pattern for a name": partial(_column, file, "workload", "*"),
    }


def _manifests() -> dict[str, Callable[[Path], object]]:
    def one(**entry: Any) -> Callable[[Path], object]:
        whole = {
            "path": "a",
            "bytes": 1,
            "sha256": "0" * 64,
            "rows": None,
            "table": None,
            "schema_version": None,
        }
        return lambda project: rewritten(project / "archive", files=[whole | entry])

    return {
        "a manifest of brackets": partial(_signed, b"[" * 100_000),
        "a manifest of digits": partial(_signed, b'"manifest_version": ' + b"9" * 9999 + b"}"),
        "a list as manifest": partial(_signed, b'"manifest_version": 1, "files": 3}'),
        "a file outside": one(path="../outside/x"),
        "a file from the root": one(path="/etc/passwd"),
        "a table from elsewhere": one(table="../../config/config", schema_version=1),
        "negative bytes": one(bytes=-1),
        "a manifest of a gigabyte": partial(_sparse, "archive/manifest.json"),
        "a linked manifest": partial(_link, "archive/manifest.json", "/etc/passwd"),
        "a manifest that is a pipe": partial(_pipe, "archive/manifest.json"),
    }


def _nothing(project: Path) -> None:
    """Leave the project as it is."""


def _write(file: str, text: str, project: Path) -> None:
    _bytes(file, text.encode(), project)


def _bytes(file: str, content: bytes, project: Path) -> None:
    (project / file).write_bytes(content)


def _sparse(file: str, project: Path) -> None:
    with (project / file).open("wb") as opened:
        opened.truncate(GIGABYTE)


def _gone(path: Path) -> None:
    """Take a file or folder out of the way; the copy of the project is thrown away anyway."""
    if path.exists() or path.is_symlink():
        path.rename(path.with_name(f"{path.name}.{random.random()}"))


def _link(file: str, target: str, project: Path) -> None:
    (project / file).parent.mkdir(parents=True, exist_ok=True)
    _gone(project / file)
    (project / file).symlink_to(target)


def _pipe(file: str, project: Path) -> None:
    _gone(project / file)
    os.mkfifo(project / file)


def _folder(file: str, project: Path) -> None:
    _gone(project / file)
    (project / file).mkdir()


def _signed(body: bytes, project: Path) -> None:
    signed(project / "archive/manifest.json", body)


def _copied(source: str, target: str, project: Path) -> None:
    (project / target).write_bytes((project / source).read_bytes())


def _table(file: str, change: Callable[[pl.DataFrame], pl.DataFrame], project: Path) -> None:
    path = project / file
    change(pl.read_parquet(path)).write_parquet(path, metadata=metadata("workloads"))


def _column(file: str, column: str, value: object, project: Path) -> None:
    _table(file, lambda frame: frame.with_columns(pl.lit(value).alias(column)), project)


def _huge_exchanges(project: Path) -> None:
    """Whatever an op sends is half of what 64 bits hold: each row is sound, and their sum is not."""
    for path in (project / "results/traces/programs").rglob("*.parquet"):
        frame = pl.read_parquet(path, hive_partitioning=False)
        told = {key: text for key, text in pl.read_parquet_metadata(path).items() if "moesweep" in key}
        sent = pl.when(pl.col("wire_bytes") > 0).then(2**62).otherwise("wire_bytes").alias("wire_bytes")
        frame.with_columns(sent).write_parquet(path, metadata=told)


def _wide(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.lit(0).alias(f"c{i}") for i in range(6000))


def _many_rows(file: str, project: Path) -> None:
    """Twenty million rows in a few kilobytes: every column one value, repeated."""
    values = {column["name"]: column.get("values", [""])[0] for column in dictionary("workloads")["columns"]}
    columns = [
        pl.lit(values[name] if dtype in (pl.String, pl.Enum) else 0, dtype).alias(name)
        for name, dtype in dtypes("workloads").items()
    ]
    rows = pl.LazyFrame({"n": [0]}).select(pl.repeat(0, 20_000_000, dtype=pl.Int8).alias("n")).select(columns)
    rows.sink_parquet(project / file, metadata=metadata("workloads"))
