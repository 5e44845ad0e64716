"""A Slurm of two nodes on this machine, for tests: munge, slurmctld and two slurmd of its own, which share nothing with the machine's."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.cluster.slurm.node import free_port
from tests import processes

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY")
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdParameters=config_overrides
SlurmdTimeout=15
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
JobRequeue=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def no_slurm() -> str:
    """Why `slurm` cannot work here; empty if it can."""
    if os.geteuid() != 0:
        return "a Slurm of its own needs root"
    # Debian keeps the daemons where only root looks.
    missing = [name for name in PROGRAMS if _program(name) is None]
    return f"there is no {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)" if missing else ""


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@dataclass
class Slurm:
    """A running Slurm whose nodes are ``n1`` and ``n2``, each of two cores."""

    folder: Path
    daemons: dict[str, subprocess.Popen[str]]

    @property
    def environment(self) -> dict[str, str]:
        """What its commands need beside this process's environment."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, check: bool = True) -> str:
        """Return what one of its commands says."""
        done = processes.run(command, env=os.environ | self.environment)
        assert not (check and done.returncode), f"{command}: {done.stderr}\n{self.log('slurmctld')}"
        return done.stdout

    def log(self, daemon: str) -> str:
        """The last lines of what a daemon says."""
        return "\n".join((self.folder / f"{daemon}.log").read_text(errors="replace").splitlines()[-20:])

    def job(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job, by its words: ``JobState``, ``ExitCode``, ``Restarts``."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", job)))

    def ended(self, job: str, seconds: float = processes.PATIENCE) -> dict[str, str]:
        """Wait for a job's end and return what Slurm knows of it."""
        processes.eventually(lambda: self.job(job)["JobState"] in ENDED, lambda: self.job(job), seconds, every=0.5)
        return self.job(job)

    def idle(self) -> bool:
        """Whether no job runs, or is about to end."""
        return not self.run("squeue", "--noheader").strip()

    def update(self, node: str, state: str) -> None:
        """Set a node's state: ``drain``, ``resume``."""
        self.run("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        command = [str(_program("slurmd")), "-D", "-N", node]
        self.daemons[node] = processes.popen(
            command, env=os.environ | self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill_node(self, node: str, job: str) -> None:
        """SIGKILL to a node: its slurmd, and what it runs of a job."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        for process in [*psutil.process_iter()]:
            with suppress(psutil.Error, OSError):
                environment = process.environ()
                if environment.get("SLURM_JOB_ID") == job and environment.get("SLURMD_NODENAME") == node:
                    parent = process.parent()
                    if parent is not None and parent.name() == "slurmstepd":
                        parent.kill()
                    process.kill()


@contextmanager
def slurm() -> Iterator[Slurm]:
    """A Slurm of two nodes. Leaving it ends its jobs and its daemons."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        for name in ("state", "munge", "spool-n1", "spool-n2"):
            (folder / name).mkdir(mode=0o755)
        ports = [free_port() for _ in range(3)]
        (folder / "slurm.conf").write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=ports))
        key = folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        started = Slurm(folder, {})
        stack.callback(_end, started)
        munge = {"key-file": key, "socket": folder / "munge/socket", "pid-file": folder / "munge/pid", "log-file": folder / "munge/log"}
        options = [f"--{name}={path}" for name, path in {**munge, "seed-file": folder / "munge/seed"}.items()]
        _start(started, "munged", [str(_program("munged")), "--foreground", "--force", *options])
        processes.eventually((folder / "munge/socket").exists, lambda: (folder / "munge/log").read_text())
        _start(started, "slurmctld", [str(_program("slurmctld")), "-D"])
        for node in ("n1", "n2"):
            started.start_node(node)
        processes.eventually(
            lambda: started.run("sinfo", "-hN", "-o", "%T", check=False).split() == ["idle"] * 2,
            lambda: started.log("slurmctld"),
            every=0.5,
        )
        yield started


def _start(started: Slurm, name: str, command: Sequence[str]) -> None:
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started.daemons[name] = processes.popen(command, env=os.environ | started.environment, **output)


def _end(started: Slurm) -> None:
    if "slurmctld" in started.daemons and started.daemons["slurmctld"].poll() is None:
        started.run("scancel", "--user=root", check=False)
        with suppress(AssertionError):
            processes.eventually(started.idle, seconds=60, every=0.5)
    for daemon in reversed(started.daemons.values()):
        daemon.send_signal(signal.SIGTERM)
    for daemon in reversed(started.daemons.values()):
        processes.communicate(daemon)
