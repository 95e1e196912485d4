"""Figures from strangers: only what draws goes into the page, and the page runs no script but its own."""

import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from moesweep.edge.problems import BadInput
from moesweep.report.drawing import read_drawing
from moesweep.report.inline import inline_figure
from moesweep.store.layout import Results

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9">'
SOUND = (
    '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd">\n'
    + HEAD.replace(">", ' width="9pt" height="9pt">')
    + "<metadata><script>never</script></metadata><style>*{display: none}</style>"
    + '<defs><path id="dot" d="M 0 0"/><clipPath id="p1"><rect x="0" y="0" width="9" height="9"/></clipPath>'
    + "</defs>"
    + '<g id="unused" clip-path="url(#p1)"><use xlink:href="#dot" x="1" y="1" style="fill: #1b1b1f"/></g>'
    + '<image xlink:href="data:image/png;base64,\niVBORw0K" width="1" height="1"/>'
    + '<text x="1">a &lt; b</text></svg>'
)

HARMFUL = {
    "a script": "<script>alert(1)</script>",
    "a script of another namespace": '<script xmlns="http://www.w3.org/1999/xhtml">alert(1)</script>',
    "a handler": '<g onload="alert(1)"/>',
    "a page": "<foreignObject><body/></foreignObject>",
    "a link": '<a xlink:href="javascript:alert(1)"><path d="M0 0"/></a>',
    "a scripted use": '<use xlink:href="javascript:alert(1)"/>',
    "a use of another file": '<use xlink:href="https://example.org/x.svg#a"/>',
    "a plain href": '<use href="https://example.org/x.svg#a"/>',
    "an image from elsewhere": '<image xlink:href="https://example.org/x.png"/>',
    "an image that is SVG": '<image xlink:href="data:image/svg+xml;base64,PHN2Zy8+"/>',
    "an animation": '<animate attributeName="href" to="javascript:alert(1)"/>',
    "a style that loads": '<path d="M0 0" style="fill: url(https://example.org/x)"/>',
    "a style that loads, escaped": r'<path d="M0 0" style="fill: u\72l(https://example.org/x)"/>',
    "a style that imports": '<path d="M0 0" style="@import x"/>',
    "a comment's end": "--><script>alert(1)</script><!--",
    "no end": "<g>",
    "an unknown entity": "&nothing;",
    "depth": "<g>" * 1000 + "</g>" * 1000,
}


def figure(folder: Path, text: str) -> Results:
    """Write a text as the first figure of some results."""
    results = Results(folder)
    path = results.figure("memory", "svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return results


def test_what_draws_passes_and_says_the_same(tmp_path: Path) -> None:
    inline, _ = inline_figure(figure(tmp_path, SOUND), "memory", 'a "title" <b>')
    root = ElementTree.fromstring(inline)
    assert [element.tag.rpartition("}")[2] for element in root.iter()] == [
        *("svg", "defs", "path", "clipPath", "rect", "g", "use", "image", "text")
    ]
    assert {"role": "img", "aria-label": 'a "title" <b>', "viewBox": "0 0 9 9"}.items() <= root.attrib.items()
    assert "width" not in root.attrib
    assert root.find("{*}text").text == "a < b"  # type: ignore[union-attr]
    assert re.findall(r'id="([^"]*)"', inline) == ["memory-dot", "memory-p1"]
    assert 'clip-path="url(#memory-p1)"' in inline
    assert 'href="#memory-dot"' in inline
    assert "fill: currentColor" in inline
    assert "never" not in inline
    assert "display" not in inline


@pytest.mark.parametrize("name", HARMFUL)
def test_what_does_more_is_refused(tmp_path: Path, name: str) -> None:
    results = figure(tmp_path, f"{HEAD}{HARMFUL[name]}</svg>")
    with pytest.raises(BadInput) as caught:
        inline_figure(results, "memory", "")
    (problem,) = caught.value.problems
    assert problem.file == str(results.figure("memory", "svg"))
    assert problem.rule in ("svg", "drawing")
    assert len(problem.line()) < 300


BROKEN = {
    "nothing": "",
    "no XML": "<svg",
    "no SVG": "<html/>",
    "an SVG of no namespace": "<svg/>",
    "entities": '<!DOCTYPE svg [<!ENTITY a "b"><!ENTITY c "&a;&a;">]>' + HEAD + "<text>&c;</text></svg>",
    "a NUL": HEAD + "\0</svg>",
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_drawing_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.svg"
    path.write_text(BROKEN[name], encoding="utf-8")
    with pytest.raises(BadInput):
        read_drawing(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.svg")
    with pytest.raises(BadInput, match="not a regular file"):
        read_drawing(tmp_path / "x.svg")


def test_the_page_runs_its_own_script_alone() -> None:
    """The policy names the script by its hash; what lies between the tags is that script, byte for byte."""
    from moesweep.report.page import TEMPLATES

    page = (TEMPLATES / "report.html.jinja").read_text(encoding="utf-8")
    assert "script-src 'sha256-{{ script_digest }}'" in page
    assert page.count("<script") == 1
    assert "<script>{{ script }}</script>" in page
