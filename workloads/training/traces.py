"""What lanes have recorded so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workloads.training.trial_state import Trace


class TraceBuilder:
    """Collects rows of many lanes, in any order, and hands out each lane's trace."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self._added: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        self._rows: dict[int, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}

    def add(self, lanes: NDArray[np.int64], steps: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Add one row per entry: ``lanes`` [K] keys, ``steps`` [K], ``values`` [K, C]."""
        self._added.append((lanes, steps, values))

    def last(self, lane: int) -> NDArray[np.float64]:
        """Return the row that was added to a lane last [C]."""
        self._sort()
        row: NDArray[np.float64] = self._rows[lane][-1][1][-1]
        return row

    def take(self, lane: int) -> Trace:
        """Return the trace of one lane, which is then forgotten."""
        trace = self.copy(lane)
        self._rows.pop(lane, None)
        return trace

    def copy(self, lane: int) -> Trace:
        """Return the trace of one lane so far."""
        self._sort()
        rows = self._rows.get(lane)
        if not rows:
            return Trace(self.columns, np.empty(0, dtype=np.int64), np.empty((0, len(self.columns))))
        # New arrays, which keep no others' rows in memory.
        steps, values = np.concatenate([s for s, _ in rows]), np.concatenate([v for _, v in rows])
        # So that the next copy has less to join.
        self._rows[lane] = [(steps, values)]
        return Trace(self.columns, steps, values)

    def _sort(self) -> None:
        """Give each lane its own of the rows that were added: all at once, since there are many rows, of most lanes one each time."""
        if not self._added:
            return
        lanes, steps, values = (np.concatenate(parts) for parts in zip(*self._added, strict=True))
        self._added = []
        order = np.argsort(lanes, kind="stable")
        steps, values = steps[order], values[order]
        keys, starts = np.unique(lanes[order], return_index=True)
        ends = [*starts[1:].tolist(), len(lanes)]
        for key, start, end in zip(keys.tolist(), starts.tolist(), ends, strict=True):
            self._rows.setdefault(key, []).append((steps[start:end], values[start:end]))
