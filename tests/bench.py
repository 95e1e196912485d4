"""What everything costs: CPU seconds, peak memory, units of work per CPU second (make bench).

    python tests/bench.py [GROUP ...] [--json FILE] [--against OTHER.json]

Each line is a command in a process of its own, as a user types it, its start and its children included. Wall
times are not shown: they say more about the machine than about the code. `join` is a machine's yardstick: a
cross join of 4,096 × 3,000 rows of nine integers, written to Parquet by polars.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_cases import GROUPS, Case, new_study

ASKED_ONLY = ("many",)
JOIN = """
import polars as pl
left = pl.DataFrame({f"l{i}": pl.int_range(4096, eager=True) + i for i in range(4)})
right = pl.DataFrame({f"r{i}": pl.int_range(3000, eager=True) * (i + 1) for i in range(5)})
left.lazy().join(right.lazy(), how="cross").sink_parquet("join.parquet")
"""

Line = dict[str, float | str]


def used(command: list[str], folder: Path) -> tuple[float, float]:
    """Run a command; return its CPU seconds and the largest peak memory in MB, its children's included."""
    with (folder / "bench.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{(folder / 'bench.log').read_text()}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _written(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def measured(case: Case, folder: Path) -> Line:
    """Return the line of a case; what it wrote is what its study has grown by."""
    before = _written(folder)
    seconds, peak = used([case.program, *case.arguments], folder)
    return {
        "name": case.name,
        "cpu_seconds": round(seconds, 2),
        "peak_megabytes": round(peak),
        "written_megabytes": round(max(_written(folder) - before, 0.0), 2),
        "units": case.units(),
        "unit": case.unit,
        "peer": case.peer,
    }


def show(line: Line, join_seconds: float, before: dict[str, float]) -> None:
    """Print a line of the table, with the ratio to what it was before."""
    seconds, units = float(line["cpu_seconds"]), float(line["units"])
    rate = f"{units / seconds:>12,.0f} {line['unit']}/CPU s" if units else ""
    ratio = f"{seconds / before[str(line['name'])]:>7.2f}" if line["name"] in before else ""
    print(
        f"{line['name']:<42}{seconds:>9.2f}{seconds / join_seconds:>8.1f}{line['peak_megabytes']:>9,}"
        f"{line['written_megabytes']:>9.1f}{ratio:>7}  {rate:<32}{line['peer']}".rstrip(),
        flush=True,
    )


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (all but the last)"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), help="file for the figures (bench.json)"
    )
    parser.add_argument("--against", type=Path, help="figures of another time, to compare with")
    asked = parser.parse_args()
    if unknown := set(asked.groups) - set(GROUPS):
        parser.error(f"there is no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    return asked


def main() -> None:
    """Print the table and write its figures."""
    asked = arguments()
    groups = asked.groups or [name for name in GROUPS if name not in ASKED_ONLY]
    old = json.loads(asked.against.read_text()) if asked.against else []
    before = {line["name"]: line["cpu_seconds"] for line in old}
    with tempfile.TemporaryDirectory() as scratch:
        lines = [measured(Case("join", ["-c", JOIN], program=sys.executable), Path(scratch))]
        join_seconds = float(lines[0]["cpu_seconds"])
        print(f"{'':<42}{'CPU s':>9}{'joins':>8}{'peak MB':>9}{'written':>9}{'ratio' if before else '':>7}")
        show(lines[0], join_seconds, before)
        for name in groups:
            study = new_study(Path(scratch), name)
            for case in GROUPS[name](study):
                lines.append(measured(case, study))
                show(lines[-1], join_seconds, before)
    asked.json.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
