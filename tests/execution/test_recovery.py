"""What becomes of trials whose worker died, without Ray."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import StorageUnavailable
from orchestrator.execution.events import Cause, Lost, Saved
from orchestrator.execution.recovery import ALONE, Recovery
from orchestrator.execution.scheduler import Board
from orchestrator.planning.pack import Crew, Pack
from orchestrator.planning.plan import make_plan
from orchestrator.storage.base import LocalStorage
from orchestrator.storage.checkpoints import Checkpoints, Pace
from tests.specs import spec, trials
from workloads.training.recording import Recording
from workloads.training.results import HandedOver
from workloads.training.trial_state import Outcome, Paused, Trace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(LocalStorage(tmp_path), "x/y", "record")


def pack(count: int = 4) -> Pack:
    specs = [spec(seed=n, stop={"steps": 1000}) for n in range(count)]
    return make_plan(trials(specs), Recording(()), "batched", [Crew(1)]).packs[0]


def paused(trial, step: int, **fields: Any) -> Paused:
    shapes = [(4, 4), (4, 4)]
    rng = np.random.default_rng(step)
    trace = Trace(("loss",), np.arange(step % 7), rng.standard_normal((step % 7, 1)))
    # An optimizer may have a number for each trial among its state.
    tensors = [*(rng.standard_normal(shape) for shape in shapes), np.array(rng.standard_normal())]
    return Paused(trial.trial_id, trial.spec, **{"step": step, "streak": 1, "level": 2, "seconds": 9.5, "initial_loss": float("nan"), "tensors": tensors, "trace": trace, **fields})  # fmt: skip


def setup(count, clock, checkpoints):
    one = pack(count)
    board: Board[Any] = Board([one], clock)
    return board, Recovery(board, checkpoints)


def crash(board, recovery, taken, cause=Cause.CRASH):
    return recovery.lost(taken, Lost(board.ended("w"), cause, "it died"))


def waiting(board, clock):
    """All packs that wait now."""
    found = []
    while (taken := board.take(f"x{len(found)}", "cpu")) is not None:
        found.append(taken)
    return found


def test_a_pack_goes_on_from_its_checkpoint(clock, checkpoints):
    board, recovery = setup(4, clock, checkpoints)
    taken = board.take("w", "cpu")
    states = [paused(taken.trials[0], 70), paused(taken.trials[2], 40, outcome=Outcome.CONVERGED)]
    checkpoints.save(taken.key, checkpoints.encoded(states))
    assert recovery.saved(taken, Saved(2)) is None
    failed, text = crash(board, recovery, taken)
    assert (failed, text) == ([], "its worker died: 4 trials are tried again, 2 of them from where they stood")
    (again,) = waiting(board, clock)
    assert again.key == taken.key
    assert [getattr(t, "step", None) for t in again.trials] == [70, None, 40, None]
    for state, back in zip(states, again.trials[::2], strict=True):
        assert (back.streak, back.level, back.seconds, back.outcome) == (1, 2, 9.5, state.outcome)
        assert np.isnan(back.initial_loss)
        assert [(t.shape, t.dtype, t.tobytes()) for t in back.tensors] == [(t.shape, t.dtype, t.tobytes()) for t in state.tensors]
        assert back.trace.values.tobytes() == state.trace.values.tobytes()
    recovery.ended(again)
    assert checkpoints.load(taken.key, {t.trial_id: t for t in taken.trials}) == {}, "removed once all has come out"


def test_what_crashes_again_without_coming_further_is_tried_in_halves_until_it_is_alone(clock, checkpoints):
    board, recovery = setup(8, clock, checkpoints)
    failed, crashes = [], 0
    poison, fine = "t5", set()
    while not board.done:
        clock.now += 60
        taken = board.take("w", "cpu")
        names = [t.trial_id for t in taken.trials]
        if poison in names:
            crashes += 1
            assert crashes < 20
            failed += crash(board, recovery, taken)[0]
        else:
            board.ended("w")
            fine |= set(names)
    assert [t.trial_id for t in failed] == [poison]
    assert fine == {f"t{n}" for n in range(8)} - {poison}
    assert crashes <= 1 + 3 + ALONE


def test_what_gives_its_cores_to_another_sweep_goes_on_as_if_nothing_had_been(clock, checkpoints):
    board, recovery = setup(4, clock, checkpoints)
    taken = board.take("w", "cpu")
    for step in range(10, 100, 10):
        checkpoints.save(taken.key, checkpoints.encoded([paused(trial, 10) for trial in taken.trials[:3]]))
        failed, text = crash(board, recovery, taken, Cause.SHARED)
        assert (failed, text) == ([], "its cores went to another sweep: 4 trials wait, 3 of them where they stood")
        (taken,) = [board.take("w", "cpu")]
        assert taken is not None, f"at once, after {step} too"
        assert taken.crashes == 0
        assert [getattr(t, "step", None) for t in taken.trials] == [10, 10, 10, None]


def test_retries_wait_longer_and_longer_and_progress_forgives(clock, checkpoints):
    board, recovery = setup(1, clock, checkpoints)
    crash(board, recovery, board.take("w", "cpu"))
    taken = board.take("w", "cpu")
    assert taken is not None, "the first time at once"
    crash(board, recovery, taken)
    assert board.take("w", "cpu") is None
    clock.now += 1.0
    taken = board.take("w", "cpu")
    crash(board, recovery, taken)
    clock.now += 1.0
    assert board.take("w", "cpu") is None
    clock.now += 1.0
    taken = board.take("w", "cpu")
    assert taken.crashes == 3
    checkpoints.save(taken.key, checkpoints.encoded([paused(taken.trials[0], 10)]))
    assert crash(board, recovery, taken)[0] == []
    assert board.take("w", "cpu").crashes == 1, "it had come further"


def test_out_of_memory_is_tried_in_halves_with_fewer_lanes(clock, checkpoints):
    board, recovery = setup(6, clock, checkpoints)
    taken = board.take("w", "cpu")
    checkpoints.save(taken.key, checkpoints.encoded([paused(t, 20) for t in taken.trials]))
    recovery.saved(taken, Saved(6))
    _, text = crash(board, recovery, taken, Cause.MEMORY)
    assert "in 2 parts, 6 of them from where they stood" in text
    parts = waiting(board, clock)
    assert [len(p.trials) for p in parts] == [3, 3]
    assert all(p.width <= 3 for p in parts)
    assert len({p.key for p in parts} | {taken.key}) == 3
    for part in parts:
        assert set(checkpoints.load(part.key, {t.trial_id: t for t in taken.trials})) == {t.trial_id for t in part.trials}
    assert not checkpoints.load(taken.key, {t.trial_id: t for t in taken.trials})


def test_lost_nodes_are_nobodys_fault(clock, checkpoints):
    board, recovery = setup(2, clock, checkpoints)
    for _ in range(ALONE + 3):
        clock.now += 60
        taken = board.take("w", "cpu")
        assert len(taken.trials) == 2
        assert crash(board, recovery, taken, Cause.NODE)[0] == []


def test_exceptions_are_isolated_but_not_repeated(clock, checkpoints):
    board, recovery = setup(8, clock, checkpoints)
    failed, runs = [], []
    while not board.done:
        taken = board.take("w", "cpu")
        names = {t.trial_id for t in taken.trials}
        runs.append(names)
        if names & {"t3", "t6"}:
            failed += crash(board, recovery, taken, Cause.EXCEPTION)[0]
        else:
            board.ended("w")
    assert {t.trial_id for t in failed} == {"t3", "t6"}
    assert sum(names == {"t3"} for names in runs) == 1


def test_a_bug_in_all_trials_is_not_bisected_to_the_last(clock, checkpoints):
    board, recovery = setup(1000, clock, checkpoints)
    failed, runs = 0, 0
    while not board.done:
        runs += 1
        failed += len(crash(board, recovery, board.take("w", "cpu"), Cause.EXCEPTION)[0])
    assert failed == 1000
    assert runs < 60


def test_trials_that_change_packs_are_kept_with_the_new_one(clock, checkpoints):
    board, recovery = setup(4, clock, checkpoints)
    taken = board.take("w", "cpu")
    given = board.see("w", HandedOver((paused(taken.trials[1], 30), taken.trials[3])))
    assert given.key != taken.key
    assert recovery.handed_over(given) is None
    assert set(checkpoints.load_all({t.trial_id: t for t in taken.trials})) == {"t1"}


def test_of_several_checkpoints_the_furthest_counts(checkpoints):
    (trial,) = pack(1).trials
    for key, step in (("a", 10), ("b", 30), ("c", 20)):
        checkpoints.save(key, checkpoints.encoded([paused(trial, step)]))
    assert checkpoints.load_all({"t0": trial})["t0"].step == 30
    assert checkpoints.load_all({}) == {}


def test_what_does_not_fit_is_not_used(checkpoints):
    (trial,) = pack(1).trials
    state = paused(trial, 10)
    checkpoints.save("shapes", checkpoints.encoded([replace(state, tensors=[np.ones((3, 3))] * 2)]))
    checkpoints.storage.write("x/y/checkpoints/damaged.safetensors", checkpoints.encoded([state])[:-9])
    other = Checkpoints(checkpoints.storage, "x/y", "another record")
    other.save("record", other.encoded([state]))
    assert checkpoints.load_all({"t0": trial}) == {}


def test_a_storage_that_is_full_does_not_stop_anything(clock, checkpoints, monkeypatch):
    board, recovery = setup(4, clock, checkpoints)
    taken = board.take("w", "cpu")

    def full(*_):
        raise StorageUnavailable("cannot write x: No space left on device")

    monkeypatch.setattr(checkpoints.storage, "write", full)
    assert recovery.saved(taken, Saved(1, b"content")) == "going on without this checkpoint: cannot write x: No space left on device"
    assert recovery.saved(taken, Saved(1, b"content")) is None, "said once"
    assert crash(board, recovery, taken)[0] == []


def test_a_checkpoint_stays_where_those_of_its_halves_cannot_be_written(clock, checkpoints, monkeypatch):
    board, recovery = setup(4, clock, checkpoints)
    taken = board.take("w", "cpu")
    by_id = {trial.trial_id: trial for trial in taken.trials}
    recovery.saved(taken, Saved(4, checkpoints.encoded([paused(trial, 70) for trial in taken.trials])))
    write = checkpoints.storage.write

    def full(*_):
        raise StorageUnavailable("cannot write x: No space left on device")

    monkeypatch.setattr(checkpoints.storage, "write", full)
    _, text = crash(board, recovery, taken, Cause.MEMORY)
    assert text.endswith("; going on without this checkpoint: cannot write x: No space left on device")
    assert {state.step for state in checkpoints.load_all(by_id).values()} == {70}, "whoever takes the sweep up finds it"
    monkeypatch.setattr(checkpoints.storage, "write", write)
    again = board.take("w", "cpu")
    assert [trial.step for trial in again.trials] == [70, 70]
    crash(board, recovery, again, Cause.MEMORY)
    assert len(checkpoints.load_all(by_id)) == 4


def test_checkpoints_cost_two_percent_at_most():
    for cost, every, gap in ((0.001, 30, 2.0), (0.05, 30, 10.0), (0.2, 30, 30.0), (1.0, 30, 50.0), (0.001, 0.5, 0.5)):
        pace = Pace(every, 0.0)
        assert pace.due <= 2.0
        pace.made(100.0, 100.0 + cost)
        assert pace.due == pytest.approx(100.0 + cost + gap)
        assert cost / (pace.due - 100.0 - cost) <= 0.0201
