"""Batches of trials that wait to be written: on disk, so that nothing is lost, and in memory as far as there is room."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from orchestrator.errors import StorageUnavailable
from orchestrator.storage.spool import Batch, Spool

QUEUE_LIMIT = 1024
"""Trials that may wait in memory; more wait on disk or, where there is none, make whoever adds them wait."""
SPOOL_BYTES = 8 << 30
"""What may wait on disk before the computation waits."""


@dataclass
class Waiting:
    """A batch that waits: in memory, on disk under a name, or both; ``done`` trials of it have been written."""

    count: int
    batch: Batch | None
    name: str | None
    done: int = 0


class BatchQueue:
    """A queue between the computation, which adds batches, and the one thread that writes them. ``changed`` tells of every change."""

    def __init__(self, spool: Spool | None, limit: int, spool_bytes: int, tell: Callable[[str], None]) -> None:
        self.spool, self._limit, self._spool_bytes, self._tell = spool, limit, spool_bytes, tell
        self.changed = threading.Condition()
        self.queued = 0
        """Trials that wait, those being written included."""
        self.done = 0
        """Trials that have been written."""
        self.closed = False
        self.error: Exception | None = None
        self._batches: deque[Waiting] = deque()
        self._in_memory = 0
        self._spool_trouble = ""

    def add(self, batch: Batch, *, refused: bool) -> None:
        """Add a batch, which is on disk when this returns; waits while there is no room.

        ``refused``: the store takes nothing now. Raises `StorageUnavailable` if neither of the two can have it, and what made the writing
        stop.
        """
        count, name = len(batch.results), self._save(batch, refused)
        with self.changed:
            # A batch larger than the queue goes in once the queue is empty. In short waits, so that Python hears signals.
            while not self.changed.wait_for(lambda: self._has_room(name, count), timeout=0.2):
                pass
            self.check()
            if self.closed:
                raise RuntimeError("the writer is closed")
            held = name is None or self._in_memory + count <= self._limit
            self._batches.append(Waiting(count, batch if held else None, name))
            self._in_memory += count if held else 0
            self.queued += count
            self.changed.notify_all()

    def _has_room(self, name: str | None, count: int) -> bool:
        if self.error or self.closed or not self.queued:
            return True
        if name is not None and self.spool is not None:
            return self.spool.bytes <= self._spool_bytes
        return self._in_memory + count <= self._limit

    def _save(self, batch: Batch, refused: bool) -> str | None:
        """Put a batch on disk; where that fails it waits in memory alone."""
        if self.spool is None:
            return None
        try:
            return self.spool.add(batch)
        except StorageUnavailable as error:
            if refused:
                # Neither here nor there: what is computed from now on would be lost.
                raise
            if str(error) != self._spool_trouble:
                self._spool_trouble = str(error)
                self._tell(f"{error}: what has ended is kept in memory until MLflow has it")
            return None

    def next(self) -> Waiting | None:
        """Wait for a batch and return the first; ``None`` once the queue is closed and empty."""
        with self.changed:
            self.changed.wait_for(lambda: self._batches or self.closed)
            return self._batches[0] if self._batches else None

    def load(self, waiting: Waiting) -> Batch:
        """Return a batch that waits, read from disk if it must be."""
        if waiting.batch is not None:
            return waiting.batch
        assert self.spool is not None
        assert waiting.name is not None
        return self.spool.read(waiting.name)

    def written(self, waiting: Waiting, count: int) -> None:
        """Take note that ``count`` trials of a batch have been written."""
        with self.changed:
            fresh = max(0, count - waiting.done)
            waiting.done += fresh
            self.done += fresh
            self.queued -= fresh
            self.changed.notify_all()

    def remove(self, waiting: Waiting) -> None:
        """Remove a batch from disk that has been written."""
        if waiting.name is not None and self.spool is not None:
            # One that stays is delivered again some day, which changes nothing.
            with suppress(StorageUnavailable):
                self.spool.remove(waiting.name)

    def pop(self) -> None:
        """Forget the first batch, which has been written."""
        with self.changed:
            waiting = self._batches.popleft()
            self._in_memory -= waiting.count if waiting.batch is not None else 0
            self.changed.notify_all()

    def close(self) -> None:
        """Take nothing more."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Take note of what made the writing stop."""
        with self.changed:
            self.error = error
            self.changed.notify_all()

    def check(self) -> None:
        """Raise what made the writing stop."""
        if self.error is not None:
            raise self.error
