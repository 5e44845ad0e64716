"""A point a trial."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.common import as_category, color_of, data_of, drawable, facets_of, grouped, position_of, sized
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import Points

Frame = pd.DataFrame


def panels(figure: Points, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the panels of points."""
    base = {"trial": results.runs["trial_id"].to_numpy()[trials]}
    for channel in ("x", "y", "color", "facet"):
        grouping = getattr(figure, channel)
        if grouping is not None:
            base[channel] = grouped(grouping, results, traced=False)[trials]
    for channel in ("x", "y"):
        base[channel] = base[channel].astype(np.float64)
    frame = drawable(pd.DataFrame(base), figure)
    color = None
    if figure.color is not None:
        color, kind = color_of(figure, frame, figure.color)
        frame = as_category(frame, "color") if kind == "N" else frame
    axes = {c: position_of(figure, c, getattr(figure, c), frame[c].to_numpy(), c in figure.log) for c in ("x", "y")}
    for number, (heading, some) in enumerate(facets_of(figure, frame)):
        chart = alt.Chart(data_of(some[[c for c in some.columns if c != "facet"]])).mark_circle(size=30, opacity=0.8)
        chart = chart.encode(**axes, tooltip=["trial:N", "x:Q", "y:Q"])
        yield sized([chart.encode(color=color) if color is not None else chart], figure, heading, number)
