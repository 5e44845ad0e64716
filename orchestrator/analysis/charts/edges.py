"""What has no place on a scale: infinite values, marked at the edge of a panel or on a map's cell.

What a diverged trial measured at its end counts as infinite (`orchestrator.analysis.results`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.common import data_of
from orchestrator.grid.figures import Figure

Frame = pd.DataFrame

CROSS = "M-1,-1L1,1M1,-1L-1,1"
LARGE, SMALL = 70, 25
"""Sizes of the mark: where something is infinite as a whole, and in part."""
INSET = 6
"""Pixels from the edge, so that a mark is not cut in half."""


def off_scale(frame: Frame, diverged: NDArray[np.bool_]) -> Frame:
    """Return the rows with a column ``over``: what is to be said of those that are infinite, else empty."""
    infinite = np.isinf(frame["x"].to_numpy()) | np.isinf(frame["y"].to_numpy())
    return frame.assign(over=np.where(infinite, np.where(diverged, "diverged", "infinite"), ""))


def inside(frame: Frame) -> Frame:
    """Return the rows that have a place on the scales."""
    return frame[frame["over"] == ""].drop(columns="over")


def crosses(figure: Figure, frame: Frame, axes: Mapping[str, Any], sizes: Mapping[str, int], **encoding: Any) -> Iterator[Any]:
    """Yield layers with a cross for each row that is ``over``, at the edge in each direction in which it is infinite.

    ``axes`` are the channels x and y, ``sizes`` those of the marks by what is said of them in the legend.
    """
    some = frame[frame["over"] != ""]
    sides = [np.where(np.isinf(some[c].to_numpy(np.float64)), np.sign(some[c].to_numpy(np.float64)), 0.0) for c in ("x", "y")]
    for key, rows in some.groupby(sides, sort=True):
        x, y = cast(tuple[float, float], key)
        places = {c: axes[c] if not side else alt.value(edge(figure, c, side > 0)) for c, side in (("x", x), ("y", y))}
        yield cross(rows, sizes).encode(**places, **encoding)


def outlined(rows: Frame, sizes: Mapping[str, int], **encoding: Any) -> list[Any]:
    """Return layers of crosses that are to be seen on any colour."""
    return [cross(rows, sizes, color="white", strokeWidth=4).encode(**encoding), cross(rows, sizes).encode(**encoding)]


def cross(rows: Frame, sizes: Mapping[str, int], *, color: str = "black", strokeWidth: float = 1.8) -> Any:  # noqa: N803, as altair has it
    """Return crosses for rows that are ``over``, with their legend, and without places."""
    scale = alt.Scale(type="ordinal", domain=list(sizes), range=list(sizes.values()))
    legend = alt.Legend(symbolType=CROSS, symbolStrokeColor="black", symbolStrokeWidth=1.5)
    mark = alt.Chart(data_of(rows)).mark_point(shape=CROSS, filled=False, strokeWidth=strokeWidth, opacity=1, color=color)
    return mark.encode(size=alt.Size("over:N", title=None, scale=scale, sort=list(sizes), legend=legend))


def edge(figure: Figure, channel: str, high: bool) -> int:
    """Return where the high or the low end of a channel is, in pixels: y counts from the top."""
    length = figure.width if channel == "x" else figure.height
    far = high != (channel in figure.reverse) if channel == "x" else high == (channel in figure.reverse)
    return length - INSET if far else INSET


def labels_of(texts: Iterable[str]) -> dict[str, int]:
    """Return the sizes of marks that stand for one trial each, by what is said of them."""
    return {text: LARGE for text in ("diverged", "infinite") if text in set(texts)}


def partly(table: Frame, statistic: str, diverged: bool) -> tuple[list[str], dict[str, int]]:
    """Return what is to be said of groups some of whose trials are ``infinite``, and the marks' sizes.

    One such trial makes a mean infinite, and half of them a median.
    """
    word = "diverged" if diverged else "infinite"
    some, half = f"some {word}", f"half or more {word}"
    whole = np.isinf(table["value"].to_numpy()) & (statistic == "median")
    texts = ["" if not count else half if all_of_it else some for count, all_of_it in zip(table["infinite"], whole, strict=True)]
    sizes = {some: LARGE if statistic == "mean" else SMALL, half: LARGE}
    return texts, {text: size for text, size in sizes.items() if text in texts}


def all_diverged(frame: Frame) -> bool:
    """Return whether all rows with an infinite ``value`` are of trials that ``diverged``."""
    return bool(frame.loc[np.isinf(frame["value"]), "diverged"].all())
