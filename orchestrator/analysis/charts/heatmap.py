"""Medians, means or rates of final values as a map of rectangles."""

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
from orchestrator.analysis.charts.edges import all_diverged, outlined, partly
from orchestrator.analysis.charts.groups import quantity, spoken, statistic_of, summarized
from orchestrator.analysis.charts.tips import Tips
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import Heatmap

Frame = pd.DataFrame


def panels(figure: Heatmap, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the panels of a heat map."""
    keys = [channel for channel in ("x", "y", "facet") if getattr(figure, channel) is not None]
    base = {channel: grouped(getattr(figure, channel), results, traced=False)[trials] for channel in keys}
    frame = pd.DataFrame({**base, "value": quantity(figure.color, results)[trials]}).assign(diverged=results.diverged[trials])
    tips = Tips(figure, results, trials)
    frame = pd.concat([frame, tips.columns.reset_index(drop=True)], axis=1)
    frame = frame[frame["value"].notna() & frame[keys].notna().all(axis=1)]
    statistic = statistic_of(figure.color, figure.statistic)
    table = summarized(frame, keys, statistic, tips=list(tips.keys))
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
    scale = continuous(figure, domain=[0, 1]) if statistic == "rate" else continuous(figure)
    name = spoken(figure.color, figure.statistic)
    color = alt.Color("value:Q", title=title_of(figure, "color", name), scale=scale, legend=legend)
    texts, sizes = partly(table, statistic, all_diverged(frame))
    table = table.assign(over=texts)
    shown = {"x:O": figure.x, "y:O": figure.y, "value:Q": name, "trials:Q": "trials"}
    told = tips.tooltip(shown | ({"infinite:Q": "infinite"} if sizes else {}))
    for heading, panel in facets_of(figure, table):
        some = panel[["x", "y", "value", "trials", "infinite", "over", *tips.keys]]
        known = some[np.isfinite(some["value"])].drop(columns="over")
        chart = alt.Chart(data_of(known)).mark_rect().encode(**axes, color=color, tooltip=told)
        if sizes:
            # A cell without a number is grey, and crossed like those in which only some trials have none.
            grey = alt.Chart(data_of(some[np.isinf(some["value"])])).mark_rect(color="#dddddd").encode(**axes, tooltip=told)
            chart = alt.layer(chart, grey, *outlined(some[some["over"] != ""], sizes, **axes, tooltip=told))
        yield headed(chart, figure, heading)
