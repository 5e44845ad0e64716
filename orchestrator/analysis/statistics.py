"""Differences between groups of trials, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_AXIS: dict[str, Callable[..., Any]] = {"median": np.median, "mean": np.mean}


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its interval, which are equal to it where there is too little to resample."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    @property
    def clear(self) -> bool:
        """True if the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def difference(one: NDArray[np.float64], other: NDArray[np.float64], statistic: str, confidence: float) -> Estimate:
    """Return a statistic of ``one`` [N] less that of ``other`` [M]: percentile bootstrap, both sides resampled (Efron 1979).

    The same numbers give the same interval: the resampling has a seed.
    """
    of = _AXIS[statistic]

    def gap(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(of(a, axis=axis) - of(b, axis=axis))

    return _interval((one, other), gap, confidence)


def typical(values: NDArray[np.float64], statistic: str, confidence: float) -> Estimate:
    """Return a statistic of ``values`` [N] with its percentile bootstrap interval."""
    return _interval((values,), _AXIS[statistic], confidence)


def _interval(samples: tuple[NDArray[np.float64], ...], of: Callable[..., Any], confidence: float) -> Estimate:
    from scipy.stats import bootstrap

    value = float(of(*samples, axis=-1))
    if any(len(sample) < 2 for sample in samples) or not all(np.isfinite(sample).all() for sample in samples):
        return Estimate(value, value, value)
    found = bootstrap(
        samples, of, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", vectorized=True, rng=np.random.default_rng(0)
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))
