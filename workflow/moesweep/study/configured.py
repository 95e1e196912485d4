"""What a configuration means: the cluster it names, the workloads of its sweep, and what is found about them.

A configuration is a file, config/config.yaml unless another is named, and keys that the command line or
Snakemake sets instead. Every command that reads one takes the same options, `add_options`.
"""

import argparse
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from moesweep.edge.paths import inside, provided
from moesweep.edge.problems import BadInput, Problem, collect, shown
from moesweep.edge.schema import check, first_key, load_schema
from moesweep.edge.yaml_reader import read_yaml, read_yaml_text
from moesweep.store.checksums import keep
from moesweep.store.layout import Results
from moesweep.study.catalog import Cluster, in_project, load_cluster
from moesweep.study.sweep import Sweep, load_sweep, named_at
from moesweep.study.validation import checked

DEFAULT_FILE = "config/config.yaml"
SET = "--set"
NO_FILE = "-"
"""What --config says where every key is set: no file is read."""


def defaults() -> dict[str, Any]:
    """Return the keys of a configuration that have a default, with it."""
    keys = load_schema("config")["properties"].items()
    return {key: part["default"] for key, part in keys if "default" in part}


@dataclass(frozen=True)
class Configuration:
    """A configuration to be read: where it stands, and what is said instead of it.

    file       the file to read, NO_FILE for none
    settings   keys set elsewhere than in the file, with their values
    said_at    where each of them is said, file and path, as problems show it
    """

    root: Path = Path()
    file: str = DEFAULT_FILE
    settings: Mapping[str, Any] = field(default_factory=dict)
    said_at: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def place(self, key: str) -> tuple[str, str]:
        """Return file and path of a key: where it is said last."""
        return self.said_at.get(key, (self.file, key))

    def load(self) -> dict[str, Any]:
        """Return the checked configuration, defaults filled in. Raises BadInput."""
        data, problems = self.sound()
        if problems:
            raise BadInput(problems)
        return data

    def sound(self) -> tuple[dict[str, Any], list[Problem]]:
        """Return the keys that no problem concerns, so that what they name can be judged; the problems.

        Raises BadInput where there is no project.
        """
        in_project(self.root)
        try:
            data = {} if self.file == NO_FILE else read_yaml(self._path(), self.file)
        except BadInput as bad:
            return {}, [self._advised(problem) for problem in bad.problems]
        if isinstance(data, dict):
            data |= self.settings
        problems = check(data, "config", "configuration" if self.file == NO_FILE else self.file)
        if not isinstance(data, dict):
            return {}, problems
        faulty = {first_key(problem.path) for problem in problems}
        if "results" in data and "results" not in faulty:
            problems += (misplaced := self._misplaced(data["results"]))
            faulty |= {problem.path for problem in misplaced}
        sound = {key: value for key, value in (defaults() | data).items() if key not in faulty}
        return sound, [self._placed(problem) for problem in problems]

    def cluster(self) -> Cluster:
        """Return the cluster that the configuration names; raise BadInput with the faults of both."""
        data, problems = self.sound()
        cluster = self.found_cluster(data, problems)
        if cluster is None or problems:
            raise BadInput(problems)
        return cluster

    def workloads(self) -> pl.DataFrame:
        """Return the workloads of the sweep, unjudged; raise BadInput with the faults of both."""
        with named_at(self.root, path := self.load()["sweep"], *self.place("sweep")):
            return load_sweep(self.root, path).workloads

    def results(self) -> Results:
        """Return the folder of the results; raise BadInput where nothing says it."""
        if "results" not in self.settings:
            return Results(Path(self.sound()[0].get("results", defaults()["results"])))
        # What is said here counts also where there is no configuration.
        folder = self.settings["results"]
        problems = [p for p in check({"results": folder}, "config", self.file) if p.path == "results"]
        if problems := problems or self._misplaced(folder):
            raise BadInput(map(self._placed, problems))
        return Results(Path(folder))

    def written(self) -> Results:
        """Return the same for a command that writes them: it keeps checksums of what it writes there."""
        results = self.results()
        keep(results.root)
        return results

    def options(self) -> list[str]:
        """Return the options that ask a command for this configuration."""
        words = [] if self.file == DEFAULT_FILE else ["--config", self.file]
        if self.settings:
            words += [SET, *(f"{key}={json.dumps(value)}" for key, value in sorted(self.settings.items()))]
        return words

    def found_cluster(self, data: Mapping[str, Any], problems: list[Problem]) -> Cluster | None:
        """Return the cluster that sound keys name, None with its problems added if it cannot be had."""
        if "cluster" not in data:
            return None
        return collect(problems, load_cluster, self.root, data["cluster"], self.place("cluster"))

    def _path(self) -> Path:
        """The file to read: outside of a study the configuration that comes with the code."""
        find = provided if self.file == DEFAULT_FILE else inside
        return find(self.root, self.file)

    def _advised(self, problem: Problem) -> Problem:
        if problem.rule != "missing_file":
            return problem
        advice = f"name another with --config, or set all keys with --config {NO_FILE} {SET} KEY=VALUE"
        return replace(problem, suggestion=advice)

    def _misplaced(self, results: str) -> list[Problem]:
        """A problem if the folder of the results is one that holds the project: it is for results alone."""
        root, folder = (os.path.realpath(Path(self.root, part)) for part in ("", results))
        if not Path(root).is_relative_to(folder):
            return []
        message, advice = f"{shown(results)} holds the project itself", "name a folder for the results alone"
        return [Problem(self.file, "results", "folder", shown(results), message, advice)]

    def _placed(self, problem: Problem) -> Problem:
        key = first_key(problem.path)
        if key not in self.said_at:
            return problem
        file, path = self.said_at[key]
        return replace(problem, file=file, path=path + problem.path.removeprefix(key))


@dataclass(frozen=True)
class Configured:
    """A sound configuration with all that it names, enumerated and validated."""

    data: dict[str, Any]
    cluster: Cluster
    sweep: Sweep
    findings: pl.DataFrame

    @property
    def workloads(self) -> pl.DataFrame:
        """Every distinct workload of the sweep."""
        return self.sweep.workloads


def configured(configuration: Configuration, sweep: str | None = None) -> Configured:
    """Read, enumerate and validate what a configuration names; raise BadInput with every problem found.

    `sweep` is a sweep file that the option --sweep names instead, anywhere.
    """
    data, problems = configuration.sound()
    cluster = configuration.found_cluster(data, problems)
    place = configuration.place("sweep")
    if sweep is not None:
        data, place = data | {"sweep": sweep}, ("", "--sweep")
    found = None
    if "sweep" in data:
        placed = named_at(configuration.root, data["sweep"], *place)(checked)
        found = collect(problems, placed, configuration.root, data["sweep"], *judged_on(cluster))
    if cluster is None or found is None or problems:
        raise BadInput(problems)
    return Configured(data, cluster, *found)


def judged_on(cluster: Cluster | None) -> tuple[int, float, dict[str, dict[str, float]]]:
    """Return GPUs a node, usable bytes a GPU, and constants, to judge workloads by; of none a DGX A100's."""
    if cluster is None:
        return 8, math.inf, {}
    usable = cluster.value("hbm_bytes") - cluster.value("reserved_hbm_bytes")
    return int(cluster.value("gpus_per_node")), usable, {cluster.name: cluster.values}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --config, --results and --set."""
    parser.add_argument(
        "--config",
        default=DEFAULT_FILE,
        metavar="FILE",
        help="configuration of the workflow (%(default)s; - for none, with all keys set)",
    )
    parser.add_argument(
        "--results", metavar="DIR", help="folder of the results (the configuration's, else results)"
    )
    parser.add_argument(
        SET,
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="keys to take instead of the configuration's, such as cluster=dgx-a100-80gb-8xhdr200",
    )


def asked(arguments: argparse.Namespace) -> Configuration:
    """Return the configuration that a command's options ask for; raise BadInput if one makes no sense."""
    settings = settings_of(arguments.set)
    places = {key: ("", f"{SET} {key}") for key in settings}
    if arguments.results is not None:
        settings["results"], places["results"] = arguments.results, ("", "--results")
    return Configuration(Path(), arguments.config, settings, places)


def settings_of(written: Iterable[str]) -> dict[str, Any]:
    """Return the values of KEY=VALUE texts, read as YAML; raise BadInput with all that are none."""
    settings: dict[str, Any] = {}
    problems: list[Problem] = []
    for text in written:
        key, equals, value = text.partition("=")
        if not (key and equals):
            message = f"{shown(text)} is not KEY=VALUE"
            problems.append(Problem("", SET, "form", shown(text), message, "write cluster=NAME, for example"))
        elif key in settings:
            problems.append(Problem("", f"{SET} {key}", "duplicate", shown(text), f"{key} is set twice"))
        else:
            settings[key] = collect(problems, read_yaml_text, value, f"{SET} {key}")
    if problems:
        raise BadInput(problems)
    return settings
