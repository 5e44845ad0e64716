"""From where on a condition on groups of trials holds, over an axis, and the same as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.baselines import parts, placed
from orchestrator.analysis.charts.common import NothingToDraw, data_of, text_of, title_of
from orchestrator.analysis.charts.edges import edge
from orchestrator.analysis.charts.groups import Values, in_common, level
from orchestrator.analysis.charts.levels import Levels, level_panels
from orchestrator.analysis.charts.tips import Tips
from orchestrator.analysis.figure_tables import Table
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import Threshold
from orchestrator.grid.summaries import Criterion

Frame = pd.DataFrame

NEVER, EVERYWHERE = "not even at the largest tried", "at all that were tried"
_SHAPES = {NEVER: "triangle-up", EVERYWHERE: "triangle-down"}
_COLUMNS = ("threshold", "fails_at", "smallest", "largest", "trials")


def panels(figure: Threshold, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the panels of thresholds."""
    tips = Tips(figure, results, trials)
    found = thresholds(figure, results, trials, tips).rename(columns={"threshold": "y", "baseline": "line"})
    over = np.select([np.isinf(found["y"]), found["fails_at"].isna()], [NEVER, EVERYWHERE], "")
    found = found.assign(low=found["y"], high=found["y"], over=over)
    for channel in ("x", "y"):
        if channel in figure.log and found[channel].dtype.kind in "if":
            found = found[~(found[channel] <= 0)]
    if not len(found[found["line"] == ""]):
        raise NothingToDraw("no trial has values that could be drawn")
    present = [text for text in _SHAPES if text in set(found["over"])]

    def marks(rows: Frame, axes: Mapping[str, Any]) -> Iterator[Any]:
        scale = alt.Scale(domain=present, range=[_SHAPES[text] for text in present])
        shape = alt.Shape("over:N", title=None, scale=scale, sort=present, legend=alt.Legend(symbolStrokeColor="black"))
        for text, some in rows.groupby("over"):
            y = alt.value(edge(figure, "y", high=True)) if text == NEVER else axes["y"]
            chart = alt.Chart(data_of(some))
            yield chart.mark_point(filled=False, size=90, opacity=1, strokeWidth=1.8, color="black").encode(x=axes["x"], y=y, shape=shape)

    title = title_of(figure, "y", "") or [f"smallest {figure.of} from which on", figure.when]
    shown = {"x:N": title_of(figure, "x", figure.x), "color:N": title_of(figure, "color", figure.color) or "color", "y:Q": "from"}
    shown |= {"fails_at:Q": "fails at", "smallest:Q": "smallest tried", "largest:Q": "largest tried", "trials:Q": "trials"}
    table, beside = found[found["line"] == ""].drop(columns="line"), found[found["line"] != ""]
    yield from level_panels(figure, Levels(table, beside, title, "y" in figure.log, tips.tooltip(shown), marks), 0)


def thresholds(figure: Threshold, results: Results, trials: NDArray[np.intp], tips: Tips | None = None) -> Frame:
    """Return a row for each group of trials with the same ``x``, ``color`` and ``facet``, and name as a ``baseline``.

    In it: the ``threshold``, infinite where the condition does not hold at the largest value of ``of``; the largest value at which it
    ``fails_at``; the ``smallest`` and ``largest`` that were tried; and how many trials it rests on.
    """
    channels = [channel for channel in ("x", "color", "facet") if getattr(figure, channel) is not None]
    criterion = Criterion(figure.when)
    frame = placed(figure, results, trials, channels)
    rows = frame["trial"].to_numpy()
    frame = frame.assign(of=results.numbers(figure.of)[rows])
    names = []
    for place, summary in enumerate(criterion.summaries):
        values = results.met(summary.of) if summary.function == "rate" else results.finals(summary.of)
        frame[name := f"s{place}"] = values[rows]
        names.append(name)
    told = [] if tips is None else list(tips.keys)
    frame = frame if tips is None else pd.concat([frame, tips.of(frame["trial"])], axis=1)
    frame = frame[np.isfinite(frame["of"])]
    groups = [(channels, frame[frame["baseline"] == ""]), *parts(frame, channels)]
    found = []
    for known, part in groups:
        keys = [*known, "baseline"]
        together = part.groupby(keys, sort=True)
        common = {tip: in_common(together[tip]) for tip in told}
        for number, (label, some) in enumerate(together[["of", *names]]):
            at = {value: _holds(criterion, [some[name].to_numpy()[places] for name in names]) for value, places in _by_value(some["of"])}
            told_of = {tip: texts[number] for tip, texts in common.items()}
            found.append({**dict(zip(keys, label, strict=True)), **_from(at), "trials": len(some), **told_of})
    return pd.DataFrame(found, columns=[*channels, "baseline", *_COLUMNS, *told]).infer_objects()


def _by_value(column: pd.Series[float]) -> list[tuple[float, NDArray[np.intp]]]:
    """Return the values of a column, rising, with the places of each."""
    values, places = np.unique(column.to_numpy(), return_inverse=True)
    order = np.split(np.argsort(places, kind="stable"), np.cumsum(np.bincount(places))[:-1])
    return list(zip(values.tolist(), order, strict=True))


def _holds(criterion: Criterion, columns: Sequence[Values]) -> bool:
    """Return whether the condition holds of a group of trials with values for each of its summaries."""
    known = [values[~np.isnan(values)] for values in columns]
    return criterion.holds([_summary(part.function, some) for part, some in zip(criterion.summaries, known, strict=True)])


def _summary(function: str, values: Values) -> float:
    if not len(values):
        return math.nan
    return level(values, "median" if function == "median" else "mean")


def _from(holds: Mapping[float, bool]) -> dict[str, float]:
    """Return from which of rising values on a condition holds."""
    values = list(holds)
    failing = [value for value in values if not holds[value]]
    after = [value for value in values if not failing or value > failing[-1]]
    return {
        "threshold": after[0] if after else math.inf,
        "fails_at": failing[-1] if failing else math.nan,
        "smallest": values[0],
        "largest": values[-1],
    }


def table(figure: Threshold, results: Results, trials: NDArray[np.intp]) -> Table:
    """Return the numbers of the figure; on a page, a line for each value of facet and x, and a column for each colour and baseline."""
    found = thresholds(figure, results, trials)
    left = [channel for channel in ("facet", "x") if channel in found]
    found = found.sort_values(["baseline", *left, *(["color"] if "color" in found else [])], kind="stable", ignore_index=True)
    titles = {name: title_of(figure, name, getattr(figure, name)) or name for name in ("x", "color", "facet") if name in found}
    texts = found.map(lambda value: "" if pd.isna(value) else text_of(value))
    color = f"{titles['color']} " if isinstance(figure.color, str) else ""
    colors = [f"{color}{value}" if value else "" for value in texts.get("color", [""] * len(texts))]
    headings = [", ".join(filter(None, pair)) or "threshold" for pair in zip(texts["baseline"], colors, strict=True)]
    # A color that the first line does not have stands among the others all the same.
    order = found.sort_values(["baseline", *(["color"] if "color" in found else [])], kind="stable").index
    columns = list(dict.fromkeys(headings[place] for place in order))
    rows = found.replace({"threshold": {math.inf: math.nan}}).rename(columns=titles)
    if not found["baseline"].any():
        rows = rows.drop(columns="baseline")
    cells = [_cell(row) for row in found.itertuples(index=False)]
    subject = f"the smallest {figure.of} from which on {figure.when}"
    return Table(subject, rows, texts[left].rename(columns=titles), columns, headings, cells)


def _cell(row: Any) -> str:
    if math.isinf(row.threshold):
        return f"$> {row.largest:g}$"
    return rf"$\leq {row.threshold:g}$" if math.isnan(row.fails_at) else f"${row.threshold:g}$"
