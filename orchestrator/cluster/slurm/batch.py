"""What a batch script becomes: Ray on all nodes of an allocation, and beside it, on the first one, a command that finds it.

``python -m orchestrator.cluster.slurm.batch REQUEUES COMMAND…`` exits as the command does. Before the time limit the command is told to
save, and the job goes back into the queue, ``REQUEUES`` times at most.
"""

from __future__ import annotations

import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Self

from orchestrator.cluster import private
from orchestrator.cluster.scratch import scratch_folder
from orchestrator.cluster.slurm import controller
from orchestrator.cluster.slurm.node import END, Word, environment_of, write_token
from orchestrator.deadline import within
from orchestrator.errors import OrchestratorError, RayUnavailable, SlurmUnavailable
from workloads.amounts import amount

INTERRUPTED = 130
"""What a command exits with that was told to end and has saved what it had."""
NODE_SECONDS = 180.0
"""How long nodes may take to come up. Those that are later than the others are done without."""
ANSWER_SECONDS = 10.0
"""How long Ray's head may take to say who is there."""
EVERY = 0.5
"""Seconds between two questions of that kind."""
LEAVE_SECONDS = 40.0
"""How long all of Ray may take to end."""


def srun_command(nodes: int) -> list[str]:
    """Return the command that starts one process a node. Raises `SlurmUnavailable` if there is no srun."""
    srun = shutil.which("srun")
    if srun is None:
        raise SlurmUnavailable("there is no srun here: this belongs into an allocation of Slurm")
    return [
        *(srun, f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--export=ALL"),
        # All cores of the allocation, rather than the first of them.
        "--cpu-bind=none",
        # The others go on without a node that is gone.
        *("--no-kill", "--kill-on-bad-exit=0", "--wait=0"),
        *(sys.executable, "-m", "orchestrator.cluster.slurm.node"),
    ]


class Nodes:
    """The processes on the nodes of an allocation, which ``command`` starts and which have ``seconds`` to come up.

    Use as a context manager: leaving it ends them.
    """

    def __init__(self, count: int, command: Sequence[str], seconds: float = NODE_SECONDS) -> None:
        self._count, self._seconds = count, seconds
        # Whatever else is started on a node may write there, in whatever encoding.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace")
        self._words: queue.SimpleQueue[Word | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._tell(END)
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def start_ray(self, token: str) -> str:
        """Let all nodes start Ray, and return the address of its head. Raises `RayUnavailable` if the first one does not."""
        launchers: dict[int, str] = {}
        until = time.monotonic() + self._seconds
        while len(launchers) < self._count and (word := self._word(until)):
            if word.launcher:
                launchers[word.node] = word.launcher
        if 0 not in launchers:
            raise RayUnavailable(f"the first node of the allocation has not come up within {self._seconds:g} s")
        # As the others see the first node: it may know itself by a name that leads nowhere from elsewhere.
        self._tell(f"{token} {next((seen for node, seen in launchers.items() if node), launchers[0])}")
        until = time.monotonic() + self._seconds
        while word := self._word(until):
            if word.address:
                self._tell(word.address)
                return word.address
            if word.error and word.node == 0:
                raise RayUnavailable(f"Ray does not start on the first node: {word.error}")
        raise RayUnavailable(f"Ray has not started on the first node within {self._seconds:g} s")

    def joined(self, address: str) -> int:
        """Wait until Ray has all nodes, or nobody comes any more. Returns how many it has."""
        until, there = time.monotonic() + self._seconds, 0
        while there < self._count and time.monotonic() < until and self._process.poll() is None:
            time.sleep(EVERY)
            with suppress(RuntimeError, TimeoutError):
                there = within(ANSWER_SECONDS, private.alive_nodes, address)
        return there

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _word(self, until: float) -> Word | None:
        """Return what a node says next; ``None`` if it does not until then. Raises `RayUnavailable` if all of them have ended."""
        try:
            word = self._words.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return None
        if word is None:
            raise RayUnavailable(f"what srun has started has ended with exit code {self._process.wait()}")
        return word

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word = Word.parse(line)
            if word is None or word.error:
                say(f"node {word.node}: {word.error}" if word else line.rstrip())
            if word is not None:
                self._words.put(word)
        self._words.put(None)


class Batch:
    """A command beside Ray in an allocation, and what signals have to say to it."""

    def __init__(self, command: Sequence[str], requeues: int, slurm: Mapping[str, str]) -> None:
        self._command, self._slurm = command, slurm
        self._restarts_left = requeues - int(slurm.get("SLURM_RESTART_COUNT") or 0)
        self._driver: subprocess.Popen[bytes] | None = None
        self._at_limit = self._leaving = False

    def run(self) -> int:
        """Run the command and return the exit code of the job."""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)
        try:
            code = self._run()
        except OrchestratorError as error:
            say(f"error: {error}")
            code = error.exit_code
        except KeyboardInterrupt:
            code = INTERRUPTED
        if self._at_limit and code == INTERRUPTED:
            self._requeue()
        return code

    def _run(self) -> int:
        count = int(self._slurm.get("SLURM_JOB_NUM_NODES") or 1)
        with scratch_folder() as folder:
            token = secrets.token_hex(32)
            environment = environment_of(write_token(folder, token))
            # Ray reads it when it is imported.
            os.environ.clear()
            os.environ.update(environment)
            with Nodes(count, srun_command(count)) as nodes:
                try:
                    address = nodes.start_ray(token)
                    there = nodes.joined(address)
                    say(f"Ray is up on {there} of {amount(count, 'node')}, its head at {address}")
                    return self._drive(environment | {"RAY_ADDRESS": address})
                finally:
                    self._leaving = True

    def _drive(self, environment: Mapping[str, str]) -> int:
        self._driver = subprocess.Popen(self._command, env=environment, stdin=subprocess.DEVNULL)
        code = self._driver.wait()
        return code if code >= 0 else 128 - code

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Let the command save what it has. Raises KeyboardInterrupt where there is none yet."""
        self._at_limit = self._at_limit or number == signal.SIGUSR1
        if self._driver is not None:
            self._driver.terminate()
        elif not self._leaving:
            raise KeyboardInterrupt

    def _requeue(self) -> None:
        if self._restarts_left <= 0:
            say("the time limit is near, and the job was put back into the queue as often as it may be: submit it again to go on")
            return
        say("the time limit is near: the job goes back into the queue, and the sweep on from here")
        try:
            controller.requeue(self._slurm.get("SLURM_JOB_ID", ""))
        except SlurmUnavailable as error:
            say(f"error: {error}; submit it again to go on")


def say(line: str) -> None:
    """Write a line to the job's log."""
    with suppress(OSError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(Batch(sys.argv[2:], int(sys.argv[1]), os.environ).run())
