"""The figures' files: SVG of all, PNG of those that are asked for; the same bytes from the same results."""

import hashlib
import io
import json
from collections.abc import Iterable
from typing import Any

import polars as pl

from moesweep.edge.problems import BadInput, Problem, did_you_mean, shown
from moesweep.report.evidence import Evidence
from moesweep.report.figures.gallery import FIGURES
from moesweep.report.figures.style import Shown, as_svg, look
from moesweep.store.layout import Results
from moesweep.store.memo import MADE_FROM, Memo, remade
from moesweep.store.parts import made_from
from moesweep.store.tablefile import whole

PNG_DOTS_PER_INCH = 130


def write_figures(results: Results) -> None:
    """Write figures/<name>.svg, drawn anew where what it shows has moved; raise BadInput on unusable results.

    The PNG of a figure that is drawn anew goes: it shows something else.
    """
    evidence = Evidence(results)
    # Before the first figure is written, not when one is drawn that needs them.
    evidence.check()
    showing = {name: each.shown(evidence) for name, each in FIGURES.items()}
    digests = [made_from("figures", name, _digest(each)) for name, each in showing.items()]
    wanted = pl.DataFrame({"name": list(showing), MADE_FROM: digests})

    def svg(name: str) -> str:
        return as_svg(name, FIGURES[name].draw, showing[name])

    def drawn(some: pl.DataFrame) -> list[pl.DataFrame]:
        for name in some["name"]:
            results.figure(name, "png").unlink(missing_ok=True)
        return [some.with_columns(svg=pl.Series([svg(name) for name in some["name"]]))]

    (found,) = remade([Memo(results, "figures", "svg")], wanted, drawn)
    for name, text in found.select("name", "svg").iter_rows():
        with whole(results.figure(name, "svg")) as partial:
            partial.write_text(text, encoding="utf-8")


def write_pngs(results: Results, names: Iterable[str]) -> None:
    """Write figures/<name>.png of some figures; raise BadInput on an unknown one and on unusable results."""
    if unknown := [name for name in names if name not in FIGURES]:
        raise BadInput(map(_unknown, unknown))
    evidence = Evidence(results)
    evidence.check()
    for name in names:
        showing, file = FIGURES[name].shown(evidence), results.figure(name, "png")
        with look(name), whole(file) as partial:
            # A page behind it: PNGs are pasted into all kinds of places.
            FIGURES[name].draw(**showing).savefig(
                partial,
                format="png",
                dpi=PNG_DOTS_PER_INCH,
                facecolor="white",
                metadata={"Software": None},
            )


def _unknown(name: str) -> Problem:
    advice = did_you_mean(name, FIGURES)
    return Problem("", "--png", "known", shown(name), f"there is no figure {name}", advice)


def _digest(showing: Shown) -> str:
    """Return a digest of what a figure shows: frames, and numbers and text."""
    digest = hashlib.sha256()
    for name, value in showing.items():
        digest.update(f"{name}\n".encode() + _bytes(value))
    return digest.hexdigest()


def _bytes(value: Any) -> bytes:
    if not isinstance(value, pl.DataFrame):
        return json.dumps(value).encode()
    buffer = io.BytesIO()
    value.rechunk().write_ipc(buffer, compression="uncompressed")
    return buffer.getvalue()
