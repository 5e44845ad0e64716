"""Traces: a curve a trial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.common import (
    DASHED,
    as_category,
    axis_of,
    color_of,
    data_of,
    drawable,
    facets_of,
    grouped,
    order_of,
    sized,
    title_of,
)
from orchestrator.analysis.charts.edges import crosses, inside, labels_of, off_scale
from orchestrator.analysis.results import Results
from orchestrator.errors import UsageError
from orchestrator.grid.expressions import Expression
from orchestrator.grid.figures import Trajectories
from orchestrator.grid.questions import is_pattern

MAX_ROWS = 30_000
"""Rows of traces in one figure. More could not be told apart, and would make its page slow."""
_SHAPES = ["circle", "triangle-up", "square", "diamond", "cross", "triangle-down"]

Frame = pd.DataFrame


def panels(figure: Trajectories, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the panels of traces."""
    rows = results.rows(trials, figure.when)
    history = results.history
    formulas = [name for y in figure.y for name in (_matching(y, history.columns) if is_pattern(y) else [y])]
    base: dict[str, Any] = {"x": np.asarray(results.traced(figure.x), dtype=np.float64)[rows], "step": history["step"].to_numpy()[rows]}
    base["trial"] = results.runs["trial_id"].to_numpy()[results.owners[rows]]
    for channel in ("color", "shape", "facet"):
        grouping = getattr(figure, channel)
        if grouping is not None:
            base[channel] = grouped(grouping, results, traced=True)[rows]
    parts = []
    for name in formulas:
        part = pd.DataFrame({**base, "y": np.asarray(results.traced(name), dtype=np.float64)[rows]})
        parts.append(part.assign(color=name) if len(formulas) > 1 else part)
    grouping = dict.fromkeys(formulas, "") if len(formulas) > 1 else figure.color
    frame = off_scale(pd.concat(parts, ignore_index=True), np.tile(results.divergences[rows], len(parts)))
    frame = _thinned(drawable(frame, figure))
    along = isinstance(grouping, str) and any(name in history.columns for name in Expression(grouping).names)
    color = None
    if grouping is not None:
        color, kind = color_of(figure, frame, grouping, along=along)
        frame = as_category(frame, "color") if kind == "N" else frame
    if figure.shape is not None:
        shapes = order_of(frame["shape"].to_numpy(), figure.shape)
        frame = as_category(frame, "shape")
    x = alt.X("x:Q", **axis_of(figure, "x", "x" in figure.log, frame["x"].to_numpy(), title_of(figure, "x", figure.x)))
    label = title_of(figure, "y", ", ".join(figure.y))
    y = alt.Y("y:Q", **axis_of(figure, "y", "y" in figure.log, frame["y"].to_numpy(), label))
    mark = figure.mark if figure.mark != "auto" else "point" if along or figure.shape is not None else "line"
    for number, (heading, panel) in enumerate(facets_of(figure, frame)):
        some = panel[[c for c in panel.columns if c != "facet"]]
        chart = alt.Chart(data_of(inside(some))).encode(x=x, y=y)
        chart = chart.encode(tooltip=[alt.Tooltip(f"{c}:{'N' if c in ('trial', 'shape') else 'Q'}") for c in ("trial", "step", "x", "y")])
        if color is not None:
            chart = chart.encode(color=color)
        if mark == "line":
            chart = chart.mark_line(strokeWidth=1.5, strokeOpacity=0.8).encode(detail="trial:N", order="step:Q")
        elif figure.shape is not None:
            scale = alt.Scale(domain=shapes, range=_SHAPES[: len(shapes)])
            shape = alt.Shape("shape:N", title=title_of(figure, "shape", figure.shape) or None, scale=scale, sort=shapes)
            chart = chart.mark_point(filled=True, size=22, opacity=1, fillOpacity=0.9).encode(shape=shape)
        else:
            chart = chart.mark_circle(size=16, opacity=1, fillOpacity=0.9)
        # What changes along a curve has no value at its end, where the trial diverged.
        marked = {"tooltip": ["trial:N", "step:Q"]} | ({} if color is None or along else {"color": color})
        over = crosses(figure, some, {"x": x, "y": y}, labels_of(frame["over"]), **marked)
        layers = [chart, *over, *_curves(figure, inside(frame)["x"].to_numpy(), x, y)]
        yield sized(layers, figure, heading, number)


def _matching(pattern: str, columns: Iterable[str]) -> list[str]:
    found = [name for name in columns if name.startswith(pattern[:-1])]
    if not found:
        raise UsageError(f"no measure of the runs is called {pattern}")
    return found


def _thinned(frame: Frame) -> Frame:
    """Every so many rows of each trial, its last included, so that all trials keep their curves."""
    if len(frame) <= MAX_ROWS:
        return frame
    every = math.ceil(len(frame) / MAX_ROWS)
    place = frame.groupby("trial", sort=False).cumcount(ascending=False).to_numpy()
    thinned: Frame = frame[(place % every == 0) | (frame["over"] != "")].reset_index(drop=True)
    return thinned


def _curves(figure: Trajectories, values: NDArray[Any], x: alt.X, y: alt.Y) -> Iterator[Any]:
    """Yield the formulas in x, dashed, each with its name at its end."""
    for name, formula in figure.curves.items():
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        xs = np.geomspace(low, high, 200) if "x" in figure.log else np.linspace(low, high, 200)
        ys = np.broadcast_to(np.asarray(Expression(formula).evaluate({figure.x: xs}), dtype=np.float64), len(xs))
        keep = np.isfinite(ys) & ((ys > 0) | ("y" not in figure.log))
        for channel, span in ((xs, figure.x_range), (ys, figure.y_range)):
            keep &= (channel >= (-np.inf if span is None or span[0] is None else span[0])) & (
                channel <= (np.inf if span is None or span[1] is None else span[1])
            )
        curve = pd.DataFrame({"x": xs, "y": ys, "curve": name})[keep]
        if len(curve):
            dash = alt.StrokeDash("curve:N", title=None, scale=alt.Scale(range=[DASHED]))
            yield alt.Chart(data_of(curve)).mark_line(color="black", strokeWidth=1.3).encode(x=x, y=y, strokeDash=dash)
