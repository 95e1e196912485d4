"""A figure's SVG made part of a page: its text takes the page's colour, its ids stay its own."""

import re
from xml.etree import ElementTree

from moesweep.report.drawing import HREF, read_drawing
from moesweep.report.figures.ink import INK, NOTHING
from moesweep.store.layout import Results

JOINS = "stroke-linejoin: round; stroke-linecap: butt"
"""How the lines of figures end, which their own style says of all elements of what they stand in."""

PIXELS_A_POINT = 1.7
"""How large a figure is at most: its text as large as the page's notes."""

LEAST = 640
"""Pixels below which a figure scrolls sideways instead of shrinking."""

_REFERENCE = re.compile(r"(?<=url\(#)[^)]+")
_POINTS = re.compile(r"([0-9]+(?:\.[0-9]+)?)pt")


def inline_figure(results: Results, name: str, title: str) -> tuple[str, str]:
    """Return a figure's `<svg>` element with a title for screen readers, and nothing; or nothing, and why.

    Raises BadInput if the file is missing, or does more than to draw.
    """
    drawing = read_drawing(results.figure(name, "svg"))
    if (reason := drawing.find(f".//*[@id='{NOTHING}']")) is not None:
        return "", " ".join("".join(reason.itertext()).split())
    _own_ids(drawing, name)
    length = _POINTS.fullmatch(drawing.attrib.pop("width", ""))
    drawing.attrib.pop("height", None)
    widest = round(float(length[1]) * PIXELS_A_POINT) if length else LEAST
    size = f"max-width:{widest}px;min-width:{min(widest, LEAST)}px"
    drawing.attrib |= {"style": f"{JOINS}; {size}", "role": "img", "aria-label": title}
    return ElementTree.tostring(drawing, encoding="unicode").replace(INK, "currentColor"), ""


def _own_ids(drawing: ElementTree.Element, name: str) -> None:
    """Drop ids that nothing refers to; the others get the figure's name, as two figures may use one."""
    elements = list(drawing.iter())
    used = {value.removeprefix("#") for each in elements for key, value in each.attrib.items() if key == HREF}
    used |= {id_ for each in elements for value in each.attrib.values() for id_ in _REFERENCE.findall(value)}
    for each in elements:
        for key, value in list(each.attrib.items()):
            if key == "id" and value in used:
                each.attrib[key] = f"{name}-{value}"
            elif key == "id":
                del each.attrib[key]
            elif key == HREF and value.startswith("#"):
                each.attrib[key] = f"#{name}-{value[1:]}"
            else:
                each.attrib[key] = _REFERENCE.sub(lambda found: f"{name}-{found[0]}", value)
