"""Numbers of the command line: digits as everyone writes them, and nothing that 64 bits do not hold."""

from argparse import ArgumentTypeError

import pytest

from moesweep.cli import main
from moesweep.edge.argument_numbers import is_index, plain_number, whole_number


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("16", 16), ("-1", -1), ("+8", 8), ("9" * 18, 10**18 - 1)]
)
def test_whole_numbers(text: str, number: int) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize(
    "text", ["", " 8", "1_000", "\u0663", "\uff11", "1.0", "1e3", "0x10", "9" * 19, "nan", "8\n"]
)
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=r"invalid int value|has more than 18 digits"):
        whole_number(text)
    assert not is_index(text)


def test_indices_begin_at_0() -> None:
    assert is_index("0")
    assert is_index("12")
    assert not is_index("-1")


@pytest.mark.parametrize(
    ("text", "number"), [("0.01", 0.01), ("1e-9", 1e-9), (".5", 0.5), ("2.", 2.0), ("-1", -1.0)]
)
def test_plain_numbers(text: str, number: float) -> None:
    assert plain_number(text) == number


@pytest.mark.parametrize("text", ["", "NaN", "infinity", "1_0", "\u0661", "0x1p3", "1e9999"])
def test_what_is_no_plain_number(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="invalid float value"):
        plain_number(text)


@pytest.mark.parametrize(
    "words",
    [
        ["best", "gpt_7B", "--gpus", "1_6"],
        ["best", "gpt_7B", "--gpus", "8", "--top", str(2**64 + 1)],
        ["collectives", "--cluster", "dgx-a100-80gb-8xhdr200", "--nodes", "\u0663"],
        ["diff", "a", "b", "--tolerance", "1_0"],
    ],
)
def test_a_command_says_which_argument(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert len(said.splitlines()) == 1
    assert f"argument {words[-2]}: " in said
