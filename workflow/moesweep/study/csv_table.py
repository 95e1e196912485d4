"""CSV files as text cells: every line that is no row is named."""

import csv
import io
from pathlib import Path

import polars as pl

from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.edge.textfile import read_text

MAX_FILE_BYTES = 1 << 26


def read_table(path: Path) -> tuple[pl.DataFrame, list[int]]:
    """Return a CSV file's cells as text, null where blank, and the line on which each row ends.

    Raises BadInput with every line that is no row, or where there is no row at all.
    """
    file = str(path)
    lines = csv.reader(io.StringIO(read_text(path, file, MAX_FILE_BYTES), newline=""), strict=True)
    try:
        rows = [(lines.line_num, row) for row in lines if row]
    except csv.Error as error:
        fault = Problem(file, f"line {lines.line_num}", "csv", "", f"cannot be read as CSV: {error}")
        raise BadInput([fault]) from error
    header = rows[0][1] if rows else []
    problems = [
        Problem(file, "line 1", "duplicate", shown(name), f"the column {shown(name)} occurs twice")
        for name in dict.fromkeys(name for name in header if header.count(name) > 1)
    ]
    for line, row in rows[1:]:
        if len(row) != len(header):
            message = f"{len(row)} cells where the header has {len(header)}"
            problems.append(Problem(file, f"line {line}", "cells", str(len(row)), message))
    if problems:
        raise BadInput(problems)
    if len(rows) < 2:
        raise BadInput([Problem(file, "", "empty", "", "holds no run", "one row a run")])
    cells = [[cell if cell.strip() else None for cell in row] for _, row in rows[1:]]
    frame = pl.DataFrame(cells, schema=dict.fromkeys(header, pl.String), orient="row")
    return frame, [line for line, _ in rows[1:]]
