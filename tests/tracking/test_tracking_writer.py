"""The thread that writes: order, back-pressure, and what happens when the store or the caller fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from orchestrator.errors import TrackingUnavailable
from orchestrator.tracking import writer as module
from orchestrator.tracking.records import RunRecord
from orchestrator.tracking.store import Store
from orchestrator.tracking.sweep import SweepInfo
from orchestrator.tracking.writer import SweepWriter
from workloads.results import TrialResult

MakeSweep = Callable[..., SweepInfo]
MakeResult = Callable[..., TrialResult]


class Gate:
    """A recorder that writes nothing, and waits until it is told to go on."""

    at_once = 1

    def __init__(self) -> None:
        self.open = threading.Event()
        self.error: Exception | None = None

    def write(self, _: Sequence[RunRecord]) -> None:
        assert self.open.wait(10)
        if self.error is not None:
            raise self.error


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr(module, "recorder", lambda *_: gate)
    return gate


def test_a_full_queue_makes_the_caller_wait(local: Store, make_sweep: MakeSweep, make_result: MakeResult, gate: Gate) -> None:
    with SweepWriter(local, make_sweep("a b c"), queue_limit=2) as writer:
        writer.add("p", [make_result("a")])
        writer.add("p", [make_result("b")])
        waiting = threading.Thread(target=writer.add, args=("p", [make_result("c")]))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert (writer.done, writer.queued) == (0, 2)
        gate.open.set()
        waiting.join(10)
        assert not waiting.is_alive()
    assert (writer.done, writer.queued) == (3, 0)


def test_an_error_of_the_store_reaches_the_caller(local: Store, make_sweep: MakeSweep, make_result: MakeResult, gate: Gate) -> None:
    gate.error = OSError("disk full at http://me:secret@host")
    gate.open.set()
    writer = SweepWriter(local, make_sweep("a b"), queue_limit=1)
    writer.__enter__()
    writer.add("p", [make_result("a")])
    with pytest.raises(TrackingUnavailable, match=r"disk full at http://me:\*\*\*@host"):
        writer.add("p", [make_result("b")])
    with pytest.raises(TrackingUnavailable, match="disk full"):
        writer.close()
    assert writer.done == 0


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (None, "FINISHED")])
def test_leaving_ends_the_sweep(
    local: Store, make_sweep: MakeSweep, make_result: MakeResult, error: type[BaseException] | None, status: str
) -> None:
    def body() -> None:
        nonlocal writer
        with SweepWriter(local, make_sweep("a")) as writer:
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
    with SweepWriter(local, make_sweep("a")) as writer:
        writer.add("p", [])
    with pytest.raises(RuntimeError, match="closed"):
        writer.add("p", [make_result("a")])
