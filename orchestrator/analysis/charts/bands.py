"""One curve for trials that differ in their seeds alone: a statistic over them at the same place of the axis, with a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from orchestrator.analysis.charts.groups import Values, ends_of, level

Frame = pd.DataFrame
POINTS = 200
"""Places of the axis at which a group has a statistic, where there are few groups."""


@dataclass(frozen=True)
class Band:
    """How curves become one: over axes that are logarithmic or not, by which statistic, with which band around it.

    ``lasting`` says that a trial keeps its last value beyond its end, as over steps, rather than having none there.
    """

    log_x: bool
    log_y: bool
    statistic: Literal["median", "mean"]
    band: str
    lasting: bool
    points: int = POINTS

    def of(self, curves: Sequence[tuple[Values, Values]]) -> Frame:
        """Return the band of ``curves``, x and y [K] of each trial: ``x``, ``value``, ``low``, ``high``, and numbers of trials.

        ``trials`` have a value there, of which ``infinite`` are. There is a row where at least half of the curves have one.
        """
        known = [some for some in (self._known(*curve) for curve in curves) if len(some[0])]
        if not known:
            return pd.DataFrame(columns=["x", "value", "low", "high", "trials", "infinite"])
        first, last = min(x.min() for x, _ in known), max(x.max() for x, _ in known)
        places = np.linspace(first, last, self.points) if last > first else np.array([first])
        values = np.stack([self._at(places, *curve) for curve in known])
        shown = np.exp(places) if self.log_x else places
        columns = [(x, column[~np.isnan(column)]) for x, column in zip(shown, values.T, strict=True)]
        rows = [(x, *self._summary(some)) for x, some in columns if 2 * len(some) >= len(curves)]
        return pd.DataFrame(rows, columns=["x", "value", "low", "high", "trials", "infinite"])

    def _summary(self, values: Values) -> tuple[float, float, float, int, int]:
        shown = np.exp(values) if self.log_y else values
        middle = level(shown, self.statistic)
        return middle, *ends_of(shown, middle, self.statistic, self.band), len(values), int(np.isinf(values).sum())

    def _known(self, x: Values, y: Values) -> tuple[Values, Values]:
        """Return the steps of a trial at which x is further than ever before, as the axes have them, in rising order of x."""
        keep = np.isfinite(x) & ~np.isnan(y) & ((x > 0) | (not self.log_x)) & ((y > 0) | (not self.log_y))
        x, y = x[keep], y[keep]
        if not len(x):
            return x, y
        direction = 1.0 if x[-1] >= x[0] else -1.0
        far = np.maximum.accumulate(direction * x)
        further = np.concatenate([[True], far[1:] > far[:-1]])
        x, y = x[further], y[further]
        x, y = (np.log(x) if self.log_x else x), (np.log(y) if self.log_y else y)
        return (x, y) if direction > 0 else (x[::-1], y[::-1])

    def _at(self, places: Values, x: Values, y: Values) -> Values:
        """Return a trial's values at some places; what is infinite is so from where it was recorded on, and not before."""
        last = y[-1] if self.lasting else np.nan
        finite = np.isfinite(y)
        if finite.all():
            return np.interp(places, x, y, left=np.nan, right=last)
        before = np.searchsorted(x, places, side="right") - 1
        held = np.where(before < 0, np.nan, y[np.maximum(before, 0)])
        after = y[np.minimum(before + 1, len(y) - 1)]
        straight = np.interp(places, x, np.where(finite, y, 0.0))
        values = np.where(np.isfinite(held) & np.isfinite(after), straight, held)
        return np.where(places > x[-1], last, values)
