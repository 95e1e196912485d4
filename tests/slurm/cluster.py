"""A SLURM of two nodes on this machine, for tests: controller, two `slurmd` and munge, in one folder.

    CI=true python tests/slurm/cluster.py COMMAND...     # runs the command with the cluster up

It starts daemons that run anybody's jobs, so it wants a machine that is thrown away afterwards: it refuses
to start unless CI or MOESWEEP_THROWAWAY is set to true, without root, or where SLURM is configured already.
Outside its folder it makes one symbolic link, /etc/slurm/slurm.conf, because jobs do not inherit SLURM_CONF.
When it ends, or is killed, nothing that it started is left running. Needs the packages slurm-wlm and munge.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "sbatch", "scancel")
NODES = ("one", "two")
FIRST_PORT = 26817
LINK = Path("/etc/slurm/slurm.conf")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
MinJobAge=86400
KillWait=2
ReturnToService=2
SchedulerParameters=sched_interval=5
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=64000"


def missing() -> str:
    """Say why no cluster can be started here; nothing if one can."""
    if "true" not in (os.environ.get("CI"), os.environ.get("MOESWEEP_THROWAWAY")):
        return "this machine is not said to be a throw-away one: set CI=true or MOESWEEP_THROWAWAY=true"
    if os.geteuid() != 0:
        return "SLURM's daemons need root"
    if (LINK.exists() or LINK.is_symlink()) and not _left_behind(LINK):
        return f"SLURM is configured here already: {LINK}"
    absent = [name for name in PROGRAMS if _found(name) is None]
    return f"not installed: {', '.join(absent)} (packages slurm-wlm and munge)" if absent else ""


def _left_behind(link: Path) -> bool:
    """Say whether a link is that of a cluster of ours which was killed: nobody answers at its port."""
    with socket.socket() as probe:
        return link.is_symlink() and probe.connect_ex(("127.0.0.1", FIRST_PORT)) != 0


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Cluster:
    """A running cluster, while its `with` block lasts."""

    def __init__(self, folder: Path) -> None:
        if reason := missing():
            raise RuntimeError(reason)
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Cluster":
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def call(self, *command: str) -> str:
        """Run one of SLURM's commands; return what it prints."""
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def jobs(self) -> list[list[str]]:
        """Return id, state, node and comment of every job so far."""
        lines = self.call("squeue", "--noheader", "--states=all", "--format=%i|%T|%N|%k").splitlines()
        return [line.split("|", 3) for line in lines]

    def _start(self) -> None:
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        # munge wants a path that nobody else can write.
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        host = socket.gethostname()
        nodes = [NODE.format(name=node, host=host, port=FIRST_PORT + 1 + at) for at, node in enumerate(NODES)]
        values = {"host": host, "port": FIRST_PORT, "user": getpass.getuser(), "folder": self.folder}
        text = CONFIGURATION.format(nodes="\n".join(nodes), names=",".join(NODES), **values)
        (self.folder / "slurm.conf").write_text(text)
        LINK.parent.mkdir(parents=True, exist_ok=True)
        LINK.unlink(missing_ok=True)
        LINK.symlink_to(self.folder / "slurm.conf")
        files = {
            "socket": "socket",
            "key-file": "key",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        options = [f"--{option}={self.folder}/munge.{suffix}" for option, suffix in files.items()]
        self._daemon("munged", "--foreground", "--force", *options)
        _wait((self.folder / "munge.socket").exists, "munged")
        self._daemon("slurmctld", "-D", "-c")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        _wait(self._idle, f"the nodes of {self.folder}")

    def _daemon(self, program: str, *options: str) -> None:
        path = _found(program)
        assert path is not None
        with (self.folder / f"{program}.out").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", path, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _idle(self) -> bool:
        try:
            states = self.call("sinfo", "--noheader", "--Node", "--format=%T").split()
        except RuntimeError:
            return False
        return states == ["idle"] * len(NODES)

    def _stop(self) -> None:
        """End every job, then every daemon, the last first."""
        try:
            self.call("scancel", f"--user={getpass.getuser()}")
            _wait(lambda: not self.call("squeue", "--noheader").strip(), "the end of the jobs", 20)
        except (RuntimeError, OSError):
            pass
        for number in (signal.SIGTERM, signal.SIGKILL):
            for daemon in reversed(self._daemons):
                if daemon.poll() is None:
                    os.killpg(daemon.pid, number)
            deadline = time.monotonic() + 10
            while any(each.poll() is None for each in self._daemons) and time.monotonic() < deadline:
                time.sleep(0.1)
        self._daemons.clear()
        LINK.unlink(missing_ok=True)


def _wait(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {seconds:.0f} seconds for {what}")
        time.sleep(0.2)


def main() -> int:
    """Run a command with a cluster up."""
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder)):
        return subprocess.run(sys.argv[1:], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
