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
    """A value with the ends of its interval, which are equal to it where there is nothing to resample."""

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

    A side of one value, such as a baseline that draws nothing, stays as it is. The same numbers give the same interval: the resampling
    has a seed.
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
    several = [len(sample) > 1 for sample in samples]
    if not any(several) or not all(np.isfinite(sample).all() for sample in samples):
        return Estimate(value, value, value)

    def resampled(*drawn: NDArray[np.float64], axis: int) -> Any:
        rest = iter(drawn)
        return of(*(next(rest) if many else sample for sample, many in zip(samples, several, strict=True)), axis=axis)

    varied = [sample for sample, many in zip(samples, several, strict=True) if many]
    rng = np.random.default_rng(0)
    found = bootstrap(
        varied, resampled, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", vectorized=True, rng=rng
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))
