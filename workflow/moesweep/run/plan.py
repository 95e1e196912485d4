"""What Snakemake must know while it parses: workloads, trace jobs, and what each stage reads."""

import hashlib
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.paths import folders_inside
from moesweep.edge.problems import BadInput
from moesweep.run.failures import alone, left_out, without
from moesweep.store.checksums import RECORDS
from moesweep.store.layout import TRACE_TABLES, Results
from moesweep.store.provenance import ENTRY, PACKAGE, code_files
from moesweep.study.catalog import CALIBRATION_FILE, Cluster
from moesweep.study.configured import Configuration, configured
from moesweep.study.routing import given
from moesweep.study.workload import description
from moesweep.tables.registry import TABLES

NEEDS = {"report": ("figures",)}
"""What an output is made from besides the stages that always run."""

DICTIONARIES = {
    "enumerate": ["workloads"],
    "validate": ["validation"],
    "trace": [*TRACE_TABLES, "given_routing"],
    "cost": ["cost_ops", "costs", "sensitivity"],
    "tables": list(TABLES),
    "traffic": ["traffic", "links"],
    "figures": [],
    "report": [],
    "manifest": [],
}
"""The column dictionaries that a stage writes by."""

PAGE_FILES = ("moesweep/report/templates/*", "report/figures/*.rst")
"""What the page is made from besides code, below workflow/."""

LIBRARIES = ("numpy", "pint", "polars", "pyyaml")
"""What every stage computes and writes with: another version may change a byte of any result."""

DRAWING = ("jinja2", "matplotlib")
"""What figures and page are made with besides."""


@dataclass(frozen=True)
class Plan:
    """A valid sweep as files and jobs; all paths are text relative to the project."""

    config: dict[str, Any]
    workloads: pl.DataFrame
    findings: pl.DataFrame
    cluster: Cluster

    @property
    def results(self) -> Results:
        """The results folder."""
        return Results(Path(self.config["results"]))

    @property
    def gpus_per_node(self) -> int:
        """GPUs that share a node."""
        return int(self.cluster.value("gpus_per_node"))

    @property
    def ids(self) -> list[str]:
        """Every distinct workload of the sweep."""
        return self.workloads["workload"].to_list()

    @cached_property
    def trace_jobs(self) -> dict[str, list[str]]:
        """Job name to workload ids: a chunk ends at every id whose hash is a multiple of the job size.

        Membership follows from the hashes alone, so adding a workload changes only the chunk it falls
        in (content-defined chunking); a size of 1 gives every workload its own job. Workloads of a job that
        failed under --keep-going get jobs of their own too.
        """
        apart = alone()
        jobs: dict[str, list[str]] = {}
        chunk: list[str] = []
        for number, id_ in sorted((_hash(id_), id_) for id_ in self.ids):
            if id_ in apart:
                jobs[f"{number:016x}_alone"] = [id_]
                continue
            chunk.append(id_)
            if number % self.config["workloads_per_trace_job"] == 0:
                jobs[f"{number:016x}"] = chunk
                chunk = []
        if chunk:
            jobs["last"] = chunk
        return jobs

    @cached_property
    def figures(self) -> list[str]:
        """Every figure, known by its caption: to import them all would import the plotting library."""
        return sorted(file.stem for file in Path("workflow/report/figures").glob("*.rst"))

    @cached_property
    def described(self) -> dict[str, str]:
        """Workload id to its resolved columns as text: what its trace depends on besides the code."""
        return {row["workload"]: description(row) for row in self.workloads.iter_rows(named=True)}

    @property
    def workloads_hash(self) -> str:
        """The whole catalogue as a hash: what the enumeration's result depends on besides the code."""
        return hashlib.sha256(self.workloads.write_json().encode()).hexdigest()

    @property
    def findings_hash(self) -> str:
        """The findings as a hash: what the validation's result depends on besides the code."""
        return hashlib.sha256(self.findings.write_json().encode()).hexdigest()

    @cached_property
    def libraries(self) -> list[str]:
        """The versions of the libraries that make the results, as `polars 2.1.0`."""
        return [f"{library} {version(library)}" for library in LIBRARIES]

    @cached_property
    def drawing_libraries(self) -> list[str]:
        """The same of figures and page."""
        return [*self.libraries, *(f"{library} {version(library)}" for library in DRAWING)]

    def inputs(self, stage: str) -> list[str]:
        """The code of a stage, its column dictionaries, and the configuration files that it alone reads."""
        if stage == "manifest":
            return sorted({*self.sources, *self._code(stage), *self.config_files})
        dictionaries = [f"schemas/tables/{name}.json" for name in DICTIONARIES[stage]]
        priced = stage in ("cost", "tables", "figures", "report")
        page = PAGE_FILES if stage == "report" else ()
        written = sorted(str(file) for pattern in page for file in Path("workflow").glob(pattern))
        return [*self._code(stage), *dictionaries, *(self._cluster_files if priced else []), *written]

    @cached_property
    def sources(self) -> list[str]:
        """The code and column dictionaries that make the results."""
        dictionaries = {f"schemas/tables/{name}.json" for names in DICTIONARIES.values() for name in names}
        return sorted(dictionaries.union(*(self._code(stage) for stage in ENTRY if stage != "manifest")))

    @property
    def config_files(self) -> list[str]:
        """The configuration files that config/config.yaml leads to."""
        models = [f"config/models/{name}.yaml" for name in self.models]
        return [self.config["sweep"], *models, *self._cluster_files]

    @property
    def models(self) -> list[str]:
        """The models of the sweep."""
        return self.workloads["model"].unique().sort().to_list()

    @property
    def _cluster_files(self) -> list[str]:
        return [
            f"config/clusters/{self.config['cluster']}.yaml",
            f"config/gpus/{self.cluster.gpu}.yaml",
            CALIBRATION_FILE,
        ]

    def outputs(self, stage: str) -> list[str]:
        """The files of a stage that its rule declares.

        Costs and traffic also write a file a workload: `parts`. Snakemake (9.27) hashes all inputs of a job
        once for each of its outputs, so to declare them too would take time that grows with the square of
        the sweep. The tables that are declared are written last and name the digest of the parts.
        """
        return self._outputs[stage]

    def parts(self, stage: str) -> list[str]:
        """The files, one a workload, that a stage writes besides its declared outputs."""
        return [str(file) for file in self._parts.get(stage, ())]

    @cached_property
    def _outputs(self) -> dict[str, list[str]]:
        results, drawn, written = self.results, ("svg", "png"), ("parquet", "csv", "md")
        files = {
            "enumerate": [results.workloads],
            "validate": [results.validation],
            "figures": [results.figure(name, suffix) for name in self.figures for suffix in drawn],
            "report": [results.report],
            "traffic": [results.links],
            "cost": [results.costs, results.sensitivity],
            "tables": [
                results.summary,
                results.dictionary,
                *(results.table(name, suffix) for name in TABLES for suffix in written),
            ],
            "manifest": [results.manifest],
        }
        names = {stage: [str(file) for file in found] for stage, found in files.items()}
        return names | {"trace": self.trace_outputs(self.ids)}

    @cached_property
    def _parts(self) -> dict[str, list[Path]]:
        return {
            "cost": [self.results.cost_ops(id_) for id_ in self.ids],
            "traffic": [self.results.traffic("node", id_) for id_ in self.ids],
        }

    @property
    def stages(self) -> list[str]:
        """The stages that this configuration runs: those it names under `outputs`, and all that they need."""
        wanted = {"enumerate", "validate", "trace", "traffic", "cost", "tables", *self.config["outputs"]}
        return [stage for stage in ENTRY if stage in wanted.union(*(NEEDS.get(name, ()) for name in wanted))]

    @property
    def wanted(self) -> list[str]:
        """Every file that a rule of this configuration declares."""
        return [file for stage in self.stages for file in self.outputs(stage)]

    @property
    def declared(self) -> list[str]:
        """The same but for the manifest, which is made from them."""
        return [file for stage in self.stages if stage != "manifest" for file in self.outputs(stage)]

    @property
    def recorded(self) -> list[str]:
        """Every file that the manifest records: all but itself."""
        return [*self.declared, *(file for stage in self.stages for file in self.parts(stage))]

    def traced(self, *tables: str) -> list[str]:
        """These tables of every trace."""
        return [str(self.results.trace(table, id_)) for id_ in self.ids for table in tables]

    @property
    def uneven(self) -> list[str]:
        """The per-rank traces of workloads with a given routing: no program says what each rank sends."""
        ids = self.workloads.filter(given)["workload"]
        return [str(self.results.trace("ops", id_)) for id_ in ids]

    def trace_outputs(self, ids: list[str]) -> list[str]:
        """The trace files of some workloads."""
        return [str(self.results.trace(table, id_)) for id_ in ids for table in TRACE_TABLES]

    def _code(self, stage: str) -> list[str]:
        library = PACKAGE.relative_to(PACKAGE.parents[1])
        return [str(library / file) for file in code_files(stage)]


def _hash(id_: str) -> int:
    return int(hashlib.sha256(id_.encode()).hexdigest()[:16], 16)


def load_plan(configuration: Configuration) -> Plan:
    """Read, enumerate and validate what a configuration names; raise BadInput with every problem found."""
    found = configured(configuration)
    workloads, findings = without(found.workloads, found.findings, left_out())
    plan = Plan(found.data, workloads, findings, found.cluster)
    # Snakemake makes folders and removes old outputs before any command of ours could look.
    folders_inside(configuration.root, [*plan.recorded, str(RECORDS / "records")])
    return plan


def plan_or_exit(config_file: str) -> Plan:
    """Return the plan of a configuration; with bad input, print every problem and leave with exit code 2."""
    try:
        return load_plan(Configuration(file=config_file))
    except BadInput as error:
        print(*(problem.line() for problem in error.problems), sep="\n", file=sys.stderr)
        sys.exit(2)
