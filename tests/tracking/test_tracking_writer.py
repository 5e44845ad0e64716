"""The thread that writes: order, back-pressure, and what happens when the store, the disk or the process fails."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import StorageUnavailable, TrackingUnavailable
from orchestrator.storage.base import LocalStorage
from orchestrator.storage.spool import Batch, Spool
from orchestrator.tracking import layout
from orchestrator.tracking.artifacts import put_files
from orchestrator.tracking.read import queries
from orchestrator.tracking.read.factors import load_factors
from orchestrator.tracking.read.runs import search, tag_is
from orchestrator.tracking.store import Store
from orchestrator.tracking.turns import ALONE
from orchestrator.tracking.write import delivery
from orchestrator.tracking.write.bulk import BulkRunWriter
from orchestrator.tracking.write.delivery import complete, deliver
from orchestrator.tracking.write.parent import SweepInfo
from orchestrator.tracking.write.run_record import RunRecord
from orchestrator.tracking.write.writer import SweepWriter
from tests.processes import PATIENCE, eventually
from tests.stores import trial_runs
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome

MakeSweep = Callable[..., SweepInfo]
MakeResult = Callable[..., TrialResult]


class Gate:
    """A run writer that writes nothing, and waits until it is told to go on."""

    at_once = 1

    def __init__(self) -> None:
        self.open = threading.Event()
        self.error: Exception | None = None
        self.written: list[str] = []

    def write(self, records: Sequence[RunRecord]) -> list[str]:
        assert self.open.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        self.written += [record.name for record in records]
        return [record.run_id for record in records]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr(delivery, "run_writer", lambda *_, **__: gate)
    return gate


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(LocalStorage(tmp_path / "storage"), "x/y")


def runs_of(store: Store, parent: str) -> dict[str, list[str]]:
    """Statuses of the runs of a sweep that have not been deleted, by trial."""
    found: dict[str, list[str]] = {}
    experiment = store.client.get_run(parent).info.experiment_id
    for run in search(store, [experiment], tag_is(layout.PARENT, parent)):
        found.setdefault(run.data.tags[layout.TRIAL_ID], []).append(run.info.status)
    return found


def test_a_full_queue_makes_the_caller_wait(local: Store, make_sweep: MakeSweep, make_result: MakeResult, gate: Gate) -> None:
    with SweepWriter(local, make_sweep("a b c"), first_wait=0.01, queue_limit=2) as writer:
        writer.add("p", [make_result("a")])
        writer.add("p", [make_result("b")])
        waiting = threading.Thread(target=writer.add, args=("p", [make_result("c")]))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert (writer.done, writer.queued) == (0, 2)
        gate.open.set()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()
    assert (writer.done, writer.queued) == (3, 0)


def test_with_a_spool_nobody_waits_and_the_order_stays(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, gate: Gate, spool: Spool
) -> None:
    names = "a b c d e"
    with SweepWriter(local, make_sweep(names), first_wait=0.01, queue_limit=2, spool=spool) as writer:
        for name in names.split():
            writer.add("p", [make_result(name)])
        assert writer.queued == 5
        assert len(spool.names()) == 5, "all of it is on disk, whether it is in memory or not"
        gate.open.set()
    assert (gate.written, spool.names()) == (names.split(), [])


def test_a_full_spool_makes_the_caller_wait(local: Store, make_sweep: MakeSweep, make_result: MakeResult, gate: Gate, spool: Spool) -> None:
    with SweepWriter(local, make_sweep("a b"), first_wait=0.01, spool=spool, spool_bytes=1) as writer:
        waiting = threading.Thread(target=lambda: [writer.add("p", [make_result(name)]) for name in "ab"])
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        gate.open.set()
        waiting.join(PATIENCE)
        assert not waiting.is_alive()
    assert gate.written == ["a", "b"]


def test_a_store_that_fails_is_tried_again_until_it_takes_what_there_is(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, gate: Gate, spool: Spool
) -> None:
    said: list[str] = []
    gate.error = OSError("connection reset by http://me:secret@host")
    gate.open.set()
    with SweepWriter(local, make_sweep("a b"), first_wait=0.01, spool=spool, tell=said.append) as writer:
        writer.add("p", [make_result("a")])
        eventually(lambda: writer.trouble)
        writer.add("p", [make_result("b")])
        gate.error = None
    assert gate.written == ["a", "b"]
    assert "connection reset by http://me:***@host" in said[0]
    assert "kept on disk" in said[0]
    assert "takes runs again" in said[-1]
    assert len(said) == 2


def test_a_store_that_never_comes_back_leaves_all_in_the_spool(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(delivery, "run_writer", lambda *_, **__: pytest.fail("down"))
        broken.setattr(delivery.Delivery, "write", _down)
        writer = SweepWriter(local, make_sweep("a b"), first_wait=0.01, spool=spool, patience=0.3)
        writer.__enter__()
        writer.add("p", [make_result("a")])
        writer.add("p", [make_result("b", outcome=Outcome.DIVERGED)])
        with pytest.raises(TrackingUnavailable, match="down for good"):
            writer.close()
    assert (writer.done, writer.queued) == (0, 2)
    assert len(spool.names()) == 2
    assert deliver(local, writer.parent_run_id, spool, ALONE) == 2
    assert spool.names() == []
    assert runs_of(local, writer.parent_run_id) == {"a": ["FINISHED"], "b": ["FINISHED"]}
    sweep = queries.find_sweep(local, writer.sweep_id)
    assert complete(local, sweep) == 0
    ended = queries.find_sweep(local, writer.sweep_id)
    assert (ended.status, ended.counts["converged"], ended.counts["diverged"]) == ("FINISHED", 1, 1)


class Trickle:
    """A run writer that takes one new run at an attempt, once the writer is being closed."""

    at_once = 1

    def __init__(self) -> None:
        self.writer: SweepWriter
        self.written: list[str] = []
        self._tired = False

    def write(self, records: Sequence[RunRecord]) -> list[str]:
        eventually(lambda: self.writer._queue.closed)
        (record,) = records
        if record.name in self.written:
            return [record.run_id]
        self._tired = not self._tired
        if not self._tired:
            raise OSError("connection reset")
        self.written.append(record.name)
        return [record.run_id]


def test_a_store_that_takes_some_of_a_batch_at_a_time_has_taken_something(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "a b c d e f"
    trickle = Trickle()
    monkeypatch.setattr(delivery, "run_writer", lambda *_, **__: trickle)
    # Less patience than all of the attempts take, and more than one.
    with SweepWriter(local, make_sweep(names), first_wait=0.15, patience=0.2) as writer:
        trickle.writer = writer
        writer.add("p", [make_result(name) for name in names.split()])
    assert (trickle.written, writer.done) == (names.split(), 6)


def _down(*_: object) -> None:
    raise TrackingUnavailable("down for good")


def test_a_store_that_was_put_back_is_not_said_to_have_all(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, spool: Spool, tmp_path: Path
) -> None:
    kept, live = tmp_path / "kept.db", tmp_path / "mlflow.db"
    writer = SweepWriter(local, make_sweep("a b c"), first_wait=0.01, spool=spool)
    writer.__enter__()
    for name, there in (("a", None), ("b", (live, kept)), ("c", (kept, live))):
        if there is not None:
            with sqlite3.connect(there[0]) as source, sqlite3.connect(there[1]) as target:
                source.backup(target)
        writer.add("p", [make_result(name)])
        eventually(lambda: not spool.names())
    with pytest.raises(TrackingUnavailable, match="was put back to an earlier state and has lost trials that it had"):
        writer.close()
    assert runs_of(local, writer.parent_run_id) == {"a": ["FINISHED"], "c": ["FINISHED"]}
    assert local.status(writer.parent_run_id) == "FAILED"
    sweep = replace(make_sweep("a b c"), parent_run_id=writer.parent_run_id, attempt=2)
    with SweepWriter(local, sweep, first_wait=0.01, spool=spool) as again:
        again.add("p", [make_result("b")])
    assert local.status(writer.parent_run_id) == "FINISHED"


def test_without_memory_nor_disk_the_caller_hears_of_it(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, gate: Gate, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageUnavailable("cannot write x: No space left on device")

    said: list[str] = []
    monkeypatch.setattr(spool.storage, "write", full)
    with SweepWriter(local, make_sweep("a b c"), first_wait=0.01, spool=spool, tell=said.append) as writer:
        gate.open.set()
        writer.add("p", [make_result("a")])
        assert said == ["cannot write x: No space left on device: what has ended is kept in memory until MLflow has it"]
        eventually(lambda: not writer.queued)
        gate.error = OSError("down")
        writer.add("p", [make_result("b")])
        eventually(lambda: writer.trouble)
        with pytest.raises(StorageUnavailable, match="No space left"):
            writer.add("p", [make_result("c")])
        gate.error = None
    assert gate.written == ["a", "b"]


class Faulty:
    """MLflow's client with a failure before or after every n-th call: the request or its answer is lost."""

    def __init__(self, client: object, every: int, after: bool) -> None:
        self._client, self._every, self._after, self.calls, self.faults = client, every, after, 0, 0

    def __getattr__(self, name: str) -> object:
        method = getattr(self._client, name)
        if name not in ("create_run", "log_batch", "set_terminated", "log_metric"):
            return method

        def call(*arguments: object, **named: object) -> object:
            self.calls += 1
            lost = self.calls % self._every == 0
            if lost and not self._after:
                self.faults += 1
                raise OSError("connection refused")
            answer = method(*arguments, **named)
            if lost:
                self.faults += 1
                raise OSError("connection reset")
            return answer

        return call


@pytest.mark.parametrize("after", [False, True], ids=["request", "answer"])
@pytest.mark.parametrize("every", [3, 7])
def test_whatever_is_lost_on_the_way_every_trial_has_one_run(
    store: Store, make_sweep: MakeSweep, make_result: MakeResult, spool: Spool, every: int, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "a b c d e f"
    results = {name: make_result(name, rows=40) for name in names.split()}
    faulty = Faulty(store.client, every, after)
    writer = SweepWriter(store, make_sweep(names), first_wait=0.01, spool=spool)
    writer.__enter__()
    object.__setattr__(store, "client", faulty)
    write = BulkRunWriter.write

    def faulty_write(self: BulkRunWriter, records: Sequence[RunRecord]) -> list[str]:
        faulty.calls += 1
        run_ids = []
        for moment in (False, True):
            if moment:
                run_ids = write(self, records)
            if after == moment and faulty.calls % 2:
                faulty.faults += 1
                raise OSError("disk I/O error")
        return run_ids

    def faulty_files(root: str, files: Mapping[str, bytes], uri: str) -> None:
        if any(path.startswith("results/") for path in files):
            faulty.calls += 1
        for moment in (False, True):
            if moment:
                put_files(root, files, uri)
            if after == moment and faulty.calls % 3 == 1:
                faulty.calls += 1
                faulty.faults += 1
                raise OSError("connection reset")

    monkeypatch.setattr(BulkRunWriter, "write", faulty_write)
    monkeypatch.setattr(delivery, "put_files", faulty_files)
    for start in (0, 2, 4):
        writer.add("p", [results[name] for name in names.split()[start : start + 2]])
    writer.close()
    assert runs_of(store, writer.parent_run_id) == {name: ["FINISHED"] for name in results}
    for run in trial_runs(store, writer.parent_run_id).values():
        result = results[run.data.tags[layout.TRIAL_ID]]
        assert run.data.metrics["nuclear"] == result.trace.final()["nuclear"]
        history = store.client.get_metric_history(run.info.run_id, "loss")
        assert len(history) == len({point.step for point in history}) == 30
    assert faulty.faults
    kept = dict(load_factors(store, queries.find_sweep(store, writer.sweep_id)))
    assert {name: factors["W2"].tobytes() for name, factors in kept.items()} == {n: r.factors["W2"].tobytes() for n, r in results.items()}


def test_a_process_that_died_while_writing_leaves_one_run_per_trial_to_whoever_goes_on(
    store: Store, make_sweep: MakeSweep, make_result: MakeResult, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "a b c d e f"
    with monkeypatch.context() as slow:
        # It dies when it has written some: before it could remove them from the spool, in the middle of a run.
        slow.setattr(spool, "remove", lambda _: None)
        writer = SweepWriter(store, make_sweep(names), first_wait=0.01, spool=spool)
        writer.__enter__()
        client = store.client
        object.__setattr__(store, "client", Faulty(client, 8, after=True))
        for name in names.split():
            writer.add("p", [make_result(name)])
        eventually(lambda: writer.trouble or not writer.queued)
        writer._insistence._hopeful_until = 0.0
        writer._queue.close()
        object.__setattr__(store, "client", client)
        writer._thread.join(PATIENCE)
    assert spool.names()
    for _ in range(2):
        deliver(store, writer.parent_run_id, Spool(spool.storage, "x/y"), ALONE)
        delivery.remove_begun(store, store.experiment(make_sweep("a").experiment), writer.parent_run_id)
        assert runs_of(store, writer.parent_run_id) == {name: ["FINISHED"] for name in names.split()}


def test_a_batch_comes_back_from_disk_as_it_was(make_result: MakeResult, spool: Spool) -> None:
    failed = TrialResult.failure("c", "Traceback\nValueError: no", 1.5, 2.25)
    results = (make_result("a"), make_result("b", columns=("loss", "x"), factors={"A1": np.ones((2, 3), np.float32)}), failed)
    kept = {"step-10": {"W1": np.eye(2), "W2": np.ones((2, 1))}, "loss-0.01": {"W1": -np.eye(2), "W2": np.zeros((2, 1))}}
    results = (replace(results[0], checkpoints=kept), *results[1:])
    batch = Batch("p", results, {name: {"seed": n, "loss": "mse"} for n, name in enumerate("abc")}, {"t": "ü"}, 7, {"b": 3})
    back = spool.read(spool.add(batch))
    assert (back.pack, back.specs, back.tags, back.points, back.attempts) == ("p", batch.specs, {"t": "ü"}, 7, {"b": 3})
    for one in results:
        (two,) = (r for r in back.results if r.trial_id == one.trial_id)
        assert (one.outcome, one.steps, one.started, one.ended, one.error) == (two.outcome, two.steps, two.started, two.ended, two.error)
        assert (one.trace.columns, one.trace.values.tobytes()) == (two.trace.columns, two.trace.values.tobytes())
        np.testing.assert_array_equal(one.trace.steps, two.trace.steps)
        assert two.checkpoints.keys() == one.checkpoints.keys()
        for name, factors in one.checkpoints.items():
            assert {k: v.tolist() for k, v in two.checkpoints[name].items()} == {k: v.tolist() for k, v in factors.items()}
        assert {k: (v.dtype, v.tobytes()) for k, v in one.factors.items()} == {k: (v.dtype, v.tobytes()) for k, v in two.factors.items()}


@pytest.mark.parametrize("cut", [0, 7, 20, 300, -1])
def test_a_damaged_batch_is_said_to_be_one(make_result: MakeResult, spool: Spool, cut: int) -> None:
    name = spool.add(Batch("p", (make_result("a"),), {"a": {}}))
    content = spool.storage.read(name)
    assert content is not None
    spool.storage.write(name, content[:cut])
    with pytest.raises(StorageUnavailable, match="is not a file of trials"):
        spool.read(name)


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (None, "FINISHED")])
def test_leaving_ends_the_sweep(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, error: type[BaseException] | None, status: str
) -> None:
    def body() -> None:
        nonlocal writer
        with SweepWriter(local, make_sweep("a"), first_wait=0.01) as writer:
            writer.add("p", [make_result("a")])
            if error is not None:
                raise error

    writer: SweepWriter
    if error is None:
        body()
    else:
        with pytest.raises(error):
            body()
    assert writer.done == 1
    assert local.client.get_run(writer.parent_run_id).info.status == status


def test_nothing_is_added_to_a_closed_writer(local: Store, make_sweep: MakeSweep, make_result: MakeResult) -> None:
    with SweepWriter(local, make_sweep("a"), first_wait=0.01) as writer:
        writer.add("p", [])
    with pytest.raises(RuntimeError, match="closed"):
        writer.add("p", [make_result("a")])


def test_runs_have_ids_in_the_order_of_their_places_whenever_they_are_written(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult
) -> None:
    names = "d a c b e"
    with SweepWriter(local, make_sweep(names)) as writer:
        for some in ("e c", "b a d"):
            writer.add("p", [make_result(name) for name in some.split()])
    runs = trial_runs(local, writer.parent_run_id)
    by_id = sorted(runs, key=lambda name: runs[name].info.run_id)
    assert by_id == names.split()
    started = local.client.get_run(writer.parent_run_id).info.start_time
    ids = {layout.run_id(writer.parent_run_id, started, place, name, 1): name for place, name in enumerate(names.split())}
    assert ids == {run.info.run_id: name for name, run in runs.items()}
    assert len({layout.run_id(writer.parent_run_id, started, 0, "d", attempt) for attempt in (1, 2, 257)}) == 3


@pytest.mark.parametrize("store", ["bulk", pytest.param("server", marks=pytest.mark.server)], indirect=True)
def test_what_a_sweep_says_can_be_read_while_it_runs(store: Store, make_sweep: MakeSweep) -> None:
    lines = ["one\n"]

    def read() -> tuple[str, list[str]]:
        run = store.client.get_run(writer.parent_run_id)
        return run.data.tags.get(layout.PROGRESS, ""), store.texts(writer.parent_run_id, layout.LOGS_FOLDER)

    with SweepWriter(store, make_sweep("a"), log=lambda: "".join(lines)) as writer:
        assert read() == ("", [])
        writer.show("half")
        assert read() == ("half", ["one\n"])
        lines.append("two\n")
        writer.show("more")
        assert read() == ("more", ["one\ntwo\n"])
        lines.append("three\n")
        writer.close()
        # A thread that was late.
        lines.clear()
        writer.show("late")
        assert read() == ("more", ["one\ntwo\nthree\n"])
