"""Problems of YAML files say the line that they are about."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from moesweep.cli import main
from moesweep.edge.line_numbers import lines_of_text, numbered
from moesweep.edge.problems import Problem
from moesweep.edge.yaml_reader import MAX_DEPTH
from project import make_project

TEXT = """\
# a remark
options:
  routing: {zipf: 1.1,
    seed: 3}
grids:
  - model: gpt_7B
    tp: [1,
         3]

  - tp: {from: 1, to: 8}
    rows:
      - - 1
        - 2
"""
BY_HAND = {
    "options": 2,
    "options.routing": 3,
    "options.routing.zipf": 3,
    "options.routing.seed": 4,
    "grids": 5,
    "grids[0]": 6,
    "grids[0].model": 6,
    "grids[0].tp": 7,
    "grids[0].tp[0]": 7,
    "grids[0].tp[1]": 8,
    "grids[1]": 10,
    "grids[1].tp": 10,
    "grids[1].tp.from": 10,
    "grids[1].tp.to": 10,
    "grids[1].rows": 11,
    "grids[1].rows[0]": 12,
    "grids[1].rows[0][0]": 12,
    "grids[1].rows[0][1]": 13,
}


def test_lines_are_those_counted_by_hand() -> None:
    assert lines_of_text(TEXT) == BY_HAND


VALUES = st.recursive(
    st.integers(), lambda each: st.lists(each) | st.dictionaries(st.sampled_from("abc"), each), max_leaves=12
)


def places(value: object, here: str = "") -> list[str]:
    """Every place below a value, in the order in which it is written."""
    if isinstance(value, dict):
        below = [(f"{here}.{key}".removeprefix("."), each) for key, each in value.items()]
    elif isinstance(value, list):
        below = [(f"{here}[{index}]", each) for index, each in enumerate(value)]
    else:
        return []
    return [name for place, each in below for name in (place, *places(each, place))]


@given(VALUES, st.booleans())
def test_every_place_has_a_line_and_they_ascend(value: object, flow: bool) -> None:
    lines = lines_of_text(yaml.safe_dump(value, default_flow_style=flow, sort_keys=False))
    assert list(lines) == places(value)
    assert list(lines.values()) == sorted(lines.values())


def problem(file: str, path: str) -> Problem:
    return Problem(file, path, "rule", "3", "is wrong")


def test_what_is_missing_is_missing_from_the_line_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(TEXT)
    Path("broken.yaml").write_text("a: [1\nb: 2")
    found = numbered(
        [
            problem("x.yaml", "grids[0].tp[1]"),
            problem("x.yaml", "grids[1].pp"),
            problem("x.yaml", "grids[1].rows[7]"),
            problem("x.yaml", "nothing"),
            problem("x.yaml", "line 3, column 5"),
            problem("broken.yaml", "line 2, column 2"),
            problem("gone.yaml", "grids"),
            problem("runs.csv", "grids"),
        ]
    )
    assert [line.split(": ")[0] for line in found] == [
        *("x.yaml:8", "x.yaml:10", "x.yaml:11", "x.yaml", "x.yaml"),
        *("broken.yaml", "gone.yaml", "runs.csv"),
    ]


def test_the_command_line_says_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(tmp_path)
    monkeypatch.chdir(project.root)
    project.edit("config/sweeps/small.yaml", "options:\n", "options:\n  x: 1\n")
    project.edit("config/models/tiny.yaml", "num_layers: {value: 4", "num_layers: {value: -4")
    assert main(["enumerate"]) == 2
    said = capsys.readouterr().err
    assert "config/sweeps/small.yaml:4: options.x: unknown_key: " in said
    assert "config/models/tiny.yaml:2: num_layers.value: range: " in said


def test_what_is_too_deep_is_not_walked() -> None:
    lines = lines_of_text("a: 1\nrows: " + "[" * 100_000)
    assert list(lines)[:3] == ["a", "rows", "rows[0]"]
    assert len(lines) == MAX_DEPTH + 1


@pytest.mark.parametrize("text", ["a: 1\n? [b]\n: 2\n", "a: 1\n? {b: c}\n: 2\n", "a: &x 1\n*x : 2\nb: 3\n"])
def test_what_follows_a_key_that_is_no_scalar_has_no_line(text: str) -> None:
    assert lines_of_text(text) == {"a": 1}
