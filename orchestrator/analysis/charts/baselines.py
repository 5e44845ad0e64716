"""Trials without a key that a figure goes by, ``nuclear_norm`` over depths, say: what the others stand beside.

They are drawn in every panel of a facet that they lack, dashed, black where they lack the colour, and as a horizontal line where they
lack the axis. What tells them apart from the others names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.common import DASHED, grouped, text_of
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import Figure
from orchestrator.grid.questions import SEEDS
from workloads.expressions import Expression

Frame = pd.DataFrame

MAX_NAMES = 6
"""Lines of more kinds could not be told apart by their dashes."""
_DASHES = [DASHED, [2, 2], [9, 3, 2, 3], [12, 4], [6, 2, 2, 2, 2, 2], [3, 5]]


def placed(
    figure: Figure, results: Results, trials: NDArray[np.intp], channels: Sequence[str], off: NDArray[np.bool_] | None = None
) -> Frame:
    """Return a row a trial: its value in each of ``channels``, missing where it lacks the key, and its name as a ``baseline``, or "".

    ``off`` are further baselines [R], which have no place on an axis that is not one of the channels. Trials that meet none of a channel's
    conditions, or have no value in it for another reason, are left out.
    """
    groupings = {channel: getattr(figure, channel) for channel in channels}
    places = range(len(trials))
    frame = pd.DataFrame({name: grouped(formula, results, traced=False)[trials] for name, formula in groupings.items()}, index=places)
    lacks = pd.DataFrame({name: lacking(formula, results)[trials] for name, formula in groupings.items()}, index=places)
    apart = lacks.any(axis=1).to_numpy() | (np.False_ if off is None else off[trials])
    names = np.full(len(trials), "", dtype=object)
    if apart.any() and not apart.all():
        missing = list(dict.fromkeys(str(groupings[channel]) for channel in channels if lacks[channel].any())) or [
            str(getattr(figure, "x", ""))
        ]
        names[apart] = _names(results, trials[apart], trials[~apart], missing)
    fits = (frame.isna() == lacks).all(axis=1).to_numpy() & (~apart | (names != ""))
    rows: Frame = frame.assign(baseline=names, trial=trials)[fits].reset_index(drop=True)
    return rows


def lacking(grouping: object, results: Results) -> NDArray[np.bool_]:
    """Return which trials lack a key of the spec that a formula is about [R]; a mapping of conditions is about none."""
    keys = [name for name in Expression(grouping).names if name in results.keys] if isinstance(grouping, str) else []
    lacks: NDArray[np.bool_] = results.runs[keys].isna().any(axis=1).to_numpy()
    return lacks


def _names(results: Results, apart: NDArray[np.intp], others: NDArray[np.intp], missing: Sequence[str]) -> list[str]:
    """Return what tells each of the trials ``apart`` from all the ``others``: its kind, else other keys, else what it lacks."""
    runs = results.runs
    known = [key for key in results.keys if key not in SEEDS and runs[key].iloc[apart].notna().all()]
    telling = [key for key in known if _disjoint(runs[key], apart, others)]
    both = [key for key in telling if runs[key].iloc[others].notna().any()]
    kinds = [key for key in both if key.endswith(".kind")]
    keys = kinds or both or telling
    names = [
        ", ".join(text_of(value) if key.endswith(".kind") else f"{key} {text_of(value)}" for key, value in zip(keys, row, strict=True))
        for row in runs[keys].iloc[apart].itertuples(index=False)
    ]
    return names if keys and len(set(names)) <= MAX_NAMES else [f"without {', '.join(missing)}"] * len(apart)


def _disjoint(column: pd.Series[Any], apart: NDArray[np.intp], others: NDArray[np.intp]) -> bool:
    return not set(column.iloc[apart].unique()) & set(column.iloc[others].dropna().unique())


def parts(frame: Frame, channels: Sequence[str]) -> Iterator[tuple[list[str], Frame]]:
    """Yield the baselines of a `placed` frame by the channels that they have."""
    some = frame[frame["baseline"] != ""]
    for missing, rows in some.groupby([some[channel].isna() for channel in channels], sort=False):
        flags = missing if isinstance(missing, tuple) else (missing,)
        yield [channel for channel, lacks in zip(channels, flags, strict=True) if not lacks], rows


def in_panel(beside: Frame, panel: Frame) -> Frame:
    """Return those of ``beside`` that belong into a panel with these rows: of its facet, or of none."""
    if "facet" not in beside:
        return beside
    some: Frame = beside[beside["facet"].isna() | (beside["facet"].map(text_of) == text_of(panel["facet"].iloc[0]))]
    return some


def dashes(names: Sequence[str]) -> alt.StrokeDash:
    """Return the channel that tells lines with a ``line`` of ``names`` apart, with its legend."""
    scale = alt.Scale(domain=list(names), range=[_DASHES[place % len(_DASHES)] for place in range(len(names))])
    return alt.StrokeDash("line:N", title=None, scale=scale, sort=list(names), legend=alt.Legend(symbolStrokeColor="black", symbolSize=250))
