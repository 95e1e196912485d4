"""Text of strangers cannot steer a terminal, whichever command prints it."""

import argparse
import json
import sys
from pathlib import Path

import pytest

from moesweep.cli import main
from moesweep.edge.terminal import ESCAPES, plain
from project import make_project

STEERING = "\x1b[31m\x1b]0;title\x07\x9b2J\x7f\r\u202e\u2066\x00"


def test_controls_are_written_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    with plain():
        print(STEERING, "é", "─", sep="\t")
        print(STEERING, file=sys.stderr)
        print("3/216", end="\r", file=sys.stderr)
    out, err = capsys.readouterr()
    assert not set(map(ord, out)) & ESCAPES.keys()
    assert out.startswith(r"\u001b[31m\u001b]0;title\u0007\u009b2J\u007f\u000d\u202e\u2066\u0000")
    assert out.endswith("\té\t─\n")
    assert err.endswith("3/216\r")
    assert "\r" not in err.removesuffix("\r")


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with plain():
        print(json.dumps({"name": STEERING}, ensure_ascii=False))
    assert json.loads(capsys.readouterr().out) == {"name": STEERING}


def test_every_command_prints_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def hostile(arguments: argparse.Namespace) -> int:
        print(STEERING)
        return 0

    monkeypatch.setattr("moesweep.arguments.parsed", lambda argv: argparse.Namespace(run=hostile))
    before = sys.stdout
    assert main(["any"]) == 0
    assert sys.stdout is before
    assert "\x1b" not in capsys.readouterr().out


def test_a_file_s_name_reaches_the_terminal_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = make_project(tmp_path)
    monkeypatch.chdir(project.root)
    assert main(["enumerate"]) == 0
    folder = project.root / "results/traces/ops/workload=\x1b[31mred"
    folder.mkdir(parents=True)
    (folder / "ops.parquet").write_bytes(b"")
    capsys.readouterr()
    assert main(["clean", "--stale"]) == 0
    assert capsys.readouterr().out == "results/traces/ops/workload=\\u001b[31mred/ops.parquet\n"
    assert not folder.exists()
