"""A pack on a worker, without Ray: what happens when training itself fails."""

from __future__ import annotations

from pathlib import Path

import pytest

import orchestrator.execution.worker
from orchestrator.execution.events import Broken, Saved
from orchestrator.execution.worker import Worker
from orchestrator.planning.pack import Crew
from orchestrator.planning.plan import make_plan
from orchestrator.storage.checkpoints import Checkpointing
from tests.specs import trials, two_by_two
from workloads.engines.batched import BatchedEngine
from workloads.training.policy import Policy
from workloads.training.recording import Recording
from workloads.training.results import Finished, Notice, Request
from workloads.training.trial_state import Outcome


class Breaks(BatchedEngine):
    """Works until some lane has done a hundred steps."""

    def advance(self, lanes, until_step, until_loss, limit):
        if lanes.step.max(initial=0) >= 100:
            raise RuntimeError("the device fell off, says d\udce9v\0")
        return super().advance(lanes, until_step, until_loss, limit)


def test_an_exception_ends_a_pack_with_its_traceback(monkeypatch):
    monkeypatch.setattr(orchestrator.execution.worker, "create", lambda _: Breaks())
    short, long = two_by_two(2, stop={"steps": 50}), two_by_two(2, stop={"steps": 5000}, seed=1)
    (pack,) = make_plan(trials([short, long]), Recording(()), "batched", [Crew(1)]).packs
    worker = Worker(1, 0.0, Policy(report_seconds=-1.0))
    worker.warm()
    events = list(worker.run(pack, Recording(()), {}))
    results = {r.trial_id: r for e in events if isinstance(e, Finished) for r in e.results}
    assert results["t0"].outcome is Outcome.EXHAUSTED
    assert set(results) == {"t0"}
    (broken,) = (e for e in events if isinstance(e, Broken))
    assert broken is events[-1]
    # As a file takes it, and a database.
    assert r"RuntimeError: the device fell off, says d\udce9v\0" in broken.error
    assert "Traceback" in broken.error


@pytest.mark.parametrize("where", ["in its place", "closed", "without a library"])
def test_a_storage_that_a_worker_cannot_use_is_no_reason_to_stop(where, tmp_path, monkeypatch):
    """Ray may be another user's on some node, who may not look into this one's folders."""
    url = str(tmp_path / "storage")
    if where == "in its place":
        Path(url).touch()
    if where == "closed":
        monkeypatch.setattr(Path, "exists", closed)
    if where == "without a library":
        url = "gopher://bucket"
    specs = [two_by_two(2, stop={"steps": 500}, seed=seed) for seed in range(2)]
    (pack,) = make_plan(trials(specs), Recording(()), "batched", [Crew(1)]).packs
    worker = Worker(1, 0.0)
    monkeypatch.setattr(worker, "_request", requests(worker))
    events = list(worker.run(pack, Recording(()), {}, Checkpointing(url, "x/y", "r", "sweep.json")))
    assert {r.trial_id: r.outcome for e in events if isinstance(e, Finished) for r in e.results} == dict.fromkeys(
        ("t0", "t1"), Outcome.EXHAUSTED
    )
    if where == "in its place":
        assert [e.text for e in events if isinstance(e, Notice)] == [f"going on without this checkpoint: the storage {url} is not a folder"]
    else:
        # The driver writes it.
        (saved,) = (e for e in events if isinstance(e, Saved))
        assert (saved.trials, saved.content is None) == (2, False)


def closed(path):
    raise PermissionError(13, "Permission denied", str(path))


def requests(worker):
    """What a pack is asked for: a checkpoint, once."""
    asked = iter([Request.CHECKPOINT])

    def request(checkpointer):
        return next(asked, None)

    return request
