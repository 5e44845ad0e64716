"""Workers on an embedded Ray: what is lost with one that dies, what one is given by another, and which a machine has room for."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.cluster.connection import Cluster, Node
from orchestrator.cluster.lifelines import Lifeline, lifelines
from orchestrator.cluster.pool import Workers
from orchestrator.cluster.remote_worker import RemoteWorker
from orchestrator.cluster.sizing import Allotment, crews_for
from orchestrator.cluster.slurm.node import free_port
from orchestrator.errors import RayUnavailable
from orchestrator.execution.events import Cause, Ended, Lost, Saved
from orchestrator.execution.recovery import Recovery
from orchestrator.execution.scheduler import Board
from orchestrator.grid import parse_grid
from orchestrator.planning.pack import PACK_BYTES, Crew
from orchestrator.planning.plan import make_plan
from orchestrator.storage.base import open_storage
from orchestrator.storage.folder import Description, SweepFolder
from orchestrator.sweeps.hire import crews_of
from tests.held import HeldUntilAsked
from tests.processes import PATIENCE
from workloads.engines.calibration import processor
from workloads.training.recording import Recording
from workloads.training.results import Finished, HandedOver, Progress, TrialResult
from workloads.training.trial_state import Outcome

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """A Ray of six cores and a GPU that this process has started. The paths of its sockets would be too long in its temporary folder."""
    folder = tmp_path_factory.mktemp("long") / ("x" * 100)
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(folder))
        cluster = Cluster.connect("local", cpus=6, gpus=1)
    with cluster:
        yield cluster


ENDLESS = """
name: slow
fixed:
  problem: {kind: matrix_completion, shape: [2, 2], entries: [[0, 1, 1.0]]}
  factorization: {kind: deep_matrix, depth: 2}
  init: {kind: gaussian, scale: 1e-3}
  optimizer: {kind: gd, lr: 1e-9}
  stop: {steps: %d}
grid: {seed: [1, 2]}
record: {points: 0, measures: []}
"""


def test_a_dead_worker_is_replaced_and_its_pack_goes_on_from_its_checkpoint(embedded, tmp_path):
    nothing = Recording((), 0)
    steps = {"endless": 10**12, "quick": 50, "later": 60}
    packs = [replace(make_plan(parse_grid(ENDLESS % s).trials, nothing, "batched", [Crew(1)]).packs[0], name=n) for n, s in steps.items()]
    folder = SweepFolder(open_storage(str(tmp_path)), "x", "y")
    folder.describe(Description("y", "x", "", "", "", {}), {})
    board: Board[Any] = Board(packs, time.monotonic)
    recovery = Recovery(board, folder.checkpoints("r"))
    outcomes: dict[str, set[Outcome]] = {name: set() for name in steps}
    saved, killed, again = 0, set(), []
    with Workers([(Allotment(1, 0), 1)]) as workers:
        for pack, event in workers.run(board, nothing, {}, folder.checkpointing("r", 0.1)):
            match event:
                case Finished():
                    outcomes[pack.name] |= {r.outcome for r in event.results}
                case Saved():
                    recovery.saved(pack, event)
                    saved += 1
                case Lost():
                    assert event.cause is Cause.CRASH
                    assert "ActorDiedError" in event.error
                    failed, text = recovery.lost(pack, event)
                    assert not failed
                    assert text == "its worker died: 2 trials are tried again, 2 of them from where they stood"
                    # Not again: it would never end.
                    again = [board.take("nobody", "cpu")]
                    board.ended("nobody")
                case Ended():
                    recovery.ended(pack)
            if not killed and saved:
                killed.update(_processes("ray::RemoteWorker"))
                assert len(killed) == 1
                os.kill(*killed, signal.SIGKILL)
    assert outcomes == {"endless": set(), "quick": {Outcome.EXHAUSTED}, "later": {Outcome.EXHAUSTED}}
    assert [trial.step > 0 for trial in again[0].trials] == [True, True]


UNEQUAL = """
name: unequal
fixed:
  optimizer: {kind: group_rmsprop, lr: 1e-4}
  init: {kind: gaussian, scale: 0.1}
cases:
  - problem: {kind: matrix_completion, shape: [12, 12], target: {rank: 1}, observed: 60}
    factorization: {kind: deep_matrix, depth: 3}
  - problem: {kind: tensor_completion, shape: [6, 6, 6], target: {rank: 1}, observed: 100}
    factorization: {kind: cp}
    loss: mse
zip: {seed: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23],
      stop.steps: [90000, 10, 1000, 50000, 10, 100, 90000, 10, 60000, 10, 1000, 50000,
                   10, 70000, 10, 90000, 1000, 50000, 10, 100, 80000, 10, 90000, 20000]}
record: {points: 10, measures: []}
"""


def test_without_a_head_nobody_is_started_and_the_sweep_is_given_up(embedded):
    nothing = Recording((), 0)
    board: Board[Any] = Board(make_plan(parse_grid(ENDLESS % 10**12).trials, nothing, "batched", [Crew(1)]).packs, time.monotonic)
    clock, lost = [0.0], []
    assert all(line.holds() for line in lifelines())
    line = Lifeline("the head", f"127.0.0.1:{free_port()}", 30.0, lambda: clock[0])

    def disturbed(workers: Workers) -> None:
        for pack, event in workers.run(board, nothing, {}):
            running = _processes("RemoteWorker")
            if isinstance(event, Lost):
                lost.append(pack)
                board.put(pack)
            elif lost:
                assert running == [], "nobody is there to start one"
                clock[0] = 60.0
            elif isinstance(event, Progress) and running:
                # Of one that is dead there may be another one, from before.
                os.kill(running[0], signal.SIGKILL)

    with Workers([(Allotment(1, 0), 1)], lines=[line]) as workers, pytest.raises(RayUnavailable, match=r"the head at .* is gone"):
        disturbed(workers)
    assert len(lost) == 1


def test_nothing_is_asked_of_ray_without_a_raylet(embedded):
    line = Lifeline("Ray's raylet", f"127.0.0.1:{free_port()}", 0.5, vital=True)
    grid = parse_grid(UNEQUAL)
    board: Board[Any] = Board(make_plan(grid.trials, Recording((), 10), "fused", [Crew(1)]).packs, time.monotonic)
    waiting = board.waiting
    with Workers([(Allotment(1, 0), 1)], lines=[line]) as workers:
        with pytest.raises(RayUnavailable, match=r"Ray's raylet at .* is gone"):
            assert set(workers.run(board, Recording((), 10), {}, poll=0.01)) == {(None, None)}
        assert board.waiting == waiting, "no worker was given anything"


def test_a_trial_has_the_same_bits_whoever_trains_it(embedded):
    grid, recording = parse_grid(UNEQUAL), Recording((), 10)
    # One pack for each case, whatever the number of workers: the others have to be given theirs.
    packs = make_plan(grid.trials, recording, "fused", [Crew(1)]).packs
    assert len(packs) == 2
    seen: list[dict[str, TrialResult]] = []
    given = 0
    # With others beside it, a worker has half of its first pack to give: it trains nothing before it is asked for it.
    for count, kind in ((1, RemoteWorker), (3, HeldUntilAsked)):
        results: dict[str, TrialResult] = {}
        with Workers([(Allotment(1, 0), count)], worker=kind) as workers:
            board: Board[Any] = Board(packs, time.monotonic)
            for _, event in workers.run(board, recording, {}):
                if isinstance(event, Finished):
                    assert not results.keys() & {r.trial_id for r in event.results}
                    results |= {r.trial_id: r for r in event.results}
                given += isinstance(event, HandedOver) and len(event.trials)
        seen.append(results)
    one, many = seen
    assert given, "nothing was handed over"
    assert one.keys() == many.keys() == {t.trial_id for t in grid.trials}
    for key, result in one.items():
        assert (result.outcome, result.steps) == (many[key].outcome, many[key].steps)
        np.testing.assert_array_equal(result.trace.steps, many[key].trace.steps)
        np.testing.assert_array_equal(result.trace.values[:, 0], many[key].trace.values[:, 0])
        for name, factor in result.factors.items():
            np.testing.assert_array_equal(factor, many[key].factors[name])


def test_logical_gpus_are_shared_and_the_cores_that_are_left_work_too(embedded):
    assert (embedded.cpus, embedded.gpus) == (6, 1)
    assert crews_for(embedded, 1, "auto", 100) == [(Allotment(1, 0.25), 4), (Allotment(1, 0), 2)]
    assert crews_for(embedded, 1, "auto", 100, large=True) == [(Allotment(1, 1), 1), (Allotment(1, 0), 5)]
    assert crews_for(embedded, 1, 0.5, 100) == [(Allotment(1, 0.5), 2)]
    assert crews_for(embedded, 2, 0, 100) == [(Allotment(2, 0), 3)]
    assert crews_for(embedded, 1, "auto", 3) == [(Allotment(1, 0.25), 3), (Allotment(1, 0), 2)]
    assert crews_for(embedded, 1, "auto", 100, workers=2) == [(Allotment(1, 0.25), 2), (Allotment(1, 0), 2)]
    hired = crews_for(embedded, 1, "auto", 100, workers=1)
    assert hired == [(Allotment(1, 0.25), 1), (Allotment(1, 0), 1)]
    with Workers(hired) as workers:
        assert workers.machines(PATIENCE)
        # One of them was given a share of the GPU, though torch sees none here and says so: it is a core like the other.
        (crew,) = crews_of(workers, hired, embedded)
        assert (crew.workers, crew.device, crew.memory) == (2, "cpu", PACK_BYTES)
        assert crew.rates.source == f"measured on {processor()}"


def test_workers_of_a_mixed_cluster_are_counted_node_by_node():
    mixed = Cluster("somewhere", [Node(16, 2), Node(8, 0), Node(1, 4)])
    # Of floating point 0.07 goes into 7 only 99 times, and 1.1 into 33 only 29 times.
    assert crews_for(Cluster("x", [Node(33, 7)]), 0.1, 0.07, 1000) == [(Allotment(0.1, 0.07), 100)]
    assert crews_for(Cluster("x", [Node(33, 0)]), 1.1, 0, 1000) == [(Allotment(1.1, 0), 30)]
    assert crews_for(mixed, 1, "auto", 1000) == [(Allotment(1, 0.25), 9), (Allotment(1, 0), 16)]
    assert crews_for(mixed, 1, "auto", 1000, large=True) == [(Allotment(1, 1), 3), (Allotment(1, 0), 22)]
    assert crews_for(mixed, 4, 1, 1000) == [(Allotment(4, 1), 2)], "the third node has GPUs but too few cores"
    assert crews_for(mixed, 1, "auto", 5) == [(Allotment(1, 0.25), 5), (Allotment(1, 0), 5)]
    assert crews_for(mixed, 0.5, 0, 1000) == [(Allotment(0.5, 0), 50)]
    with pytest.raises(RayUnavailable, match="no single node"):
        crews_for(mixed, 20, 0, 10)
    with pytest.raises(RayUnavailable, match=r"resources.gpus asks for 7 a pack"):
        crews_for(mixed, 1, 7, 10)


def _processes(title):
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        # It may end while it is looked at.
        with suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                found.append(process.pid)
    return found
