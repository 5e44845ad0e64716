"""Conditions on measures that end trials: ``stop.when`` and ``stop.abort``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.expressions import OVER_TRACE, Expression
from workloads.training.recording import LOOKS
from workloads.training.trial_state import Outcome, Trace
from workloads.trial import TrialSpec

_parsed = cache(Expression)
_OUTCOMES = {"when": Outcome.CONVERGED, "abort": Outcome.ABORTED}
"""What trials come to by which of their conditions; where both hold, the first counts."""


class Watch:
    """What conditions see of trials, by their keys: the recorded ``columns`` where they are looked at (`LOOKS`), and no others.

    A trial that goes on elsewhere has them in its trace, of the same bits, so that it ends where it would have.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = ("step", *columns)
        self._seen: dict[int, NDArray[np.float64]] = {}

    def resume(self, key: int, trace: Trace) -> None:
        """Take note of what a trial has recorded elsewhere."""
        rows = np.column_stack((trace.steps, trace.values))[np.isin(trace.steps, LOOKS)]
        if len(rows):
            self._seen[key] = np.stack([rows[0], np.fmin.reduce(rows), np.fmax.reduce(rows)])

    def look(
        self, keys: NDArray[np.int64], specs: Sequence[TrialSpec], steps: NDArray[np.int64], values: NDArray[np.float64]
    ) -> dict[int, Outcome]:
        """Return the outcomes of those of K trials that end by what was recorded of them, ``values`` [K, C] at ``steps`` [K], by place."""
        rows: NDArray[np.float64] = np.column_stack((steps, values))
        alike: dict[tuple[tuple[str, str], ...], list[int]] = defaultdict(list)
        for place, (key, spec) in enumerate(zip(keys.tolist(), specs, strict=True)):
            # As `OVER_TRACE` has them.
            first, lowest, highest = self._seen.get(key, [rows[place]] * 3)
            self._seen[key] = np.stack([first, np.fmin(lowest, rows[place]), np.fmax(highest, rows[place])])
            alike[tuple(spec.stop.conditions.items())].append(place)
        outcomes: dict[int, Outcome] = {}
        for conditions, places in alike.items():
            seen = np.stack([self._seen[int(keys[place])] for place in places])
            columns = self._named(rows[places], seen)
            for key, text in reversed(conditions):
                holds = np.broadcast_to(_parsed(text).evaluate(columns), len(places))
                outcomes |= {places[n]: _OUTCOMES[key] for n in np.flatnonzero(holds)}
        return outcomes

    def forget(self, key: int) -> None:
        """Forget a trial, which has ended or goes on elsewhere."""
        self._seen.pop(key, None)

    def _named(self, rows: NDArray[np.float64], seen: NDArray[np.float64]) -> dict[str, Any]:
        """Return ``rows`` [K, C] and what was ``seen`` so far [K, 3, C] as columns [K] by the names that expressions have for them."""
        columns = dict(zip(self._columns, rows.T, strict=True))
        for place, function in enumerate(OVER_TRACE):
            columns |= {f"{function}({name})": seen[:, place, n] for n, name in enumerate(self._columns)}
        return columns
