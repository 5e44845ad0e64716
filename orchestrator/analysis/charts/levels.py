"""A number for each value of an axis, as points on lines, beside baselines: what medians, spectra and thresholds share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from orchestrator.analysis.charts.baselines import dashes, in_panel
from orchestrator.analysis.charts.common import Span, as_category, axis_of, color_of, colored, data_of, facets_of, position_of, sized
from orchestrator.analysis.charts.edges import edge
from orchestrator.grid.figures import Medians, Spectrum, Threshold

Frame = pd.DataFrame
Leveled = Medians | Spectrum | Threshold


@dataclass(frozen=True)
class Levels:
    """What is drawn: rows with ``x``, ``y``, ``low``, ``high``, ``over`` and, if the figure has them, ``color`` and ``facet``.

    Those ``beside`` have a ``line`` that names them, and lack some of these. Rows of which there is something to be said in ``over`` get
    ``marks``, which a function makes of rows and axes. ``lines`` are horizontal ones.
    """

    table: Frame
    beside: Frame
    title: str | list[str]
    log: bool
    tooltip: Sequence[alt.Tooltip]
    marks: Callable[[Frame, Mapping[str, Any]], Iterable[Any]]
    span: Span | None = None
    bars: bool = False
    lines: Mapping[str, float] = field(default_factory=dict)


def level_panels(figure: Leveled, levels: Levels, first: int) -> Iterator[Any]:
    """Yield a panel for each facet."""
    table, beside = levels.table, levels.beside
    everything = pd.concat([table, beside], ignore_index=True) if len(beside) else table
    placed = everything["x"].dropna().infer_objects().to_numpy()
    x = position_of(figure, "x", figure.x, placed, "x" in figure.log)
    if placed.dtype.kind not in "if":
        table, beside = as_category(table, "x"), as_category(beside, "x")
    ends = everything[["y", "low", "high"]].to_numpy(np.float64).ravel()
    heights = np.concatenate([ends, list(levels.lines.values())])
    height = axis_of(figure, "y", levels.log, heights[(heights > 0) | (not levels.log)], levels.title, levels.span)
    color = None
    if figure.color is not None:
        color, kind = color_of(figure, everything[everything["color"].notna()].infer_objects(), figure.color)
        if kind == "N":
            table, beside = as_category(table, "color"), as_category(beside, "color")
    dash = dashes([*levels.lines, *dict.fromkeys(beside["line"])])
    axes = {"x": x, "y": alt.Y("y:Q", **height)}
    for number, (heading, panel) in enumerate(facets_of(figure, table), first):
        layers = _layers(figure, levels, _without_facet(panel), axes, colored(color))
        layers += _beside(figure, levels, in_panel(beside, panel), axes, color, dash)
        for name, at in levels.lines.items():
            line = alt.Chart(data_of(pd.DataFrame({"y": [at], "line": [name]})))
            layers.append(line.mark_rule(color="black", strokeWidth=1.3).encode(y=axes["y"], strokeDash=dash))
        yield sized(layers, figure, heading, number)


def _told(levels: Levels, rows: Frame) -> list[alt.Tooltip]:
    """Return the tooltip of rows that may lack some of it."""
    name = [alt.Tooltip("line:N", title="baseline")] if "line" in rows else []
    return [*name, *(tip for tip in levels.tooltip if str(tip.shorthand).partition(":")[0] in rows)]


def _without_facet(rows: Frame) -> Frame:
    return rows.drop(columns="facet", errors="ignore")


def _layers(figure: Leveled, levels: Levels, rows: Frame, axes: Mapping[str, Any], encoding: Mapping[str, Any]) -> list[Any]:
    told = {"tooltip": _told(levels, rows), **encoding}
    base = alt.Chart(data_of(rows.drop(columns="over"))).encode(x=axes["x"], **told)
    # What is infinite has no point, and the line is broken there.
    line = base.mark_line(strokeWidth=1.5, invalid="break-paths-filter-domains").encode(y=axes["y"])
    layers = [line, base.mark_point(filled=True, size=45, opacity=1, invalid="filter").encode(y=axes["y"])]
    if levels.bars:
        layers[1:1] = _bars(figure, rows, axes, told)
    return [*layers, *_marks(levels, rows, axes, told)]


def _marks(levels: Levels, rows: Frame, axes: Mapping[str, Any], told: Mapping[str, Any]) -> list[Any]:
    over = rows[rows["over"] != ""]
    return [chart.encode(**told) for chart in levels.marks(over, axes)] if len(over) else []


def _bars(figure: Leveled, rows: Frame, axes: Mapping[str, Any], told: Mapping[str, Any], **mark: Any) -> Iterator[Any]:
    """Yield the bars; one without a number for its upper end goes up to the edge."""
    known = np.isfinite(rows["low"])
    low = axes["y"].copy()
    low.shorthand = "low:Q"
    for some, end in (
        (rows[known & np.isfinite(rows["high"])], "high:Q"),
        (rows[known & np.isinf(rows["high"])], alt.value(edge(figure, "y", high=True))),
    ):
        if len(some):
            yield alt.Chart(data_of(some)).mark_rule(strokeWidth=1.5, **mark).encode(x=axes["x"], y=low, y2=end, **told)


def _beside(
    figure: Leveled, levels: Levels, beside: Frame, axes: Mapping[str, Any], color: alt.Color | None, dash: alt.StrokeDash
) -> list[Any]:
    """Return layers of baselines: curves where they have x, else lines across the panel; black where they lack the colour."""
    layers: list[Any] = []
    with_color = beside["color"].notna() if color is not None else pd.Series(False, index=beside.index)
    for (has_x, has_color), some in beside.groupby([beside["x"].notna(), with_color]):
        rows = _without_facet(some).drop(columns=[c for c, has in (("x", has_x), ("color", has_color)) if not has and c in some])
        told: dict[str, Any] = {"tooltip": _told(levels, rows)} | colored(color if has_color else None)
        black = {} if has_color else {"color": "black"}
        chart = alt.Chart(data_of(rows[np.isfinite(rows["y"])].drop(columns="over")))
        if not has_x:
            layers.append(chart.mark_rule(strokeWidth=1.5, **black).encode(y=axes["y"], strokeDash=dash, **told))
            continue
        layers.append(chart.mark_line(strokeWidth=1.5, **black).encode(x=axes["x"], y=axes["y"], strokeDash=dash, **told))
        finite = rows[np.isfinite(rows["y"])]
        alone = finite[finite.groupby(["line", *(["color"] if has_color else [])])["x"].transform("size") == 1]
        if len(alone):
            # No line goes through a single point.
            point = alt.Chart(data_of(alone.drop(columns="over"))).mark_point(shape="diamond", size=60, opacity=1, **black)
            layers.append(point.encode(x=axes["x"], y=axes["y"], **told))
        if levels.bars:
            layers += _bars(figure, rows, axes, told, **black)
        layers += _marks(levels, rows, axes, told)
    return layers
