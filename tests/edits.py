"""Files edited while a stage runs, and put back: the results must be those of the files as they stand."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from kills import ROW
from project import SWEEP, Project

STAGES = (
    "enumerate",
    "validate",
    "trace",
    "traffic",
    "cost",
    "tables",
    "network",
    "figures",
    "report",
    "manifest",
)


@dataclass(frozen=True)
class FileEdit:
    """One text of one file, and what it becomes while a stage runs."""

    file: str
    old: str
    new: str


EDITS = (
    FileEdit("config/clusters/dgx-a100-80gb-8xhdr200.yaml", "value: 2.0$", "value: 3.0"),
    FileEdit("config/models/tiny.yaml", "hidden_size: {value: 256", "hidden_size: {value: 512"),
    FileEdit("config/sweeps/small.yaml", "global_batch_size: 32", "global_batch_size: 64"),
    FileEdit("config/gpus/a100-sxm-80gb.yaml", "value: 80 GiB", "value: 79 GiB"),
)
ALL = tuple(itertools.product(STAGES, EDITS))
A_FEW = (("cost", EDITS[0]), ("enumerate", EDITS[2]))
"""As many as CI has time for."""


def noticed(project: Project, cases: Iterable[tuple[str, FileEdit]] = ALL) -> list[bool]:
    """Run the sweep, edit a file when a stage begins, put it back, run again: is all as if never edited?"""
    project.edit("config/sweeps/small.yaml", SWEEP[SWEEP.index("rows:") :], f"rows:\n{ROW}")
    project.edit("config/config.yaml", "outputs: []", "outputs: [network, figures, report, manifest]")
    undisturbed = project.make()
    assert undisturbed.returncode == 0, undisturbed.stderr
    reference = project.files()
    return [_noticed(project, *case) == reference for case in cases]


def _noticed(project: Project, stage: str, edit: FileEdit) -> dict[str, bytes]:
    project.forget()
    path, mark = project.root / edit.file, project.root / "edited"
    original = path.read_text(encoding="utf-8")
    change = f'sed -i "s/{edit.old}/{edit.new}/" {edit.file}'
    project.shim(f'[ "$1" = {stage} ] && mkdir {mark.name} 2>/dev/null && {change}')
    project.make()
    assert mark.exists(), f"{stage} did not run"
    mark.rmdir()
    assert path.read_text(encoding="utf-8") != original, f"{edit} changes nothing"
    path.write_text(original, encoding="utf-8")
    project.shim("")
    again = project.make()
    return project.files() if again.returncode == 0 else {}
