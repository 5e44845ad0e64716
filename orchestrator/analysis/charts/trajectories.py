"""Traces: a curve a trial, or one over the seeds of a setting with a band."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.baselines import dashes, in_panel
from orchestrator.analysis.charts.common import axis_of, color_of, colored, data_of, facets_of, order_of, sized, title_of
from orchestrator.analysis.charts.edges import crosses
from orchestrator.analysis.charts.formulas import formula_curves
from orchestrator.analysis.charts.groups import BARS, spoken
from orchestrator.analysis.charts.traces import Traces, formulas_of, traces_of
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import Trajectories

_BAND = 0.2
"""How opaque a band is."""
_SHAPES = ["circle", "triangle-up", "square", "diamond", "cross", "triangle-down"]

Frame = pd.DataFrame


def panels(figure: Trajectories, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the panels of traces."""
    traces = traces_of(figure, results, trials)
    names = formulas_of(figure, results)
    everything = pd.concat([traces.curves, traces.marks], ignore_index=True)
    color = None
    grouping = dict.fromkeys(names, "") if len(names) > 1 else figure.color
    if grouping is not None:
        color, kind = color_of(figure, everything[everything["color"].notna()].infer_objects(), grouping, along=traces.along)
        traces = traces.with_categories("color") if kind == "N" else traces
    ends = [everything[name] for name in ("y", "low", "high") if name in everything]
    heights = np.concatenate([column.to_numpy(np.float64) for column in (*ends, traces.levels["y"])])
    axes = {
        "x": alt.X("x:Q", **axis_of(figure, "x", "x" in figure.log, everything["x"].to_numpy(), title_of(figure, "x", figure.x))),
        "y": alt.Y("y:Q", **axis_of(figure, "y", "y" in figure.log, heights, _heading(figure))),
    }
    shapes = []
    if figure.shape is not None:
        shapes = order_of(everything["shape"].to_numpy(), figure.shape)
        traces = traces.with_categories("shape")
    drawing = _Drawing(figure, traces, axes, color, shapes)
    for number, (heading, panel) in enumerate(facets_of(figure, everything[everything["baseline"] == ""])):
        yield sized(list(drawing.layers(panel)), figure, heading, number)


def _spoken(figure: Trajectories) -> str:
    """Return how the axis names what is drawn, unless told."""
    names = ", ".join(figure.y)
    return spoken(names, figure.statistic or "median") if figure.over_seeds else names


def _heading(figure: Trajectories) -> str | list[str]:
    """Return the title of the axis, which says what a band is unless somebody has given the title."""
    title = title_of(figure, "y", _spoken(figure))
    return [title, BARS[figure.band]] if figure.band in BARS and "y" not in figure.labels else title


class _Drawing:
    """How traces become layers of a panel."""

    def __init__(self, figure: Trajectories, traces: Traces, axes: Mapping[str, Any], color: alt.Color | None, shapes: list[str]) -> None:
        self.figure, self.traces, self.axes, self.color, self.shapes = figure, traces, axes, color, shapes
        names = [*dict.fromkeys(traces.curves["baseline"]), *dict.fromkeys(traces.levels["line"])]
        self.dash = dashes([*figure.curves, *dict.fromkeys(name for name in names if name)])

    def layers(self, panel: Frame) -> Iterator[Any]:
        """Yield the layers of a panel with these rows of curves and marks."""
        curves, marks, levels = (in_panel(frame, panel) for frame in (self.traces.curves, self.traces.marks, self.traces.levels))
        own = curves[curves["baseline"] == ""]
        yield from self._own(own)
        yield from self._beside(curves[curves["baseline"] != ""].assign(line=lambda frame: frame["baseline"]))
        # What changes along a curve has no value at its end, where the trial diverged.
        marked = colored(None if self.traces.along else self.color)
        yield from crosses(self.figure, _slim(marks).assign(over=marks["over"]), self.axes, self.traces.sizes, **marked)
        yield from self._levels(levels)
        yield from formula_curves(self.figure, own["x"].to_numpy(np.float64), self.axes["x"], self.axes["y"], self.dash)

    def _own(self, rows: Frame) -> Iterator[Any]:
        encoding = self._encoding(rows) | colored(self.color)
        if self.figure.over_seeds and self.figure.band not in (None, "none"):
            yield self._band(rows, encoding)
        chart = self._chart(rows).encode(**self.axes, **encoding)
        mark = self.figure.mark if self.figure.mark != "auto" else "point" if self.traces.along or self.shapes else "line"
        if mark == "line":
            yield chart.mark_line(strokeWidth=1.5, strokeOpacity=0.8).encode(**_joined(rows))
        elif self.shapes:
            scale = alt.Scale(domain=self.shapes, range=_SHAPES[: len(self.shapes)])
            shape = alt.Shape("shape:N", title=title_of(self.figure, "shape", self.figure.shape) or None, scale=scale, sort=self.shapes)
            yield chart.mark_point(filled=True, size=22, opacity=1, fillOpacity=0.9).encode(shape=shape)
        else:
            yield chart.mark_circle(size=16, opacity=1, fillOpacity=0.9)

    def _band(self, rows: Frame, encoding: Mapping[str, Any], **mark: Any) -> Any:
        low = self.axes["y"].copy()
        low.shorthand = "low:Q"
        area = alt.Chart(data_of(_slim(rows))).mark_area(opacity=_BAND, strokeWidth=0, **mark)
        shown = {**encoding, **(colored(self.color, _BAND) if "color" in encoding else {})}
        return area.encode(x=self.axes["x"], y=low, y2="high:Q", detail="trial:N", **shown)

    def _beside(self, rows: Frame) -> Iterator[Any]:
        """Yield curves of baselines, black where they lack the colour."""
        if not len(rows):
            return
        with_color = rows["color"].notna() if self.color is not None and not self.traces.along else pd.Series(False, index=rows.index)
        for has_color, some in rows.groupby(with_color):
            encoding = self._encoding(some) | colored(self.color if has_color else None)
            mark = {} if has_color else {"color": "black"}
            if self.figure.over_seeds and self.figure.band not in (None, "none"):
                yield self._band(some, encoding, **mark)
            line = self._chart(some).mark_line(strokeWidth=1.5, **mark)
            yield line.encode(**self.axes, strokeDash=self.dash, **_joined(some), **encoding)

    def _levels(self, levels: Frame) -> Iterator[Any]:
        """Yield a line across the panel for each baseline that has no place on the axis."""
        with_color = levels["color"].notna() if self.color is not None and "color" in levels else pd.Series(False, index=levels.index)
        for has_color, some in levels.groupby(with_color):
            rule = alt.Chart(data_of(_slim(some))).mark_rule(strokeWidth=1.5, **({} if has_color else {"color": "black"}))
            tips = [alt.Tooltip("line:N", title="baseline"), alt.Tooltip("y:Q", title=self._title("y")), "trials:Q"]
            yield rule.encode(y=self.axes["y"], strokeDash=self.dash, tooltip=tips, **colored(self.color if has_color else None))

    def _title(self, channel: str) -> str:
        return title_of(self.figure, channel, self.figure.x if channel == "x" else _spoken(self.figure))

    def _encoding(self, rows: Frame) -> dict[str, Any]:
        shown = {"line:N": "baseline"} if "line" in rows else {}
        shown |= {"step:Q": "step"} if "step" in rows and self.figure.x != "step" else {}
        shown |= {"x:Q": self._title("x"), "y:Q": self._title("y")}
        if self.figure.over_seeds:
            shown |= {"low:Q": "from", "high:Q": "to", "trials:Q": "trials", "infinite:Q": "infinite"}
        else:
            shown = {"trial:N": "trial", **shown}
        if self.color is not None:
            shown[f"color:{'Q' if self.traces.along else 'N'}"] = title_of(self.figure, "color", self.figure.color) or "color"
        return {"tooltip": self.traces.tips.tooltip(shown)}

    def _chart(self, rows: Frame) -> Any:
        chart = alt.Chart(data_of(_slim(rows)))
        return chart if self.figure.over_seeds else self.traces.tips.looked_up(chart, rows)


def _joined(rows: Frame) -> dict[str, Any]:
    """Return what makes a line of rows."""
    return {"detail": "trial:N"} | ({"order": "step:Q"} if "step" in rows else {})


def _slim(rows: Frame) -> Frame:
    """Return rows without what a picture needs no more."""
    return rows.drop(columns=["facet", "baseline", "owner", "item", "over"], errors="ignore")
