"""Logs of nccl-tests among the files to import: they make a cluster, not a model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from moesweep.edge.outputs import output_file
from moesweep.edge.problems import BadInput, Problem, collect, shown
from moesweep.study.cluster_import import import_cluster
from moesweep.study.importers.foreign import read_foreign
from moesweep.study.nccl_log import is_log


def any_log(files: Sequence[str]) -> bool:
    """Return whether one of some files is output of nccl-tests."""
    found = (collect([], read_foreign, Path(file)) for file in files)
    return any(text is not None and is_log(text) for text in found)


def import_logs(arguments: argparse.Namespace) -> int:
    """Write a cluster's file; print each fitted constant and how far its line misses the logs."""
    files = [Path(name) for name in arguments.files]
    problems: list[Problem] = []
    if arguments.out is None:
        message, advice = "there is nothing to write", "add --out config/clusters/NAME.yaml"
        problems.append(Problem("", "--out", "missing", "", message, advice))
    if arguments.sweep_out is not None:
        message = "logs of nccl-tests make no sweep"
        said = shown(arguments.sweep_out)
        problems.append(Problem("", "--sweep-out", "no_effect", said, message, "leave it out"))
    out = collect(problems, output_file, arguments.out, files) if arguments.out is not None else None
    # Without a sound name nothing is written, and the other faults are found all the same.
    found = collect(problems, import_cluster, files, None if problems else out, arguments.like or "")
    if found is None or problems:
        raise BadInput(problems)
    print(*found, sep="\n")
    print(f"{arguments.out}: a cluster as {arguments.like}, but for {len(found)} constants from logs")
    return 0
