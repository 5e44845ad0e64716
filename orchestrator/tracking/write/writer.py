"""One writer a sweep: a thread beside the computation, because MLflow is the slowest part of a fast sweep.

What it is given is on disk before it is written, so that neither a store that is down nor the death of the process loses a trial.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Self

from orchestrator.errors import LeaseLost, TrackingUnavailable
from orchestrator.options import PATIENCE
from orchestrator.storage.spool import Batch, Spool
from orchestrator.tracking.read.results import Source
from orchestrator.tracking.store import Store
from orchestrator.tracking.turns import ALONE, Turn
from orchestrator.tracking.write.delivery import Delivery
from orchestrator.tracking.write.description import describe
from orchestrator.tracking.write.insisting import FIRST_WAIT, Insistence
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.parent_run import ParentRun
from orchestrator.tracking.write.queue import QUEUE_LIMIT, SPOOL_BYTES, BatchQueue, Waiting
from workloads.training.results import TrialResult

FORGETFUL = "the MLflow store {0} was put back to an earlier state and has lost trials that it had"
"""What is said of one."""


class SweepWriter:
    """Writes a sweep while it runs. Used as a context manager: the parent run exists from entry on.

    A store that fails is tried again and again, while what is added waits in the ``spool``. What was counted in ``done`` is durable in
    MLflow. Without a spool everything waits in memory. ``first_wait`` is how long after a failure a store is tried again. ``turn`` is asked
    before anything is written; once it is another's, `orchestrator.errors.LeaseLost` comes of whatever is done here.
    """

    def __init__(
        self,
        store: Store,
        sweep: SweepInfo,
        *,
        turn: Turn = ALONE,
        spool: Spool | None = None,
        queue_limit: int = QUEUE_LIMIT,
        spool_bytes: int = SPOOL_BYTES,
        patience: float = PATIENCE,
        first_wait: float = FIRST_WAIT,
        tell: Callable[[str], None] = lambda _: None,
        log: Callable[[], str] = lambda: "",
    ) -> None:
        self._store, self._sweep, self._turn, self._log = store, sweep, turn, log
        self._queue = BatchQueue(spool, queue_limit, spool_bytes, tell)
        self._insistence = Insistence(store, turn, self._queue, patience, tell, first_wait)
        self._places = {trial.trial_id: place for place, trial in enumerate(sweep.trials)}
        self._taken: Mapping[str, Source] = {}
        self._parent: ParentRun
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)

    def __enter__(self) -> Self:
        self._parent = ParentRun(self._store, self._sweep)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._queue.closed:
            return
        if kind is None:
            self.close()
            return
        # What could not be delivered by now is in the spool.
        self._insistence.patience = min(self._insistence.patience, 5.0)
        try:
            self.close("FAILED" if issubclass(kind, Exception) else "KILLED")
        except (TrackingUnavailable, LeaseLost):
            # The exception under way says more than its consequence.
            return

    @property
    def sweep_id(self) -> str:
        """The id of the sweep."""
        return self._sweep.sweep_id

    @property
    def parent_run_id(self) -> str:
        """The MLflow run of the sweep itself."""
        return self._parent.run_id

    @property
    def done(self) -> int:
        """How many trials are durable in MLflow."""
        return self._queue.done

    @property
    def queued(self) -> int:
        """How many trials wait to be written, the ones being written included."""
        return self._queue.queued

    @property
    def trouble(self) -> str:
        """Why the store does not take anything now; empty if it does."""
        return str(self._insistence.trouble or "")

    def add(self, pack: str, results: Sequence[TrialResult], tags: Mapping[str, str] | None = None) -> None:
        """Hand over trials of a pack that have ended; ``tags`` are put on their runs. They are durable when this returns.

        Waits while there is no room left for what the store does not take. Raises what made the writing stop.
        """
        if not results:
            return
        sweep, places = self._sweep, {result.trial_id: self._places[result.trial_id] for result in results}
        specs = {trial_id: sweep.trials[place].spec.flat() for trial_id, place in places.items()}
        own = {**(tags or {}), **self._parent.shared_tags}
        batch = Batch(pack, tuple(results), specs, own, sweep.history_points, sweep.attempts, places, sweep.detail, sweep.varying)
        self._queue.add(batch, refused=self._insistence.trouble is not None)

    def check(self) -> None:
        """Raise what made the writing stop, if anything has."""
        self._queue.check()

    def keep(self, trial_ids: Collection[str]) -> None:
        """Say of trials that were to be reused that they are the sweep's own. Raises `TrackingUnavailable`."""
        self._parent.take(dict.fromkeys(trial_ids))

    def show(self, progress: str) -> None:
        """Let others read how far the sweep is, and what it has said so far; from any thread. Raises what MLflow's client raises."""
        self._parent.show(progress, self._log())

    def close(self, status: str = "FINISHED", counts: Mapping[str, int] | None = None, metrics: Mapping[str, float] | None = None) -> None:
        """Write what is queued, then ``counts`` and ``metrics`` as the parent's metrics, then end the parent with ``status``.

        Raises `TrackingUnavailable` once the store has taken nothing for as long as the writer's patience, and, when all else is done, if
        it has forgotten trials that it had: a server may come back with an older database.
        """
        self._insistence.start_clock()
        self._queue.close()
        while self._thread.is_alive():
            self._thread.join(0.2)
        self._queue.check()
        insist = self._insistence.insist
        if self._taken:
            insist(lambda: self._parent.take(self._taken))
        insist(lambda: self._parent.measure({**(counts or {}), **(metrics or {})}))
        text = self._log()
        insist(lambda: self._parent.log(text))
        put_back = insist(self._parent.was_put_back)
        insist(lambda: self._parent.end("FAILED" if put_back else status))
        describe(self._store, self._parent.run_id)
        if put_back:
            raise TrackingUnavailable(f"{FORGETFUL.format(self._store.display)}; submit again, and they are run again")

    def _work(self) -> None:
        again = self._sweep.parent_run_id is not None
        parent = self._parent
        delivery = Delivery(self._store, parent.run, self._turn, again=again)
        while (waiting := self._queue.next()) is not None:
            try:
                self._write(waiting, delivery)
            except Exception as error:
                self._queue.fail(error)
                return
            self._queue.pop()
        self._taken = delivery.taken

    def _write(self, waiting: Waiting, delivery: Delivery) -> None:
        def write() -> None:
            delivery.write(self._queue.load(waiting), lambda count: self._queue.written(waiting, count))
            self._parent.mark(self._queue.done)
            self._queue.remove(waiting)

        self._insistence.insist(write)
