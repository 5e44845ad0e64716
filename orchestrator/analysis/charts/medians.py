"""Final values over an axis: medians with bars."""

from __future__ import annotations

from collections.abc import Iterator
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
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import Medians

Frame = pd.DataFrame


def panels(figure: Medians, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the panels of medians: those of each item of ``y``."""
    keys = [channel for channel in ("x", "color", "facet") if getattr(figure, channel) is not None]
    base = {channel: grouped(getattr(figure, channel), results, traced=False)[trials] for channel in keys}
    for place, formula in enumerate(figure.y):
        values = np.asarray(results.values(formula)[trials], dtype=np.float64)
        log = formula in figure.log or "y" in figure.log
        frame = pd.DataFrame({**base, "value": values})
        frame = frame[np.isfinite(values) & frame[keys].notna().all(axis=1)]
        groups = frame.groupby(keys, sort=False)["value"]
        low, high = (groups.min(), groups.max()) if figure.bars == "range" else (groups.quantile(0.25), groups.quantile(0.75))
        columns = {"y": groups.median(), "low": low, "high": high, "trials": groups.size()}
        table: Frame = pd.DataFrame(columns).reset_index()
        if log:
            # A bar that ends at nothing ends at its point.
            table["low"] = table["low"].where(table["low"] > 0, table["y"])
        table = table[(table["y"] > 0) | (not log)]
        if "x" in figure.log:
            table = table[table["x"] > 0]
        if not len(table):
            raise NothingToDraw(f"no trial has a value of {formula} that could be drawn")
        yield from _median_panels(figure, formula, table.infer_objects(), log, place * MAX_PANELS)


def _median_panels(figure: Medians, formula: str, table: Frame, log: bool, first: int) -> Iterator[Any]:
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
    for number, (heading, some) in enumerate(facets_of(figure, table), first):
        data = data_of(some[[c for c in some.columns if c != "facet"]])
        tips = [alt.Tooltip(c) for c in (x.shorthand, "y:Q", "low:Q", "high:Q", "trials:Q", *(["color:N"] if color else []))]
        base = alt.Chart(data).encode(x=x, tooltip=tips)
        if color is not None:
            base = base.encode(color=color)
        layers = [base.mark_line(strokeWidth=1.5).encode(y=y), base.mark_point(filled=True, size=45, opacity=1).encode(y=y)]
        if figure.bars != "none":
            layers.insert(1, base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", **height), y2="high:Q"))
        for name, at in figure.lines.get(formula, {}).items():
            line = alt.Chart(data_of(pd.DataFrame({"y": [at], "line": [name]})))
            dash = alt.StrokeDash("line:N", title=None, scale=alt.Scale(range=[DASHED]))
            layers.append(line.mark_rule(color="black", strokeWidth=1.3).encode(y=y, strokeDash=dash))
        yield sized(layers, figure, heading, number)
