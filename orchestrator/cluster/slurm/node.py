"""What srun starts on each node of an allocation: Ray, until its standard input ends. ``python -m orchestrator.cluster.slurm.node``

It is told what to do by lines, and answers with lines (`Word`): a command line or an environment shows more than it should to others.
Ports are whichever are free, since other allocations may share the node, and what was started here is all that is ended here.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from orchestrator.cluster.lifelines import HEAD_SECONDS, Lifeline
from orchestrator.cluster.scratch import scratch_folder, socket_base
from orchestrator.cluster.slurm import controller
from orchestrator.deadline import in_background
from orchestrator.errors import RayUnavailable, SlurmUnavailable, one_line

OBJECT_STORE_BYTES = 1 << 30
"""Of shared memory: a sweep puts its data files there, and Ray would take a third of a machine of which others have a part, too."""
EVERY = 0.2
"""Seconds between two looks at Ray while its head comes up."""
HEAD_EVERY = 5.0
"""Seconds between two looks at the head: there may be hundreds of nodes that look."""
STOP_SECONDS = 20.0
"""How long Ray may take to end before it is killed."""
ANSWER_SECONDS = 5.0
"""How long a head may take to take a connection."""
SETTLE_SECONDS = 30.0
"""How long Slurm is given to take note by itself that a job has come to its end."""
PORTS = range(20_000, 32_000)
"""Below those that the system gives to whoever connects, above those that Rays of others take for their workers."""
END = "end"
"""What a node is told last. Without it, whoever should have told it is gone."""
CURRENT = "ray_current_cluster"
"""The file in Ray's folder in which it notes the address of its head."""


@dataclass(frozen=True)
class Word:
    """What a node says: whence it was started (``launcher``), where Ray's head is (``address``), or what went wrong (``error``)."""

    node: int
    launcher: str = ""
    address: str = ""
    error: str = ""

    @property
    def line(self) -> str:
        """Return it as a line."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """Return what a line says; ``None`` for one that somebody else has written."""
        try:
            return cls(**json.loads(line))
        except (ValueError, TypeError):
            return None


def environment_of(token: Path) -> dict[str, str]:
    """Return the environment of processes that belong to the Ray whose token is in a file, and to no other."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_TMPDIR")}
    return kept | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def write_token(folder: Path, token: str) -> Path:
    """Write a token to where its user alone can read it. Returns the file."""
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(token)
    return path


def start_command(folder: Path, host: str, address: str | None, slurm: Mapping[str, str]) -> Sequence[str]:
    """Return the command that runs Ray on this node: as the head, or for the head at ``address``, with what Slurm has allotted of it."""
    cpus = int(slurm.get("SLURM_CPUS_ON_NODE") or len(os.sched_getaffinity(0)))
    gpus = int(slurm.get("SLURM_GPUS_ON_NODE") or 0)
    # The port of its client server, which nobody uses, Ray does not choose itself: where 10001 is taken, it ends.
    head = ["--head", "--port=0", "--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
    role = [f"--address={address}"] if address else head
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *role),
        *(f"--node-ip-address={host}", f"--temp-dir={folder}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"),
        *(f"--object-store-memory={OBJECT_STORE_BYTES}", "--include-log-monitor=false"),
        # Those that Ray would otherwise take are the same for everybody.
        *("--node-manager-port=0", "--object-manager-port=0", "--min-worker-port=0", "--max-worker-port=0"),
        "--dashboard-agent-listen-port=0",
    ]


class Node:
    """Ray on this node, number ``node`` of the allocation, until ``over`` is done."""

    def __init__(self, node: int, folder: Path, say: Callable[[Word], None], over: Future[str]) -> None:
        self._node, self._folder, self._say, self._over = node, folder, say, over
        self._log = folder / "start.log"

    def run(self, token: str, host: str, address: str | None) -> None:
        """Run Ray and end it. Raises `RayUnavailable` if it ends by itself."""
        environment = environment_of(write_token(self._folder, token)) | {
            "RAY_USAGE_STATS_ENABLED": "0",
            # A worker that asks for no GPU must see none.
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
            # Nobody is left who would make use of the time.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # What Ray's processes leave behind goes with the folder.
            "TMPDIR": str(self._folder),
        }
        command = start_command(self._folder, host, address, os.environ)
        with self._log.open("w") as log:
            ray = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            if address is None:
                self._watch(ray, EVERY, self._announced)
                self._watch(ray, HEAD_EVERY, lambda: False)
            else:
                # Ray would wait for it for longer.
                head = Lifeline("the head of the Ray cluster", address, HEAD_SECONDS)
                self._watch(ray, HEAD_EVERY, lambda: head.holds() and False)
        finally:
            ray.terminate()
            try:
                ray.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                ray.kill()
                ray.wait()

    def _watch(self, ray: subprocess.Popen[bytes], every: float, enough: Callable[[], bool]) -> None:
        """Wait until something has come about, or all is over. Raises `RayUnavailable` if Ray ends before."""
        while not (self._over.done() or enough()):
            if ray.poll() is not None:
                lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
                raise RayUnavailable(f"Ray has ended with exit code {ray.returncode}: {one_line(' '.join(lines[-3:]))}")
            wait([self._over], every)

    def _announced(self) -> bool:
        """Say where the head is, once Ray has noted it."""
        with suppress(OSError):
            address = (self._folder / CURRENT).read_text().strip()
            if address.rpartition(":")[2].isdigit():
                self._say(Word(self._node, address=address))
                return True
        return False


def free_port() -> int:
    """Return a port on which nobody listens, and that nobody is about to be given by chance. Raises `RayUnavailable` if there is none."""
    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.socket() as tried:
            tried.bind(("", port))
            return port
    raise RayUnavailable(f"all ports of this machine from {PORTS.start} to {PORTS.stop - 1} are taken")


def own_address(head: str) -> str:
    """Return the address of this machine by which it and a head, host:port, reach each other. Raises `OSError` if they do not."""
    host, _, port = head.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS) as connection:
        return str(connection.getsockname()[0])


def _say(word: Word) -> None:
    with suppress(OSError):
        sys.stdout.write(word.line)
        sys.stdout.flush()


def main() -> int:
    """Run Ray on this node until standard input ends. Returns the exit code."""
    # Slurm tells everybody at once that a job is to end. Whoever has something to save needs Ray for it, and closes our input then.
    signal.signal(signal.SIGTERM, lambda *_: None)
    node = int(os.environ.get("SLURM_NODEID", "0"))
    _say(Word(node, launcher=os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or socket.gethostbyname(socket.gethostname())))
    token, _, host = sys.stdin.readline().strip().partition(" ")
    address = sys.stdin.readline().strip() if node else None
    if token in ("", END) or address in ("", END):
        return 0
    over, code = in_background(sys.stdin.read), 0
    try:
        with scratch_folder(socket_base()) as folder:
            Node(node, folder, _say, over).run(token, own_address(address) if address else host, address)
    except (RayUnavailable, OSError) as error:
        _say(Word(node, error=one_line(str(error))))
        code = RayUnavailable.exit_code
    if address and not (over.done() and over.result().strip().endswith(END)):
        see_that_it_goes_on(address, os.environ.get("SLURM_JOB_ID", ""))
    return code


def see_that_it_goes_on(head: str, job: str, seconds: float = SETTLE_SECONDS) -> None:
    """Put the job back into the queue if its first node has died: Slurm lets the others keep what they have, and nobody uses it."""
    time.sleep(seconds)
    try:
        own_address(head)
    except OSError:
        # Neither where it has ended nor where somebody has ended it.
        if controller.state(job) == "RUNNING":
            with suppress(SlurmUnavailable):
                controller.requeue(job)


if __name__ == "__main__":
    sys.exit(main())
