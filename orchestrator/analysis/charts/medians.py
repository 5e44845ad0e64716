"""Final values over an axis: medians, means or rates with bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.baselines import parts, placed
from orchestrator.analysis.charts.common import MAX_PANELS, NothingToDraw, title_of
from orchestrator.analysis.charts.edges import all_diverged, cross, edge, partly
from orchestrator.analysis.charts.groups import BARS, quantity, spoken, statistic_of, summarized
from orchestrator.analysis.charts.levels import Levels, level_panels
from orchestrator.analysis.charts.tips import Tips
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import Medians, Spectrum

Frame = pd.DataFrame


def panels(figure: Medians, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the panels of medians: those of each item of ``y``."""
    channels = [channel for channel in ("x", "color", "facet") if getattr(figure, channel) is not None]
    base = placed(figure, results, trials, channels)
    tips = Tips(figure, results, trials)
    base = pd.concat([base, tips.of(base["trial"])], axis=1)
    for place, formula in enumerate(figure.y):
        yield from level_panels(figure, _levels(figure, formula, results, base, channels, tips), place * MAX_PANELS)


def _levels(figure: Medians, formula: str, results: Results, base: Frame, channels: list[str], tips: Tips) -> Levels:
    rows = base["trial"].to_numpy()
    frame = base.assign(value=quantity(formula, results)[rows], diverged=results.diverged[rows])
    levels = levels_of(figure, formula, frame, channels, tips)
    return replace(levels, lines=figure.lines.get(formula, {}))


def levels_of(figure: Medians | Spectrum, formula: str, frame: Frame, channels: Sequence[str], tips: Tips) -> Levels:
    """Return what is drawn of rows that have a ``value`` of a formula, ``diverged``, and ``channels``, x being one of them."""
    log = formula in figure.log or "y" in figure.log
    statistic = statistic_of(formula, figure.statistic)
    frame = frame[frame["value"].notna()]
    told = list(tips.keys)
    table = summarized(frame[frame["baseline"] == ""], channels, statistic, figure.bars, told)
    groups = [summarized(some, [*known, "baseline"], statistic, figure.bars, told) for known, some in parts(frame, channels)]
    beside = pd.concat([table.head(0), *groups], ignore_index=True) if groups else table.head(0).assign(baseline="")
    table, beside = (_drawable(figure, some, log) for some in (table, beside))
    if not len(table):
        raise NothingToDraw(f"no trial has a value of {formula} that could be drawn")
    texts, sizes = partly(pd.concat([table, beside]), statistic, all_diverged(frame))
    name = spoken(formula, figure.statistic)
    title = figure.labels.get(formula) or (name if len(figure.panels) > 1 else title_of(figure, "y", name))
    has_bars = figure.bars != "none" and bool((table["low"] != table["high"]).any())
    shown = {"x:N": title_of(figure, "x", figure.x), "color:N": title_of(figure, "color", figure.color) or "color", "y:Q": title}
    shown |= (
        ({"low:Q": "from", "high:Q": "to"} if has_bars else {}) | {"trials:Q": "trials"} | ({"infinite:Q": "infinite"} if sizes else {})
    )

    def marks(rows: Frame, axes: Mapping[str, Any]) -> list[Any]:
        # Of one axis only: x may be a category.
        return [cross(rows, sizes).encode(x=axes["x"], y=alt.value(edge(figure, "y", high=True)))]

    return Levels(
        table.assign(over=texts[: len(table)]).rename(columns={"value": "y"}),
        beside.assign(over=texts[len(table) :]).rename(columns={"value": "y", "baseline": "line"}),
        # Whoever gives a label says there what bars are.
        *([title, BARS[figure.bars]] if has_bars and title == name else title, log, tips.tooltip(shown), marks),
        span=(0, 1) if statistic == "rate" else None,
        bars=has_bars,
    )


def _drawable(figure: Medians | Spectrum, table: Frame, log: bool) -> Frame:
    """Return the rows that have a place on the scales, or above them."""
    if log:
        # A bar that ends at nothing ends at its point.
        table = table.assign(low=table["low"].where(table["low"] > 0, table["value"]))
        table = table[table["value"] > 0]
    if table["x"].dtype.kind in "if":
        table = table[table["x"].isna() | (np.isfinite(table["x"]) & ((table["x"] > 0) | ("x" not in figure.log)))]
    return table
