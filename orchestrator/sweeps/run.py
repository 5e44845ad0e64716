"""A sweep while it runs: what becomes of what workers say, and of somebody's wish that it end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.execution.events import Ended, Lost, PackEvent, Saved
from orchestrator.execution.progress import Meter
from orchestrator.planning.pack import has_ended
from orchestrator.tracking import layout
from workloads.training.results import Finished, HandedOver, Notice, Progress, TrialResult
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    from orchestrator.cluster.pool import Workers
    from orchestrator.execution.progress import Reporter, State
    from orchestrator.execution.recovery import Recovery
    from orchestrator.execution.scheduler import Board
    from orchestrator.grid import Grid
    from orchestrator.planning.pack import Pack
    from orchestrator.storage.checkpoints import Checkpointing
    from orchestrator.tracking.store import Store
    from orchestrator.tracking.write.writer import SweepWriter
    from workloads.training.recording import Recording

CANCEL_SECONDS = 3.0
"""How often a sweep looks whether it has been cancelled."""
SAVE_SECONDS = 30.0
"""How long a sweep that is stopped waits for its workers' last checkpoints."""


class StopRequest:
    """Somebody wants a sweep to end, and to be gone on with later. Only ``heard`` while there is something to be saved.

    ``interrupted`` is true if a signal has said so, not somebody elsewhere.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.interrupted = False
        self.heard = False
        self._deferring = False
        self._deferred = False

    def signalled(self) -> None:
        """Note that a signal has come. Raises KeyboardInterrupt where that ends the sweep at once."""
        if self._deferring and not self._deferred:
            self._deferred = True
        elif self.heard and not self.wanted:
            self.wanted = self.interrupted = True
        else:
            raise KeyboardInterrupt

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """While other threads import modules: a first signal interrupts at the end of this, or where `check` is called.

        Raised anywhere else, KeyboardInterrupt may leave a lock of Python's imports or of logging held, and the others wait for ever.
        """
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come that was deferred."""
        if self._deferred:
            self._deferred = False
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While packs are in training."""
        self.heard = True
        try:
            yield
        finally:
            self.heard = False


@contextmanager
def watched(store: Store, writer: SweepWriter, state: State, stop: StopRequest) -> Iterator[None]:
    """Look every few seconds whether somebody, on whatever machine, has asked for the sweep's end, and say there how far it is."""

    over = threading.Event()

    def look() -> None:
        while not over.wait(CANCEL_SECONDS):
            # A store that is down has nothing to say.
            with suppress(Exception):
                if layout.CANCEL in store.client.get_run(writer.parent_run_id).data.tags:
                    stop.wanted = True
            # And what it is not told now, it is told the next time.
            with suppress(Exception):
                writer.show(state.encoded(time.time()))

    thread = threading.Thread(target=look, name="cancel-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


@dataclass
class Run:
    """A sweep's packs on their way from the board through the workers to the writer."""

    grid: Grid
    recording: Recording
    workers: Workers
    leave: Callable[[], None]
    """Lets go of the workers and of Ray."""
    board: Board[Any]
    recovery: Recovery
    writer: SweepWriter
    state: State
    reporter: Reporter
    _meter: Meter = field(default_factory=Meter, init=False)
    _budgets: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        # What has ended before takes no steps, and so settles none.
        trials = [trial for pack in self.board.packs for trial in pack.trials]
        self._budgets = {trial.trial_id: 0 if has_ended(trial) else trial.spec.stop.steps or 0 for trial in trials}

    def go(self, checkpointing: Checkpointing, stop: StopRequest) -> None:
        """Until all trials have come out, or until all is saved because a ``stop`` is wanted."""
        try:
            self._train(checkpointing, stop)
        finally:
            # MLflow may take longer than the quarter of a minute after which Ray ends a process whose raylet is gone. And where all is well
            # an embedded Ray ends while the rest is written.
            self.leave()
        if not stop.wanted:
            self._see_written()
        self._show()

    def _train(self, checkpointing: Checkpointing, stop: StopRequest) -> None:
        deadline = math.inf
        for pack, event in self._events(checkpointing):
            self._attend(pack, event)
            if stop.wanted and deadline == math.inf:
                deadline = time.monotonic() + SAVE_SECONDS
                self.reporter.note("stopping: trials are being saved")
                self.workers.stop()
            if time.monotonic() > deadline:
                self.reporter.note("some workers did not save their trials in time: those go on from earlier checkpoints")
                break
            self._show()

    def _events(self, checkpointing: Checkpointing) -> Iterator[tuple[Pack | None, PackEvent | None]]:
        grid = self.grid
        return self.workers.run(self.board, self.recording, grid.files.contents, checkpointing, extensions=grid.extensions)

    def _attend(self, pack: Pack | None, event: PackEvent | None) -> None:
        """Do what is to be done about an event."""
        text = None
        match event:
            case Progress():
                self.state.steps += event.steps
                self.state.rate = self._meter.rate(self.state.steps)
            case Notice():
                text = event.text
            case _ if pack is None:
                pass
            case Finished():
                self._finished(pack, event)
            case Saved():
                text = self.recovery.saved(pack, event)
            case HandedOver() if event.trials:
                text = self.recovery.handed_over(pack)
            case Ended(stopped=False):
                self.recovery.ended(pack)
            case Lost():
                failed, text = self.recovery.lost(pack, event)
                now = time.time()
                self.state.outcomes[Outcome.FAILED] += len(failed)
                self.writer.add(pack.name, [TrialResult.failure(trial.trial_id, event.error, now, now) for trial in failed])
            case _:
                pass
        if text:
            self.reporter.note(f"{pack.name}: {text}" if pack is not None else text)

    def _finished(self, pack: Pack, event: Finished) -> None:
        for result in event.results:
            self.state.outcomes[result.outcome] += 1
            self.state.settled_steps += max(0, self._budgets[result.trial_id] - result.steps)
        self.state.peak_bytes = max(self.state.peak_bytes, event.peak_bytes)
        self.writer.add(pack.name, event.results, {layout.ENGINE: event.engine, layout.DEVICE: event.device} if event.engine else {})

    def _see_written(self) -> None:
        """Show how far the writing is, as long as it goes on. Raises what made it stop."""
        while self.writer.queued and not self.writer.trouble:
            self.writer.check()
            time.sleep(0.1)
            self.state.rate = 0.0
            self._show()

    def _show(self) -> None:
        self.state.logged = self.writer.done
        self.reporter.update(self.state)
