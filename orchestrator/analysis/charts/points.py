"""A point a trial."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.common import (
    as_category,
    color_of,
    colored,
    data_of,
    drawable,
    facets_of,
    grouped,
    position_of,
    sized,
    title_of,
)
from orchestrator.analysis.charts.edges import crosses, inside, labels_of, off_scale
from orchestrator.analysis.charts.tips import Tips
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import Points

Frame = pd.DataFrame


def panels(figure: Points, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the panels of points."""
    base = {"trial": results.runs["trial_id"].to_numpy()[trials], "owner": trials}
    for channel in ("x", "y", "color", "facet"):
        grouping = getattr(figure, channel)
        if grouping is not None:
            base[channel] = grouped(grouping, results, traced=False)[trials]
    for channel in ("x", "y"):
        base[channel] = results.finals(getattr(figure, channel))[trials]
    frame = drawable(off_scale(pd.DataFrame(base), results.diverged[trials]), figure)
    color = None
    if figure.color is not None:
        color, kind = color_of(figure, frame, figure.color)
        frame = as_category(frame, "color") if kind == "N" else frame
    axes = {c: position_of(figure, c, getattr(figure, c), frame[c].to_numpy(), c in figure.log) for c in ("x", "y")}
    tips = Tips(figure, results, trials, seeds=True)
    shown = {"trial:N": "trial", **{f"{c}:Q": title_of(figure, c, getattr(figure, c)) for c in ("x", "y")}}
    if figure.color is not None:
        shown["color:N"] = title_of(figure, "color", figure.color) or "color"
    encoding = {"tooltip": tips.tooltip(shown), **colored(color)}
    for number, (heading, some) in enumerate(facets_of(figure, frame)):
        told = tips.of(some["owner"]).set_index(some.index)
        rows = pd.concat([some.drop(columns=["facet", "owner"], errors="ignore"), told], axis=1)
        chart = alt.Chart(data_of(inside(rows))).mark_circle(size=30, opacity=1, fillOpacity=0.8).encode(**axes, **encoding)
        yield sized([chart, *crosses(figure, rows, axes, labels_of(frame["over"]), **encoding)], figure, heading, number)
