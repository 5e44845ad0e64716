"""A run to try uploads with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.tracking.store import open_store, translated


@contextmanager
def scratch_run(uri: str, experiment: str) -> Iterator[str]:
    """Make a run in an ``experiment``, which is created if it is not there, and delete it again. Yields its id.

    Raises what `open_store` raises.
    """
    store = open_store(uri)
    place = store.experiment(experiment)
    with translated(store.display):
        run = store.client.create_run(place).info.run_id
    try:
        yield run
    finally:
        with translated(store.display):
            store.client.set_terminated(run)
            store.client.delete_run(run)
