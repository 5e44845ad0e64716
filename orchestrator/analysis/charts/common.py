"""What charts have in common: how values become positions, colours and headings."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.results import Results
from orchestrator.errors import UsageError
from orchestrator.grid.figures import Figure

MAX_PANELS = 36
CATEGORIES = 10
"""Numbers of which there are more values than this get a continuous scale of colours."""
DASHED = [5, 4]
_LOG_LABEL = "format(datum.value, datum.value >= 1e27 ? '.0e' : datum.value >= 10000 ? '~s' : datum.value >= 0.01 ? '~g' : '.0e')"
"""There are prefixes up to yotta, 1e24."""

Frame = pd.DataFrame
Span = tuple[float | None, float | None]
"""The ends of an axis, where they are given."""


class NothingToDraw(UsageError):
    """A figure whose conditions no trial meets, or whose values are all undefined."""


def title_of(figure: Figure, channel: str, formula: str | Mapping[str, str] | None) -> str:
    """Return the title of a channel: the label given, or the formula."""
    default = formula if isinstance(formula, str) else ""
    return figure.labels.get(channel, default)


def grouped(grouping: str | Mapping[str, str], results: Results, traced: bool) -> NDArray[Any]:
    """Return what tells trials apart: the values of a formula, or the labels of the conditions they meet, ``None`` where they meet none."""
    if isinstance(grouping, str):
        return results.traced(grouping) if traced else results.values(grouping)
    labels = np.full(len(results), None, dtype=object)
    for label, condition in reversed(list(grouping.items())):
        labels[results.condition(condition)] = label
    if not traced:
        return labels
    _ = results.history
    return labels[results.owners]


def text_of(value: object) -> str:
    """Return a value as a legend shows it."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def order_of(values: NDArray[Any], grouping: str | Mapping[str, str] | None) -> list[str]:
    """Return the distinct values as text, in the order in which a legend or facet shows them: as listed, else rising."""
    if isinstance(grouping, Mapping):
        present = set(values)
        return [label for label in grouping if label in present]
    present = {value for value in values if not pd.isna(value)}
    numbers = all(isinstance(value, int | float | np.number | bool | np.bool_) for value in present)
    return [text_of(value) for value in sorted(present, key=float if numbers else str)]


def color_of(figure: Figure, frame: Frame, grouping: str | Mapping[str, str], *, along: bool = False) -> tuple[alt.Color, str]:
    """Return the colour channel for a column ``color`` of ``frame``, and whether it is a category ("N") or a quantity ("Q").

    What changes ``along`` a curve is a quantity, and so are numbers of which there are many.
    """
    title = title_of(figure, "color", grouping)
    values = frame["color"].to_numpy()
    numeric = frame["color"].dtype.kind in "if"
    if numeric and (along or "color" in figure.log or len(pd.unique(frame["color"])) > CATEGORIES):
        return alt.Color("color:Q", title=title, scale=continuous(figure), legend=alt.Legend(format="~s" if large(values) else "~g")), "Q"
    order = order_of(values, grouping)
    scheme = "viridis" if numeric and len(order) > 2 else "tableau10"
    scale = alt.Scale(domain=order, scheme=scheme)
    return alt.Color("color:N", title=title or None, scale=scale, sort=order, legend=alt.Legend(symbolStrokeWidth=2)), "N"


PICKED = "picked"
"""The colours that were clicked on in the legend: all until then."""
FADED = 0.04


def colored(color: alt.Color | None, opacity: float = 1.0) -> dict[str, Any]:
    """Return the channels of what has a colour, if there are any: a category that is not picked in the legend fades."""
    if color is None:
        return {}
    if not str(color.shorthand).endswith(":N"):
        return {"color": color}
    return {"color": color, "opacity": alt.condition(alt.Parameter(PICKED), alt.value(opacity), alt.value(FADED))}


def continuous(figure: Figure, **more: Any) -> alt.Scale:
    """Return a continuous scale of colours."""
    return alt.Scale(type="log" if "color" in figure.log else "linear", scheme="viridis", **more)


def large(values: NDArray[Any]) -> bool:
    """Return whether numbers are read more easily as 10k and 1M."""
    finite = values[np.isfinite(values)]
    return len(finite) > 0 and float(finite.max()) >= 10_000


def as_category(frame: Frame, column: str) -> Frame:
    """Return the rows with a column's values as text; what is missing stays so."""
    texts = [None if pd.isna(value) else text_of(value) for value in frame[column]]
    return frame.assign(**{column: pd.Series(texts, index=frame.index, dtype=object)})


def axis_of(
    figure: Figure,
    channel: str,
    log: bool,
    values: NDArray[Any],
    title: str | list[str],
    span: Span | None = None,
) -> dict[str, Any]:
    """Arguments of ``alt.X`` or ``alt.Y``: numbers get a scale, anything else an ordinal one. ``span`` is what it shows unless told."""
    span = (figure.x_range if channel == "x" else figure.y_range) or span
    if values.dtype.kind not in "if":
        return {"title": title, "sort": order_of(values, None), "axis": alt.Axis(labelAngle=0)}
    scaled = scaled_axis(values.astype(np.float64), log, span, reverse=channel in figure.reverse)
    return {"title": title, **scaled}


def scaled_axis(values: NDArray[np.float64], log: bool, span: Span | None = None, *, reverse: bool = False) -> dict[str, Any]:
    """Arguments ``scale`` and ``axis`` of a channel for ``values``: logarithmic with a number every decade, or linear."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        # All is at the edge.
        finite = np.ones(1)
    low, high = (float(end) for end in (finite.min(), finite.max()))
    if span is not None:
        low, high = (low if span[0] is None else span[0]), (high if span[1] is None else span[1])
    scale: dict[str, Any] = {"type": "log" if log else "linear", "zero": False, "reverse": reverse}
    axis: dict[str, Any] = {"labelOverlap": True, "tickCount": 6}
    if not log and span is None and high - low <= 8 and (finite == finite.round()).all():
        # There are no halves of a layer.
        axis |= {"values": list(range(int(low), int(high) + 1)), "format": "d"}
    if log:
        low, high = (low, high) if span else (low / 1.15, min(high * 1.15, sys.float_info.max))
        scale |= {"domain": [low, high], "nice": False}
        axis |= {"values": _log_ticks(low, high), "labelExpr": _LOG_LABEL}
    else:
        # In pixels, so that no point is cut in half by the frame.
        scale |= {"padding": 8} if span is None else {"domain": [low, high], "nice": False, "padding": 8 if span == (0, 1) else 0}
    return {"scale": alt.Scale(**scale), "axis": alt.Axis(**axis)}


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; where there are few of them, twice and five times those too."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, len(powers) // 8)
    factors = (1, 2, 5) if len(powers) <= 3 else (1,)
    ticks = [float(f"{factor}e{power}") for power in powers if power % every == 0 for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def data_of(frame: Frame) -> dict[str, Any]:
    """Rows as plain values: numbers with nine digits, which no picture shows, and nothing that JSON has no word for."""
    columns = {}
    for name in frame.columns:
        column = frame[name]
        if column.dtype.kind == "f":
            columns[name] = [None if not math.isfinite(value) else float(f"{value:.9g}") for value in column.tolist()]
        else:
            columns[name] = column.astype(object).where(column.notna(), None).tolist()
    # A tuple: altair copies charts at every turn, and lists in them row by row.
    return {"values": tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))}


def facets_of(figure: Figure, frame: Frame) -> Iterator[tuple[str | None, Frame]]:
    """Yield the rows of each panel, with its heading."""
    if figure.facet is None:
        yield None, frame
        return
    order = order_of(frame["facet"].to_numpy(), figure.facet)
    texts = np.array([text_of(value) for value in frame["facet"]])
    for label in order:
        heading = f"{figure.facet} {label}" if isinstance(figure.facet, str) else label
        yield heading, frame[texts == label]


def sized(layers: Sequence[Any], figure: Figure, heading: str | None, number: int) -> Any:
    """Return a panel from its layers, by the first of which it can be moved and zoomed, and its colours picked in the legend."""
    # Panels that share their axes share what they are moved by: it is one parameter if it has one name.
    params = [alt.selection_interval(bind="scales", name="zoom" if figure.shares_axes else f"zoom_{number}")]
    if any(layer.encoding.opacity is not alt.Undefined for layer in layers):
        params.append(alt.selection_point(fields=["color"], bind="legend", name=PICKED))
    first = layers[0].add_params(*params)
    return headed(alt.layer(first, *layers[1:]) if len(layers) > 1 else first, figure, heading)


def headed(chart: Any, figure: Figure, heading: str | None) -> Any:
    """Return a panel of the figure's size under its heading."""
    sized = chart.properties(width=figure.width, height=figure.height)
    return sized.properties(title=alt.TitleParams(heading, fontSize=13)) if heading else sized


def drawable(frame: Frame, figure: Figure, needed: Sequence[str] = ("color", "shape", "facet")) -> Frame:
    """Return the rows that have a place in the picture or, being infinite, at its edge, and what is ``needed``, where there are any."""
    keep = ~np.isnan(frame["x"].to_numpy()) & ~np.isnan(frame["y"].to_numpy())
    for channel in ("x", "y"):
        if channel in figure.log:
            keep &= frame[channel].to_numpy() > 0
    for channel in needed:
        if channel in frame.columns:
            keep &= frame[channel].notna().to_numpy()
    if "color" in figure.log and "color" in needed and "color" in frame.columns:
        keep &= (frame["color"] > 0).to_numpy()
    if not keep.any():
        raise NothingToDraw("no trial has values that could be drawn")
    kept: Frame = frame[keep].reset_index(drop=True)
    return kept


def position_of(figure: Figure, channel: str, formula: str, values: NDArray[Any], log: bool) -> Any:
    """Return the channel x or y for ``values``, numbers or categories."""
    of = alt.X if channel == "x" else alt.Y
    kind = "Q" if values.dtype.kind in "if" else "O"
    return of(f"{channel}:{kind}", **axis_of(figure, channel, log, values, title_of(figure, channel, formula)))
