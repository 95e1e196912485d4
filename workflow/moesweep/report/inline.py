"""A figure's SVG made part of a page: its text takes the page's colour, its ids stay its own."""

import re

from moesweep.edge.problems import BadInput, Problem
from moesweep.report.figures.ink import INK
from moesweep.store.layout import Results

PIXELS_A_POINT = 1.7
"""How large a figure is at most: its text as large as the page's notes."""

LEAST = 640
"""Pixels below which a figure scrolls sideways instead of shrinking."""


def inline_figure(results: Results, name: str, title: str) -> str:
    """Return a figure's `<svg>` element with a title for screen readers; raise BadInput if it is missing."""
    path = results.figure(name, "svg")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise BadInput([Problem(str(path), "", "readable", "", message, "run moesweep figures")]) from error
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>", "", body, flags=re.DOTALL)
    body = _own_ids(body, name).replace(INK, "currentColor")
    opening, rest = body.split(">", 1)
    widest = round(float(re.findall(r' width="([\d.]+)pt"', opening)[0]) * PIXELS_A_POINT)
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening)
    style = f"max-width:{widest}px;min-width:{min(widest, LEAST)}px"
    return f'{opening} style="{style}" role="img" aria-label="{title}">{rest}'


def _own_ids(body: str, name: str) -> str:
    """Drop ids that nothing refers to; the others get the figure's name, as two figures may use one."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))

    def renamed(match: re.Match[str]) -> str:
        return f' id="{name}-{match[1]}"' if match[1] in used else ""

    body = re.sub(r' id="([^"]+)"', renamed, body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
