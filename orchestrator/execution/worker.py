"""What runs on a worker: packs, from specs to events. Knows nothing of Ray, so that it can be tested and used without."""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from orchestrator.errors import StorageUnavailable, storable
from orchestrator.execution.events import Broken, Saved, WorkerEvent
from orchestrator.planning.pack import PACK_BYTES, Pack
from orchestrator.storage.checkpoints import Checkpointing, Pace
from workloads.engines.base import create
from workloads.engines.calibration import Machine, measured_rates, processor
from workloads.engines.choice import on_device
from workloads.extensions import traced
from workloads.training.loop import train
from workloads.training.policy import Policy
from workloads.training.recording import Recording
from workloads.training.results import Checkpoint, Finished, Notice, Request

GPU_ROOM = 0.8
"""How much of its share of a GPU's memory a worker fills with lanes: libraries and measures need the rest."""


class Worker:
    """Trains packs, one after another, on ``threads`` cores or, with ``gpus`` above zero, on that share of the GPU it was given."""

    def __init__(self, threads: int, gpus: float, policy: Policy | None = None) -> None:
        self.threads, self.policy = threads, policy or Policy()
        self.share = min(gpus, 1.0)
        self.device = torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")
        self._machine: Machine | None = None
        self._asked = threading.Event()
        self._stop = threading.Event()

    def warm(self) -> Machine:
        """Start what training needs, and say what there is to train on. Measures how fast it is, unless that is known."""
        self._settle()
        cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name() if cuda else processor()
        memory = int(torch.cuda.get_device_properties(0).total_memory * self.share * GPU_ROOM) if cuda else PACK_BYTES
        self._machine = Machine(self.device.type, name, memory, measured_rates(self.device, name))
        return self._machine

    @property
    def machine(self) -> Machine:
        """What it computes on."""
        return self._machine or self.warm()

    def ask(self) -> None:
        """Ask for half of the pack in training. The answer is a `HandedOver` event. May be called from another thread."""
        self._asked.set()

    def stop(self) -> None:
        """Let the pack in training end with a last checkpoint, and every later one at once. May be called from another thread."""
        self._stop.set()

    def run(
        self, pack: Pack, recording: Recording, files: Mapping[str, bytes], checkpointing: Checkpointing | None = None
    ) -> Iterator[WorkerEvent]:
        """Train a pack; ``files`` maps SHA-256 digests to the content of data files, ``checkpointing`` says where checkpoints go.

        Yields every trial in exactly one `Finished` or `HandedOver` event, unless it is stopped, or a `Broken` event ends it.
        """
        self._settle()
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        engine = create(on_device(pack.engine, pack.trials[0].spec, cuda=cuda))
        checkpointer = _Checkpointer(pack.key, checkpointing) if checkpointing is not None else None
        # Planned for another device, it may have room for more lanes here, or for fewer; after a crash it is to have no more.
        room = pack.lanes_in(self.machine.memory)
        try:
            events = train(
                pack.trials,
                recording,
                engine,
                files=files,
                device=self.device,
                width=min(room, pack.width) if pack.crashes else room,
                asked=lambda: self._request(checkpointer),
                rates=self.machine.rates,
                policy=self.policy,
            )
            for event in events:
                match event:
                    case Finished():
                        yield self._signed(event, engine.name)
                    case Checkpoint():
                        if checkpointer is not None:
                            yield from checkpointer.keep(event)
                    case _:
                        yield event
        except Exception as error:
            yield Broken(storable(traced(error)))
        finally:
            # What was asked too late is not asked of the next pack.
            self._asked.clear()

    def _request(self, checkpointer: _Checkpointer | None) -> Request | None:
        if self._stop.is_set():
            return Request.STOP
        if checkpointer is not None and checkpointer.due():
            return Request.CHECKPOINT
        if self._asked.is_set():
            self._asked.clear()
            return Request.HALF
        return None

    def _settle(self) -> None:
        # Threads stick to the thread of a process that sets them.
        torch.set_num_threads(self.threads)

    def _signed(self, event: Finished, engine: str) -> Finished:
        """Return the event with what it was computed by and on, and the most memory that took."""
        return replace(event, engine=engine, device=self.machine.name, peak_bytes=self._peak())

    def _peak(self) -> int:
        """Return the most memory in use so far: of the GPU, or of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        # In bytes on macOS, in KiB elsewhere.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class _Checkpointer:
    """Makes the checkpoints of one pack."""

    def __init__(self, key: str, checkpointing: Checkpointing) -> None:
        self._key = key
        self._pace = Pace(checkpointing.every, time.monotonic())
        self._began = 0.0
        self._checkpointing = checkpointing
        self._shared: bool | None = None
        self._trouble = ""

    def due(self) -> bool:
        """Return whether it is time for a checkpoint; its cost counts from here."""
        self._began = time.monotonic()
        return self._began >= self._pace.due

    def keep(self, event: Checkpoint) -> Iterator[WorkerEvent]:
        """Write a checkpoint. A storage that cannot be written to is no reason to stop."""
        try:
            if self._shared is None:
                self._shared = self._checkpointing.shared()
            content = self._checkpointing.encoded(event.trials)
            if self._shared:
                self._checkpointing.save(self._key, content)
            yield Saved(len(event.trials), None if self._shared else content)
            self._trouble = ""
        except StorageUnavailable as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                yield Notice(f"going on without this checkpoint: {error}")
        self._pace.made(self._began, time.monotonic())
