"""Quantities: what text means in base units, and what is refused."""

import math
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesweep.edge import quantities
from moesweep.edge.quantities import QuantityError, parse_quantity


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("80 GiB", "byte", 80 * 2**30),
        ("80GB", "byte", 80e9),
        ("1 kibibyte", "byte", 1024),
        ("8 bit", "byte", 1),
        ("200 Gbit/s", "byte/second", 25e9),
        ("2.039 TB/s", "byte/second", 2.039e12),
        ("312 TFLOP/s", "flop/second", 312e12),
        ("4 us", "second", 4e-6),
        ("4 µs", "second", 4e-6),
        ("6.6e-6 s", "second", 6.6e-6),
        (" 1 hour ", "second", 3600),
        ("0 s", "second", 0),
    ],
)
def test_text_with_a_unit_becomes_base_units_exactly(text: str, unit: str, amount: float) -> None:
    assert parse_quantity(text, unit) == amount


@pytest.mark.parametrize(("value", "amount"), [(0.9, 0.9), (108, 108.0), (0, 0.0)])
def test_a_plain_number_stays(value: float, amount: float) -> None:
    assert parse_quantity(value, "") == amount


@pytest.mark.parametrize(
    ("value", "unit", "reason"),
    [
        ("80 GB/s", "byte", "another dimension"),
        ("80 s", "byte", "another dimension"),
        ("312 TFLOP", "flop/second", "another dimension"),
        ("80", "byte", "no unit"),
        (80, "byte", "no unit"),
        (True, "byte", "no unit"),
        (None, "byte", "no unit"),
        ("80 radian", "byte", "unknown unit"),
        ("80 Gb/s", "byte/second", "unknown unit"),
        ("80 B * 2", "byte", "unknown unit"),
        ("2**9 GB", "byte", "unknown unit"),
        ("9" * 5 + "**" + "9" * 9 + " B", "byte", "unknown unit"),
        ("__import__('os') B", "byte", "not a number"),
        ("nan GB", "byte", "not a number"),
        ("inf GB", "byte", "not a number"),
        ("1e999 B", "byte", "not a finite number"),
        ("-1 GB", "byte", "negative"),
        ("", "byte", "not a number"),
        ("0.9", "", "not a plain number"),
        (True, "", "not a plain number"),
        (math.nan, "", "not a finite number"),
        (math.inf, "", "not a finite number"),
        (-0.5, "", "negative"),
        pytest.param(10**400, "", "not a finite number", id="10**400"),
    ],
)
def test_what_a_quantity_cannot_be(value: object, unit: str, reason: str) -> None:
    with pytest.raises(QuantityError, match=reason):
        parse_quantity(value, unit)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        amount = parse_quantity(text, "byte")
    except QuantityError:
        return
    assert math.isfinite(amount)


@given(st.floats(min_value=1e-3, max_value=1e6), st.sampled_from([("k", 1e3), ("M", 1e6), ("Gi", 2**30)]))
def test_prefixes_multiply(number: float, prefix: tuple[str, float]) -> None:
    symbol, factor = prefix
    assert parse_quantity(f"{number!r} {symbol}B", "byte") == pytest.approx(number * factor, rel=1e-15)


@pytest.mark.parametrize("second", ["", "/s", "/min", "/B", "/bit", "/Gibit"])
def test_symbols_mean_what_the_library_of_units_takes_them_for(second: str) -> None:
    """It reads the same definitions with rules of its own, and is only asked where a name is no symbol."""
    registry = quantities._registry()
    for symbol in quantities._symbols():
        for unit in quantities.EXAMPLES:
            found = quantities._of_symbols(symbol + second, unit)
            theirs, wanted = registry.parse_units(symbol + second), registry.parse_units(unit)
            assert (found is not None) == (theirs.dimensionality == wanted.dimensionality)
            if found is not None:
                assert found == Fraction(registry.convert(Fraction(1), theirs, wanted))


def test_symbols_need_no_library_of_units() -> None:
    code = "from moesweep.edge.quantities import parse_quantity as of\nimport sys\n"
    code += "assert of('25 GB/s', 'byte/second') == 25e9 and 'pint' not in sys.modules\n"
    code += "assert of('2 gigabytes', 'byte') == 2e9 and 'pint' in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stderr == "", "the library warns of a unit that is defined twice"
