"""Final values over an axis: medians with bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.common import (
    DASHED,
    MAX_PANELS,
    NothingToDraw,
    as_category,
    axis_of,
    color_of,
    data_of,
    facets_of,
    grouped,
    position_of,
    sized,
    title_of,
)
from orchestrator.analysis.charts.edges import all_diverged, cross, edge, grouped_values, partly
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import Medians

Frame = pd.DataFrame


def panels(figure: Medians, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the panels of medians: those of each item of ``y``."""
    keys = [channel for channel in ("x", "color", "facet") if getattr(figure, channel) is not None]
    base = {channel: grouped(getattr(figure, channel), results, traced=False)[trials] for channel in keys}
    for place, formula in enumerate(figure.y):
        log = formula in figure.log or "y" in figure.log
        frame = pd.DataFrame({**base, "value": results.finals(formula)[trials]}).assign(diverged=results.diverged[trials])
        frame = frame[frame["value"].notna() & frame[keys].notna().all(axis=1)]
        ends = (0.0, 1.0) if figure.bars == "range" else (0.25, 0.75)
        table = grouped_values(frame, keys, {"y": 0.5, "low": ends[0], "high": ends[1]})
        if log:
            # A bar that ends at nothing ends at its point.
            table["low"] = table["low"].where(table["low"] > 0, table["y"])
        table = table[(table["y"] > 0) | (not log)]
        if table["x"].dtype.kind in "if":
            table = table[np.isfinite(table["x"]) & ((table["x"] > 0) | ("x" not in figure.log))]
        if not len(table):
            raise NothingToDraw(f"no trial has a value of {formula} that could be drawn")
        texts, sizes = partly(table["infinite"].to_numpy(), np.isinf(table["y"].to_numpy()), all_diverged(frame))
        yield from _median_panels(figure, formula, table.assign(over=texts), sizes, log, place * MAX_PANELS)


def _median_panels(figure: Medians, formula: str, table: Frame, sizes: Mapping[str, int], log: bool, first: int) -> Iterator[Any]:
    x = position_of(figure, "x", figure.x, table["x"].to_numpy(), "x" in figure.log)
    if table["x"].dtype.kind not in "if":
        table = as_category(table, "x")
    label = figure.labels.get(formula) or (title_of(figure, "y", formula) if len(figure.y) == 1 else formula)
    heights = np.concatenate([table[c].to_numpy() for c in ("y", "low", "high")] + [list(figure.lines.get(formula, {}).values())])
    height = axis_of(figure, "y", log, heights.astype(np.float64), label)
    y = alt.Y("y:Q", **height)
    color = None
    if figure.color is not None:
        color, kind = color_of(figure, table, figure.color)
        table = as_category(table, "color") if kind == "N" else table
    shown = (x.shorthand, "y:Q", "low:Q", "high:Q", "trials:Q", *(["infinite:Q"] if sizes else []), *(["color:N"] if color else []))
    encoding = {"tooltip": [alt.Tooltip(c) for c in shown]} | ({} if color is None else {"color": color})
    for number, (heading, panel) in enumerate(facets_of(figure, table), first):
        some = panel[[c for c in panel.columns if c != "facet"]]
        base = alt.Chart(data_of(some.drop(columns="over"))).encode(x=x, **encoding)
        # A median that is infinite has no point, and the line is broken there.
        line = base.mark_line(strokeWidth=1.5, invalid="break-paths-filter-domains").encode(y=y)
        layers = [line, base.mark_point(filled=True, size=45, opacity=1, invalid="filter").encode(y=y)]
        if figure.bars != "none":
            layers[1:1] = _bars(figure, some, y=alt.Y("low:Q", **height), x=x, **encoding)
        if sizes:
            # Of one axis only: x may be a category.
            upper = alt.value(edge(figure, "y", high=True))
            layers.append(cross(some[some["over"] != ""], sizes).encode(x=x, y=upper, **encoding))
        for name, at in figure.lines.get(formula, {}).items():
            line = alt.Chart(data_of(pd.DataFrame({"y": [at], "line": [name]})))
            dash = alt.StrokeDash("line:N", title=None, scale=alt.Scale(range=[DASHED]))
            layers.append(line.mark_rule(color="black", strokeWidth=1.3).encode(y=y, strokeDash=dash))
        yield sized(layers, figure, heading, number)


def _bars(figure: Medians, table: Frame, **encoding: Any) -> Iterator[Any]:
    """Yield the bars; one without a number for its upper end goes up to the edge."""
    known = np.isfinite(table["low"])
    for rows, end in (
        (table[known & np.isfinite(table["high"])], "high:Q"),
        (table[known & np.isinf(table["high"])], alt.value(edge(figure, "y", high=True))),
    ):
        if len(rows):
            yield alt.Chart(data_of(rows)).mark_rule(strokeWidth=1.5).encode(y2=end, **encoding)
