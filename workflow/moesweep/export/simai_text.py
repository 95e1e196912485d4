"""SimAI's workload text: a header, the number of rows, and rows of twelve tab-separated fields."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from moesweep.store.tablefile import whole

NONE = ("NONE", 0)
"""No communication: a word and its bytes."""

Communication = tuple[str, int]


@dataclass(frozen=True)
class Block:
    """Rows as text, `times` over: an iteration repeats its micro-batches, so they are formatted once."""

    rows: list[str]
    times: int = 1


def row(
    name: str,
    *communications: Communication,
    nanoseconds: Sequence[int] = (1, 1, 1),
    update_nanoseconds: int = 100,
) -> str:
    """Return one row: per pass its compute time, communication and bytes, then the update time.

    The passes are forward, input gradient and weight gradient; communications left out are NONE.
    """
    padded = [*communications, *[NONE] * (len(nanoseconds) - len(communications))]
    passes = zip(nanoseconds, padded, strict=True)
    fields = [str(field) for time, (word, size) in passes for field in (time, word, size)]
    return "\t".join([name, "-1", *fields, str(update_nanoseconds)]) + "\n"


def header(fields: Iterable[tuple[str, object]], pipeline_bytes: str | None) -> str:
    """Return the first line; `pipeline_bytes` is the text after `pp_comm: `, None where there is none."""
    words = " ".join(f"{key}: {value}" for key, value in fields)
    message = "" if pipeline_bytes is None else f" pp_comm: {pipeline_bytes}"
    return f"HYBRID_TRANSFORMER_FWD_IN_BCKWD {words}{message}\n"


def write(path: Path, first_line: str, blocks: list[Block]) -> None:
    """Write a file whole or not at all."""
    count = sum(len(block.rows) * block.times for block in blocks)
    with whole(path) as partial, partial.open("wb") as file:
        file.write(f"{first_line}{count}\n".encode())
        for block in blocks:
            file.write("".join(block.rows).encode() * block.times)
