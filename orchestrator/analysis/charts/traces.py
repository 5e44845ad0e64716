"""What trajectories are drawn from: rows of curves, of a trial each or over seeds, and levels of what has no place on the axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.bands import POINTS, Band
from orchestrator.analysis.charts.baselines import lacking, placed
from orchestrator.analysis.charts.common import NothingToDraw, as_category, drawable, grouped
from orchestrator.analysis.charts.edges import labels_of, off_scale, partly
from orchestrator.analysis.charts.groups import summarized
from orchestrator.analysis.charts.tips import Tips
from orchestrator.analysis.results import Results
from orchestrator.errors import UsageError
from orchestrator.grid.figures import Trajectories
from orchestrator.grid.questions import is_pattern, matching
from workloads.expressions import Expression

MAX_ROWS = 30_000
"""Rows of traces in one figure. More could not be told apart, and would make its page slow."""

Frame = pd.DataFrame


@dataclass(frozen=True)
class Traces:
    """Rows of ``curves``: ``x`` and ``y`` of a ``trial``, which is a group of trials over seeds, with ``low`` and ``high`` there.

    ``color``, ``shape`` and ``facet`` are what the figure has of them, ``baseline`` is the name of one or "". ``marks`` are rows with
    something to be said at the edge, in marks of ``sizes``; ``levels`` are the last values of baselines that have no place on the axis.
    """

    curves: Frame
    marks: Frame
    levels: Frame
    sizes: Mapping[str, int]
    tips: Tips
    along: bool

    def with_categories(self, channel: str) -> Traces:
        """Return the same with the values of a channel as text."""
        curves, marks, levels = (as_category(part, channel) if channel in part else part for part in (self.curves, self.marks, self.levels))
        return replace(self, curves=curves, marks=marks, levels=levels)


def traces_of(figure: Trajectories, results: Results, trials: NDArray[np.intp]) -> Traces:
    """Return what is to be drawn of some trials. Raises `NothingToDraw` if that is nothing."""
    names = formulas_of(figure, results)
    along = isinstance(figure.color, str) and any(name in results.history.columns for name in Expression(figure.color).names)
    channels = [c for c in ("color", "shape", "facet") if getattr(figure, c) is not None and not (c == "color" and along)]
    off = _off_axis(figure, results, trials)
    base = placed(figure, results, trials, channels, off).set_index("trial")
    on = base.index[~off[base.index]].to_numpy(np.intp)
    rows = results.rows(on, figure.when)
    frame = _stacked(figure, results, base, rows, names)
    if along:
        frame["color"] = np.tile(grouped(str(figure.color), results, traced=True)[rows], len(names))
    own = frame["baseline"] == ""
    # Raises if there is nothing.
    kept = [drawable(frame[own], figure), *([_beside(frame[~own], figure)] if not own.all() else [])]
    last = results.rows(base.index[off[base.index]].to_numpy(np.intp), None)
    last = last[~pd.Series(results.owners[last]).duplicated(keep="last").to_numpy()]
    levels = _levels(figure, _stacked(figure, results, base, last, names))
    tips = Tips(figure, results, trials, seeds=not figure.over_seeds)
    if figure.over_seeds:
        curves, marks, sizes = _over_seeds(figure, results, pd.concat(kept, ignore_index=True), tips)
        return Traces(curves, marks, levels, sizes, tips, along)
    curves = _thinned(pd.concat(kept, ignore_index=True))
    curves["trial"] = results.runs["trial_id"].to_numpy()[curves["owner"]]
    return Traces(curves[curves["over"] == ""], curves[curves["over"] != ""], levels, labels_of(curves["over"]), tips, along)


def formulas_of(figure: Trajectories, results: Results) -> list[str]:
    """Return the items of ``y``, patterns as the columns that they stand for."""
    columns = results.history.columns
    return [name for y in figure.y for name in (_matching(y, columns) if is_pattern(y) else [y])]


def _matching(pattern: str, columns: Iterable[str]) -> list[str]:
    found = matching(pattern, columns)
    if not found:
        raise UsageError(f"no measure of the runs is called {pattern}")
    return found


def _off_axis(figure: Trajectories, results: Results, trials: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which trials have no place on the axis, unless none has [R].

    They lack a key that it is about, or are solved rather than trained, so that their steps are other steps than those of the rest.
    """
    off = lacking(figure.x, results)
    if "step" in Expression(figure.x).names and "optimizer.kind" in results.keys:
        off = off | results.runs["optimizer.kind"].isna().to_numpy()
    return off & ~off[trials].all()


def _stacked(figure: Trajectories, results: Results, base: Frame, rows: NDArray[np.intp], names: list[str]) -> Frame:
    """Return the formulas ``names`` at some recorded steps, one below the other."""
    owners = results.owners[rows]
    x = np.asarray(results.traced(figure.x), dtype=np.float64)[rows]
    frame = pd.DataFrame({"x": x, "step": results.history["step"].to_numpy()[rows], "owner": owners})
    frame = pd.concat([frame, base.loc[owners].reset_index(drop=True)], axis=1)
    parts = []
    for name in names:
        part = frame.assign(y=np.asarray(results.traced(name), dtype=np.float64)[rows], item=name)
        parts.append(part.assign(color=name) if len(names) > 1 else part)
    return off_scale(pd.concat(parts, ignore_index=True), np.tile(results.divergences[rows], len(parts)))


def _beside(frame: Frame, figure: Trajectories) -> Frame:
    """Return the rows of baselines that can be drawn, which may lack a colour or facet."""
    try:
        return drawable(frame, figure, ())
    except NothingToDraw:
        return frame.head(0)


def _levels(figure: Trajectories, last: Frame) -> Frame:
    """Return a level for each name of a baseline, colour and facet: the statistic of its trials' last values."""
    keys = ["baseline", *(channel for channel in ("color", "facet") if channel in last)]
    last = last.rename(columns={"y": "value"})
    last = last[last["value"].notna() & ((last["value"] > 0) | ("y" not in figure.log))]
    levels = summarized(last, keys, figure.statistic or "median").rename(columns={"value": "y", "baseline": "line"})
    finite: Frame = levels[np.isfinite(levels["y"])]
    return finite


def _over_seeds(figure: Trajectories, results: Results, frame: Frame, tips: Tips) -> tuple[Frame, Frame, dict[str, int]]:
    """Return the curves over seeds, with their bands, and what is to be said of infinite values where they begin."""
    keys = results.varying(np.unique(frame["owner"]))
    settings = results.runs.groupby(keys, dropna=False).ngroup() if keys else pd.Series(0, index=results.runs.index)
    told = [channel for channel in ("color", "facet", "baseline", "item") if channel in frame]
    groups = frame.groupby([settings[frame["owner"]].to_numpy(), *(frame[name] for name in told)], sort=False, dropna=False)
    lasting = not any(name in results.history.columns for name in Expression(figure.x).names if name != "step")
    points = int(np.clip(MAX_ROWS // max(len(groups), 1), 20, POINTS))
    band = Band("x" in figure.log, "y" in figure.log, figure.statistic or "median", figure.band or "none", lasting, points)
    parts = []
    for number, (_, rows) in enumerate(groups):
        table = band.of([(some["x"].to_numpy(), some["y"].to_numpy()) for _, some in rows.groupby("owner", sort=False)])
        constant = {name: rows[name].iloc[0] for name in told}
        parts.append(table.assign(trial=str(number), **constant, **tips.of(rows["owner"].head(1)).iloc[0]))
    curves = pd.concat(parts, ignore_index=True)
    texts, sizes = partly(curves, band.statistic, bool((frame["over"] != "infinite").all()))
    curves = curves.assign(over=texts).rename(columns={"value": "y"})
    marked = curves[(curves["over"] != "") & ~curves.duplicated(["trial", "over"])]
    return _within_axis(figure, curves[np.isfinite(curves["y"])].drop(columns="over")), marked.assign(y=np.inf), sizes


def _within_axis(figure: Trajectories, curves: Frame) -> Frame:
    """Return curves whose bands end where the axis does, if they have no end, or none that a logarithm has."""
    ends = curves[["y", "low", "high"]].to_numpy(np.float64)
    shown = ends[np.isfinite(ends) & ((ends > 0) | ("y" not in figure.log))]
    if not len(shown):
        return curves
    low, high = float(shown.min()), float(shown.max())
    return curves.assign(low=curves["low"].clip(low, high), high=curves["high"].clip(low, high))


def _thinned(frame: Frame) -> Frame:
    """Every so many rows of each trial, its last included, so that all trials keep their curves."""
    if len(frame) <= MAX_ROWS:
        return frame
    every = math.ceil(len(frame) / MAX_ROWS)
    place = frame.groupby("owner", sort=False).cumcount(ascending=False).to_numpy()
    thinned: Frame = frame[(place % every == 0) | (frame["over"] != "")].reset_index(drop=True)
    return thinned
