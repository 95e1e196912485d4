"""Output of nccl-tests, read: which ranks ran which collective, and how long each buffer took.

Format: nccl-tests, src/common.cu (PrintHeader, PrintLine); sizes in bytes, times in us, bandwidths in GB/s of
1e9. Versions before 2.11 have no column root, and an error for the number of wrong values. A file may hold
the output of several runs, one after the other, lines after a launcher's tag (mpirun --tag-output, srun -l).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from moesweep.edge.problems import BadInput, Problem, shown
from moesweep.edge.textfile import read_text

MOST_BYTES = 16 << 20
PROGRAMS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
}
"""Our collectives by the first part of nccl-tests' programs, `<name>_perf`."""

_TAG = re.compile(r"(\s*\[\d+,\d+\]<std(?:out|err)>:|\s*\d+:) ?")
_START = re.compile(r"#\s*nThread\b")
_RANK = re.compile(r"#\s+Rank\s+(\d+)\b.*?\bon\s+(\S+)\s+device\s+\d+\s+\[\S+\]\s*(.*?)\s*")
_PROGRAM = re.compile(r"(all_reduce|all_gather|reduce_scatter|alltoall)(?:_perf)?")
_UNITS = re.compile(r"#\s+\(B\)\s+\(elements\)(\s+\(us\)\s+\(GB/s\)\s+\(GB/s\)){2}\s*")
_END = re.compile(r"#\s*Avg bus bandwidth\b")
_ROW = re.compile(r"\s*\d+\s+\d+\s+[a-z]\w*\s.*")
_NUMBER = re.compile(r"[0-9.]{1,20}e[-+]?[0-9]{1,3}")
_NAMED_UNITS = re.compile(r"#\s+\(\w+\)\s+\(elements\).*")


@dataclass
class Run:
    """One run: its collective, ranks and nodes, the GPU as NCCL names it, and (bytes, seconds) a line."""

    file: str
    line: int
    collective: str = ""
    hosts: list[str] = field(default_factory=list)
    gpu: str = ""
    points: list[tuple[int, float]] = field(default_factory=list)

    @property
    def ranks(self) -> int:
        """Ranks of the communicator."""
        return len(self.hosts)

    @property
    def nodes(self) -> int:
        """Hosts that they ran on."""
        return len(set(self.hosts))


def is_log(text: str) -> bool:
    """Return whether a text is output of nccl-tests, sound or not."""
    return any(_START.match(line) or _NAMED_UNITS.fullmatch(line) for line in text.splitlines())


def read_log(path: Path) -> list[Run]:
    """Return the runs of a file; raise BadInput with everything that is wrong with it."""
    file = str(path)
    text = "\n".join(_untagged(line) for line in read_text(path, file, MOST_BYTES).splitlines())
    if not is_log(text):
        message = "is no output of nccl-tests: no line begins with # nThread"
        raise BadInput([Problem(file, "", "no_nccl_tests", "", message, "keep all that the program prints")])
    problems: list[Problem] = []
    runs = [_run(file, at, lines, problems) for at, lines in _parts(text)]
    if problems:
        raise BadInput(problems)
    return runs


def _untagged(line: str) -> str:
    """A line without what a launcher puts before it."""
    found = _TAG.match(line)
    return line[found.end() :] if found else line


def _parts(text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of each run, and the number of the first; what stands before names the program, at most."""
    lines = text.splitlines()
    starts = [at for at, line in enumerate(lines) if _START.match(line)] or [0]
    # The name of the program may stand in the lines between two runs: it belongs to the later one.
    ends = [_end(lines, at) for at in starts]
    begins = [0, *ends[:-1]]
    for begin, end in zip(begins, [*ends[:-1], len(lines)], strict=True):
        yield begin + 1, lines[begin:end]


def _end(lines: list[str], start: int) -> int:
    found = (at for at in range(start + 1, len(lines)) if _END.match(lines[at]) or _START.match(lines[at]))
    at = next(found, len(lines) - 1)
    return at if _START.match(lines[at]) and at > start else at + 1


def _run(file: str, at: int, lines: list[str], problems: list[Problem]) -> Run:
    run = Run(file, at)
    named = [found[1] for line in lines if (found := _PROGRAM.search(line)) and not _ROW.fullmatch(line)]
    named = named or [found[1] for found in [_PROGRAM.search(Path(file).name)] if found]
    for line in lines:
        if rank := _RANK.fullmatch(line):
            run.hosts.append(rank[2])
            run.gpu = run.gpu or rank[3]
    _judge_form(run, lines, problems)
    rows = [(at + n, line) for n, line in enumerate(lines) if _ROW.fullmatch(line)]
    redops = {_row(file, number, line, run, problems) for number, line in rows}
    run.collective = PROGRAMS[named[0]] if named else _by_ratio(run, redops)
    if not run.collective and rows:
        message = "the collective is said nowhere: all_gather and alltoall print the same columns"
        advice = "keep the line of the command, or put its name into the file's, such as alltoall_perf.log"
        problems.append(Problem(file, f"line {at}", "not_said", "", message, advice))
    return run


def _judge_form(run: Run, lines: list[str], problems: list[Problem]) -> None:
    """Add what is wrong with a run's heading and end."""

    def add(rule: str, message: str, advice: str, line: int = run.line) -> None:
        problems.append(Problem(run.file, f"line {line}", rule, "", message, advice))

    units = [(n, line) for n, line in enumerate(lines) if _NAMED_UNITS.fullmatch(line)]
    if not units:
        add("cut", "the heading of the columns is missing", "keep all that the program prints")
    for n, line in units:
        if not _UNITS.fullmatch(line):
            add("units", f"{shown(line.strip())} are other units than (B), (us), (GB/s)", "", run.line + n)
    if not any(_END.match(line) for line in lines):
        add("cut", "the run has no end: no line with Avg bus bandwidth", "let the program end")
    if run.ranks < 2:
        add("cut", f"{run.ranks} ranks are listed where two are needed", "keep the lines # Rank ... on ...")
    counts = {run.hosts.count(host) for host in run.hosts}
    if len(counts) > 1:
        add("uneven", f"hosts run {sorted(counts)} ranks each", "run as many on each host")


def _row(file: str, number: int, line: str, run: Run, problems: list[Problem]) -> str:
    """Add the point of one line, by its out-of-place columns; return its operation and bandwidths' ratio."""
    words = line.split()
    place = f"line {number}"
    # size count type redop root, then time algbw busbw #wrong out of place and in place
    if len(words) == 12:
        words.insert(4, "-1")
    if len(words) != 13:
        message = f"{len(words)} columns where nccl-tests has 13"
        problems.append(Problem(file, place, "cut", "", message, "keep whole lines"))
        return ""
    size = int(words[0])
    if not _right(words[8]):
        message = f"{words[8]} values came out wrong: a fault of the machine, not a time"
        problems.append(Problem(file, place, "wrong_values", words[8], message))
    try:
        microseconds, algorithm, bus = (float(word) for word in words[5:8])
    except ValueError:
        message = f"{' '.join(words[5:8])} are no time and bandwidths"
        problems.append(Problem(file, place, "no_number", shown(words[5]), message))
        return ""
    if microseconds <= 0:
        if size:
            problems.append(Problem(file, place, "no_number", shown(words[5]), f"{words[5]} us is no time"))
        return ""
    reached = size / microseconds / 1e3
    # Bandwidths are printed with two digits.
    if abs(reached - algorithm) > 0.006 + 0.02 * reached:
        message = f"{size} bytes in {words[5]} us are {reached:.2f} GB/s, and algbw says {words[6]}"
        advice = "sizes are bytes, times us, bandwidths GB/s of 1e9"
        problems.append(Problem(file, place, "units", shown(words[6]), message, advice))
    if size:
        run.points.append((size, microseconds / 1e6))
    return f"{words[3]} {bus / algorithm:.2f}" if algorithm > 1 else words[3]


MOST_ERROR = 1e-3
"""Relative error of a sum in 16 bits, which old versions print for the number of wrong values."""


def _right(said: str) -> bool:
    """Whether no value came out wrong: `0`, `N/A` where none was checked, or a small error such as 2e-07."""
    if said in ("0", "N/A"):
        return True
    return "e" in said and _NUMBER.fullmatch(said) is not None and abs(float(said)) <= MOST_ERROR


def _by_ratio(run: Run, redops: set[str]) -> str:
    """An all_reduce or reduce_scatter by its operation and the ratio of its bandwidths; else empty."""
    share = (run.ranks - 1) / max(run.ranks, 1)
    ratios = [float(word.split()[1]) for word in redops if word.startswith("sum ")]
    if not ratios:
        return ""
    ratio = sorted(ratios)[len(ratios) // 2]
    return "all_reduce" if abs(ratio - 2 * share) < abs(ratio - share) else "reduce_scatter"
