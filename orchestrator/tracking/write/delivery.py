"""From a batch of trials that have ended to their runs in MLflow; used by the writer of a sweep, and by whoever delivers what it left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from orchestrator.storage.spool import Batch, Spool
from orchestrator.tracking import layout
from orchestrator.tracking.read import queries
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.write.artifacts import put_files
from orchestrator.tracking.write.client import RunWriter, run_writer
from orchestrator.tracking.write.run_record import RunRecord, run_record
from orchestrator.tracking.write.traces import encode_traces
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome


class Delivery:
    """Writes batches of one sweep, whose parent run is ``parent_id``. With ``again``, some may have been written before."""

    def __init__(self, store: Store, experiment_id: str, parent_id: str, parent_uri: str, *, again: bool = False) -> None:
        self._store, self._experiment_id, self._again = store, experiment_id, again
        self._parent_id, self._parent_uri = parent_id, parent_uri
        self._target: RunWriter | None = None
        self._path = ""

    def write(self, batch: Batch, written: Callable[[int], None] = lambda _: None) -> None:
        """Write a batch; ``written`` is told after some trials how many of it have become durable.

        Raises `orchestrator.errors.TrackingUnavailable`; the batch may be written again then.
        """
        with translated(self._store.display):
            target = self._target = self._target or run_writer(self._store, self._experiment_id, again=self._again)
            traced = [result for result in batch.results if len(result.trace.steps)]
            path = layout.trace_path(batch.pack, (result.trial_id for result in traced))
            if traced and path != self._path:
                # Before any of the runs: a run that is finished has its trace.
                put_files(self._parent_uri, {path: encode_traces(traced)}, self._store.uri)
                self._path = path
            for start in range(0, len(batch.results), target.at_once):
                some = batch.results[start : start + target.at_once]
                target.write([self._record(result, batch, path) for result in some])
                written(start + len(some))

    def _record(self, result: TrialResult, batch: Batch, path: str) -> RunRecord:
        attempt = batch.attempts.get(result.trial_id, 1)
        tags = {**batch.tags, layout.ATTEMPT: str(attempt)}
        if len(result.trace.steps):
            tags[layout.TRACE] = path
        name = layout.run_id(self._parent_id, result.trial_id, attempt)
        return run_record(name, result, batch.specs[result.trial_id], tags, batch.points)


def deliver(store: Store, parent_id: str, spool: Spool) -> int:
    """Write what a sweep has left in its spool. Returns how many trials that was.

    Raises `orchestrator.errors.TrackingUnavailable` and `orchestrator.errors.StorageUnavailable`; what has been delivered is then
    gone from the spool, and the rest still there.
    """
    names = spool.names()
    if not names:
        return 0
    with translated(store.display):
        info = store.client.get_run(parent_id).info
    delivery = Delivery(store, info.experiment_id, parent_id, info.artifact_uri, again=True)
    trials = 0
    for name in names:
        batch = spool.read(name)
        delivery.write(batch)
        spool.remove(name)
        trials += len(batch.results)
    return trials


def remove_begun(store: Store, experiment_id: str, parent_id: str) -> None:
    """Delete the runs of a sweep that were begun and never completed: a server that fails may make one and not say so."""
    begun = f"{queries.tag_is(layout.PARENT, parent_id)} AND attributes.status = 'RUNNING'"
    for run in list(queries.search(store, [experiment_id], begun)):
        with translated(store.display):
            store.client.delete_run(run.info.run_id)


def complete(store: Store, sweep: queries.SweepSummary) -> int:
    """Say of a sweep that it is finished if all of its trials have an outcome. Returns how many have none."""
    outcomes = Counter(
        run.data.tags.get(layout.OUTCOME, "") for run in queries.trial_runs(store, sweep).values() if run.info.status in layout.TERMINAL
    )
    left = sweep.trials - sweep.reused - sum(outcomes.values())
    if not left and sweep.status != "FINISHED":
        remove_begun(store, sweep.experiment_id, sweep.parent_run_id)
        counts = {"trials": sweep.trials, "reused": sweep.reused, **{str(outcome): outcomes[outcome] for outcome in Outcome}}
        store.measure(sweep.parent_run_id, counts)
        store.end(sweep.parent_run_id, "FINISHED")
    return left
