"""Figures from the runs, as Vega-Lite charts: interactive HTML that needs no network, and PNG, SVG and PDF fit for a paper.

A chart is a grid of panels; each holds its own data, thinned to what can be seen. altair writes the charts and vl-convert draws them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert
from numpy.typing import NDArray

from orchestrator.analysis.results import Results
from orchestrator.errors import UsageError
from orchestrator.grid.expressions import Expression
from orchestrator.grid.questions import Figure, Heatmap, Medians, Points, Trajectories, is_pattern

FORMATS = ("html", "png", "svg", "pdf")
MAX_ROWS = 30_000
"""Rows of traces in one figure. More could not be told apart, and would make its page slow."""
MAX_PANELS = 36
CATEGORIES = 10
"""Numbers of which there are more values than this get a continuous scale of colours."""
PIXELS_PER_INCH = 200
_DASHED = [5, 4]
_LOG_LABEL = "format(datum.value, datum.value >= 10000 ? '~s' : datum.value >= 0.01 ? '~g' : '.0e')"
_SHAPES = ["circle", "triangle-up", "square", "diamond", "cross", "triangle-down"]

Frame = pd.DataFrame


class NothingToDraw(UsageError):
    """A figure whose conditions no trial meets, or whose values are all undefined."""


def draw(figure: Figure, results: Results) -> alt.TopLevelMixin:
    """The chart of ``figure`` for trials that have ended. Raises `NothingToDraw`, and `UsageError` for a column that is not there."""
    trials = results.chosen(figure.where)
    if not len(trials):
        raise NothingToDraw("no trial is concerned")
    panels = list(_panels(figure, results, trials))
    if len(panels) > MAX_PANELS:
        raise UsageError(f"has {len(panels)} panels, more than {MAX_PANELS}: choose another facet, or pick trials with where")
    columns = len(figure.panels) if len(figure.panels) > 1 else min(len(panels), 4 if len(panels) > 6 else 3)
    chart = alt.concat(*panels, columns=columns) if len(panels) > 1 else panels[0]
    shared = {} if len(figure.panels) > 1 else {"x": "shared", "y": "shared"}
    if len(panels) > 1:
        chart = chart.resolve_scale(color="shared", shape="shared", **shared)
    if figure.title:
        chart = chart.properties(title=alt.TitleParams(figure.title, anchor="middle"))
    return chart.configure_axis(labelFontSize=12, titleFontSize=13, gridOpacity=0.5).configure_legend(
        labelFontSize=12, titleFontSize=12, symbolOpacity=1, labelLimit=400
    )


def rendered(chart: alt.TopLevelMixin, formats: Collection[str] = FORMATS) -> dict[str, bytes]:
    """A chart in each of ``formats``. The HTML holds all that it needs."""
    # Checking against the schema of Vega-Lite is for charts that people write, and takes longer than drawing.
    spec = chart.to_dict(validate=False)
    files: dict[str, bytes] = {}
    if "html" in formats:
        files["html"] = _page(spec).encode()
    drawing = vl_convert.vegalite_to_svg(spec)
    if "png" in formats:
        files["png"] = vl_convert.svg_to_png(drawing, ppi=PIXELS_PER_INCH)
    if "svg" in formats:
        files["svg"] = drawing.encode()
    if "pdf" in formats:
        files["pdf"] = vl_convert.svg_to_pdf(drawing)
    return files


def _page(spec: dict[str, Any]) -> str:
    """A page that draws ``spec``. A title in it from elsewhere must not end the script and begin one of its own."""
    empty = '{"mark":"point"}'
    head, _, tail = vl_convert.vegalite_to_html(json.loads(empty), bundle=True).rpartition(empty)
    written = json.dumps(spec).replace("<", "\\u003c")
    return f"{head}{written}{tail}"


# ----------------------------------------------------------------------------------------------------------------- channels


@dataclass(frozen=True)
class _Channel:
    """How values become positions or colours: the field of the data, and its scale."""

    field: str
    title: str
    kind: str
    log: bool = False
    sort: list[Any] | None = None

    @property
    def shorthand(self) -> str:
        return f"{self.field}:{self.kind}"


def _title(figure: Figure, channel: str, formula: str | Mapping[str, str] | None) -> str:
    default = formula if isinstance(formula, str) else ""
    return figure.labels.get(channel, default)


def _grouped(grouping: str | Mapping[str, str], results: Results, traced: bool) -> NDArray[Any]:
    """What tells trials apart: the values of a formula, or the labels of the conditions they meet, ``None`` where they meet none."""
    if isinstance(grouping, str):
        return results.traced(grouping) if traced else results.values(grouping)
    labels = np.full(len(results), None, dtype=object)
    for label, condition in reversed(list(grouping.items())):
        labels[results.condition(condition)] = label
    if not traced:
        return labels
    _ = results.history
    return labels[results.owners]


def _text(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)


def _order(values: NDArray[Any], grouping: str | Mapping[str, str] | None) -> list[str]:
    """The distinct values as text, in the order in which a legend or facet shows them: as listed, else rising."""
    if isinstance(grouping, Mapping):
        present = set(values)
        return [label for label in grouping if label in present]
    present = {value for value in values if not pd.isna(value)}
    numbers = all(isinstance(value, int | float | np.number | bool | np.bool_) for value in present)
    return [_text(value) for value in sorted(present, key=float if numbers else str)]


def _color(figure: Figure, frame: Frame, grouping: str | Mapping[str, str], *, along: bool = False) -> tuple[alt.Color, str]:
    """The colour channel for a column ``color`` of ``frame``, and whether it is a category ("N") or a quantity ("Q").

    What changes ``along`` a curve is a quantity, and so are numbers of which there are many.
    """
    title = _title(figure, "color", grouping)
    values = frame["color"].to_numpy()
    numeric = frame["color"].dtype.kind in "if"
    if numeric and (along or "color" in figure.log or len(pd.unique(frame["color"])) > CATEGORIES):
        return alt.Color("color:Q", title=title, scale=_continuous(figure), legend=alt.Legend(format="~s" if _large(values) else "~g")), "Q"
    order = _order(values, grouping)
    scheme = "viridis" if numeric and len(order) > 2 else "tableau10"
    scale = alt.Scale(domain=order, scheme=scheme)
    return alt.Color("color:N", title=title or None, scale=scale, sort=order, legend=alt.Legend(symbolStrokeWidth=2)), "N"


def _continuous(figure: Figure) -> alt.Scale:
    return alt.Scale(type="log" if "color" in figure.log else "linear", scheme="viridis")


def _large(values: NDArray[Any]) -> bool:
    """Whether numbers are read more easily as 10k and 1M."""
    return float(np.nanmax(values)) >= 10_000


def _as_category(frame: Frame, column: str) -> Frame:
    return frame.assign(**{column: [_text(value) for value in frame[column]]})


def _axis(figure: Figure, channel: str, log: bool, values: NDArray[Any], title: str) -> dict[str, Any]:
    """Arguments of ``alt.X`` or ``alt.Y``: numbers get a scale, anything else an ordinal one."""
    span = figure.x_range if channel == "x" else figure.y_range
    if values.dtype.kind not in "if":
        return {"title": title, "sort": _order(values, None), "axis": alt.Axis(labelAngle=0)}
    scaled = scaled_axis(values.astype(np.float64), log, span, reverse=channel in figure.reverse)
    return {"title": title, **scaled}


def scaled_axis(
    values: NDArray[np.float64], log: bool, span: tuple[float | None, float | None] | None = None, *, reverse: bool = False
) -> dict[str, Any]:
    """Arguments ``scale`` and ``axis`` of a channel for ``values``: logarithmic with a number every decade, or linear."""
    finite = values[np.isfinite(values)]
    low, high = (float(end) for end in (finite.min(), finite.max()))
    if span is not None:
        low, high = (low if span[0] is None else span[0]), (high if span[1] is None else span[1])
    scale: dict[str, Any] = {"type": "log" if log else "linear", "zero": False, "reverse": reverse}
    axis: dict[str, Any] = {"labelOverlap": True, "tickCount": 6}
    if log:
        low, high = (low, high) if span else (low / 1.15, high * 1.15)
        scale |= {"domain": [low, high], "nice": False}
        axis |= {"values": _log_ticks(low, high), "labelExpr": _LOG_LABEL}
    elif span is not None:
        scale |= {"domain": [low, high], "nice": False}
    else:
        # In pixels, so that no point is cut in half by the frame.
        scale["padding"] = 8
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
            columns[name] = column.tolist()
    return {"values": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def _facets(figure: Figure, frame: Frame) -> Iterator[tuple[str | None, Frame]]:
    """The rows of each panel, with its heading."""
    if figure.facet is None:
        yield None, frame
        return
    order = _order(frame["facet"].to_numpy(), figure.facet)
    texts = np.array([_text(value) for value in frame["facet"]])
    for label in order:
        heading = f"{figure.facet} {label}" if isinstance(figure.facet, str) else label
        yield heading, frame[texts == label]


def _sized(layers: Sequence[Any], figure: Figure, heading: str | None, number: int) -> Any:
    """A panel from its layers, the first of which it can be moved and zoomed by."""
    zoom = alt.selection_interval(bind="scales", name=f"zoom_{number}")
    chart = alt.layer(layers[0].add_params(zoom), *layers[1:]) if len(layers) > 1 else layers[0].add_params(zoom)
    return _headed(chart, figure, heading)


def _headed(chart: Any, figure: Figure, heading: str | None) -> Any:
    sized = chart.properties(width=figure.width, height=figure.height)
    return sized.properties(title=alt.TitleParams(heading, fontSize=13)) if heading else sized


# ------------------------------------------------------------------------------------------------------------------- panels


@singledispatch
def _panels(figure: Figure, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    raise NotImplementedError(figure.kind)


@_panels.register
def _trajectories(figure: Trajectories, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    rows = results.rows(trials, figure.when)
    history = results.history
    formulas = [name for y in figure.y for name in (_matching(y, history.columns) if is_pattern(y) else [y])]
    base: dict[str, Any] = {"x": np.asarray(results.traced(figure.x), dtype=np.float64)[rows], "step": history["step"].to_numpy()[rows]}
    base["trial"] = results.runs["trial_id"].to_numpy()[results.owners[rows]]
    for channel in ("color", "shape", "facet"):
        grouping = getattr(figure, channel)
        if grouping is not None:
            base[channel] = _grouped(grouping, results, traced=True)[rows]
    parts = []
    for name in formulas:
        part = pd.DataFrame({**base, "y": np.asarray(results.traced(name), dtype=np.float64)[rows]})
        parts.append(part.assign(color=name) if len(formulas) > 1 else part)
    grouping = dict.fromkeys(formulas, "") if len(formulas) > 1 else figure.color
    frame = _drawable(pd.concat(parts, ignore_index=True), figure)
    frame = _thinned(frame)
    along = isinstance(grouping, str) and any(name in history.columns for name in Expression(grouping).names)
    color = None
    if grouping is not None:
        color, kind = _color(figure, frame, grouping, along=along)
        frame = _as_category(frame, "color") if kind == "N" else frame
    if figure.shape is not None:
        shapes = _order(frame["shape"].to_numpy(), figure.shape)
        frame = _as_category(frame, "shape")
    x = alt.X("x:Q", **_axis(figure, "x", "x" in figure.log, frame["x"].to_numpy(), _title(figure, "x", figure.x)))
    label = _title(figure, "y", ", ".join(figure.y))
    y = alt.Y("y:Q", **_axis(figure, "y", "y" in figure.log, frame["y"].to_numpy(), label))
    mark = figure.mark if figure.mark != "auto" else "point" if along or figure.shape is not None else "line"
    for number, (heading, some) in enumerate(_facets(figure, frame)):
        chart = alt.Chart(data_of(some[[c for c in some.columns if c != "facet"]])).encode(x=x, y=y)
        chart = chart.encode(tooltip=[alt.Tooltip(f"{c}:{'N' if c in ('trial', 'shape') else 'Q'}") for c in ("trial", "step", "x", "y")])
        if color is not None:
            chart = chart.encode(color=color)
        if mark == "line":
            chart = chart.mark_line(strokeWidth=1.5, opacity=0.8).encode(detail="trial:N", order="step:Q")
        elif figure.shape is not None:
            scale = alt.Scale(domain=shapes, range=_SHAPES[: len(shapes)])
            shape = alt.Shape("shape:N", title=_title(figure, "shape", figure.shape) or None, scale=scale, sort=shapes)
            chart = chart.mark_point(filled=True, size=22, opacity=0.9).encode(shape=shape)
        else:
            chart = chart.mark_circle(size=16, opacity=0.9)
        layers = [chart, *_curves(figure, frame["x"].to_numpy(), x, y)]
        yield _sized(layers, figure, heading, number)


def _matching(pattern: str, columns: Iterable[str]) -> list[str]:
    found = [name for name in columns if name.startswith(pattern[:-1])]
    if not found:
        raise UsageError(f"no measure of the runs is called {pattern}")
    return found


def _drawable(frame: Frame, figure: Figure) -> Frame:
    """The rows that have a place in the picture, and a colour if there are any."""
    keep = np.isfinite(frame["x"].to_numpy()) & np.isfinite(frame["y"].to_numpy())
    for channel in ("x", "y"):
        if channel in figure.log:
            keep &= frame[channel].to_numpy() > 0
    for channel in ("color", "shape", "facet"):
        if channel in frame.columns:
            keep &= frame[channel].notna().to_numpy()
    if "color" in figure.log and "color" in frame.columns:
        keep &= (frame["color"] > 0).to_numpy()
    if not keep.any():
        raise NothingToDraw("no trial has values that could be drawn")
    kept: Frame = frame[keep].reset_index(drop=True)
    return kept


def _thinned(frame: Frame) -> Frame:
    """Every so many rows of each trial, its last included, so that all trials keep their curves."""
    if len(frame) <= MAX_ROWS:
        return frame
    every = math.ceil(len(frame) / MAX_ROWS)
    place = frame.groupby("trial", sort=False).cumcount(ascending=False).to_numpy()
    thinned: Frame = frame[place % every == 0].reset_index(drop=True)
    return thinned


def _curves(figure: Trajectories, values: NDArray[Any], x: alt.X, y: alt.Y) -> Iterator[Any]:
    """The formulas in x, dashed, each with its name at its end."""
    for name, formula in figure.curves.items():
        low, high = float(values.min()), float(values.max())
        xs = np.geomspace(low, high, 200) if "x" in figure.log else np.linspace(low, high, 200)
        ys = np.broadcast_to(np.asarray(Expression(formula).evaluate({figure.x: xs}), dtype=np.float64), len(xs))
        keep = np.isfinite(ys) & ((ys > 0) | ("y" not in figure.log))
        for channel, span in ((xs, figure.x_range), (ys, figure.y_range)):
            keep &= (channel >= (-np.inf if span is None or span[0] is None else span[0])) & (
                channel <= (np.inf if span is None or span[1] is None else span[1])
            )
        curve = pd.DataFrame({"x": xs, "y": ys, "curve": name})[keep]
        if len(curve):
            dash = alt.StrokeDash("curve:N", title=None, scale=alt.Scale(range=[_DASHED]))
            yield alt.Chart(data_of(curve)).mark_line(color="black", strokeWidth=1.3).encode(x=x, y=y, strokeDash=dash)


@_panels.register
def _medians(figure: Medians, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    keys = [channel for channel in ("x", "color", "facet") if getattr(figure, channel) is not None]
    base = {channel: _grouped(getattr(figure, channel), results, traced=False)[trials] for channel in keys}
    for place, formula in enumerate(figure.y):
        values = np.asarray(results.values(formula)[trials], dtype=np.float64)
        log = formula in figure.log or "y" in figure.log
        frame = pd.DataFrame({**base, "value": values})
        frame = frame[np.isfinite(values) & frame[keys].notna().all(axis=1)]
        grouped = frame.groupby(keys, sort=False)["value"]
        low, high = (grouped.min(), grouped.max()) if figure.bars == "range" else (grouped.quantile(0.25), grouped.quantile(0.75))
        columns = {"y": grouped.median(), "low": low, "high": high, "trials": grouped.size()}
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
    x = _position(figure, "x", figure.x, table["x"].to_numpy(), "x" in figure.log)
    if table["x"].dtype.kind not in "if":
        table = _as_category(table, "x")
    label = figure.labels.get(formula) or (_title(figure, "y", formula) if len(figure.y) == 1 else formula)
    heights = np.concatenate([table[c].to_numpy() for c in ("y", "low", "high")] + [list(figure.lines.get(formula, {}).values())])
    height = _axis(figure, "y", log, heights.astype(np.float64), label)
    y = alt.Y("y:Q", **height)
    color = None
    if figure.color is not None:
        color, kind = _color(figure, table, figure.color)
        table = _as_category(table, "color") if kind == "N" else table
    for number, (heading, some) in enumerate(_facets(figure, table), first):
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
            dash = alt.StrokeDash("line:N", title=None, scale=alt.Scale(range=[_DASHED]))
            layers.append(line.mark_rule(color="black", strokeWidth=1.3).encode(y=y, strokeDash=dash))
        yield _sized(layers, figure, heading, number)


def _position(figure: Figure, channel: str, formula: str, values: NDArray[Any], log: bool) -> Any:
    of = alt.X if channel == "x" else alt.Y
    kind = "Q" if values.dtype.kind in "if" else "O"
    return of(f"{channel}:{kind}", **_axis(figure, channel, log, values, _title(figure, channel, formula)))


@_panels.register
def _heatmap(figure: Heatmap, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    keys = [channel for channel in ("x", "y", "facet") if getattr(figure, channel) is not None]
    base = {channel: _grouped(getattr(figure, channel), results, traced=False)[trials] for channel in keys}
    frame = pd.DataFrame({**base, "value": np.asarray(results.values(figure.color)[trials], dtype=np.float64)})
    frame = frame[np.isfinite(frame["value"]) & frame[keys].notna().all(axis=1)]
    table = frame.groupby(keys, sort=False)["value"].agg(value="median", trials="size").reset_index().infer_objects()
    if "color" in figure.log:
        table = table[table["value"] > 0]
    if not len(table):
        raise NothingToDraw("no trial has values that could be drawn")
    axes = {}
    for channel, of in (("x", alt.X), ("y", alt.Y)):
        order = _order(table[channel].to_numpy(), None)
        # The map is read like any plot: small values at the bottom.
        sort = order[::-1] if (channel == "y") != (channel in figure.reverse) else order
        axis = alt.Axis(labelAngle=0, labelOverlap=True)
        axes[channel] = of(f"{channel}:O", sort=sort, title=_title(figure, channel, getattr(figure, channel)), axis=axis)
        table = _as_category(table, channel)
    legend = alt.Legend(format="~s" if _large(table["value"].to_numpy()) else "~g")
    color = alt.Color("value:Q", title=_title(figure, "color", figure.color), scale=_continuous(figure), legend=legend)
    for heading, some in _facets(figure, table):
        chart = alt.Chart(data_of(some[["x", "y", "value", "trials"]])).mark_rect()
        chart = chart.encode(**axes, color=color, tooltip=["x:O", "y:O", "value:Q", "trials:Q"])
        yield _headed(chart, figure, heading)


@_panels.register
def _points(figure: Points, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    base = {"trial": results.runs["trial_id"].to_numpy()[trials]}
    for channel in ("x", "y", "color", "facet"):
        grouping = getattr(figure, channel)
        if grouping is not None:
            base[channel] = _grouped(grouping, results, traced=False)[trials]
    for channel in ("x", "y"):
        base[channel] = base[channel].astype(np.float64)
    frame = _drawable(pd.DataFrame(base), figure)
    color = None
    if figure.color is not None:
        color, kind = _color(figure, frame, figure.color)
        frame = _as_category(frame, "color") if kind == "N" else frame
    axes = {c: _position(figure, c, getattr(figure, c), frame[c].to_numpy(), c in figure.log) for c in ("x", "y")}
    for number, (heading, some) in enumerate(_facets(figure, frame)):
        chart = alt.Chart(data_of(some[[c for c in some.columns if c != "facet"]])).mark_circle(size=30, opacity=0.8)
        chart = chart.encode(**axes, tooltip=["trial:N", "x:Q", "y:Q"])
        yield _sized([chart.encode(color=color) if color is not None else chart], figure, heading, number)
