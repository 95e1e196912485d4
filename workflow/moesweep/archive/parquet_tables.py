"""The Parquet tables of a manifest: which files hold each, and their columns."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from moesweep.archive.manifest import Entry
from moesweep.store.tablefile import dictionary

_PARTITION = re.compile(r"/workload=[^/]+/")


@dataclass(frozen=True)
class Table:
    """One table: the files that hold it together, and its declaration (schemas/tables/<name>.json).

    `key` tells tables apart that share columns but not files, such as costs/ops and traces/ops.
    """

    key: str
    files: list[Entry]
    declared: dict[str, Any]

    @property
    def rows(self) -> int:
        """Rows of all files together."""
        return sum(file.rows or 0 for file in self.files)

    @property
    def partitioned(self) -> bool:
        """Whether there is one file per workload, whose id stands in the path and not in a column."""
        return bool(_PARTITION.search(self.files[0].path))

    @property
    def pattern(self) -> str:
        """The path of the only file, or the glob pattern of all."""
        return _pattern(self.files[0].path)

    @property
    def columns(self) -> list[dict[str, Any]]:
        """Name, type, unit and description of each column."""
        columns: list[dict[str, Any]] = self.declared["columns"]
        return columns


def parquet_tables(files: Iterable[Entry]) -> list[Table]:
    """Return the tables that files hold, in order of their paths."""
    by_pattern: dict[str, list[Entry]] = defaultdict(list)
    for entry in files:
        if entry.table:
            by_pattern[_pattern(entry.path)].append(entry)
    return [
        Table(_key(pattern), found, _shared([dictionary(str(entry.table)) for entry in found]))
        for pattern, found in sorted(by_pattern.items())
    ]


def _shared(declared: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the declaration that all files of a table meet: that with the fewest columns."""
    return min(declared, key=lambda each: len(each["columns"]))


def _pattern(path: str) -> str:
    return _PARTITION.sub("/workload=*/", path)


def _key(pattern: str) -> str:
    """`costs`, `tables/memory`, `traces/ops`: a table's place as its name."""
    return pattern.partition("/workload=*/")[0].removesuffix(".parquet")
