"""Results made by hand, so that what should be found in them is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.analysis.results import Results


def results(
    trials: Sequence[Mapping[str, Any]], traces: Callable[[Mapping[str, Any]], Mapping[str, Sequence[float]]] | None = None
) -> Results:
    """One trial for each mapping of columns; ``traces`` gives a trial's measures over its steps 0, 1, 2, ..., whose last are its final ones."""
    rows, history = [], []
    for number, trial in enumerate(trials):
        row = {"trial_id": f"trial{number}", "run_id": f"run{number}", "outcome": "converged", "steps": 10, "seconds": 1.0, **trial}
        if traces is not None:
            trace = traces(trial)
            size = len(next(iter(trace.values())))
            history.append(pd.DataFrame({"trial_id": row["trial_id"], "step": np.arange(size), **trace}))
            row |= {name: values[-1] for name, values in trace.items()}
        rows.append({**row, "sweep": "abc"})
    empty = pd.DataFrame({"trial_id": pd.Series(dtype=object), "step": pd.Series(dtype="int64")})
    frame = pd.concat(history, ignore_index=True) if history else empty
    return Results(pd.DataFrame(rows), lambda: frame)
