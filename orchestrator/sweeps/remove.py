"""Sweeps to be deleted: what goes with them, and what stays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import UsageError
from orchestrator.storage.base import open_storage
from orchestrator.storage.folder import SweepFolder, folder_of
from orchestrator.sweeps.resume import is_alive
from orchestrator.tracking import layout

if TYPE_CHECKING:
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.store import Store
    from orchestrator.tracking.write.removal import Reuse


@dataclass(frozen=True)
class Removal:
    """A sweep that is to be deleted: what other sweeps reuse of it, its folder in the storage, and how many batches of results wait there
    for MLflow."""

    sweep: SweepSummary
    reused: list[Reuse]
    folder: SweepFolder
    waiting: int


def prepare(store: Store, sweep: SweepSummary, but: Collection[str], storage: str | None) -> Removal:
    """See what is to be deleted with a sweep; sweeps with ids in ``but`` go, too. ``storage`` is where its folder is, if it did not say.

    Raises `UsageError` if it is running, and `orchestrator.errors.UnavailableError`.
    """
    from orchestrator.tracking.write.removal import reused_by_others

    if is_alive(sweep):
        where = sweep.tags.get(layout.HOST, "another machine")
        raise UsageError(f"sweep {sweep.sweep_id} is running on {where}: `orchestrate cancel {sweep.sweep_id}` ends it")
    place = open_storage(storage or sweep.tags.get(layout.STORAGE))
    folder = folder_of(place, sweep.experiment, sweep.sweep_id, store.owner(sweep.experiment))
    return Removal(sweep, reused_by_others(store, sweep, but), folder, len(folder.spool.names()))


def remove(
    store: Store,
    sweeps: Sequence[SweepSummary],
    storage: str | None,
    *,
    with_reused: bool,
    removed: Callable[[SweepSummary, int], None] = lambda *_: None,
) -> int:
    """Delete sweeps and their folders; return how many runs of MLflow were. What other sweeps reuse becomes theirs, unless ``with_reused``.

    ``removed`` is told of each of them, with its runs. Raises what `prepare` raises, and `orchestrator.errors.BusyError` if a process, of
    whatever machine, writes to an experiment of theirs, or to that of a sweep that reuses some of them; then none of them is deleted. Of a
    sweep that another one begins to reuse at the same time `orchestrator.errors.UsageError` says so, and it is there as it was.
    """
    from orchestrator.tracking.write.removal import hand_over, remove_sweep

    ids, runs = [sweep.sweep_id for sweep in sweeps], 0
    # The newest first: as long as one is there, those that it reuses are.
    ordered = sorted(sweeps, key=lambda sweep: sweep.started, reverse=True)
    with ExitStack() as stack:
        found = _prepared(store, ordered, storage, stack, with_reused=with_reused)
        for one in found if not with_reused else ():
            hand_over(store, one.sweep, one.reused)
        for one in found:
            known = {reuse.sweep.sweep_id for reuse in one.reused} if with_reused else set()
            count = remove_sweep(store, one.sweep, {*ids, *known})
            # Of a sweep that stays since another has begun to reuse it, all stays that waits here.
            one.folder.remove()
            runs += count
            removed(one.sweep, count)
    return runs


def _prepared(store: Store, sweeps: Sequence[SweepSummary], storage: str | None, stack: ExitStack, *, with_reused: bool) -> list[Removal]:
    """Return what is to be deleted with ``sweeps``, as it stands in the turns of their experiments, and of whoever is to be given some of
    their trials: ``stack`` holds these."""
    from orchestrator.tracking.turns import experiment_turn

    ids, held = [sweep.sweep_id for sweep in sweeps], set[str]()
    while True:
        found = [prepare(store, sweep, ids, storage) for sweep in sweeps]
        takers = [] if with_reused else [reuse.sweep for one in found for reuse in one.reused]
        # Before it was our turn others may have begun to reuse something.
        if not (missing := {sweep.experiment for sweep in (*sweeps, *takers)} - held):
            return found
        for name in sorted(missing):
            stack.enter_context(experiment_turn(store, name, patient=False))
        held |= missing
