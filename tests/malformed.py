"""Malformed inputs of every kind, and what the real command line makes of each.

`mutations` makes them from real files, tests/traps.py by hand. `attempt` hands one to `moesweep.cli.main`
and judges: it may be accepted, or refused in words with nothing written; anything else is a fault.
"""

import os
import random
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from archives import within
from moesweep.cli import main
from moesweep.store.tablefile import dtypes

CONFIG = (
    "config/config.yaml",
    "config/sweeps/small.yaml",
    "config/models/tiny.yaml",
    "config/clusters/dgx-a100-80gb-8xhdr200.yaml",
    "config/gpus/a100-sxm-80gb.yaml",
    "config/calibration.yaml",
)

PARTS = {
    "validate": ("config",),
    "trace": ("config", "results"),
    "cost": ("config", "results"),
    "tables": ("config", "results"),
    "predict": ("config", "runs.csv", "results"),
    "verify": ("archive",),
    **dict.fromkeys(
        ("traffic", "figures", "report", "explain", "diff", "archive", "export"), ("config", "results")
    ),
    **dict.fromkeys(("enumerate", "network", "whatif", "clean"), ("config", "results")),
    **dict.fromkeys(("import", "best", "screen", "collectives", "init"), ("config",)),
}
"""What of a project a command reads."""

MOST_SECONDS = 10
"""CPU seconds that a command may take to refuse an input."""

PAYLOADS = (
    "!!python/object/apply:os.system ['touch pwned']",
    "!!python/name:os.system",
    "!include /etc/passwd",
    "{0.__class__.__mro__}",
    "{{ 7 * 7 }}",
    "${HOME}",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned #",
    "%(name)s%n%n",
    "__import__('os').system('touch pwned')",
    "../../../../etc/passwd",
    "/etc/passwd",
    "..\\..\\pwned",
    "pwned/../../pwned",
    "-",
    "--help",
    "&a [*a]",
    "*a",
    "<<: {a: 1}",
    "? : ?",
    "[[[[[[[[[[[[[[[[[[[[[[[[[",
    "{{{{{{{{{{{{{{{{{{{{{{{{{",
    ".nan",
    "-.inf",
    "1e309",
    "-1",
    "0",
    "9" * 30,
    "9" * 5000,
    "0x7fffffffffffffff",
    "1_000",
    "1:30",
    "true",
    "~",
    '""',
    "'",
    "x" * 20_000,
    "\u202e\u0000\x1b[31m",
    "\ud7ff\uffff",
    "80 radian",
    "1e400 GB/s",
    "-5 GiB",
    "٣ GiB",
)
"""What to put in a value's place: code, templates, paths, YAML's traps, numbers without sense."""


@dataclass(frozen=True)
class Input:
    """A malformed input: the command to give it to, and how to put it into the project."""

    name: str
    command: tuple[str, ...]
    prepare: Callable[[Path], object]


@dataclass(frozen=True)
class Outcome:
    """What became of an input: exit code, what was printed, and the faults found."""

    name: str
    code: int | None
    said: str
    faults: tuple[str, ...]


def attempt(project: Path, case: Input) -> Outcome:
    """Give an input to the command line in a copy of the project, and judge what comes of it."""
    with tempfile.TemporaryDirectory() as folder:
        home, spoilt = Path(folder), Path(folder) / "project"
        spoilt.mkdir()
        for part in PARTS[case.command[0]]:
            source = project / part
            shutil.copytree(source, spoilt / part) if source.is_dir() else shutil.copy(source, spoilt)
        (home / "outside").mkdir()
        case.prepare(spoilt)
        before = _tree(home)
        start = time.process_time()
        code, said, faults = _run(spoilt, case.command)
        taken = time.process_time() - start
        after = _tree(home)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        # Beside the results, the checksums of what was written are kept with Snakemake's own records.
        own = tuple(str(spoilt / name) for name in ("results", ".snakemake", "exported", "archived"))
        parts = tuple(filter(_is_a_part, changed))
        # What is written all the same, and by a name that was asked for.
        done = code == 0 or (code == 1 and "--keep-going" in case.command)
        own += tuple(str(spoilt / word) for word in case.command[1:] if done and word and ".." not in word)
        faults += [
            f"touched {path}"
            for path in changed
            if not path.startswith(own) or (not done and not _leads_to(path, parts))
        ]
        faults += [fault for path in changed if done for fault in _nonsense(Path(path))]
    if code != 0 and taken > MOST_SECONDS:
        faults.append(f"took {taken:.0f} s of CPU")
    if code not in (0, 1, 2):
        faults.append(f"exit code {code}")
    if re.search("Traceback|panicked|Error:|fault of MoE Sweep", said) or (code != 0 and not said.strip()):
        faults.append(f"no message for a user: {said[-300:]}")
    return Outcome(case.name, code, said, tuple(faults))


def _nonsense(file: Path) -> list[str]:
    """Numbers without sense in a table that a command has written for a user."""
    if file.suffix == ".csv" and file.name == "out.csv":
        costs = [name for name, dtype in dtypes("costs").items() if dtype.is_numeric()]
        frame = pl.read_csv(file, infer_schema=False).select(pl.col(costs).cast(pl.Float64)).drop_nulls()
    elif file.suffix == ".parquet" and file.parent.name == "project":
        frame = pl.read_parquet(file).select(pl.selectors.numeric().cast(pl.Float64))
    else:
        return []
    return [
        f"{file.name}: {column.name} has {column.min()} to {column.max()}"
        for column in frame
        if column.len() and not ((column >= 0) & column.is_finite()).all()
    ]


def _is_a_part(path: str) -> bool:
    """Whether a file is one workload's, or a stage's memo of a table: it is whole, and of its own digest.

    Whatever gathers parts is only written with all of them.
    """
    return "/workload=" in path or "/memo/" in path


def _leads_to(path: str, parts: tuple[str, ...]) -> bool:
    """Whether a path is such a part, or a folder on the way to one that was made."""
    return _is_a_part(path) or any(part.startswith(f"{path}/") for part in parts)


def _run(project: Path, command: tuple[str, ...]) -> tuple[int | None, str, list[str]]:
    """Exit code, standard error (Rust's and C's too) and exceptions of a command run in this process."""
    sys.stderr.flush()
    kept, ours = os.dup(2), sys.stderr
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        sys.stderr = os.fdopen(os.dup(2), "w", encoding="utf-8")
        code, faults = None, []
        try:
            with within(project):
                code = main(command)
        except SystemExit as left:
            code = int(left.code or 0)
        except BaseException as error:
            faults = [f"raised {error!r}"]
        finally:
            sys.stderr.close()
            sys.stderr = ours
            os.dup2(kept, 2)
            os.close(kept)
        caught.seek(0)
        return code, caught.read().decode(errors="replace"), faults


def _tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode of everything below a folder, and size and time unless it is a folder; links are not followed."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = (Path(parent) / name).lstat()
            times = (0, 0) if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_mtime_ns)
            found[str(Path(parent) / name)] = (status.st_mode, *times)
    return found


def mutations(project: Path, file: str, command: tuple[str, ...], count: int) -> Iterator[Input]:
    """Seeded mutations of a real file of the project, given to a command."""
    whole = (project / file).read_bytes()
    for number in range(count):
        dice = random.Random(f"{file} {number}")
        content = whole
        for _ in range(dice.choice((1, 1, 1, 2, 5))):
            content = _mutated(content, dice)
        yield Input(f"{file} mutation {number}", command, partial(_put, file, content))


def _put(file: str, content: bytes, project: Path) -> None:
    (project / file).write_bytes(content)


def _mutated(content: bytes, dice: random.Random) -> bytes:
    """One mutation: of bytes, of lines, or of a value."""
    place = dice.randrange(len(content) + 1)
    lines = content.split(b"\n")
    line = dice.randrange(len(lines))
    kind = dice.choice(
        ("flip", "cut", "delete", "insert", "line", "swap", "value", "value", "value", "value")
    )
    if kind == "flip" and place < len(content):
        return content[:place] + bytes([content[place] ^ dice.randrange(1, 256)]) + content[place + 1 :]
    if kind == "cut":
        return content[:place]
    if kind == "delete":
        return content[:place] + content[place + dice.randrange(1, 40) :]
    if kind == "insert":
        return content[:place] + dice.choice(PAYLOADS).encode() + content[place:]
    if kind == "line":
        return b"\n".join([*lines[:line], *dice.choices(lines, k=dice.randrange(3)), *lines[line + 1 :]])
    if kind == "swap":
        other = dice.randrange(len(lines))
        lines[line], lines[other] = lines[other], lines[line]
        return b"\n".join(lines)
    words = [match.span() for match in re.finditer(rb"[A-Za-z0-9_./-]+", content)]
    if not words:
        return dice.choice(PAYLOADS).encode()
    start, end = dice.choice(words)
    return content[:start] + dice.choice(PAYLOADS).encode() + content[end:]
