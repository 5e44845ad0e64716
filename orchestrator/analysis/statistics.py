"""Differences between groups of trials, with bootstrap intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsFloat

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
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"

    @property
    def clear(self) -> bool:
        """True if the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def number(found: SupportsFloat, digits: int = 3) -> str:
    """Return a number as a sentence has it."""
    value = float(found)
    if np.isfinite(value):
        return f"{value:.{digits}g}"
    return "undefined" if np.isnan(value) else "infinite" if value > 0 else "minus infinite"


def difference(one: NDArray[np.float64], other: NDArray[np.float64], statistic: str, confidence: float) -> Estimate:
    """Return a statistic of ``one`` [N] less that of ``other`` [M]: percentile bootstrap, both sides resampled (Efron 1979).

    A side of one value, such as a baseline that draws nothing, stays as it is. Infinite values are resampled like others; where that leaves
    the difference undefined, the interval reaches as far as it may. The same numbers give the same interval: the resampling has a seed.
    """
    of = _AXIS[statistic]

    def gap(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(of(a, axis=axis) - of(b, axis=axis))

    return _interval((one, other), gap, confidence)


def attainable(one: int, other: int = 1) -> float:
    """Return the largest confidence that an interval of a difference can have which lies on one side of zero, from so many values a side.

    Values of one distribution lie apart, all of one side below all of the other, with a chance of 2 / C(N + M, N), and so many more than
    the confidence promises are taken to differ. Beside one value, which is taken as given, or where they are differences of pairs, all
    are on one side of it with a chance of 2 / 2^N.
    """
    few, many = sorted((one, other))
    return 1 - 2 / (2**many if few == 1 else math.comb(few + many, few))


def typical(values: NDArray[np.float64], statistic: str, confidence: float) -> Estimate:
    """Return a statistic of ``values`` [N] with its percentile bootstrap interval."""
    return _interval((values,), _AXIS[statistic], confidence)


def quantiles(values: NDArray[np.float64], groups: NDArray[np.intp], count: int, share: float) -> NDArray[np.float64]:
    """Return a quantile of each of ``count`` groups [G] of ``values`` [N], of which ``groups`` [N] says the group; NaN of none.

    It is linear between two values, and between a number and an infinity it is that infinity. What is NaN is left out.
    """
    known = ~np.isnan(values)
    order = np.lexsort((values[known], groups[known]))
    ordered = values[known][order]
    sizes = np.bincount(groups[known], minlength=count)
    ends = np.cumsum(sizes)
    places = np.maximum(sizes - 1, 0) * share
    below, above = (ends - sizes + side(places).astype(np.intp) for side in (np.floor, np.ceil))
    found = np.full(count, np.nan)
    some = sizes > 0
    low, high, part = ordered[below[some]], ordered[above[some]], (places - np.floor(places))[some]
    with np.errstate(invalid="ignore"):
        between = np.where(np.isneginf(low) & ~np.isposinf(high), low, low + (high - low) * part)
        found[some] = np.where(low == high, low, between)
    return found


def share(count: int, total: int, confidence: float) -> Estimate:
    """Return ``count`` of ``total`` as a share with its interval (Wilson 1927)."""
    from scipy.stats import binomtest

    found = binomtest(count, total).proportion_ci(confidence, method="wilson")
    return Estimate(count / total, float(found.low), float(found.high))


def _interval(samples: tuple[NDArray[np.float64], ...], of: Callable[..., Any], confidence: float) -> Estimate:
    from scipy.stats import DegenerateDataWarning, bootstrap

    with np.errstate(all="ignore"):
        value = float(of(*samples, axis=-1))
    several = [len(sample) > 1 for sample in samples]
    if not any(several):
        return Estimate(value, value, value)

    def resampled(*drawn: NDArray[np.float64], axis: int) -> Any:
        rest = iter(drawn)
        return of(*(next(rest) if many else sample for sample, many in zip(samples, several, strict=True)), axis=axis)

    varied = [sample for sample, many in zip(samples, several, strict=True) if many]
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # Where both sides are infinite their difference is undefined, which is dealt with below.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        found = bootstrap(
            varied, resampled, n_resamples=RESAMPLES, confidence_level=confidence, method="percentile", vectorized=True, rng=rng
        )
    values = found.bootstrap_distribution
    if np.isfinite(values).all():
        return Estimate(value, float(found.confidence_interval.low), float(found.confidence_interval.high))
    # Between a number and infinity there is nothing to interpolate.
    ends = ((1 - confidence) / 2, -np.inf), ((1 + confidence) / 2, np.inf)
    low, high = (np.quantile(np.where(np.isnan(values), least, values), share, method="inverted_cdf") for share, least in ends)
    return Estimate(value, float(low), float(high))
