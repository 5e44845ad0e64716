"""Some trials of a sweep once more, to record other things of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import UsageError
from orchestrator.grid.load import Grid, parse_grid
from orchestrator.grid.plain import grid_text
from orchestrator.sweeps.resume import grid_of
from orchestrator.tracking.read.tables import match_trials

if TYPE_CHECKING:
    from orchestrator.storage.base import Storage
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store
    from workloads.trial import Trial


def rerun_grid(
    store: Store, storage: Storage, sweep: SweepSummary, trials: Sequence[str], record: Sequence[str], modules: Sequence[str] = ()
) -> Grid:
    """Return a grid of some trials of a sweep, which are named by ids or unique beginnings of them, with other settings of ``record``.

    ``record`` are ``key=value`` texts. The trials are the same ones, by the same ids, spelled out as cases; there are no figures and no
    claims. Raises `UsageError` for a trial that the sweep does not have, `orchestrator.errors.GridError` for settings that are wrong.
    """
    grid = grid_of(store, storage, sweep, modules, for_work=True)
    by_id = {trial.trial_id: trial for trial in grid.trials}
    chosen = [by_id[key] for key in dict.fromkeys(match_trials(list(by_id), trials))]
    data = {
        "name": grid.name,
        "cases": [_spelled(trial) for trial in chosen],
        "record": grid.record.model_dump(mode="json", exclude_unset=True, exclude_none=True),
        "tracking": {**grid.tracking.model_dump(mode="json", exclude_unset=True), "runs": "all"},
        "resources": grid.resources.model_dump(mode="json", exclude_unset=True),
    }
    contents = {name: (lambda digest=digest: grid.files.contents[digest]) for name, digest in grid.files.names.items()}
    path = Path(grid.path)
    made = parse_grid(grid_text(data), str(path), path.parent, [_override(text) for text in record], contents)
    if [trial.trial_id for trial in made.trials] != [trial.trial_id for trial in chosen]:
        raise UsageError(f"trials of sweep {sweep.sweep_id} cannot be spelled out: submit its grid with other settings of record instead")
    return made


def _spelled(trial: Trial) -> dict[str, Any]:
    """Return a trial as a case: what was given of it, without what only defaults say."""
    given: dict[str, Any] = trial.spec.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    return given


def _override(text: str) -> str:
    return text if text.startswith("record.") else f"record.{text}"
