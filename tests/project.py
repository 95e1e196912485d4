"""A real project in a temporary directory: this checkout's workflow with a small sweep."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

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

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Snakemake as `make sweep` does, on two cores."""
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--profile",
            "workflow/profiles/default",
            "--cores",
            "2",
        ]
        return self.call(*command, *arguments, **environment)

    def call(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project, with the project's own copy of the library."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {
            "PYTHONPATH": str(self.root / "workflow"),
            "PATH": path,
            "XDG_CACHE_HOME": str(self.root / ".cache"),
        }
        return subprocess.run(
            command,
            cwd=self.root,
            env=os.environ | own | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def sweep(self) -> set[str]:
        """Run the workflow, which must succeed; return the stages that had work to do."""
        done = self.run("--quiet", "host", "progress")
        assert done.returncode == 0, done.stderr
        return {re.sub(r"_.*", "", name) for name in jobs(done.stderr)} - {"all"}

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
    return re.findall(r"^(?:local)?rule (\w+):$", log, flags=re.MULTILINE)


def make_project(root: Path) -> Project:
    """Copy the checkout's workflow to `root` and give it the small sweep."""
    for name in ("workflow", "schemas", "config"):
        shutil.copytree(CHECKOUT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "Snakefile", root / "Snakefile")
    (root / "config/models/tiny.yaml").write_text(MODEL)
    (root / "config/sweeps/small.yaml").write_text(SWEEP)
    project = Project(root)
    project.edit("config/config.yaml", "moe-a100-123.yaml", "small.yaml")
    project.edit("config/config.yaml", "workloads_per_trace_job: 8", "workloads_per_trace_job: 1")
    return project
