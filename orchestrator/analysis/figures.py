"""Figures from the runs, as Vega-Lite charts, which `orchestrator.analysis.rendering` makes files of.

A chart is a grid of panels; each holds its own data, thinned to what can be seen.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import altair as alt
import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis import figure_tables
from orchestrator.analysis.charts import heatmap, medians, points, spectrum, threshold, trajectories
from orchestrator.analysis.charts.common import MAX_PANELS, NothingToDraw
from orchestrator.analysis.results import Results
from orchestrator.errors import UsageError
from orchestrator.grid.figures import Figure

PANELS: Mapping[str, Callable[[Any, Results, NDArray[np.intp]], Iterator[Any]]] = {
    "trajectories": trajectories.panels,
    "medians": medians.panels,
    "heatmap": heatmap.panels,
    "points": points.panels,
    "threshold": threshold.panels,
    "spectrum": spectrum.panels,
}
"""By the kind of figure."""

TABLES: Mapping[str, Callable[[Any, Results, NDArray[np.intp]], figure_tables.Table]] = {"threshold": threshold.table}
"""By the kind of figure, for those whose numbers are written beside it."""

COLUMNS = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3}
"""By the number of panels; more are in rows of four."""


def draw(figure: Figure, results: Results) -> alt.TopLevelMixin:
    """Return the chart of ``figure`` for trials that have ended. Raises `NothingToDraw`, and `UsageError` for an unknown column."""
    trials = results.chosen(figure.where)
    if not len(trials):
        raise NothingToDraw("no trial is concerned")
    panels = list(PANELS[figure.kind](figure, results, trials))
    if len(panels) > MAX_PANELS:
        raise UsageError(f"has {len(panels)} panels, more than {MAX_PANELS}: choose another facet, or pick trials with where")
    columns = len(figure.panels) if len(figure.panels) > 1 else COLUMNS.get(len(panels), 4)
    with warnings.catch_warnings():
        # That parameters of one name become one is what is wanted.
        warnings.filterwarnings("ignore", "Automatically deduplicated selection parameter")
        chart = alt.concat(*panels, columns=columns) if len(panels) > 1 else panels[0]
    shared = {"x": "shared", "y": "shared"} if figure.shares_axes else {}
    if len(panels) > 1:
        chart = chart.resolve_scale(color="shared", shape="shared", size="shared", **shared)
    if figure.title:
        chart = chart.properties(title=alt.TitleParams(figure.title, anchor="middle"))
    return chart.configure_axis(labelFontSize=12, titleFontSize=13, gridOpacity=0.5).configure_legend(
        labelFontSize=12, titleFontSize=12, symbolOpacity=1, labelLimit=400
    )


def tabulate(figure: Figure, results: Results, formats: Collection[str] = figure_tables.FORMATS) -> dict[str, bytes]:
    """Return the numbers of a figure that can be drawn in each of ``formats``, nothing if its kind has no table."""
    if figure.kind not in TABLES:
        return {}
    table = TABLES[figure.kind](figure, results, results.chosen(figure.where))
    return {form: write(table).encode() for form, write in figure_tables.WRITERS.items() if form in formats}


def spec_of(chart: alt.TopLevelMixin) -> str:
    """Return a chart as JSON of Vega-Lite."""
    # Checking against the schema of Vega-Lite is for charts that people write, and takes longer than drawing.
    return json.dumps(_printable(chart.to_dict(validate=False)))


def _printable(value: Any) -> Any:
    """Return a chart whose texts have a space for whatever cannot be seen: Vega takes a line separator for the end of an expression, and
    its renderer ends the process at a NUL."""
    if isinstance(value, str):
        return value if value.isprintable() else "".join(c if c.isprintable() else " " for c in value)
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return {_printable(key): _printable(item) for key, item in value.items()} if isinstance(value, dict) else value
