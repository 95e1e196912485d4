"""The files of the last stage: every table as Parquet, CSV and Markdown, the summary, the data dictionary."""

import json
from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from moesweep import __version__
from moesweep.edge.problems import BadInput, Problem, collect
from moesweep.store.layout import Results
from moesweep.store.tablefile import TABLES as DECLARED
from moesweep.store.tablefile import conform, dictionary, whole, write_table
from moesweep.store.values import check_rows
from moesweep.study.catalog import with_memory
from moesweep.tables.markdown import markdown
from moesweep.tables.registry import RECOSTED, TABLES
from moesweep.tables.results import read_inputs
from moesweep.tables.summary import summary


def write_tables(results: Results, memory: str | None = None) -> None:
    """Write tables/<name>.{parquet,csv,md}, summary.txt, schema.json.

    `memory` is the size of a GPU that recomputation is to fit, such as 40GiB, instead of the cluster's.
    Raises BadInput on unusable inputs, and with every fault of every table before any of them is written.
    """
    inputs = read_inputs(results)
    if memory is not None:
        asked = with_memory(inputs.cluster, memory).value("hbm_bytes")
        inputs = replace(inputs, memory_bytes=asked)
    inputs.recost_at_once({name: beside(inputs) for name, beside in RECOSTED.items()})
    tables = {name: conform(table(inputs).lazy(), name).collect() for name, table in TABLES.items()}
    _refuse_faults(results, tables)
    facts = {"cluster": inputs.cluster.name}
    for name, frame in tables.items():
        write_table(frame.lazy(), results.table(name, "parquet"), name, facts)
        with whole(results.table(name, "csv")) as partial:
            _harmless(frame).write_csv(partial)
        _write_text(results, name, frame)
    with whole(results.summary) as partial:
        partial.write_text(summary(inputs, tables), encoding="utf-8")
    with whole(results.dictionary) as partial:
        partial.write_text(_dictionaries(), encoding="utf-8")


def _refuse_faults(results: Results, tables: Mapping[str, pl.DataFrame]) -> None:
    problems: list[Problem] = []
    for name, frame in tables.items():
        collect(problems, check_rows, frame, dictionary(name), str(results.table(name, "parquet")))
    if problems:
        raise BadInput(problems)


def _harmless(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose words no spreadsheet takes for a formula: one that looks like it gets a quote."""
    words = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    return frame.with_columns(pl.col(name).str.replace(r"^[=+@\t\r-]", "'${0}") for name in words)


def _write_text(results: Results, name: str, frame: pl.DataFrame) -> None:
    with whole(results.table(name, "md")) as partial:
        partial.write_text(markdown(frame, name), encoding="utf-8")


def _dictionaries() -> str:
    names = sorted(path.stem for path in DECLARED.glob("*.json"))
    declared = {"moesweep_version": __version__, "tables": {name: dictionary(name) for name in names}}
    return json.dumps(declared, ensure_ascii=False, indent=1) + "\n"
