"""What a grid asks of its runs, for scripts: its figures as charts, and the verdicts on its claims as a table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import altair as alt
import pandas as pd

from orchestrator.analysis.claims import verify
from orchestrator.analysis.figures import draw
from orchestrator.analysis.report import questions_of
from orchestrator.analysis.results import Results
from orchestrator.errors import UsageError
from orchestrator.grid.load import parse_questions
from orchestrator.grid.plain import written

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store

Chart: TypeAlias = alt.TopLevelMixin
"""What a notebook shows."""


def charts(store: Store, sweeps: Sequence[SweepSummary], asked: Mapping[str, Any] | None) -> dict[str, Chart]:
    """Return the figures ``asked`` for, as a grid has them, or those of the first sweep's grid, by name.

    Of one that cannot be drawn a warning says why. Raises `UsageError` if there are none.
    """
    figures = questions_of(store, sweeps[0])[0] if asked is None else parse_questions(f"figures: {written(asked)}", "figures")[0]
    if not figures:
        raise UsageError(f"the grid of sweep {sweeps[0].sweep_id} asks for no figures: give some, as a grid has them")
    results = Results.load(store, sweeps)
    drawn = {}
    for name, figure in figures.items():
        try:
            drawn[name] = draw(figure, results)
        except UsageError as error:
            warnings.warn(f"not drawn: {name}: {error}", stacklevel=3)
    return drawn


def verdicts(store: Store, sweep: SweepSummary, asked: Mapping[str, Any] | None) -> pd.DataFrame:
    """Return a row for each claim ``asked``, as a grid has them, or of the sweep's grid. Raises `UsageError` if there are none."""
    claims = questions_of(store, sweep)[1] if asked is None else parse_questions(f"claims: {written(asked)}", "claims")[1]
    if not claims:
        raise UsageError(f"the grid of sweep {sweep.sweep_id} makes no claims: give some, as a grid has them")
    found = verify(claims, Results.load(store, [sweep]))
    columns = {
        "claim": [verdict.name for verdict in found],
        "verdict": [verdict.word for verdict in found],
        "says": [verdict.says for verdict in found],
        "found": [verdict.found for verdict in found],
        "trials": [verdict.trials for verdict in found],
        "worst_trial": [None if verdict.worst is None else verdict.worst.trial_id for verdict in found],
        "required": [verdict.required for verdict in found],
        "source": [verdict.source for verdict in found],
    }
    return pd.DataFrame(columns)
