"""Two sweeps against each other: trials matched by what does not differ, measure by measure, over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from orchestrator.analysis.charts.common import NothingToDraw, data_of
from orchestrator.analysis.charts.edges import INSET, LARGE, cross
from orchestrator.analysis.results import Results, distinguishing
from orchestrator.analysis.statistics import difference, typical
from orchestrator.errors import UsageError
from orchestrator.grid.questions import SEEDS

CONFIDENCE = 0.95
COLUMNS = ("trials", "paired", "a", "b", "mean", "median", "low", "high", "moved", "diverged_a", "diverged_b", "same")
"""Of a comparison, besides its keys and the measure."""
WIDTH = 320
"""Of a panel, in pixels."""

Frame = pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """What moved from sweep A to sweep B.

    ``differs`` are keys that were changed: those that have one value in all trials of A without an equal in B, and another in all such of
    B. ``keys`` tell the groups apart, and ``table`` has a row a group and measure: ``trials`` in each, whether they were ``paired`` by
    seed, medians in A and B, ``mean`` and ``median`` of the difference B - A with the ends of the median's interval, whether it ``moved``:
    the interval leaves out zero; how many have diverged in each, which counts as infinite; and whether all are the ``same`` runs.

    ``matched`` and ``unmatched`` count the trials of A and of B with a counterpart and without, and ``same`` the runs that are in both
    sweeps; those are ``set_aside`` if there is anything else to compare.
    """

    differs: dict[str, tuple[object, object]]
    keys: list[str]
    table: Frame
    matched: tuple[int, int]
    unmatched: tuple[int, int]
    same: int
    set_aside: bool


def compare(a: Results, b: Results, measures: Sequence[str] = (), by: Sequence[str] | None = None, where: str | None = None) -> Comparison:
    """Match the trials of two sweeps that meet a condition, and compare their final measures: those named, by default all that both have.

    Trials match if their specs agree in all keys but seeds, over which the statistics go; of the others, those that agree in all keys but
    the ones that differ between them as a whole. Trials of the same seed are paired if one side's seeds are among the other's; the interval
    is then that of the paired differences. ``by`` groups by fewer keys. Raises `UsageError` if no trials match or a measure or key is not
    there.
    """
    where = None if where is None else a.read_condition(where)
    with np.errstate(all="ignore"):
        names = list(measures) or [name for name in a.measures if name in b.measures]
        for name in (*names, *(by or ())):
            if any(name not in results.runs for results in (a, b)):
                raise UsageError(f"{name} is not in both sweeps; in both are {', '.join(m for m in a.measures if m in b.measures)}")
        runs = [_chosen(results, names, where) for results in (a, b)]
        # A trial without a run of its own is the same wherever it is.
        runs = [some.assign(run_id=some["run_id"].fillna(some["trial_id"])) for some in runs]
        keys = [key for key in dict.fromkeys((*a.keys, *b.keys)) if key not in SEEDS]
        same = set(runs[0]["run_id"]) & set(runs[1]["run_id"])
        # What is the same run in both cannot have moved, and is of interest only where there is nothing else.
        apart = _match([some[~some["run_id"].isin(same)] for some in runs], keys)
        found = apart if apart.runs else _match(runs, keys)
        if not found.runs:
            raise UsageError("no trial of one sweep has the same spec as one of the other, seeds and what was changed as a whole aside")
        places = [_places(some["_match"]) for some in found.runs]
        paired = [_paired(found.runs[0].iloc[places[0][match]], found.runs[1].iloc[places[1][match]]) for match in places[0]]
        sides = [pd.concat([pair[n] for pair in paired]) for n in (0, 1)]
        groups = list(by) if by is not None else distinguishing(_one_missing(pd.concat(sides)), keys)
        table = pd.DataFrame(_rows(sides, names, groups), columns=[*groups, "measure", *COLUMNS])
        considered = [len(some) - (len(same) if apart.runs else 0) for some in runs]
        left = (considered[0] - len(sides[0]), considered[1] - len(sides[1]))
        return Comparison(found.changed, groups, table, (len(sides[0]), len(sides[1])), left, len(same), bool(apart.runs and same))


def _chosen(results: Results, names: Sequence[str], where: str | None) -> Frame:
    """Return the trials to compare, with what diverged ones have measured as infinite."""
    chosen = results.chosen(where)
    if not len(chosen):
        raise UsageError(f"one of the sweeps has no trial that has ended{' and meets the condition' if where else ''}")
    values = {name: results.finals(name)[chosen] for name in names}
    runs: Frame = results.runs.iloc[chosen].reset_index(drop=True).assign(**values)
    runs["_seed"] = _tuples(runs, SEEDS)
    return runs


@dataclass(frozen=True)
class _Matched:
    """Trials of A and of B with a counterpart, which has the same ``_match``; empty if none has. ``changed`` differs between them."""

    runs: list[Frame]
    changed: dict[str, tuple[object, object]]


def _match(runs: Sequence[Frame], keys: Sequence[str]) -> _Matched:
    """Match trials that agree in all ``keys``, and of the rest those that agree in all but the keys that differ as a whole."""
    specs = [_tuples(some, keys) for some in runs]
    equal = set(specs[0]) & set(specs[1])
    exact = [some[spec.isin(equal)].assign(_match=spec[spec.isin(equal)]) for some, spec in zip(runs, specs, strict=True)]
    rest = [some[~spec.isin(equal)] for some, spec in zip(runs, specs, strict=True)]
    values = {key: tuple(_only(some, key) for some in rest) for key in keys} if all(len(some) for some in rest) else {}
    changed = {key: (pair[0][0], pair[1][0]) for key, pair in values.items() if all(pair) and pair[0] != pair[1]}
    others = [key for key in keys if key not in changed]
    specs = [_tuples(some, others) for some in rest]
    alike = set(specs[0]) & set(specs[1]) if changed else set()
    if not equal and not alike:
        return _Matched([], {})
    found = []
    for sure, some, spec in zip(exact, rest, specs, strict=True):
        if not alike:
            found.append(sure)
            continue
        matches = pd.Series([("changed", *match) for match in spec[spec.isin(alike)]], index=some.index[spec.isin(alike)], dtype=object)
        like = some[spec.isin(alike)].assign(_match=matches)
        # So that these stay apart from trials that agree in all.
        like = like.assign(**{key: f"{before} -> {after}" for key, (before, after) in changed.items()})
        known = [key for key in changed if key in sure]
        found.append(pd.concat([sure.assign(**{key: sure[key].map(_text) for key in known}), like]) if len(sure) else like)
    return _Matched(found, changed if alike else {})


def _only(runs: Frame, key: str) -> tuple[object, ...]:
    """Return the one value that a key has in all runs in which it has any, ``None`` if in none; nothing if it has several."""
    values = [] if key not in runs else list(runs[key].dropna().unique())
    return (values[0],) if len(values) == 1 else () if values else (None,)


def _tuples(runs: Frame, keys: Sequence[str]) -> pd.Series[Any]:
    """Return the values of some keys of each run, as one value that can be compared; a key that is not there has none."""
    columns = [runs[key] if key in runs else [None] * len(runs) for key in keys]
    rows = [tuple(map(_key, row)) for row in zip(*columns, strict=True)] if keys else [()] * len(runs)
    return pd.Series(rows, index=runs.index, dtype=object)


def _key(value: Any) -> object:
    """Return a value that can be compared: what is missing is equal to what is missing."""
    return None if pd.isna(value) else value


def _places(column: pd.Series[Any]) -> dict[object, list[int]]:
    """Return the places of each value."""
    places: dict[object, list[int]] = defaultdict(list)
    for place, value in enumerate(column):
        places[value].append(place)
    return places


def _text(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)


def _paired(*sides: Frame) -> tuple[Frame, Frame]:
    """Return trials that match: if the seeds of one side are among the other's, those of both, in the same order and ``paired``."""
    seeds = [set(side["_seed"]) for side in sides]
    once = all(len(found) == len(side) for found, side in zip(seeds, sides, strict=True))
    if not once or not (seeds[0] <= seeds[1] or seeds[1] <= seeds[0]):
        return sides[0].assign(paired=False), sides[1].assign(paired=False)
    both = [side[side["_seed"].isin(seeds[0] & seeds[1])] for side in sides]
    ordered = [side.iloc[np.argsort([repr(seed) for seed in side["_seed"]], kind="stable")] for side in both]
    return ordered[0].assign(paired=True), ordered[1].assign(paired=True)


def _rows(runs: Sequence[Frame], names: Sequence[str], keys: Sequence[str]) -> list[dict[str, object]]:
    groups = [{label: some.iloc[places] for label, places in _grouped(some, keys)} for some in runs]
    rows = []
    for label in (label for label in groups[0] if label in groups[1]):
        one, other = groups[0][label], groups[1][label]
        for name in names:
            row = _row(one, other, name)
            if row is not None:
                rows.append({**dict(zip(keys, label, strict=True)), "measure": name, **row})
    return rows


def _grouped(runs: Frame, keys: Sequence[str]) -> list[tuple[tuple[object, ...], list[int]]]:
    """Return the places of runs that agree in keys, in the order of these; a key that is not there is equal to one that has no value."""
    places: dict[Any, list[int]] = _places(_tuples(runs, keys))
    return sorted(
        places.items(), key=lambda group: [(value is None, isinstance(value, str), "" if value is None else value) for value in group[0]]
    )


def _one_missing(runs: Frame) -> Frame:
    """Return runs of which all that is missing is missing in the same way, which pandas tells apart: ``None`` and NaN."""
    return runs.where(runs.notna(), np.nan)


def _row(one: Frame, other: Frame, name: str) -> dict[str, object] | None:
    sides = [side[name].to_numpy(dtype=np.float64) for side in (one, other)]
    paired = bool(one["paired"].all() and other["paired"].all())
    known = [~np.isnan(values) for values in sides]
    if paired:
        known = [known[0] & known[1]] * 2
    left, right = (values[some] for values, some in zip(sides, known, strict=True))
    if not len(left) or not len(right):
        return None
    if paired:
        # What is infinite on both sides has not moved.
        gaps = np.where(left == right, 0.0, right - left)
        estimate, mean = typical(gaps, "median", CONFIDENCE), float(gaps.mean())
    else:
        estimate, mean = difference(right, left, "median", CONFIDENCE), float(right.mean() - left.mean())
    diverged = [int((side["outcome"].to_numpy()[some] == "diverged").sum()) for side, some in zip((one, other), known, strict=True)]
    return {
        "trials": min(len(left), len(right)),
        "paired": paired,
        "a": float(np.median(left)),
        "b": float(np.median(right)),
        "mean": mean,
        "median": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "moved": estimate.clear,
        "diverged_a": diverged[0],
        "diverged_b": diverged[1],
        "same": paired and one["run_id"].tolist() == other["run_id"].tolist(),
    }


def draw_comparison(found: Comparison) -> alt.TopLevelMixin:
    """Return a panel a measure: for each group of trials the median difference B - A with its interval, black where it leaves out zero."""
    table = found.table
    if not len(table):
        raise NothingToDraw("no measure has a value in both sweeps")
    frame = table[["measure", "a", "b", "median", "low", "high", "moved"]].assign(group=_labels(found))
    panels = []
    for measure in dict.fromkeys(frame["measure"]):
        some = frame[frame["measure"] == measure]
        group = alt.Y("group:N", sort=list(dict.fromkeys(some["group"])), title=None, axis=alt.Axis(labelLimit=400))
        scale = alt.Scale(domain=[False, True], range=["#aaaaaa", "#000000"])
        color = alt.Color("moved:N", title="moved", scale=scale)
        base = alt.Chart(data_of(some)).encode(y=group, color=color, tooltip=["group:N", "a:Q", "b:Q", "median:Q", "low:Q", "high:Q"])
        zero = alt.Chart(data_of(pd.DataFrame({"at": [0.0]}))).mark_rule(strokeDash=[5, 4]).encode(x="at:Q")
        title = f"difference of {measure}"
        points = base.mark_point(filled=True, size=50, opacity=1, invalid="filter").encode(x=alt.X("median:Q", title=title))
        layers = [zero, *_bars(some, title, group=group, color=color), points, *_crosses(some, group)]
        panels.append(alt.layer(*layers).properties(width=WIDTH, height=alt.Step(18)))
    return alt.concat(*panels, columns=2) if len(panels) > 1 else panels[0]


def _bars(table: Frame, title: str, *, group: alt.Y, color: alt.Color) -> list[Any]:
    """Return the intervals; one without a number for an end goes to the edge there."""
    layers = []
    for _, rows in table.groupby([np.isfinite(table["low"]), np.isfinite(table["high"])]):
        low, high = (rows[end].iloc[0] for end in ("low", "high"))
        start = alt.X("low:Q", title=title) if np.isfinite(low) else alt.value(0)
        end = "high:Q" if np.isfinite(high) else alt.value(WIDTH)
        if np.isfinite(low) or np.isfinite(high):
            layers.append(alt.Chart(data_of(rows)).mark_rule(strokeWidth=1.5).encode(x=start, x2=end, y=group, color=color))
    return layers


def _crosses(table: Frame, group: alt.Y) -> list[Any]:
    """Return crosses at the edges for differences that are infinite."""
    some = table[np.isinf(table["median"])].assign(over="infinite")
    sizes = {"infinite": LARGE}
    return [
        cross(rows, sizes).encode(x=alt.value(WIDTH - INSET if high else INSET), y=group)
        for high, rows in ((True, some[some["median"] > 0]), (False, some[some["median"] < 0]))
        if len(rows)
    ]


def _labels(found: Comparison) -> list[str]:
    rows = found.table[found.keys].itertuples(index=False)
    return [", ".join(f"{key} {value}" for key, value in zip(found.keys, row, strict=True) if not pd.isna(value)) or "all" for row in rows]
