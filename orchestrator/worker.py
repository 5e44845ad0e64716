"""What runs on a worker: packs, from specs to events. Knows nothing of Ray, so that it can be tested and used without."""

from __future__ import annotations

import resource
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from orchestrator.plan import PACK_BYTES, Pack
from workloads.engines.base import create
from workloads.engines.calibration import Machine, measured_rates, processor
from workloads.engines.choice import on_device
from workloads.loop import train
from workloads.recording import Recording
from workloads.results import Event, Finished, HandedOver, TrialResult

GPU_ROOM = 0.8
"""How much of its share of a GPU's memory a worker fills with lanes: libraries and measures need the rest."""


class Worker:
    """Trains packs, one after another, on ``threads`` cores or, with ``gpus`` above zero, on that share of the GPU it was given."""

    def __init__(self, threads: int, gpus: float) -> None:
        self.threads = threads
        self.share = min(gpus, 1.0)
        self.device = torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")
        self._asked = threading.Event()

    def warm(self) -> Machine:
        """Start what training needs, and say what there is to train on. Measures how fast it is, unless that is known."""
        self._settle()
        cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name() if cuda else processor()
        memory = int(torch.cuda.get_device_properties(0).total_memory * self.share * GPU_ROOM) if cuda else PACK_BYTES
        self.machine = Machine(self.device.type, name, memory, measured_rates(self.device, name))
        return self.machine

    def ask(self) -> None:
        """Ask for half of the pack in training. The answer is a `HandedOver` event. May be called from another thread."""
        self._asked.set()

    def run(self, pack: Pack, recording: Recording, files: Mapping[str, bytes]) -> Iterator[Event]:
        """Train a pack; ``files`` maps SHA-256 digests to the content of data files.

        Yields every trial in exactly one `Finished` or `HandedOver` event; an exception makes all trials that have not come out
        `workloads.results.Outcome.FAILED`, with its traceback.
        """
        self._settle()
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        left = {trial.trial_id for trial in pack.trials}
        began = time.time()
        engine = create(on_device(pack.engine, pack.trials[0].spec, cuda=cuda))
        # Planned for another device, it may have room for more lanes here, or for fewer.
        width = pack.lanes_in(self.machine.memory)
        try:
            events = train(
                pack.trials,
                recording,
                engine,
                files=files,
                device=self.device,
                width=width,
                asked=self._was_asked,
                rates=self.machine.rates,
            )
            for event in events:
                match event:
                    case Finished():
                        left.difference_update(result.trial_id for result in event.results)
                        yield self._signed(event, engine.name)
                    case HandedOver():
                        left.difference_update(trial.trial_id for trial in event.trials)
                        yield event
                    case _:
                        yield event
        except Exception:
            error, now = traceback.format_exc(), time.time()
            failed = tuple(TrialResult.failure(t.trial_id, error, began, now) for t in pack.trials if t.trial_id in left)
            yield self._signed(Finished(failed), engine.name)
        finally:
            # What was asked too late is not asked of the next pack.
            self._asked.clear()

    def _settle(self) -> None:
        # Threads stick to the thread of a process that sets them.
        torch.set_num_threads(self.threads)

    def _was_asked(self) -> bool:
        asked = self._asked.is_set()
        self._asked.clear()
        return asked

    def _signed(self, event: Finished, engine: str) -> Finished:
        """The event with what it was computed by and on, and the most memory that took."""
        return replace(event, engine=engine, device=self.machine.name, peak_bytes=self._peak())

    def _peak(self) -> int:
        """The most memory in use so far: of the GPU, or of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        # In bytes on macOS, in KiB elsewhere.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
