"""What is wrong with layouts that say in letters which part of a pipeline holds what."""

import re
from collections.abc import Mapping
from typing import Any

import polars as pl

from moesweep.shapes.placement import BEHIND_PREDICTION, LAYOUT, UNSAID, layout_parts

_READ = (LAYOUT, "pp", "virtual_pipeline", "num_layers", "mtp_num_layers", "tied_embeddings")


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
    if any(list(part) != sorted(part, key="EtmL".index) for part in parts):
        faults.append("a part runs E, t, m, L in this order")
    return "; ".join(faults + _faults_of_prediction(parts, workload))


def _faults_of_prediction(parts: tuple[str, ...], workload: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the places of m (Megatron `validate_layer_layout`), or not modelled."""
    places = [place for place, part in enumerate(parts) if "m" in part]
    if not places or places == [len(parts) - 1]:
        return []
    pp, chunks = workload["pp"], workload["virtual_pipeline"]
    faults = []
    if len(places) > 1:
        faults.append("all m stand in one part")
    if any("t" in part for part in parts[places[0] + 1 :]):
        faults.append("no t stands behind m")
    if any(place // pp != chunks - 1 or place % pp == 0 for place in places):
        faults.append("m stands in the last part of its stage, which is not the first one")
    behind = re.search(BEHIND_PREDICTION, workload[LAYOUT])
    if not faults and (behind is None or behind[1].count("|") != len(parts) - 1 - places[0]):
        faults.append("behind m each | is written out")
    if workload["mtp_num_layers"] > 1:
        faults.append("several m before the last part are not modelled")
    if workload["tied_embeddings"]:
        faults.append(
            "m before the last part beside tied embeddings, a table on three stages, is not modelled"
        )
    return faults
