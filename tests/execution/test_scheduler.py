"""Who gets which pack, and who is asked to give, without Ray."""

from __future__ import annotations

import pytest

from orchestrator.execution.scheduler import ASK_AGAIN, Board
from orchestrator.planning.pack import Crew, Pack
from orchestrator.planning.plan import make_plan
from tests.specs import spec, trials
from workloads.training.recording import Recording
from workloads.training.results import Finished, HandedOver, TrialResult


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pack(name: str, count: int = 4, steps: int = 1000, device: str = "cpu") -> Pack:
    specs = [spec(seed=n, stop={"steps": steps}) for n in range(count)]
    (made,) = make_plan(trials(specs), Recording(()), "batched", [Crew(1, device)]).packs
    return Pack(name, made.engine, device, made.trials, made.width, made.lane_bytes, made.shared_bytes, made.seconds)


@pytest.fixture
def clock():
    return Clock()


def finished(*names: str) -> Finished:
    return Finished(tuple(TrialResult.failure(name, "", 0.0, 0.0) for name in names))


def test_packs_go_out_in_the_order_planned(clock):
    board: Board[str] = Board([pack("a"), pack("b")], clock)
    assert [board.take(w, "cpu").name for w in "xy"] == ["a", "b"]
    assert board.take("z", "cpu") is None
    assert not board.done
    assert set(board.ended("x")) == {"t0", "t1", "t2", "t3"}
    board.ended("y")
    assert board.done


def test_a_gpu_takes_what_was_planned_for_it_first_and_a_core_never(clock):
    board: Board[str] = Board([pack("small"), pack("large", device="cuda")], clock)
    assert board.take("gpu", "cuda").name == "large"
    board.ended("gpu")
    assert board.take("gpu", "cuda").name == "small"
    alone: Board[str] = Board([pack("large", device="cuda")], clock)
    assert alone.take("core", "cpu") is None


def test_the_worker_with_most_left_is_asked_and_what_it_gives_goes_to_the_idle_one(clock):
    board: Board[str] = Board([pack("short", steps=10), pack("long", steps=10_000)], clock)
    board.take("x", "cpu")
    long = board.take("y", "cpu")
    assert board.donors([]) == []
    assert board.donors(["cpu"]) == ["y"]
    assert board.donors(["cpu"]) == [], "the answer is not there yet"
    board.see("y", HandedOver(long.trials[1::2]))
    given = board.take("z", "cpu")
    assert (given.name, [t.trial_id for t in given.trials]) == ("long", ["t1", "t3"])
    assert set(board.ended("y")) == {"t0", "t2"}, "what was given is not the giver's any more"
    board.see("z", finished("t1"))
    assert set(board.ended("z")) == {"t3"}


def test_a_core_does_not_ask_for_what_only_a_gpu_may_take(clock):
    board: Board[str] = Board([pack("large", device="cuda"), pack("small", steps=10)], clock)
    board.take("gpu", "cuda")
    board.take("core", "cpu")
    assert board.donors(["cpu"]) == ["core"]
    assert board.donors(["cpu"]) == []
    assert board.donors(["cuda", "cuda"]) == ["gpu"]


def test_who_has_nothing_to_give_is_left_alone_for_a_while(clock):
    board: Board[str] = Board([pack("a"), pack("b", steps=10)], clock)
    board.take("x", "cpu")
    board.take("y", "cpu")
    assert board.donors(["cpu"]) == ["x"]
    board.see("x", HandedOver(()))
    assert board.donors(["cpu"]) == ["y"]
    board.see("y", HandedOver(()))
    assert board.donors(["cpu", "cpu"]) == []
    clock.now += ASK_AGAIN
    assert board.donors(["cpu", "cpu"]) == ["x", "y"]


def test_a_worker_with_one_trial_left_is_not_asked(clock):
    board: Board[str] = Board([pack("a", count=2)], clock)
    board.take("x", "cpu")
    board.see("x", finished("t0"))
    assert board.donors(["cpu"]) == []


def test_the_idle_share_counts_from_the_first_start_to_the_last_end(clock):
    board: Board[str] = Board([pack("a"), pack("b")], clock)
    assert board.idle_share == 0.0
    for worker in "xy":
        board.joined(worker)
    clock.now += 50
    for worker in "xy":
        board.take(worker, "cpu")
    clock.now += 6
    board.ended("x")
    clock.now += 4
    board.ended("y")
    assert board.idle_share == pytest.approx(4 / 20)
