"""Two sweeps against each other: trials matched by their specs, measure by measure, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.common import NothingToDraw, data_of
from orchestrator.analysis.results import Results, distinguishing
from orchestrator.analysis.statistics import difference, typical
from orchestrator.errors import UsageError
from orchestrator.grid.questions import SEEDS

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """What moved from sweep A to sweep B.

    ``differs`` are keys that have one value in all of A and another in all of B: what was changed. ``keys`` tell the groups apart, and
    ``table`` has a row a group and measure: ``trials`` in each, whether they were ``paired`` by seed, medians in A and B, ``mean`` and
    ``median`` of the difference B - A with the ends of the median's interval, and whether it ``moved``: the interval leaves out zero.
    ``unmatched`` counts the trials of A and of B that have no counterpart.
    """

    differs: dict[str, tuple[object, object]]
    keys: list[str]
    table: pd.DataFrame
    unmatched: tuple[int, int]


def compare(a: Results, b: Results, measures: Sequence[str] = (), by: Sequence[str] | None = None) -> Comparison:
    """Match the trials of two sweeps and compare their final measures: those named, by default all that both have.

    Trials match if their specs agree in all keys, but for those that differ between the sweeps as a whole, and seeds, over which the
    statistics go. Trials of the same seed are paired; the interval is then that of the paired differences. ``by`` groups by fewer keys.
    Raises `UsageError` if no trials match or a measure or key is not there.
    """
    runs = [results.runs.iloc[results.chosen(None)].reset_index(drop=True) for results in (a, b)]
    if any(not len(some) for some in runs):
        raise UsageError("one of the sweeps has no trial that has ended")
    shared = [key for key in a.keys if key in b.keys]
    only = [key for key in (*a.keys, *b.keys) if key not in shared]
    differs = {key: tuple(_single(some, key) for some in runs) for key in (*shared, *only)}
    changed = {key: pair for key, pair in differs.items() if all(known for known, _ in pair) and pair[0][1] != pair[1][1]}
    matched = [key for key in shared if key not in changed and key not in SEEDS]
    for some in runs:
        some["_match"] = _tuples(some, matched)
        some["_seed"] = _tuples(some, [key for key in SEEDS if key in some])
    both = set(runs[0]["_match"]) & set(runs[1]["_match"])
    unmatched = tuple(int((~some["_match"].isin(both)).sum()) for some in runs)
    if not both:
        raise UsageError("no trial of one sweep has the same spec as one of the other, seeds aside")
    runs = [some[some["_match"].isin(both)] for some in runs]
    names = list(measures) or [name for name in a.measures if name in b.measures]
    for name in (*names, *(by or ())):
        if any(name not in some for some in runs):
            raise UsageError(f"{name} is not in both sweeps; in both are {', '.join(m for m in a.measures if m in b.measures)}")
    keys = list(by) if by is not None else distinguishing(pd.concat(runs), matched)
    table = pd.DataFrame(_rows(runs, names, keys))
    found = {key: (pair[0][1], pair[1][1]) for key, pair in changed.items()}
    return Comparison(found, keys, table, (unmatched[0], unmatched[1]))


def _single(runs: pd.DataFrame, key: str) -> tuple[bool, object]:
    """Return whether a key has one value in all of the runs, and which; a key that is not there has none."""
    if key not in runs:
        return True, None
    values = runs[key].map(_key).unique()
    return len(values) == 1, values[0]


def _tuples(runs: pd.DataFrame, keys: Sequence[str]) -> pd.Series[Any]:
    """Return the values of some keys of each run, as one value that can be compared."""
    rows = [tuple(map(_key, row)) for row in zip(*(runs[key] for key in keys), strict=True)] if keys else [()] * len(runs)
    return pd.Series(rows, index=runs.index, dtype=object)


def _key(value: object) -> object:
    """Return a value that can be compared: what is missing is equal to what is missing."""
    return None if pd.isna(value) else value  # type: ignore[call-overload]


def _rows(runs: Sequence[pd.DataFrame], names: Sequence[str], keys: Sequence[str]) -> list[dict[str, object]]:
    groups = [
        {tuple(map(_key, label if isinstance(label, tuple) else (label,))): some.loc[places] for label, places in _grouped(some, keys)}
        for some in runs
    ]
    rows = []
    for label in (label for label in groups[0] if label in groups[1]):
        one, other = groups[0][label], groups[1][label]
        for name in names:
            row = _row(one, other, name)
            if row is not None:
                rows.append({**dict(zip(keys, label, strict=True)), "measure": name, **row})
    return rows


def _grouped(runs: pd.DataFrame, keys: Sequence[str]) -> list[tuple[object, pd.Index]]:
    if not keys:
        return [((), runs.index)]
    return list(runs.groupby(list(keys), dropna=False, sort=True).groups.items())


def _row(one: pd.DataFrame, other: pd.DataFrame, name: str) -> dict[str, object] | None:
    sides = [side[np.isfinite(side[name].to_numpy(dtype=np.float64, na_value=np.nan))] for side in (one, other)]
    if any(not len(side) for side in sides):
        return None
    left, right = (side[name].to_numpy(dtype=np.float64) for side in sides)
    gaps = _paired(sides[0], sides[1], name)
    if gaps is None:
        estimate, mean, count = difference(right, left, "median", CONFIDENCE), float(right.mean() - left.mean()), min(len(left), len(right))
    else:
        estimate, mean, count = typical(gaps, "median", CONFIDENCE), float(gaps.mean()), len(gaps)
    return {
        "trials": count,
        "paired": gaps is not None,
        "a": float(np.median(left)),
        "b": float(np.median(right)),
        "mean": mean,
        "median": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "moved": estimate.clear,
    }


def _paired(one: pd.DataFrame, other: pd.DataFrame, name: str) -> NDArray[np.float64] | None:
    """Return the differences [N] between trials of the same seed, if every trial has one such counterpart."""
    sides = [side.set_index(["_match", "_seed"])[name].astype(np.float64) for side in (one, other)]
    if any(side.index.has_duplicates for side in sides) or set(sides[0].index) != set(sides[1].index):
        return None
    gaps: NDArray[np.float64] = np.asarray(sides[1] - sides[0].reindex(sides[1].index), dtype=np.float64)
    return gaps


def draw_comparison(found: Comparison) -> alt.TopLevelMixin:
    """Return a panel a measure: for each group of trials the median difference B - A with its interval, black where it leaves out zero."""
    table = found.table
    if not len(table):
        raise NothingToDraw("no measure is finite in both sweeps")
    frame = table[["measure", "a", "b", "median", "low", "high", "moved"]].assign(group=_labels(found))
    panels = []
    for measure in dict.fromkeys(frame["measure"]):
        some = data_of(frame[frame["measure"] == measure])
        group = alt.Y("group:N", sort=None, title=None, axis=alt.Axis(labelLimit=400))
        scale = alt.Scale(domain=[False, True], range=["#aaaaaa", "#000000"])
        color = alt.Color("moved:N", title="moved", scale=scale)
        base = alt.Chart(some).encode(y=group, color=color, tooltip=["group:N", "a:Q", "b:Q", "median:Q", "low:Q", "high:Q"])
        zero = alt.Chart(data_of(pd.DataFrame({"at": [0.0]}))).mark_rule(strokeDash=[5, 4]).encode(x="at:Q")
        title = f"difference of {measure}"
        bars = base.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q", title=title), x2="high:Q")
        points = base.mark_point(filled=True, size=50, opacity=1).encode(x=alt.X("median:Q", title=title))
        panels.append(alt.layer(zero, bars, points).properties(width=320, height=alt.Step(18)))
    return alt.concat(*panels, columns=2) if len(panels) > 1 else panels[0]


def _labels(found: Comparison) -> list[str]:
    rows = found.table[found.keys].itertuples(index=False)
    return [", ".join(f"{key} {value}" for key, value in zip(found.keys, row, strict=True) if value is not None) or "all" for row in rows]
