"""Formulas in x beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.common import data_of
from orchestrator.grid.figures import Trajectories
from workloads.expressions import Expression


def formula_curves(figure: Trajectories, values: NDArray[Any], x: alt.X, y: alt.Y, dash: alt.StrokeDash) -> Iterator[Any]:
    """Yield the formulas in x over the range of ``values``, as lines that ``dash`` tells apart by their names."""
    for name, formula in figure.curves.items():
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        xs = np.geomspace(low, high, 200) if "x" in figure.log else np.linspace(low, high, 200)
        ys = np.broadcast_to(np.asarray(Expression(formula).evaluate({figure.x: xs}), dtype=np.float64), len(xs))
        keep = np.isfinite(ys) & ((ys > 0) | ("y" not in figure.log))
        for channel, span in ((xs, figure.x_range), (ys, figure.y_range)):
            keep &= (channel >= (-np.inf if span is None or span[0] is None else span[0])) & (
                channel <= (np.inf if span is None or span[1] is None else span[1])
            )
        curve = pd.DataFrame({"x": xs, "y": ys, "line": name})[keep]
        if len(curve):
            yield alt.Chart(data_of(curve)).mark_line(color="black", strokeWidth=1.3).encode(x=x, y=y, strokeDash=dash)
