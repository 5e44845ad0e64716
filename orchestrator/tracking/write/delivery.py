"""From a batch of trials that have ended to their runs in MLflow; used by the writer of a sweep, and by whoever delivers what it left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.storage.spool import Batch, Spool
from orchestrator.tracking import layout
from orchestrator.tracking.artifacts import put_files
from orchestrator.tracking.factors import encode_factors, factors_of, is_small
from orchestrator.tracking.read import queries
from orchestrator.tracking.read.results import Source
from orchestrator.tracking.read.runs import search, tag_is
from orchestrator.tracking.read.tables import reused_trials
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.turns import Turn
from orchestrator.tracking.write.client import RunWriter, run_writer
from orchestrator.tracking.write.results import EndedTrial, encode_results
from orchestrator.tracking.write.run_record import RunRecord, run_record
from orchestrator.tracking.write.traces import encode_traces, with_reused
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    from mlflow.entities import Run


class Delivery:
    """Writes batches of one sweep, whose run is ``parent``, in its ``turn``. With ``again``, some may have been written before.

    With ``late``, and once another process may have had the turn meanwhile, other sweeps may have finished the same trials: those are not
    written a second time, and ``taken`` says where they are, by trial id.
    """

    def __init__(self, store: Store, parent: Run, turn: Turn, *, again: bool = False, late: bool = False) -> None:
        self._store, self._parent, self._turn, self._again = store, parent.info, turn, again
        self.taken: dict[str, Source] = {}
        self._target: RunWriter | None = None
        self._others: dict[str, dict[str, Source]] | None = {} if late else None
        self._lapses = 0
        self._written: set[str] = set()
        """Files of the batch that was written last."""

    def write(self, batch: Batch, written: Callable[[int], None] = lambda _: None) -> None:
        """Write a batch; ``written`` is told after some trials how many of it have become durable.

        Raises `orchestrator.errors.TrackingUnavailable`; the batch may be written again then.
        """
        with translated(self._store.display):
            self._see_whose_turn()
            target = self._target = self._target or run_writer(self._store, self._parent.experiment_id, again=self._again)
            others = self._finished_by_others(batch)
            results = [result for result in batch.results if result.trial_id not in others]
            self.taken |= {result.trial_id: others[result.trial_id] for result in batch.results if result.trial_id in others}
            kept = self._keep(batch.pack, results)
            left = len(results)
            written(len(batch.results) - left)
            chosen = [result for result in results if batch.detail.has_run(batch.places.get(result.trial_id, 0), result.outcome)]
            run_ids: dict[str, str] = {}
            for start in range(0, len(chosen), target.at_once):
                some = chosen[start : start + target.at_once]
                made = target.write([self._record(result, batch, kept) for result in some])
                run_ids |= {result.trial_id: run_id for result, run_id in zip(some, made, strict=True)}
                left -= len(some)
                written(len(batch.results) - left)
            if results:
                # Last: what is in this table is all there.
                ended = [_ended(result, batch, run_ids.get(result.trial_id), kept) for result in results]
                name = layout.results_path(batch.pack, (result.trial_id for result in results))
                put_files(self._parent.artifact_uri, {name: encode_results(ended)}, self._store.uri)
                written(len(batch.results))

    def _keep(self, pack: str, results: Sequence[TrialResult]) -> _Kept:
        """Write the traces of some trials, and the factors of those that are small, before any of their runs, and return where they are."""
        traced = [result for result in results if len(result.trace.steps)]
        factors = {result.trial_id: factors_of(result) for result in results if result.outcome is not Outcome.FAILED}
        small = {trial_id: found for trial_id, found in factors.items() if is_small(found)}
        ids = [result.trial_id for result in traced]
        kept = _Kept(
            dict.fromkeys(ids, layout.trace_path(pack, ids)),
            dict.fromkeys(small, layout.factors_path(pack, small)),
        )
        paths = {*kept.traces.values(), *kept.factors.values()}
        if paths - self._written:
            files = {path: encode_traces(traced) for path in set(kept.traces.values())}
            files |= {path: encode_factors(small) for path in set(kept.factors.values())}
            put_files(self._parent.artifact_uri, files, self._store.uri)
            self._written = paths
        return kept

    def _see_whose_turn(self) -> None:
        lapses = self._turn.check()
        if lapses != self._lapses:
            self._lapses, self._again, self._target, self._others = lapses, True, None, {}

    def _finished_by_others(self, batch: Batch) -> Mapping[str, Source]:
        """Return where trials are that other sweeps have finished and that recorded what this one does, by trial id."""
        if self._others is None:
            return {}
        recorded = batch.tags[layout.RECORD]
        if recorded not in self._others:
            self._others[recorded] = queries.finished_by_others(self._store, self._parent.experiment_id, self._parent.run_id, recorded)
        return self._others[recorded]

    def _record(self, result: TrialResult, batch: Batch, kept: _Kept) -> RunRecord:
        trial_id = result.trial_id
        attempt = batch.attempts.get(trial_id, 1)
        tags = {**batch.tags, layout.ATTEMPT: str(attempt)}
        if trial_id in kept.traces:
            tags[layout.TRACE] = kept.traces[trial_id]
        if trial_id in kept.factors:
            tags[layout.FACTORS] = kept.factors[trial_id]
        name = layout.run_id(self._parent.run_id, self._parent.start_time, batch.places.get(trial_id, 0), trial_id, attempt)
        return run_record(name, result, batch.specs[trial_id], tags, batch.points, batch.varying)


@dataclass(frozen=True)
class _Kept:
    """Where, among a sweep's artifacts, the traces and factors of trials are, by trial id."""

    traces: Mapping[str, str]
    factors: Mapping[str, str]


def _ended(result: TrialResult, batch: Batch, run_id: str | None, kept: _Kept) -> EndedTrial:
    trial_id = result.trial_id
    return EndedTrial(result, batch.attempts.get(trial_id, 1), run_id, kept.traces.get(trial_id), kept.factors.get(trial_id))


def deliver(store: Store, parent_id: str, spool: Spool, turn: Turn) -> int:
    """Write what a sweep has left in its spool, in the experiment's ``turn``. Returns how many trials that was.

    Those that other sweeps have finished since are taken from them. Raises `orchestrator.errors.TrackingUnavailable` and
    `orchestrator.errors.StorageUnavailable`; what has been delivered is then gone from the spool, and the rest still there.
    """
    names = spool.names()
    if not names:
        return 0
    with translated(store.display):
        parent = store.client.get_run(parent_id)
    delivery = Delivery(store, parent, turn, again=True, late=True)
    trials = 0
    for name in names:
        batch, before = spool.read(name), len(delivery.taken)
        delivery.write(batch)
        if len(delivery.taken) > before:
            # Before the batch is gone: what is neither written nor taken counts as missing.
            take(store, parent, delivery.taken)
        spool.remove(name)
        trials += len(batch.results)
    return trials


def take(store: Store, parent: Run, taken: Mapping[str, Source | None]) -> None:
    """Say of a sweep that some of its trials are other sweeps': where they are, by trial id; or, if ``None``, its own."""
    with translated(store.display):
        content, reused = with_reused(store.read(parent.info.run_id, layout.TRIALS_FILE), taken)
        put_files(parent.info.artifact_uri, {layout.TRIALS_FILE: content}, store.uri)
        store.client.set_tag(parent.info.run_id, layout.REUSED, str(reused))


def remove_begun(store: Store, experiment_id: str, parent_id: str) -> None:
    """Delete the runs of a sweep that were begun and never completed: a server that fails may make one and not say so."""
    begun = f"{tag_is(layout.PARENT, parent_id)} AND attributes.status = 'RUNNING'"
    for run in list(search(store, [experiment_id], begun)):
        with translated(store.display):
            store.client.delete_run(run.info.run_id)


def complete(store: Store, sweep: queries.SweepSummary) -> int:
    """Say of a sweep that it is finished if all of its trials have an outcome. Returns how many have none."""
    trials = queries.own_trials(store, sweep)
    # Some may have been taken from other sweeps a moment ago, and have failed here before.
    others = reused_trials(store, sweep.parent_run_id)
    outcomes = Counter(trials["outcome"][~trials["gone"] & ~trials.index.isin(list(others))])
    reused = len(others)
    left = sweep.trials - reused - sum(outcomes.values())
    if not left and sweep.status != "FINISHED":
        remove_begun(store, sweep.experiment_id, sweep.parent_run_id)
        counts = {"trials": sweep.trials, "reused": reused, **{str(outcome): outcomes[outcome] for outcome in Outcome}}
        store.measure(sweep.parent_run_id, {layout.COUNT + name: count for name, count in counts.items()})
        store.end(sweep.parent_run_id, "FINISHED")
    return left
