"""Doing what a store may refuse for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.errors import TrackingUnavailable
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.turns import Turn
from orchestrator.tracking.write.queue import BatchQueue

FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0
"""Seconds between attempts, doubled each time."""

T = TypeVar("T")


class Insistence:
    """Tries again and again, ``first_wait`` seconds after the first time, for as long as ``patience`` seconds once the queue is closed.

    Patience starts anew whenever the store has taken something, were it one trial of a batch.
    """

    def __init__(
        self, store: Store, turn: Turn, queue: BatchQueue, patience: float, tell: Callable[[str], None], first_wait: float = FIRST_WAIT
    ) -> None:
        self._store, self._turn, self._queue, self._tell, self._first_wait = store, turn, queue, tell, first_wait
        self.patience = patience
        self.trouble: TrackingUnavailable | None = None
        """Why the store takes nothing now."""
        self._hopeful_until = float("inf")

    def start_clock(self) -> None:
        """Let patience run out from now on."""
        self._hopeful_until = time.monotonic() + self.patience

    def insist(self, action: Callable[[], T]) -> T:
        """Do what the store may refuse, until it is done or there is no hope left. Raises `TrackingUnavailable` then.

        Raises `orchestrator.errors.LeaseLost` if another process writes to the experiment now.
        """
        wait = self._first_wait
        while True:
            before = self._queue.done
            try:
                self._turn.check()
                with translated(self._store.display):
                    done = action()
            except TrackingUnavailable as error:
                self._refused(error)
                if self._queue.done > before:
                    wait = self._first_wait
                    if self._queue.closed:
                        self.start_clock()
                if time.monotonic() + wait > self._hopeful_until:
                    raise
                with self._queue.changed:
                    closed = self._queue.closed
                    # Closing cuts the wait short: from then on time is limited.
                    self._queue.changed.wait_for(lambda: self._queue.closed != closed, timeout=wait)  # noqa: B023
                wait = min(LONGEST_WAIT, 2 * wait)
            else:
                if self.trouble is not None:
                    self.trouble = None
                    self._tell(f"the MLflow store {self._store.display} takes runs again")
                if self._queue.closed:
                    self.start_clock()
                return done

    def _refused(self, error: TrackingUnavailable) -> None:
        if self.trouble is None:
            kept = "what has ended is kept on disk until it does again" if self._queue.spool is not None else "waiting for it"
            self._tell(f"{error}; {kept}")
        self.trouble = error
