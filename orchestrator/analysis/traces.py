"""Traces for people's own analysis: of which trials, at which steps, and with which columns of the table of trials beside them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from orchestrator.analysis.results import Results
from orchestrator.analysis.tables import listing
from orchestrator.errors import UsageError
from orchestrator.tracking.read.tables import load_history_of, load_runs_of, lost, match_trials

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store


def load_traces(
    store: Store,
    sweeps: Sequence[SweepSummary],
    *,
    trials: str | Collection[str] | None = None,
    where: str | None = None,
    when: str | None = None,
    spec: bool = False,
    columns: Sequence[str] = (),
) -> tuple[pd.DataFrame, list[str]]:
    """Return the traces of sweeps at full resolution, and in words what was deleted of them.

    Of ``trials`` (ids or prefixes of them) that meet the condition ``where``; rows at which ``when`` holds. Columns are ``trial_id, step``
    and the measures; of several sweeps ``sweep``, too; then the keys of the ``spec``, and ``columns`` of the table of trials. Raises
    `UsageError` for what the runs do not have.
    """
    runs = load_runs_of(store, sweeps)
    chosen = np.ones(len(runs), dtype=np.bool_)
    if trials is not None:
        chosen &= runs["trial_id"].isin(match_trials(list(runs["trial_id"]), trials)).to_numpy()
    if where is not None:
        every_trial = Results(runs, lambda: load_history_of(store, sweeps))
        chosen &= every_trial.condition(every_trial.read_condition(where))
    every = bool(chosen.all())
    some = runs if every else runs[chosen].reset_index(drop=True)
    history = load_history_of(store, sweeps, None if every else list(some["trial_id"]))
    missing = list(lost(some, history))
    results = Results(some, lambda: history)
    if when is not None:
        rows = results.rows(np.arange(len(some)), results.read_condition(when, "when"))
        history = history.iloc[rows].reset_index(drop=True)
    added = [*(["sweep"] if len(sweeps) > 1 else []), *(results.keys if spec else []), *columns]
    return _beside(history, results, added), missing


def _beside(history: pd.DataFrame, results: Results, names: Sequence[str]) -> pd.DataFrame:
    """Return traces with columns of the table of trials beside them."""
    if not names:
        return history
    for name in names:
        if name in history.columns:
            raise UsageError(f"columns: {name} is in the traces already")
    table = listing(results, columns=list(dict.fromkeys(names))).frame
    places = pd.Index(results.runs["trial_id"]).get_indexer(pd.Index(history["trial_id"]))
    beside: pd.DataFrame = pd.concat([history, table.iloc[places].reset_index(drop=True)], axis=1)
    return beside
