"""Workers that train only as far as a test lets them: what has to happen in the middle of a sweep then happens there, on any machine.

``python -m tests.held submit grid.yaml …`` is the program itself with such workers. They hold once they have made a checkpoint, until the
file that the environment variable `GATE` names is there, or they are told to stop.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.cluster import pool as workers
from orchestrator.cluster.remote_worker import RemoteWorker
from orchestrator.execution.events import Saved, WorkerEvent
from orchestrator.planning.pack import Pack
from orchestrator.storage.checkpoints import Checkpointing
from workloads.engines.calibration import Machine
from workloads.engines.rates import CORE
from workloads.training.recording import Recording
from workloads.training.trial_state import Paused

GATE = "ORCHESTRATE_TEST_GATE"
HELD_SECONDS = 480.0
"""After these a worker goes on in any case: the test has failed."""
LONG = """
name: long
fixed:
  problem: {kind: matrix_completion, target: {rank: 1, frobenius: 8}, observed: 40}
  factorization: {kind: deep_matrix, depth: 3}
  init: {kind: gaussian, scale: 1e-2}
  optimizer: {kind: gd, lr: 1e-5}
  stop: {steps: 20000}
grid:
  problem.shape: [[8, 8], [9, 9]]
seeds: 4
record: {points: 20, measures: [nuclear]}
resources: {engine: batched}
"""
"""A checkpoint is made after a tenth of a second: workers hold there, long before the end on any machine."""


class HeldAtCheckpoint(RemoteWorker):
    """Holds after its first checkpoint, until the file ``gate`` is there or it is to stop."""

    gate: Path

    def __init__(self, *arguments: float) -> None:
        super().__init__(*arguments)
        self._stopped = threading.Event()

    def stop(self) -> None:
        super().stop()
        self._stopped.set()

    def run(
        self, pack: Pack, recording: Recording, files: Mapping[str, bytes], checkpointing: Checkpointing | None
    ) -> Iterator[WorkerEvent]:
        until = time.monotonic() + HELD_SECONDS
        for event in super().run(pack, recording, files, checkpointing):
            yield event
            while isinstance(event, Saved) and not self.gate.exists() and time.monotonic() < until and not self._stopped.wait(0.02):
                pass


class HeldUntilAsked(RemoteWorker):
    """Trains a pack that nobody has had before only once it has been asked for half of it.

    Says that it is so slow that giving half away is always worth it.
    """

    def __init__(self, *arguments: float) -> None:
        super().__init__(*arguments)
        self._was_asked = threading.Event()

    def warm(self) -> Machine:
        self._worker._machine = replace(super().warm(), rates=replace(CORE, fused=100 * CORE.fused))
        return self._worker.machine

    def ask(self) -> None:
        super().ask()
        self._was_asked.set()

    def run(
        self, pack: Pack, recording: Recording, files: Mapping[str, bytes], checkpointing: Checkpointing | None
    ) -> Iterator[WorkerEvent]:
        if not any(isinstance(trial, Paused) for trial in pack.trials):
            assert self._was_asked.wait(HELD_SECONDS), "nobody has asked"
        yield from super().run(pack, recording, files, checkpointing)


if __name__ == "__main__":
    import tests.held

    # Of this program, and so sent to the workers as it is, with the path: they have another environment.
    class Held(tests.held.HeldAtCheckpoint):
        """Holds at the gate of this test."""

        gate = Path(os.environ[GATE])

    workers.Workers.__init__ = functools.partialmethod(workers.Workers.__init__, worker=Held)  # type: ignore[method-assign,assignment]
    from orchestrator.cli.main import main

    sys.argv[0] = "orchestrate"
    main()
