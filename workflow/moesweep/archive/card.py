"""README.md of an archive: what it holds, how to read and verify it, and what every column means."""

from typing import Any

from moesweep.archive.croissant import cite_as, name
from moesweep.archive.manifest import NAME, Manifest
from moesweep.archive.parquet_tables import Table, parquet_tables
from moesweep.edge.problems import one_line

_QUERIES = """\
DuckDB, what expert parallelism costs each MoE workload, beside its dense twin:

```sql
SELECT w.model, w.world_size, w.tp, w.pp, w.ep,
       c.iteration_seconds,
       c.ep_comm_seconds / c.iteration_seconds AS ep_share,
       twin.iteration_seconds AS dense_iteration_seconds
FROM 'workloads.parquet' AS w
JOIN 'costs.parquet' AS c USING (workload)
JOIN 'costs.parquet' AS twin ON twin.workload = w.twin
ORDER BY ep_share DESC, w.workload
LIMIT 10;
```

polars, the bytes that all ranks of one workload put on links in an iteration:

```python
import polars as pl

workload = pl.read_parquet("workloads.parquet")["workload"][0]
print(
    pl.scan_parquet(f"traces/ops/workload={workload}/ops.parquet")
    .filter(pl.col("collective").is_not_null())
    .group_by("group_kind", "collective")
    .agg(wire_bytes=(pl.col("wire_bytes").cast(pl.Int128) * pl.col("num_microbatches")).sum())
    .sort("wire_bytes", descending=True)
    .collect()
)
```

pandas, the ops that one workload's first stage spends most time in:

```python
import pandas as pd

workload = pd.read_parquet("workloads.parquet")["workload"][0]
ops = pd.read_parquet(f"costs/ops/workload={workload}/ops.parquet")
ops["iteration_seconds"] = ops["seconds"] * ops["num_microbatches"]
first = ops[ops["stage"] == 0]
print(first.groupby("op")["iteration_seconds"].sum().sort_values(ascending=False).head(10))
```
"""

_CHECK = """\
```python
import hashlib, json, pathlib

raw = pathlib.Path("manifest.json").read_bytes()
manifest = json.loads(raw)
assert hashlib.sha256(raw.split(b"\\n", 1)[1]).hexdigest() == manifest["sha256"]
for file in manifest["files"]:
    assert hashlib.sha256(pathlib.Path(file["path"]).read_bytes()).hexdigest() == file["sha256"], file
```
"""


def card(manifest: Manifest, citation: dict[str, Any]) -> str:
    """Return the card as Markdown; `citation` is CITATION.cff."""
    tables = parquet_tables(manifest.files)
    parts = [
        _opening(manifest, citation),
        _content(tables),
        "## Queries\n\nRun as pasted, in this folder.\n\n" + _QUERIES,
        _verification(),
        _origin(manifest),
        _dictionary(tables),
        f"## Citing and licence\n\n{cite_as(citation)} `CITATION.cff` has it for tools. "
        f"Licence: {citation['license']}, see `LICENSE`.\n",
    ]
    return "\n".join(parts)


def _opening(manifest: Manifest, citation: dict[str, Any]) -> str:
    settings = manifest.origin["config"]["settings"]
    return (
        f"# {name(manifest)}\n\n"
        f"{citation['title']}. The sweep {_code(settings['sweep'])} on the cluster "
        f"{_code(settings['cluster'])}, "
        f"{len(manifest.files)} files of results, by moesweep {manifest.origin['code']['version']}.\n\n"
        "Everything is computed from declared configurations and the constants of a cluster; nothing is a "
        "measurement of a training run. Rows of a trace are folded over micro-batches: "
        "`num_microbatches` says how often a row runs in one iteration. Numbers that do not apply are 0 (a "
        "layer -1), words that do not apply are null.\n"
    )


def _code(text: str) -> str:
    """A user's text as Markdown's code, which it cannot end."""
    return "`" + one_line(text).replace("`", "'") + "`"


def _content(tables: list[Table]) -> str:
    lines = [
        f"| `{table.pattern}` | {len(table.files)} | {table.rows} | {table.declared['description']} |"
        for table in tables
    ]
    return (
        "## What it holds\n\n"
        "| Parquet files | files | rows | |\n|---|--:|--:|---|\n" + "\n".join(lines) + "\n\n"
        "`tables/` has its tables as CSV and Markdown too. `summary.txt` is the study's summary, "
        "`schema.json` the columns below for machines, `croissant.json` the same as Croissant metadata, "
        "`config/` the configuration files as they were.\n"
    )


def _verification() -> str:
    return (
        "## Verifying\n\n"
        "`pip install moesweep` and `moesweep verify .` find every changed, missing, extra or renamed file. "
        "Without it, `sha256sum -c manifest-sha256.txt` one folder up finds what changed or is missing; "
        f"`{NAME}` has the SHA-256 of every other file, and on its first line that of its later lines:\n\n"
        + _CHECK
    )


def _origin(manifest: Manifest) -> str:
    code, environment = manifest.origin["code"], manifest.origin["environment"]
    modified = ", with changes since" if code["git_modified"] else ""
    commit = f", commit `{code['git_commit']}`{modified}" if code["git_commit"] else ""
    versions = ", ".join(f"{key} {value}" for key, value in environment.items())
    return (
        "## How it was made\n\n"
        f"moesweep {code['version']}{commit}, sources `{code['source_sha256']}`, with {versions}. "
        f"`{NAME}` has the resolved configuration: settings, models, every constant of the cluster with its "
        "source. The same inputs make the same bytes, so no time, host or user is recorded.\n"
    )


def _dictionary(tables: list[Table]) -> str:
    parts = ["## Columns\n"]
    for table in tables:
        path = f"`{table.pattern}`" + (", and the workload in the path" if table.partitioned else "")
        parts.append(f"### {table.key}\n\n{table.declared['description']} {path}\n")
        parts.append("| column | type | unit | meaning |\n|---|---|---|---|")
        parts += [
            f"| {column['name']} | {column['type']} | {column.get('unit', '')} | {_meaning(column)} |"
            for column in table.columns
        ]
        parts.append("")
    return "\n".join(parts)


def _meaning(column: dict[str, Any]) -> str:
    words = f" ({', '.join(column['values'])})" if "values" in column else ""
    return f"{column['description']}{words}".replace("|", "\\|")
