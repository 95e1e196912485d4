"""The sweep on a real SLURM of two nodes: the same bytes as on one machine, through every kind of failure."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from project import CHECKOUT, Project
from rerun_table import copied, finished_project
from slurm.cluster import Cluster, missing

BIN = CHECKOUT / ".venv-slurm/bin"
"""Where .ci/run installs the workflow with the executor plugin, apart from the environment of other tests."""

FAST = (
    "--slurm-status-command squeue --slurm-no-account --slurm-init-seconds-before-status-checks 2 "
    "--seconds-between-status-checks 2"
)
WORKLOADS = (
    "tiny-ws16-tp2-pp2-ep2-gbs32-mbs1-seq128-moe",
    "tiny-ws16-tp2-pp2-ep4-gbs32-mbs1-seq128-moe",
)


def reason_to_skip() -> str:
    """Say why these tests cannot run here; nothing if they can."""
    return missing() or ("" if BIN.exists() else "no .venv-slurm: see docs/slurm.md")


def pytest_skip() -> None:
    if reason := reason_to_skip():
        assert os.environ.get("MOESWEEP_SLURM") != "required", reason
        pytest.skip(reason)


pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running SLURM."""
    pytest_skip()
    with Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running
        print("job log: id, state, node, rule", *running.jobs(), sep="\n")


@pytest.fixture(scope="module")
def finished(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose sweep has run on this machine alone."""
    return finished_project(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def new(finished: Project, tmp_path: Path) -> Project:
    """The same project without results, for the environment with the executor plugin."""
    copied(finished, tmp_path)
    project = Project(tmp_path, BIN)
    project.forget()
    return project


def command(project: Project, *arguments: str) -> list[str]:
    """Return `make sweep` on the cluster, two trace jobs to a SLURM job."""
    words = ["--group-components trace=2", FAST, *arguments]
    return [*project.make_with("slurm"), f"ARGS={' '.join(words)}"]


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for a run; return what it said, on both streams."""
    out, err = process.communicate()
    return out + err


def traces(cluster: Cluster, before: int, state: str = "RUNNING") -> list[list[str]]:
    """The trace jobs in a state that came after the first `before` jobs."""
    late = [job for job in cluster.jobs() if int(job[0].partition("_")[0]) > before]
    return [job for job in late if job[1] == state and "trace" in job[3]]


def count(cluster: Cluster) -> int:
    return max((int(job[0].partition("_")[0]) for job in cluster.jobs()), default=0)


def test_same_bytes_as_on_one_machine(cluster: Cluster, finished: Project, new: Project) -> None:
    before = count(cluster)
    done = new.call(*command(new))
    assert done.returncode == 0, done.stderr
    assert new.files() == finished.files()
    jobs = [job for job in cluster.jobs() if int(job[0]) > before]
    assert {job[2] for job in jobs} == {"one", "two"}
    assert len(traces(cluster, before, "COMPLETED")) == 3  # five trace jobs, two at a time


def test_a_cancelled_job_and_a_lost_node_are_tried_again(
    cluster: Cluster, finished: Project, new: Project
) -> None:
    before = count(cluster)
    # The first attempt of every trace takes its time.
    new.shim('[ "$1" = trace ] && mkdir "$PWD/tried_${!#}" 2>/dev/null && sleep 40')
    process = new.start(*command(new))
    wait_until(lambda: len(traces(cluster, before)) == 3)
    running = traces(cluster, before)
    lost = running[-1][2]
    cluster.call("scancel", next(job[0] for job in running if job[2] != lost))
    cluster.call("scontrol", "update", f"NodeName={lost}", "State=DRAIN", "Reason=test")
    cluster.call("scontrol", "update", f"NodeName={lost}", "State=DOWN", "Reason=test")
    said = ended(process)
    cluster.call("scontrol", "update", f"NodeName={lost}", "State=RESUME")
    assert process.returncode == 0, said
    ends = {job[1] for job in cluster.jobs() if int(job[0]) > before}
    assert ends == {"CANCELLED", "NODE_FAIL", "COMPLETED"}
    assert new.files() == finished.files()


def test_after_scancel_of_everything(cluster: Cluster, finished: Project, new: Project) -> None:
    before = count(cluster)
    new.shim('[ "$1" = trace ] && sleep 40')
    process = new.start(*command(new, "--retries 0"))
    wait_until(lambda: len(traces(cluster, before)) == 3)
    cluster.call("scancel", "--user=root")
    said = ended(process)
    assert process.returncode != 0, said
    new.shim("")
    done = new.call(*command(new))
    assert done.returncode == 0, done.stderr
    assert new.files() == finished.files()


@pytest.mark.endurance
def test_too_much_memory_and_time_say_which_workload(cluster: Cluster, new: Project) -> None:
    hungry, slow = ("|".join(new.trace_jobs(workload)) for workload in WORKLOADS)
    greed = "python -c 'import time; x = b\"x\" * (2500 << 20); time.sleep(60)'"
    new.shim(
        f'[[ "$1" = trace && "${{!#}}" =~ ^({hungry})$ ]] && {{ {greed}; exit 1; }}\n'
        f'[[ "$1" = trace && "${{!#}}" =~ ^({slow})$ ]] && sleep 600'
    )
    limits = "--group-components trace=1 --retries 0 --keep-going --default-resources mem_mb=1500 runtime=1"
    process = new.start(*command(new, limits))
    said = ended(process)
    assert process.returncode != 0
    assert "2 workloads failed" in said
    for workload, status in zip(WORKLOADS, ("exceeded memory limit", "DUE TO TIME LIMIT"), strict=True):
        assert status in said
        assert workload in said
