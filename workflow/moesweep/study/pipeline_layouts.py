"""What is wrong with layouts that say in letters which part of a pipeline holds what."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from moesweep.shapes.placement import LAYOUT, UNSAID, layout_parts

_READ = (LAYOUT, "pp", "virtual_pipeline", "num_layers", "mtp_num_layers")


def layout_faults() -> pl.Expr:
    """Return all that is wrong with a workload's layout as text, "" if nothing is or none is said."""
    return pl.struct(_READ).map_batches(_faults, return_dtype=pl.String)


def _faults(rows: pl.Series) -> pl.Series:
    frame = rows.struct.unnest()
    distinct = frame.filter(pl.col(LAYOUT) != UNSAID).unique(maintain_order=True)
    if distinct.is_empty():
        return pl.repeat("", len(rows), eager=True, dtype=pl.String)
    found = distinct.with_columns(fault=pl.Series([_fault(row) for row in distinct.iter_rows(named=True)]))
    joined = frame.join(found, on=_READ, how="left", maintain_order="left")
    return joined["fault"].fill_null("")


def _fault(workload: Mapping[str, Any]) -> str:
    """Return what is wrong with one layout, with what would be right."""
    try:
        parts = layout_parts(workload[LAYOUT])
    except ValueError as error:
        return f"needed: {error}"
    wanted = workload["pp"] * workload["virtual_pipeline"]
    letters = "".join(parts)
    faults = []
    if len(parts) != wanted:
        faults.append(f"{len(parts)} parts, pp * virtual_pipeline are {wanted}")
    for letter, key in (("t", "num_layers"), ("m", "mtp_num_layers")):
        if letters.count(letter) != workload[key]:
            faults.append(f"{letters.count(letter)} {letter}, {key} is {workload[key]}")
    if letters.count("E") != 1 or not parts[0].startswith("E"):
        faults.append("one E begins the first part")
    if letters.count("L") != 1 or not parts[-1].endswith("L"):
        faults.append("one L ends the last part")
    if "m" in "".join(parts[:-1]):
        faults.append("multi-token prediction before the last part is not modelled")
    if any(list(part) != sorted(part, key="EtmL".index) for part in parts):
        faults.append("a part runs E, t, m, L in this order")
    return "; ".join(faults)
