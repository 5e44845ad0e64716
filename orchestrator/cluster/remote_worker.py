"""What trains packs in a process of Ray's."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress

from orchestrator.cluster.scratch import scratch_folder
from orchestrator.errors import CodeError
from orchestrator.execution.events import Broken, WorkerEvent
from orchestrator.extensions import Carried
from orchestrator.planning.pack import Pack
from orchestrator.storage.checkpoints import Checkpointing
from workloads.engines.calibration import Machine
from workloads.training.recording import Recording


class RemoteWorker:
    """`orchestrator.execution.worker.Worker` in a process of Ray's. Imported there and not above: the driver does without torch."""

    def __init__(self, cpus: float, gpus: float, progress_seconds: float) -> None:
        self._cpus, self._gpus = cpus, gpus
        # Compilers leave files behind, and this process is killed in the end. Where no folder can be made, nothing says that they need one.
        self._scratch = scratch_folder()
        with suppress(OSError):
            tempfile.tempdir = str(self._scratch.__enter__())
        # Looking for garbage takes a fifth of the time of these imports and finds none.
        gc.disable()
        self.renew(progress_seconds)
        gc.freeze()
        gc.enable()

    def renew(self, progress_seconds: float) -> None:
        """Know nothing of packs that were trained before."""
        from orchestrator.execution.worker import Worker
        from workloads.training.policy import Policy

        self._worker = Worker(max(1, int(self._cpus)), self._gpus, Policy(progress_seconds=progress_seconds))

    def warm(self) -> Machine:
        return self._worker.warm()

    def ask(self) -> None:
        self._worker.ask()

    def stop(self) -> None:
        self._worker.stop()

    def run(
        self, pack: Pack | Carried, recording: Recording, files: Mapping[str, bytes], checkpointing: Checkpointing | None
    ) -> Iterator[WorkerEvent]:
        try:
            opened = pack.opened() if isinstance(pack, Carried) else pack
        except CodeError as error:
            yield Broken(str(error), code=True)
            return
        yield from self._worker.run(opened, recording, files, checkpointing)
