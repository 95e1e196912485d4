"""Which jobs an edit reruns: every kind of edit, made in a finished project and followed by a real run.

    python tests/rerun_table.py > docs/reruns.md

tests/test_reruns.py makes the same edits and compares each with its line of docs/reruns.md.
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from project import Project, make_project, shared

CLUSTER = "config/clusters/dgx-a100-80gb-8xhdr200.yaml"
SWEEP = "config/sweeps/small.yaml"
MODEL = "config/models/tiny.yaml"
ALL_OUTPUTS = "[network, figures, report, manifest]"
LIBRARY = "workflow/moesweep"

HEADER = """\
# What reruns after an edit

Made by `python tests/rerun_table.py > docs/reruns.md`: each edit is made in a copy of a finished project
(three MoE workloads and their two dense twins, one workload a trace job), then the workflow runs, and the
jobs that Snakemake started are counted. `tests/test_reruns.py` repeats every line and compares.

- A stage's jobs depend on one digest of the code of their own layer and of those below it (found from the
  imports), of the column dictionaries of the tables they write, and of the versions of the libraries they
  compute with; and on one of what they read of the configuration, as it is resolved. So a touch, a comment,
  a file renamed rerun nothing.
- A trace job depends on its own workloads, resolved to numbers, and not on the files that these came from.
  With more workloads a job (`workloads_per_trace_job`), those that did not change are not traced again.
- Edits of what the workflow reads but no number is made from rerun nothing, but for the manifest, which
  quotes the configuration: comments in a sweep or a model, schemas, the command line.
- When the catalogue is written, the files of workloads that it no longer lists are removed, so no table holds
  rows of a workload that is not in the sweep. So are networks, figures, page and manifest where `outputs`
  does not name them: they would describe another sweep. `moesweep clean --stale` does the same, and more, by
  hand.

"""


@dataclass(frozen=True)
class Edit:
    """One kind of edit: what it is called in docs/reruns.md, and how it is made."""

    name: str
    make: Callable[[Project], None]


def _replaced(file: str, old: str, new: str) -> Callable[[Project], None]:
    return lambda project: project.edit(file, old, new)


def _appended(file: str, text: str) -> Callable[[Project], None]:
    def make(project: Project) -> None:
        path = project.root / file
        path.parent.mkdir(exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + text)

    return make


def _touched(project: Project) -> None:
    for folder in ("config", "schemas", "workflow"):
        for file in (project.root / folder).rglob("*.*"):
            file.touch()


def _rewritten(project: Project) -> None:
    for folder in ("config", "schemas", "workflow"):
        for file in (project.root / folder).rglob("*.*"):
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)


def _renamed(project: Project) -> None:
    (project.root / SWEEP).rename(project.root / "config/sweeps/renamed.yaml")
    project.edit("config/config.yaml", "small.yaml", "renamed.yaml")


def _switched(project: Project) -> None:
    other = (project.root / SWEEP).read_text().replace("world_size: 16, tp: 2", "world_size: 16, tp: 1")
    (project.root / "config/sweeps/other.yaml").write_text(other)
    project.edit("config/config.yaml", "small.yaml", "other.yaml")


def _other_polars(project: Project) -> None:
    """Make the project believe in another polars: the first metadata on the path counts."""
    fake = project.root / "workflow/polars-99.0.dist-info/METADATA"
    fake.parent.mkdir()
    fake.write_text("Metadata-Version: 2.1\nName: polars\nVersion: 99.0\n")


def _measured_anew(project: Project) -> None:
    """Give one workload a measured routing, run the workflow, and measure other counts."""
    table = project.root / "config/routing/measured.parquet"
    table.parent.mkdir(exist_ok=True)
    experts = [{"layer": layer, "expert": expert} for layer in range(4) for expert in range(4)]
    for place, counts in enumerate(([40, 30, 20, 10], [50, 20, 20, 10])):
        rows = [expert | {"tokens": counts[expert["expert"]]} for expert in experts]
        pl.DataFrame(rows).write_parquet(table)
        if not place:
            routed = REMOVED.replace("}", ", routing: {table: config/routing/measured.parquet}}")
            project.edit(SWEEP, REMOVED, routed)
            project.sweep()


def _lost(project: Project) -> None:
    next((project.root / "results/traces/ops").rglob("*.parquet")).unlink()


ROW = "  - {model: tiny, world_size: 16, tp: 1, pp: 2, ep: 4, global_batch_size: 32}\n"
REMOVED = "  - {model: tiny, world_size: 32, tp: 4, pp: 2, ep: 4, global_batch_size: 64}\n"

EDITS = [
    Edit("nothing", lambda project: None),
    Edit("documentation", _appended("docs/notes.md", "Something else.\n")),
    Edit("every file touched", _touched),
    Edit("every file written again with the same content", _rewritten),
    Edit("a comment in the sweep file", _appended(SWEEP, "# a remark\n")),
    Edit("a comment in the cluster file", _appended(CLUSTER, "# a remark\n")),
    Edit("the sweep file renamed", _renamed),
    Edit("a price", _replaced(CLUSTER, "value: 2.0\n", "value: 3.0\n")),
    Edit("an efficiency", _replaced("config/calibration.yaml", "value: 0.781", "value: 0.77")),
    Edit("the NIC bandwidth", _replaced(CLUSTER, "value: 200 Gbit/s", "value: 190 Gbit/s")),
    Edit(
        "another cluster",
        _replaced("config/config.yaml", "cluster: dgx-a100-80gb-8xhdr200", "cluster: a100-80gb-pcie"),
    ),
    Edit(
        "one workload changed (and so its twin)",
        _replaced(SWEEP, "ep: 4, global_batch_size: 64", "ep: 4, global_batch_size: 128"),
    ),
    Edit("a workload added (and its twin)", _appended(SWEEP, ROW)),
    Edit("a workload removed (and its twin)", _replaced(SWEEP, REMOVED, "")),
    Edit(
        "a workload listed twice",
        _replaced(SWEEP, "global_batch_size: 64}", "global_batch_size: 64, listed: 2}"),
    ),
    Edit("another sweep (one of three workloads in common)", _switched),
    Edit(
        "the hidden size of the model",
        _replaced(MODEL, "hidden_size: {value: 256", "hidden_size: {value: 512"),
    ),
    Edit("the counts of a measured routing", _measured_anew),
    Edit("the description of the model", _replaced(MODEL, "A model", "Another model")),
    Edit("code of parallelism", _appended(f"{LIBRARY}/shapes/parallelism.py", "\n# a remark\n")),
    Edit("code of the sweep", _appended(f"{LIBRARY}/study/sweep.py", "\n# a remark\n")),
    Edit("code of the validation", _appended(f"{LIBRARY}/study/validation.py", "\n# a remark\n")),
    Edit("code of the trace", _appended(f"{LIBRARY}/trace/layers.py", "\n# a remark\n")),
    Edit("code of the costs", _appended(f"{LIBRARY}/cost/iteration.py", "\n# a remark\n")),
    Edit("code of the tables", _appended(f"{LIBRARY}/tables/registry.py", "\n# a remark\n")),
    Edit("code of the command line", _appended(f"{LIBRARY}/run/commands.py", "\n# a remark\n")),
    Edit(
        "columns of a trace table",
        _replaced("schemas/tables/ops.json", '"description": "', '"description": "A '),
    ),
    Edit(
        "columns of the costs",
        _replaced("schemas/tables/costs.json", '"description": "', '"description": "A '),
    ),
    Edit(
        "columns of an answer",
        _replaced("schemas/tables/memory.json", '"description": "', '"description": "A '),
    ),
    Edit("a schema of the configuration", _appended("schemas/model.schema.json", "\n")),
    Edit("the lock file", _appended("uv.lock", "# a remark\n")),
    Edit("another version of polars installed", _other_polars),
    Edit("one trace file deleted", _lost),
]


def finished_project(root: Path, outputs: str = "[]") -> Project:
    """Return a project whose sweep has run; `outputs` is what to make besides traces, costs and tables."""

    def make(folder: Path) -> None:
        project = make_project(folder)
        project.edit("config/config.yaml", "outputs: []", f"outputs: {outputs}")
        project.sweep()

    return Project(shared("-".join(["project", *re.findall(r"\w+", outputs)]), root, make))


def copied(project: Project, root: Path) -> Project:
    """Return a copy of a project, with its times."""
    shutil.copytree(project.root, root, dirs_exist_ok=True)
    return Project(root)


def row(edit: Edit, done: Mapping[str, int], stages: list[str], workloads: int) -> str:
    """Return an edit's line of docs/reruns.md: what ran, stage by stage."""
    cells = [_cell(done.get(stage, 0), stage, workloads) for stage in stages]
    return f"| {edit.name} | {' | '.join(cells)} |"


def _cell(count: int, stage: str, workloads: int) -> str:
    if not count:
        return "–"
    return f"{count} of {workloads}" if stage == "trace" else "runs"


def measure(edit: Edit, project: Project) -> str:
    """Make an edit in a finished project, run the workflow, and return the line of docs/reruns.md."""
    edit.make(project)
    done = project.sweep()
    workloads = len(list((project.root / "results/traces/programs").iterdir()))
    return row(edit, done, project.stages(), workloads)


def main() -> None:
    """Print docs/reruns.md."""
    with tempfile.TemporaryDirectory() as folder:
        finished = finished_project(Path(folder) / "finished", ALL_OUTPUTS)
        stages = finished.stages()
        print(HEADER + f"| edit | {' | '.join(stages)} |\n|---|{'---|' * len(stages)}")
        for number, edit in enumerate(EDITS):
            print(measure(edit, copied(finished, Path(folder) / str(number))), flush=True)
            print(edit.name, file=sys.stderr)


if __name__ == "__main__":
    main()
