"""A figure's SVG read without trust: what draws passes, and nothing that runs, loads or hides the rest."""

import re
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.edge.textfile import read_text

MOST_BYTES = 1 << 25
MOST_LEVELS = 64
"""How deep elements may lie in each other."""

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
HREF = f"{{{XLINK}}}href"

_NAMES = ("svg", "g", "defs", "use", "path", "rect", "clipPath", "pattern", "text", "tspan", "image")
DRAWS = frozenset(f"{{{SVG}}}{name}" for name in _NAMES)
SAYS = frozenset(f"{{{SVG}}}{name}" for name in ("metadata", "title", "style"))
"""Left out with all that lies in them: the page has titles and a style of its own."""

_GEOMETRY = ("x", "y", "width", "height", "d", "transform", "viewBox", "patternUnits")
ATTRIBUTES = frozenset(("id", "version", "style", "fill", "clip-path", HREF, *_GEOMETRY))

_WITHIN = re.compile(r"#[A-Za-z0-9_.-]+")
_PIXELS = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]+")
_ELSEWHERE = re.compile(r"url\((?!#[A-Za-z0-9_.-]+\))|@|\\", re.IGNORECASE)

for prefix, space in (("", SVG), ("xlink", XLINK)):
    ElementTree.register_namespace(prefix, space)


def read_drawing(path: Path) -> ElementTree.Element:
    """Return the `<svg>` element of a file; raise BadInput if it is unreadable or does more than to draw."""
    try:
        text = read_text(path, str(path), MOST_BYTES)
    except BadInput as error:
        reason = error.problems[0].message.removeprefix("cannot be read: ")
        raise _bad(path, "readable", f"cannot be read: {reason}") from None
    if "<!ENTITY" in text:
        raise _bad(path, "drawing", "declares entities")
    try:
        root = _drawn(text, path)
    except ElementTree.ParseError as error:
        raise _bad(path, "svg", f"is not XML: {error}") from None
    if root.tag != f"{{{SVG}}}svg":
        raise _bad(path, "svg", f"is {shown(root.tag)}, not an SVG")
    return root


def _drawn(text: str, path: Path) -> ElementTree.Element:
    """Return the root of an XML text without what only says; raise BadInput for what does not draw."""
    above: list[ElementTree.Element] = []
    silent = 0
    root = None
    for event, element in ElementTree.iterparse(BytesIO(text.encode()), events=("start", "end")):
        if event == "start":
            silent += element.tag in SAYS
            if not silent:
                _check(element, path)
            above.append(element)
            if len(above) > MOST_LEVELS:
                raise _bad(path, "drawing", f"has elements more than {MOST_LEVELS} deep")
        else:
            root = above.pop()
            if root.tag in SAYS:
                silent -= 1
                if above:
                    above[-1].remove(root)
    assert root is not None  # XML has a root: without one it is no XML
    return root


def _check(element: ElementTree.Element, path: Path) -> None:
    if element.tag not in DRAWS:
        raise _bad(path, "drawing", f"has an element {shown(_local(element.tag))}, which does not draw")
    for name, value in element.attrib.items():
        if name not in ATTRIBUTES:
            raise _bad(path, "drawing", f"has an attribute {shown(_local(name))}, which does not draw")
        refers = (_PIXELS if element.tag == f"{{{SVG}}}image" else _WITHIN) if name == HREF else None
        if (refers and not refers.fullmatch(value)) or _ELSEWHERE.search(value):
            raise _bad(path, "drawing", f"refers to {shown(value)}, which is not in it")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _bad(path: Path, rule: str, message: str) -> BadInput:
    return BadInput([Problem(str(path), "", rule, "", message, "run moesweep figures")])
