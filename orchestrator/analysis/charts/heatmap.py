"""Medians of final values as a map of rectangles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.common import (
    NothingToDraw,
    as_category,
    continuous,
    data_of,
    facets_of,
    grouped,
    headed,
    large,
    order_of,
    title_of,
)
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import Heatmap

Frame = pd.DataFrame


def panels(figure: Heatmap, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the panels of a heat map."""
    keys = [channel for channel in ("x", "y", "facet") if getattr(figure, channel) is not None]
    base = {channel: grouped(getattr(figure, channel), results, traced=False)[trials] for channel in keys}
    frame = pd.DataFrame({**base, "value": np.asarray(results.values(figure.color)[trials], dtype=np.float64)})
    frame = frame[np.isfinite(frame["value"]) & frame[keys].notna().all(axis=1)]
    table = frame.groupby(keys, sort=False)["value"].agg(value="median", trials="size").reset_index().infer_objects()
    if "color" in figure.log:
        table = table[table["value"] > 0]
    if not len(table):
        raise NothingToDraw("no trial has values that could be drawn")
    axes = {}
    for channel, of in (("x", alt.X), ("y", alt.Y)):
        order = order_of(table[channel].to_numpy(), None)
        # The map is read like any plot: small values at the bottom.
        sort = order[::-1] if (channel == "y") != (channel in figure.reverse) else order
        axis = alt.Axis(labelAngle=0, labelOverlap=True)
        axes[channel] = of(f"{channel}:O", sort=sort, title=title_of(figure, channel, getattr(figure, channel)), axis=axis)
        table = as_category(table, channel)
    legend = alt.Legend(format="~s" if large(table["value"].to_numpy()) else "~g")
    color = alt.Color("value:Q", title=title_of(figure, "color", figure.color), scale=continuous(figure), legend=legend)
    for heading, some in facets_of(figure, table):
        chart = alt.Chart(data_of(some[["x", "y", "value", "trials"]])).mark_rect()
        chart = chart.encode(**axes, color=color, tooltip=["x:O", "y:O", "value:Q", "trials:Q"])
        yield headed(chart, figure, heading)
