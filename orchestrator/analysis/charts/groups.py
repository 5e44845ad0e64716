"""Trials in groups: what is summed up of each, with the ends of its bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.results import Results
from orchestrator.analysis.statistics import share, typical
from orchestrator.grid.figures import OF_RATES
from orchestrator.grid.summaries import rate_in

if TYPE_CHECKING:
    from pandas.core.groupby.generic import SeriesGroupBy

CONFIDENCE = 0.95
RANGES = {"iqr": (0.25, 0.75), "range": (0.0, 1.0)}
"""Bars that are quantiles."""

BARS = {
    "iqr": "with quartiles",
    "range": "with the range",
    "std": "± standard deviation",
    "sem": "± standard error",
    "bootstrap": "with a 95 % interval",
    "wilson": "with a 95 % interval",
}
"""How an axis names bars and bands."""

Frame = pd.DataFrame
Values = NDArray[np.float64]
Statistic = Literal["median", "mean", "rate"]


def quantity(formula: str, results: Results) -> Values:
    """Return a formula once a trial [R], as `Results.finals`; of a rate, 1 where its condition holds and else 0.

    A trial that diverged is one for which a condition on measures does not hold, unless it is about the ``outcome``, too. Undefined is
    the rate of a trial that has a value of none of the measures it is about.
    """
    condition = rate_in(formula)
    return results.finals(formula) if condition is None else results.met(condition)


def statistic_of(formula: str, wanted: Literal["median", "mean"]) -> Statistic:
    """Return the statistic of a formula, of which a rate brings its own."""
    return wanted if rate_in(formula) is None else "rate"


def spoken(formula: str, statistic: Literal["median", "mean"]) -> str:
    """Return how an axis names a statistic of a quantity."""
    condition = rate_in(formula)
    return f"{statistic} of {formula}" if condition is None else f"share of trials with {condition.strip()}"


def summarized(frame: Frame, keys: Sequence[str], statistic: Statistic, bars: str = "none", tips: Sequence[str] = ()) -> Frame:
    """Return the groups of rows with equal ``keys``: a statistic of ``value``, the ends ``low`` and ``high`` of its bars.

    And the number of ``trials``, and of ``infinite`` ones; of columns ``tips`` what they have in common.
    """
    if statistic == "rate" and bars not in OF_RATES:
        bars = "none"
    groups = frame.groupby(list(keys), sort=False, dropna=False)
    rows = []
    for label, some in groups["value"]:
        values = some.to_numpy(np.float64)
        middle = level(values, statistic)
        ends = ends_of(values, middle, statistic, bars)
        rows.append((*label, middle, *ends, len(values), int(np.isinf(values).sum())))
    table = pd.DataFrame(rows, columns=[*keys, "value", "low", "high", "trials", "infinite"]).infer_objects()
    told = {tip: in_common(groups[tip]) for tip in tips}
    return table.astype(dict.fromkeys(("value", "low", "high"), np.float64)).assign(**told)


def in_common(groups: SeriesGroupBy[str, Any]) -> NDArray[np.object_]:
    """Return the one value of each group of trials, or how many there are."""
    firsts, counts = groups.first(), groups.nunique()
    texts = [first if count == 1 else f"{count} values" if count else None for first, count in zip(firsts, counts, strict=True)]
    return np.array(texts, dtype=object)


def level(values: Values, statistic: Statistic) -> float:
    """Return a statistic of values, some of which may be infinite; the mean of infinities of both signs is infinite."""
    if statistic == "median":
        return quantile(np.sort(values), 0.5)
    with np.errstate(invalid="ignore"):
        mean = float(values.mean())
    return math.inf if math.isnan(mean) else mean


def quantile(ordered: Values, share: float) -> float:
    """Return a quantile of rising values, linear between two; between a number and infinity, where numpy has none, it is infinite."""
    place = share * (len(ordered) - 1)
    low, high = (float(ordered[round_to(place)]) for round_to in (math.floor, math.ceil))
    if low == high:
        return low
    infinite = [value for value in (low, high) if math.isinf(value)]
    return infinite[-1] if infinite else low + (high - low) * (place % 1)


def ends_of(values: Values, middle: float, statistic: Statistic, bars: str) -> tuple[float, float]:
    """Return where the bars of a group end: in its ``middle`` where there is nothing that they could say."""
    if bars in RANGES:
        ordered = np.sort(values)
        low, high = (quantile(ordered, part) for part in RANGES[bars])
        return low, high
    if bars == "wilson" and statistic == "rate":
        interval = share(int(values.sum()), len(values), CONFIDENCE)
        return interval.low, interval.high
    if bars == "bootstrap":
        interval = typical(values, "median" if statistic == "median" else "mean", CONFIDENCE)
        return interval.low, interval.high
    if bars in ("std", "sem") and math.isfinite(middle) and len(values) > 1:
        spread = float(values.std(ddof=1)) / (math.sqrt(len(values)) if bars == "sem" else 1.0)
        return middle - spread, middle + spread
    return middle, middle
