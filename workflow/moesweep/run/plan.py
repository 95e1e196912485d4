"""What Snakemake must know while it parses: workloads, trace jobs, and what each stage is made from."""

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.paths import folders_inside, provided
from moesweep.report.figures.gallery import FIGURES
from moesweep.run.failures import alone, left_out, without
from moesweep.store.checksums import note
from moesweep.store.layout import TRACE_TABLES, Results
from moesweep.store.parts import unfit_parts
from moesweep.store.provenance import ENTRY, code_digest, sources
from moesweep.study.catalog import CALIBRATION_FILE, Cluster
from moesweep.study.claims import Claim, as_facts
from moesweep.study.configured import Configuration, configured
from moesweep.study.networks import PARTS_FILE
from moesweep.study.planned import digest, of_cluster
from moesweep.study.workload import description
from moesweep.tables.registry import TABLES
from moesweep.topologies.chosen import catalogue_networks
from moesweep.topologies.files import read_of

NEEDS = {"figures": ("network",), "report": ("figures", "network")}
"""What an output is made from besides the stages that always run."""

RESOLVED = Path(".snakemake/moesweep")
"""Where the resolved workloads of each plan lie."""

ALONE = "_alone"
"""How the name of a trace job ends that traces one workload alone because its job failed."""

CHUNK = rf"[0-9a-f]{{16}}({ALONE})?|last"
"""What the names of trace jobs look like."""

NAMED = 16
"""How many workloads of a trace job its command names."""

PRICED = ("cost", "tables", "figures", "report")
"""The stages that read the cluster's constants."""


@dataclass(frozen=True)
class Plan:
    """A valid sweep as files and jobs; all paths are text relative to the project."""

    configuration: Configuration
    config: dict[str, Any]
    workloads: pl.DataFrame
    findings: pl.DataFrame
    cluster: Cluster
    skipped: pl.DataFrame
    """Points of grids that the sweep asked to leave out: entry, reason, points."""

    claims: tuple[Claim, ...] = ()
    """What the sweep claims of expert parallelism."""

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
                jobs[f"{number:016x}{ALONE}"] = [id_]
                continue
            chunk.append(id_)
            if number % self.config["workloads_per_trace_job"] == 0:
                jobs[f"{number:016x}"] = chunk
                chunk = []
        if chunk:
            jobs["last"] = chunk
        return jobs

    @property
    def figures(self) -> list[str]:
        """Every figure."""
        return list(FIGURES)

    @cached_property
    def described(self) -> dict[str, str]:
        """Workload id to its resolved columns as text: what its trace depends on besides the code."""
        return {row["workload"]: description(row) for row in self.workloads.iter_rows(named=True)}

    def code(self, stage: str) -> str:
        """Return the digest of the code and libraries that make a stage's results."""
        return code_digest(stage)

    def reads(self, stage: str) -> str:
        """Return the digest of what a stage is made from besides code and what the stages before it write."""
        if stage in PRICED:
            return of_cluster(self.cluster, self.configuration.root)
        found = {
            "enumerate": lambda: [self.workloads.write_json(), *as_facts(self.claims).values()],
            "validate": lambda: [self.findings.write_json()],
            "traffic": lambda: [str(self.gpus_per_node)],
            "network": lambda: [read_of(self.cluster, self.configuration.root)],
            "manifest": lambda: [
                json.dumps(self.config),
                *self._read(self.config_files),
                *map(code_digest, ENTRY),
            ],
        }
        return digest(found[stage]())

    def named(self, chunk: str) -> str:
        """Name the workloads of a trace job, for whoever reads that it failed; of many the first ones."""
        ids = self.trace_jobs.get(chunk, [])
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        return " ".join(ids[:NAMED]) + more

    def chunk(self, name: str) -> str:
        """Return the digest of the workloads of a trace job, as they are resolved."""
        return digest(self.described[id_] for id_ in self.trace_jobs.get(name, ()))

    @cached_property
    def chunked(self) -> pl.DataFrame:
        """The workloads with the name of the trace job of each: `chunk`."""
        jobs = {id_: name for name, ids in self.trace_jobs.items() for id_ in ids}
        named = [jobs[id_] for id_ in self.ids]
        return self.workloads.with_columns(chunk=pl.Series(named, dtype=pl.String)).sort("chunk")

    @cached_property
    def resolved(self) -> Path:
        """The file in which trace jobs find `chunked`: another plan has another one."""
        return RESOLVED / f"{digest([self.chunked.write_json()])}.parquet"

    @cached_property
    def options(self) -> str:
        """The options by which a command works on this configuration, as shell text."""
        return shlex.join(self.configuration.options())

    @cached_property
    def trace_options(self) -> str:
        """The same of a trace job."""
        return f"{self.options} --resolved {self.resolved}".strip()

    @property
    def sources(self) -> Mapping[str, Path]:
        """The code and column dictionaries that make the results: name in a checkout to file."""
        return sources()

    @property
    def config_files(self) -> list[str]:
        """The configuration files that config/config.yaml leads to."""
        models = [f"config/models/{name}.yaml" for name in self.models]
        cluster = [f"config/clusters/{self.config['cluster']}.yaml", f"config/gpus/{self.cluster.gpu}.yaml"]
        compares = "network" in self.stages
        networks = catalogue_networks(self.configuration.root, self.cluster) if compares else []
        read = (file for each in (self.cluster.network, *networks) for file in (each.file, *each.graphs))
        parts = [PARTS_FILE] if compares else []
        return [self.config["sweep"], *models, *cluster, *dict.fromkeys(read), *parts, CALIBRATION_FILE]

    def _read(self, files: Iterable[str]) -> list[str]:
        """Return the texts of configuration files."""
        found = (provided(self.configuration.root, file) for file in files)
        return [file.read_text(encoding="utf-8") for file in found]

    @property
    def models(self) -> list[str]:
        """The models of the sweep."""
        return self.workloads["model"].unique().sort().to_list()

    def outputs(self, stage: str) -> list[str]:
        """The files of a stage that its rule declares.

        Traces, costs and traffic are files a workload: `parts`. Declared are their indexes, written last.
        """
        return self._outputs[stage]

    def parts(self, stage: str) -> list[str]:
        """The files, some a workload, that a stage writes besides its declared outputs."""
        return [str(file) for file in self._parts.get(stage, ())]

    def on_demand(self, stage: str) -> list[str]:
        """The files of a stage that are made for whoever asks for them: figures as PNG."""
        return [str(self.results.figure(name, "png")) for name in self.figures] if stage == "figures" else []

    @cached_property
    def _outputs(self) -> dict[str, list[str]]:
        results, written = self.results, ("parquet", "csv", "md")
        files = {
            "enumerate": [results.workloads],
            "validate": [results.validation],
            "trace": [results.trace_index(chunk) for chunk in self.trace_jobs],
            "network": [results.topologies],
            "figures": [results.figure(name, "svg") for name in self.figures],
            "report": [results.report],
            "traffic": [results.links, results.index("traffic")],
            "cost": [results.costs, results.sensitivity, results.distinct_ops, results.index("cost")],
            "tables": [
                results.summary,
                results.dictionary,
                *(results.table(name, suffix) for name in TABLES for suffix in written),
            ],
            "manifest": [results.manifest],
        }
        return {stage: [str(file) for file in found] for stage, found in files.items()}

    @cached_property
    def _parts(self) -> dict[str, list[Path]]:
        return {
            "trace": [self.results.trace(table, id_) for id_ in self.ids for table in TRACE_TABLES],
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

    def incomplete(self) -> dict[Path, Path]:
        """Return the indexes that name a part which is not there, with the first such part."""
        traced = [self.results.trace_index(chunk) for chunk in self.trace_jobs]
        indexes = [*traced, self.results.index("cost"), self.results.index("traffic")]
        found = {index: unfit_parts(index, self.results) for index in indexes}
        return {index: parts[0] for index, parts in found.items() if parts}


def _hash(id_: str) -> int:
    return int(hashlib.sha256(id_.encode()).hexdigest()[:16], 16)


def load_plan(configuration: Configuration) -> Plan:
    """Read, enumerate and validate what a configuration names; raise BadInput with every problem found."""
    found = configured(configuration)
    workloads, findings = without(found.workloads, found.findings, left_out())
    plan = Plan(
        configuration,
        found.data,
        workloads,
        findings,
        found.cluster,
        found.sweep.left_out,
        found.sweep.claims,
    )
    # Snakemake makes folders and removes old outputs before any command of ours could look.
    folders_inside(configuration.root, [*plan.recorded, str(note(plan.results.root) / "records")])
    return plan
