"""Who may write to an experiment: one process at a time, on whatever machine and under whatever name of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from orchestrator.tracking.lease import TERMS, Lease, Terms
from orchestrator.tracking.locks import lock_beside
from orchestrator.tracking.store import Store
from orchestrator.tracking.uris import sqlite_path


class Turn(Protocol):
    """The right to write to an experiment."""

    def check(self) -> int:
        """See that it is still ours; return how often another process may have had it since we did.

        Raises `orchestrator.errors.LeaseLost` if another has it, `orchestrator.errors.TrackingUnavailable` if the store does not answer.
        """


class Alone:
    """A turn that nobody can take from us, as with a lock of the operating system."""

    def check(self) -> int:
        """Return 0."""
        return 0


ALONE = Alone()


@contextmanager
def experiment_turn(
    store: Store,
    experiment: str,
    on_wait: Callable[[str], None] = lambda _: None,
    *,
    patient: bool = True,
    terms: Terms = TERMS,
) -> Iterator[Turn]:
    """Let the processes that write to one experiment take turns: by a lock beside a SQLite file, else by a lease in the store.

    ``on_wait`` is told once on which machine another is at it; unless ``patient``, `orchestrator.errors.BusyError` says so. In a store that
    keeps leases the experiment is made if there is none. Raises `orchestrator.errors.TrackingUnavailable` if the store cannot be used.
    """
    path = sqlite_path(store.uri)
    if path is not None:
        with lock_beside(path, experiment, on_wait, patient=patient):
            yield ALONE
        return
    lease = Lease(store, store.experiment(experiment), terms)
    try:
        lease.acquire(on_wait, patient=patient)
    except BaseException:
        lease.release()
        raise
    with lease.kept():
        yield lease
