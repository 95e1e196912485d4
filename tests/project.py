"""A real project in a temporary directory: this checkout's workflow with a small sweep."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from moesweep.run.plan import load_plan
from moesweep.study.configured import Configuration

CHECKOUT = Path(__file__).resolve().parents[1]

ASKED = ("png", "screen", "screen_shard", "traces")
"""Rules that run only where they are asked for."""

MODEL = """\
description: A model small enough to trace in no time.
num_layers: {value: 4, source: test}
hidden_size: {value: 256, source: test}
ffn_hidden_size: {value: 1024, source: test}
num_attention_heads: {value: 8, source: test}
num_query_groups: {value: 8, source: test}
vocab_size: {value: 1000, source: test}
gated_mlp: {value: false, source: test}
normalization: {value: layernorm, source: test}
position_embedding: {value: learned, source: test}
tied_embeddings: {value: true, source: test}
"""

SWEEP = """\
description: Three MoE workloads, their twins and one dense workload.
twins: true
options:
  num_experts: 4
  moe_router_topk: 2
  routing: balanced
  etp: tp
  micro_batch_size: 1
  seq_length: 128
  dtype: bf16
  framework: megatron-core
  sequence_parallel: true
  virtual_pipeline: 1
  distributed_optimizer: true
  recompute: none
  flash_attention: false
  blocking_launches: false
rows:
  - {model: tiny, world_size: 16, tp: 2, pp: 2, ep: 2, global_batch_size: 32}
  - {model: tiny, world_size: 16, tp: 2, pp: 2, ep: 4, global_batch_size: 32}
  - {model: tiny, world_size: 32, tp: 4, pp: 2, ep: 4, global_batch_size: 64}
"""


@dataclass(frozen=True)
class Project:
    """A copy of what a sweep needs: Snakefile, workflow, schemas, config."""

    root: Path
    bin: Path = Path(sys.executable).parent
    library: Path | None = None
    """Where the library is that the project's commands run: its own copy, unless it has none."""

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake on two cores."""
        command = ["-m", "snakemake", "--cores", "2"]
        return self.call(str(self.bin / "python"), *command, *arguments, **environment)

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `make sweep` on two cores."""
        return self.call(*self.make_sweep(*arguments), **environment)

    def make_sweep(self, *arguments: str) -> list[str]:
        """Return the command `make sweep`, with arguments for Snakemake."""
        words = ["--cores 2", *arguments]
        return [*self.make_with("default"), f"ARGS={' '.join(words)}"]

    def make_with(self, profile: str) -> list[str]:
        """Return the command `make sweep` with a profile, before its ARGS."""
        folder = self.shims if self.shims.exists() else self.bin
        return ["make", "sweep", f"BIN={folder}", "READY=", f"PROFILE={profile}"]

    def call(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project, with the project's own copy of the library."""
        with self.start(*command, **environment) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in the project, as the head of a process group of its own."""
        folders = [str(self.shims), str(self.bin), os.environ["PATH"]]
        own = {
            "PYTHONPATH": str(self.library or self.root / "workflow"),
            "PATH": os.pathsep.join(folders),
            "XDG_CACHE_HOME": str(self.root / ".cache"),
        }
        # A shell ignores interrupts for what it runs in the background, and that is inherited.
        return subprocess.Popen(
            ["env", "--default-signal=INT", *command],
            cwd=self.root,
            env={name: value for name, value in os.environ.items() if "MAKE" not in name} | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def shims(self) -> Path:
        """Folder of commands that stand in for the real ones under `make sweep`."""
        return self.root / "shims"

    def shim(self, script: str) -> None:
        """Put a bash script before every `moesweep` that the workflow calls; empty: take it away."""
        shutil.rmtree(self.shims, ignore_errors=True)
        if script:
            self.shims.mkdir()
            real = self.bin / "moesweep"
            (self.shims / "moesweep").write_text(f'#!/bin/bash\n{script}\nexec {real} "$@"\n')
            (self.shims / "moesweep").chmod(0o755)

    def sweep(self) -> Counter[str]:
        """Run the workflow, which must succeed; return how many jobs of each stage ran."""
        done = self.run("--quiet", "host", "progress")
        assert done.returncode == 0, done.stderr
        return Counter(name for name in jobs(done.stderr) if name != "all")

    def stages(self) -> list[str]:
        """Return the stages of the workflow, in order: the rules that `all` can run."""
        files = re.findall(r"workflow/rules/\w+\.smk", (self.root / "Snakefile").read_text())
        named = [re.findall(r"^rule (\w+):", (self.root / file).read_text(), re.MULTILINE) for file in files]
        return [name for names in named for name in names if name not in ASKED]

    def trace_jobs(self, workload: str) -> list[str]:
        """Return the names of the trace jobs of a workload: with others, and alone after a failure."""
        with chdir(self.root):
            jobs = load_plan(Configuration()).trace_jobs
        with_others = next(name for name, ids in jobs.items() if workload in ids)
        return [with_others, f"{hashlib.sha256(workload.encode()).hexdigest()[:16]}_alone"]

    def forget(self) -> None:
        """Remove all results and what Snakemake remembers of them."""
        for folder in ("results", ".snakemake"):
            shutil.rmtree(self.root / folder, ignore_errors=True)

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace text in a file of the project; the old text must be there."""
        path = self.root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def files(self) -> dict[str, bytes]:
        """Every file below results/ with its content."""
        results = self.root / "results"
        return {
            str(f.relative_to(results)): f.read_bytes() for f in sorted(results.rglob("*")) if f.is_file()
        }


def jobs(log: str) -> list[str]:
    """Return the rules that a Snakemake log says were run."""
    return re.findall(r"^ *(?:local)?rule (\w+):$", log, flags=re.MULTILINE)


def shared(name: str, folder: Path, make: Callable[[Path], object]) -> Path:
    """Make a folder once for all files of a test run; each works in a copy, which keeps the files' times.

    `name` says what is made. Outside of pytest's workers, whose temporary folders lie side by side, it is
    made in place.
    """
    worker = next((parent for parent in folder.parents if parent.name.startswith("popen-")), None)
    if worker is None:
        make(folder)
        return folder
    kept, done = worker.with_name(name), worker.with_name(f"{name} is made")
    with worker.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            kept.mkdir()
            make(kept)
            done.touch()
    return Path(shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True))


def make_project(root: Path) -> Project:
    """Copy the checkout's workflow to `root` and give it the small sweep."""
    for name in ("workflow", "schemas", "config", "profiles"):
        shutil.copytree(CHECKOUT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "Makefile"):
        shutil.copy(CHECKOUT / name, root / name)
    (root / "config/models/tiny.yaml").write_text(MODEL)
    (root / "config/sweeps/small.yaml").write_text(SWEEP)
    project = Project(root)
    project.edit("config/config.yaml", "moe-a100-123.yaml", "small.yaml")
    project.edit("config/config.yaml", "workloads_per_trace_job: 32", "workloads_per_trace_job: 1")
    # The tests of other outputs ask for them.
    project.edit("config/config.yaml", "outputs: [network, figures, report, manifest]", "outputs: []")
    return project
