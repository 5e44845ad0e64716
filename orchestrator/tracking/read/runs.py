"""Searches for runs, page by page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from orchestrator.tracking import layout
from orchestrator.tracking.store import Store, translated

if TYPE_CHECKING:
    from mlflow.entities import Run

_PAGE = 2000
"""Runs a request. Each page repeats the search up to its offset, so pages are large; a server keeps one in memory at a time."""
_IDS_PER_REQUEST = 250


def search(store: Store, experiment_ids: Sequence[str], filter_string: str, *, deleted: bool = False) -> Iterator[Run]:
    """All runs that match and are active, or else ``deleted``, newest first, page by page."""
    from mlflow.entities import ViewType

    token, view = None, ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    while True:
        with translated(store.display):
            page = store.client.search_runs(list(experiment_ids), filter_string, view, _PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def tag_is(tag: str, value: str) -> str:
    """Return a filter of MLflow's search."""
    return f"tags.`{tag}` = '{value}'"


def experiments_of(parent: Run) -> list[str]:
    """Return the ids of the experiments in which runs of a sweep's trials are."""
    return [parent.info.experiment_id, *json.loads(parent.data.tags.get(layout.RUNS_IN, "[]"))]


def runs_by_id(store: Store, experiment_ids: Sequence[str], run_ids: Iterable[str]) -> dict[str, Run]:
    """Return runs of experiments, by run id; those that were deleted are missing."""
    ids = list(run_ids)
    found = {}
    for start in range(0, len(ids), _IDS_PER_REQUEST):
        some = ", ".join(f"'{run_id}'" for run_id in ids[start : start + _IDS_PER_REQUEST])
        found.update({run.info.run_id: run for run in search(store, experiment_ids, f"attributes.run_id IN ({some})")})
    return found
