"""What a tooltip says: what is drawn, and the keys of the spec that vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.common import data_of, text_of
from orchestrator.analysis.results import Results
from orchestrator.grid.figures import Figure
from orchestrator.grid.questions import SEEDS

Frame = pd.DataFrame


class Tips:
    """The varying keys of some trials, as text: ``columns`` of names that Vega reads as they are, a row a trial."""

    def __init__(self, figure: Figure, results: Results, trials: NDArray[np.intp], *, seeds: bool = False) -> None:
        shown = {formula for channel in ("x", "y", "color", "facet") if isinstance(formula := getattr(figure, channel, None), str)}
        runs = results.runs.iloc[trials]
        keys = [key for key in results.varying(trials) if key not in shown]
        if seeds:
            keys += [key for key in SEEDS if key in runs and key not in shown and runs[key].nunique() > 1]
        self.keys = {f"k{place}": key for place, key in enumerate(keys)}
        self.columns = pd.DataFrame({name: _texts(runs[key]) for name, key in self.keys.items()}, index=trials)

    def of(self, trials: pd.Series[int]) -> Frame:
        """Return the columns for rows that belong to these trials."""
        return self.columns.loc[trials].reset_index(drop=True)

    def tooltip(self, shown: Mapping[str, str]) -> list[alt.Tooltip]:
        """Return a tooltip with columns by their titles, and then the keys."""
        return [alt.Tooltip(field, title=title) for field, title in {**shown, **{f"{k}:N": key for k, key in self.keys.items()}}.items()]

    def looked_up(self, chart: Any, rows: Frame) -> Any:
        """Return a chart of rows with an ``owner`` and a ``trial``, a name of it: the keys are written once a trial."""
        if not self.keys:
            return chart
        owners = rows[["owner", "trial"]].drop_duplicates().reset_index(drop=True)
        table = pd.concat([owners[["trial"]], self.of(owners["owner"])], axis=1)
        return chart.transform_lookup(lookup="trial", from_=alt.LookupData(data=data_of(table), key="trial", fields=list(self.keys)))


def _texts(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Return the values as text, ``None`` for what is missing; each of them is written once."""
    places, values = pd.factorize(column)
    texts = np.array([*(text_of(value) for value in values), None], dtype=object)
    return texts[places]
