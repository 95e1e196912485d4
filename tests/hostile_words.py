"""Numbers and texts for a cell, a value on the command line, or a scalar of a file."""

from typing import Any

SIZES = tuple(str(2**power + more) for power in (0, 7, 16, 20, 31, 40, 53, 62, 63, 64) for more in (-1, 0, 1))

WORDS = (
    *(
        "",
        " ",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "-1",
        "0",
        "-0",
        "0.5",
        "1e3",
        "1e309",
        "1e-309",
        "0x10",
        "1_000",
    ),
    *(
        "٣",
        "１６",
        "½",
        "−1",
        "\x1b[31mred\x1b[0m",
        "a\nb",
        "a\rb",
        "\u202e16",
        "\ufeff1",
        "x" * 5000,
        "9" * 400,
    ),
    *("true", "yes", "null", "None", "[]", "[1, 2]", "{}", "{zipf: 1.2}", "zipf:1.2", "zipf:nan", "zipf:1e9"),
    *(
        "zipf:-1",
        "lognormal:0.5",
        "lognormal:1e300",
        "{zipf: 1.2, seed: 99999999999999999999}",
        "table:x.csv",
    ),
    *(
        "mla(kv_lora=1)",
        "mla(q_lora=1,kv_lora=2,qk_nope=3,qk_rope=4,v=5)",
        "mla(kv_lora=1,kv_lora=2)",
        "mla(",
    ),
    *("gqa", "mha", "core_attn", "[core_attn, core_attn]", "../../etc/passwd", "=cmd()", "-", "--help", "*"),
)
"""Texts for a cell, a value on the command line, or a scalar of a file."""

VALUES: tuple[Any, ...] = (
    *(int(size) for size in SIZES),
    *(-1, -(2**63), 10**400, 0.0, -0.0, 0.5, 1e300, 1e-300, float("nan"), float("inf"), float("-inf")),
    *(None, True, False, [], {}, [[]], [None], {"": None}, {"value": None}, [1] * 1000, {"a": {"a": {}}}),
)

UNITS = ("GB/s", "GiB", "us", "TFLOP/s", "furlong", "Gbit/s", "B", "%", "GiB GiB", "")
