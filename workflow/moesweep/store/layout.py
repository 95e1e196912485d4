"""Where every result lies: the names below `results/` that others script against."""

from dataclasses import dataclass
from pathlib import Path

MAKERS = {"workloads": "enumerate", "validation": "validate", "traces": "trace", "costs": "cost"}
MAKERS |= {name: name for name in ("traffic", "tables", "network")}
"""The stage that writes what has a name, or lies in a folder of it."""

TRACE_TABLES = ("ops", "programs", "schedules", "ranks", "groups", "routing")


def maker(path: Path) -> str:
    """Return the command that makes a file of the results; empty for other files."""
    names = [path.stem, *(part.name for part in path.parents)]
    stage = next((MAKERS[name] for name in names if name in MAKERS), "")
    return f"moesweep {stage} makes it, and make sweep all that lack" if stage else ""


@dataclass(frozen=True)
class Results:
    """The files of one results folder."""

    root: Path

    @property
    def workloads(self) -> Path:
        """The catalogue: one row per distinct workload."""
        return self.root / "workloads.parquet"

    @property
    def validation(self) -> Path:
        """What validation found."""
        return self.root / "validation.parquet"

    @property
    def costs(self) -> Path:
        """One row of seconds, memory and price per workload."""
        return self.root / "costs.parquet"

    @property
    def sensitivity(self) -> Path:
        """What moves each workload's time most."""
        return self.root / "costs" / "sensitivity.parquet"

    @property
    def summary(self) -> Path:
        """The study's summary as text."""
        return self.root / "summary.txt"

    @property
    def dictionary(self) -> Path:
        """The columns of every table: type, unit, meaning."""
        return self.root / "schema.json"

    @property
    def manifest(self) -> Path:
        """Every file with its checksum, and what all were made from."""
        return self.root / "manifest.json"

    def trace(self, table: str, workload: str) -> Path:
        """One trace table of one workload."""
        return self.root / "traces" / table / f"workload={workload}" / f"{table}.parquet"

    def trace_index(self, chunk: str) -> Path:
        """The trace files of the workloads of one trace job, with their checksums."""
        return self.root / "traces" / "index" / f"{chunk}.json"

    def index(self, stage: str) -> Path:
        """The files, one a workload, that the cost or the traffic stage writes, with their checksums."""
        return self.root / {"cost": "costs"}.get(stage, stage) / "index.json"

    def indexes(self) -> list[Path]:
        """Every index that is there, also of trace jobs that the sweep no longer has."""
        found = [self.index("cost"), self.index("traffic")]
        return [*sorted(self.root.glob("traces/index/*.json")), *(path for path in found if path.exists())]

    def cost_ops(self, workload: str) -> Path:
        """The costed program of one workload."""
        return self.root / "costs" / "ops" / f"workload={workload}" / "ops.parquet"

    @property
    def distinct_ops(self) -> Path:
        """The costed ops of all workloads, each once for all layers that run it alike."""
        return self.root / "costs" / "distinct_ops.parquet"

    def traffic(self, level: str, workload: str) -> Path:
        """One workload's traffic matrix between ranks, nodes or rails."""
        return self.root / "traffic" / level / f"workload={workload}" / "traffic.parquet"

    @property
    def links(self) -> Path:
        """The bytes of every workload by link, group kind and phase."""
        return self.root / "traffic" / "links.parquet"

    @property
    def topologies(self) -> Path:
        """What each network of the catalogue does to every workload."""
        return self.root / "network" / "topologies.parquet"

    def figure(self, name: str, suffix: str) -> Path:
        """One of the figures, as svg or png."""
        return self.root / "figures" / f"{name}.{suffix}"

    @property
    def report(self) -> Path:
        """The page that shows it all."""
        return self.root / "report.html"

    def table(self, name: str, suffix: str) -> Path:
        """One of the small tables, as parquet, csv or md."""
        return self.root / "tables" / f"{name}.{suffix}"
