"""The last lines of a run: what was made, what fits, the answer, and where to look."""

import os
import shutil
import textwrap

from moesweep.edge.problems import BadInput
from moesweep.run.elapsed import elapsed
from moesweep.store.layout import Results

_INDENT = 8


def closing(results: Results, seconds: float) -> list[str]:
    """Return five lines about finished results; none where they are not those of one and the same sweep.

    seconds   that the run took
    """
    if not results.summary.exists():
        return []
    try:
        return _closing(results, seconds)
    except BadInput:
        return []


def _closing(results: Results, seconds: float) -> list[str]:
    from pyarrow.parquet import read_metadata  # type: ignore[import-untyped]

    from moesweep.report.answer import fitting, in_one_sentence
    from moesweep.report.evidence import Evidence

    evidence = Evidence(results)
    workloads = evidence.workloads
    rows = sum(read_metadata(results.trace("ops", id_)).num_rows for id_ in workloads["workload"])
    size = sum(file.stat().st_size for file in results.root.rglob("*") if file.is_file())
    made = f"{workloads.height} workloads, {rows:,} rows of trace, {size / 1e6:,.0f} MB in {results.root}"
    said = {
        "made": f"{made} ({elapsed(seconds)})",
        "fits": f"{fitting(evidence)}; Megatron would refuse {len(evidence.refused)} of them",
        "answer": in_one_sentence(evidence),
        "page": str(results.report) if results.report.exists() else "not asked for (outputs: [report])",
        "read": f"{results.summary}; every column: {results.dictionary}",
    }
    return [line for name, text in said.items() for line in _wrapped(name, text)]


def _wrapped(name: str, text: str) -> list[str]:
    columns = shutil.get_terminal_size().columns if os.isatty(1) else 110
    return textwrap.wrap(
        text,
        max(columns - 1, 40),
        initial_indent=f"{name:<{_INDENT}}",
        subsequent_indent=" " * _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
