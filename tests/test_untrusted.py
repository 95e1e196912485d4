"""Configuration, tables, run lists and archives from strangers: refused in words, and nothing more."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import hostile
import malformed
from archives import archived, finished
from malformed import CONFIG, PAYLOADS, Input, Outcome, attempt, mutations
from project import CHECKOUT, make_project
from traps import traps

LEAST = 50
"""Malformed inputs that must be refused, at the least; `tests/reliability.py untrusted` tries far more."""

SHARE = 10
"""`python tests/reliability.py malformed` tries so many times the malformed inputs that a test run tries."""

PREDICT = ("predict", "runs.csv", "--out", "results/out.csv")
RESULTS = {
    "results/workloads.parquet": ("cost",),
    "results/costs.parquet": ("tables",),
    "results/validation.parquet": ("tables",),
    "archive/manifest.json": ("verify", "archive"),
}


def prepared(folder: Path) -> Path:
    """Make a finished project as small as it can be, with its archive and a list of runs."""
    whole = finished(folder / "whole")
    project = folder / "project"
    for part in ("config", "results"):
        shutil.copytree(whole / part, project / part)
    archived(whole, folder / "bag").rename(project / "archive")
    runs = (CHECKOUT / "tests/data/measured_runs.csv").read_text(encoding="utf-8").splitlines()
    (project / "runs.csv").write_text("\n".join(runs[:30]) + "\n", encoding="utf-8")
    shutil.copy(project / CONFIG[3], project / "config/clusters/mine.yaml")
    return project


def inputs(project: Path, each: int) -> Iterator[Input]:
    """Every trap, and `each` mutations of every file that a user can hand over."""
    yield from traps()
    for file in CONFIG:
        yield from mutations(project, file, ("validate",), each)
    yield from mutations(project, "runs.csv", PREDICT, each)
    for file, command in RESULTS.items():
        yield from mutations(project, file, command, each)


def tried(project: Path, each: int) -> list[Outcome]:
    """Hand every input to the command line."""
    return [attempt(project, case) for case in inputs(project, each)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("untrusted"))


def test_sound_inputs_are_accepted(project: Path) -> None:
    for command in (("validate",), ("cost",), ("tables",), ("verify", "archive")):
        assert attempt(project, Input("sound", command, lambda _: None)).code == 0


@pytest.mark.parametrize("case", list(traps()), ids=lambda case: case.name)
def test_traps_are_refused_in_words(project: Path, case: Input) -> None:
    start = time.process_time()
    outcome = attempt(project, case)
    assert outcome.faults == ()
    assert outcome.code in (1, 2), outcome
    assert time.process_time() - start < 10  # the limit of docs/reliability.md: beyond it is a hang


@pytest.mark.slow
def test_no_mutation_of_a_real_file_does_harm(project: Path) -> None:
    # Traps have tests of their own above.
    outcomes = [attempt(project, case) for case in inputs(project, each=7) if " mutation " in case.name]
    assert [(outcome.name, outcome.faults) for outcome in outcomes if outcome.faults] == []
    assert sum(outcome.code != 0 for outcome in outcomes) >= LEAST


@pytest.mark.slow
def test_no_malformed_input_of_any_command_does_harm(project: Path) -> None:
    outcomes = list(hostile.outcomes(project, share=SHARE))
    assert [(outcome.name, outcome.faults) for outcome in outcomes if outcome.faults] == []
    assert sum(outcome.code != 0 for outcome in outcomes) > len(outcomes) / 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(PAYLOADS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def replaced(data: Any, dice: st.DataObject, value: Any) -> Any:
    """`data` with one part of it, drawn by `dice`, replaced by `value`."""
    if isinstance(data, dict | list) and data and dice.draw(st.integers(0, 4)):
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        key = dice.draw(st.sampled_from(keys))
        copy = data.copy()
        copy[key] = replaced(data[key], dice, value)
        return copy
    return value


@pytest.mark.parametrize("file", CONFIG)
@settings(max_examples=8)
@given(dice=st.data(), value=JSON)
def test_any_value_in_any_place_is_accepted_or_refused(
    project: Path, file: str, dice: st.DataObject, value: Any
) -> None:
    data = replaced(yaml.safe_load((project / file).read_text(encoding="utf-8")), dice, value)
    text = json.dumps(data)
    outcome = attempt(project, Input("any", ("validate",), partial(written, file, text)))
    assert outcome.faults == ()


def written(file: str, text: str, project: Path) -> None:
    (project / file).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("billion laughs", "validate"),
        ("a gigabyte", "validate"),
        ("a constructed object", "validate"),
        ("a link out", "validate"),
        ("too many rows", "cost"),
    ],
)
def test_a_process_of_its_own_says_the_same(project: Path, tmp_path: Path, name: str, command: str) -> None:
    spoilt = shutil.copytree(project, tmp_path / "project")
    next(case for case in traps() if case.name == name).prepare(spoilt)
    executable = Path(sys.executable).with_name("moesweep")
    done = subprocess.run([executable, command], cwd=spoilt, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_snakemake_starts_nothing_on_a_trap(tmp_path: Path) -> None:
    """Nothing is made, not even where a link leads, before the configuration is found sound."""
    project = make_project(tmp_path / "project")
    (tmp_path / "outside").mkdir()
    (project.root / "results").symlink_to(tmp_path / "outside")
    done = project.run()
    assert done.returncode != 0
    assert "a symbolic link leads out of the project" in done.stderr
    assert list((tmp_path / "outside").iterdir()) == []


def test_the_judge_finds_faults(project: Path) -> None:
    """The harness itself: a traceback, a file outside and a file in spite of failure are all seen."""

    def harmful(command: tuple[str, ...]) -> int:
        Path("../outside/pwned").write_text("x")
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(malformed, "main", harmful)
        faults = attempt(project, Input("harm", ("validate",), lambda _: None)).faults
    assert any("outside/pwned" in fault for fault in faults)
    assert any("ZeroDivisionError" in fault for fault in faults)
