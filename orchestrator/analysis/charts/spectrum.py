"""Numbered measures at the end of trials over their numbers: singular values by index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.charts.baselines import placed
from orchestrator.analysis.charts.levels import level_panels
from orchestrator.analysis.charts.medians import levels_of
from orchestrator.analysis.charts.tips import Tips
from orchestrator.analysis.results import Results
from orchestrator.errors import UsageError
from orchestrator.grid.figures import Spectrum
from orchestrator.grid.questions import matching


def panels(figure: Spectrum, results: Results, trials: NDArray[np.intp]) -> Iterator[Any]:
    """Yield the panels of a spectrum. Raises `UsageError` where no measures of the runs have such names."""
    channels = [channel for channel in ("color", "facet") if getattr(figure, channel) is not None]
    base = placed(figure, results, trials, channels)
    tips = Tips(figure, results, trials)
    base = pd.concat([base, tips.of(base["trial"])], axis=1)
    rows = base["trial"].to_numpy()
    frame = pd.concat(
        [
            base.assign(x=number, value=results.finals(name)[rows], diverged=results.diverged[rows])
            for number, name in _numbered(figure.y, results)
        ],
        ignore_index=True,
    )
    yield from level_panels(figure, levels_of(figure, figure.y, frame, ["x", *channels], tips), 0)


def _numbered(pattern: str, results: Results) -> list[tuple[int, str]]:
    """Return the columns that a pattern stands for with their numbers, counted from 1."""
    before, _, after = pattern.partition("*")
    found = [(name[len(before) : len(name) - len(after)], name) for name in matching(pattern, results.runs.columns)]
    numbered = sorted((int(text) + 1, name) for text, name in found if re.fullmatch(r"\d+", text))
    if not numbered:
        raise UsageError(f"no numbered measures of the runs are called {pattern}")
    return numbered
