"""Trials that are paused and go on elsewhere: half of a pack given away, or room made when memory runs out."""

from __future__ import annotations

import itertools
import pickle
from collections import deque
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from tests.specs import OPTIMIZERS, spec, trials, two_by_two
from workloads.engines.base import create
from workloads.engines.batched import BatchedEngine
from workloads.engines.choice import why_not_fused
from workloads.engines.costs import splits_well
from workloads.training.loop import train
from workloads.training.policy import Policy
from workloads.training.recording import Recording
from workloads.training.results import Checkpoint, Finished, HandedOver, Notice, Progress, Request
from workloads.training.trial_state import Outcome, Paused
from workloads.trial import Trial

RECORDING = Recording(("frobenius", "entry_0_0"), points=20, checkpoint_steps=(3, 90), checkpoint_losses=(0.5, 0.05))
TENSOR = {"kind": "tensor_completion", "shape": [3, 4, 2], "target": {"rank": 2}, "observed": 15}


SHORT = Policy(call_seconds=0.0, steps=16)
"""Calls of the engine of 16 steps at most, however long they take, and progress after each."""
READY = replace(SHORT, splits=lambda _engine, specs, *_: len(specs) > 1)
"""Packs are halved whenever they can be."""


def ticking():
    """A clock that goes on by a second whenever it is looked at: what happens does not depend on how fast it happens."""
    ticks = itertools.count(1_000_000)
    return lambda: float(next(ticks))


def whole(specs, engine):
    events = list(train(trials(specs), RECORDING, create(engine), clock=ticking(), policy=SHORT))
    return {r.trial_id: r for e in events if isinstance(e, Finished) for r in e.results}


def half_if(wanted):
    return lambda: Request.HALF if wanted() else None


def scattered(specs, engine, seed):
    """Like `whole`, but packs are asked for half of their trials again and again at random, and what they give goes on in a new pack."""
    rng = np.random.default_rng(seed)
    packs: deque[list[Trial]] = deque([trials(specs)])
    results, paused, steps = {}, 0, 0
    while packs:
        pack = packs.popleft()
        # As between processes: nothing may be shared.
        pack = pickle.loads(pickle.dumps(pack))
        asked = half_if(lambda: len(packs) < 20 and len(results) + len(packs) < 40 and rng.random() < 0.2)
        for event in train(
            pack, RECORDING, create(engine), asked=asked, width=int(rng.integers(1, len(pack) + 1)), clock=ticking(), policy=READY
        ):
            match event:
                case Finished():
                    for result in event.results:
                        assert result.trial_id not in results, "a trial came out twice"
                        results[result.trial_id] = result
                case HandedOver() if event.trials:
                    paused += sum(isinstance(trial, Paused) and trial.step > 0 for trial in event.trials)
                    packs.append(list(event.trials))
                case Progress():
                    steps += event.steps
    assert paused, "no trial was paused in the middle"
    assert steps == sum(r.steps for r in results.values())
    return results


CASES = {
    **{name: spec(factorization__depth=3, optimizer=o, stop={"steps": 100, "loss": 1e-3}) for name, o in OPTIMIZERS.items()},
    "float32": spec(factorization__depth=3, optimizer=OPTIMIZERS["momentum"], dtype="float32", stop={"steps": 100}),
    "streaks": two_by_two(2, optimizer__lr=0.05, stop={"steps": 100, "loss": 1e-2, "check_every": 5, "consecutive": 4}),
    "conditions": two_by_two(
        2,
        optimizer={"kind": "momentum", "lr": 0.05, "momentum": 0.9},
        stop={"steps": 100, "when": "sv_1 < 0.01 and step > 9", "abort": "loss > 5 * lowest(loss)"},
    ),
    "cp": spec(
        problem=TENSOR, factorization={"kind": "cp", "components": 5}, loss="mse", optimizer=OPTIMIZERS["adam"], stop={"steps": 100}
    ),
    "diverging": spec(optimizer__lr=3.0, stop={"steps": 100}),
}


TRAINED = [
    (name, engine) for name, one in CASES.items() for engine in ("batched", "fused") if engine == "batched" or not why_not_fused(one)
]


@pytest.mark.parametrize(("name", "engine"), TRAINED)
def test_a_trial_that_was_handed_over_ends_as_if_it_had_not_been(name, engine):
    # Enough lanes for groups of SIMD lanes to be divided.
    specs = [CASES[name].model_copy(update={"seed": n}) for n in range(40)]
    expected, results = whole(specs, engine), scattered(specs, engine, seed=len(name))
    assert results.keys() == expected.keys()
    for key, result in results.items():
        truth = expected[key]
        assert (result.outcome, result.steps) == (truth.outcome, truth.steps)
        assert result.trace.columns == truth.trace.columns
        np.testing.assert_array_equal(result.trace.steps, truth.trace.steps)
        # Measures are computed for many rows at once, by matrix products whose last bits may depend on how many.
        np.testing.assert_allclose(result.trace.values, truth.trace.values, rtol=1e-9, atol=1e-12)
        exact = engine == "fused"
        np.testing.assert_allclose(result.trace.values[:, 0], truth.trace.values[:, 0], rtol=0 if exact else 1e-9)
        for factor, value in result.factors.items():
            np.testing.assert_allclose(value, truth.factors[factor], rtol=0 if exact else 1e-9, atol=0 if exact else 1e-12)


def killed(specs, engine, seed):
    """Like `whole`, but the pack is killed at random and goes on from its last checkpoint, or what there is of it, again and again."""
    rng = np.random.default_rng(seed)
    results, left, kills, saved = {}, {t.trial_id: t for t in trials(specs)}, 0, 0

    def asked():
        return Request.CHECKPOINT if rng.random() < 0.1 else Request.STOP if rng.random() < 0.05 else None

    while left:
        pack = pickle.loads(pickle.dumps(list(left.values())))
        for event in train(pack, RECORDING, create(engine), asked=asked, clock=ticking(), policy=SHORT):
            match event:
                case Finished():
                    for result in event.results:
                        assert result.trial_id not in results, "a trial came out twice"
                        results[result.trial_id] = result
                        del left[result.trial_id]
                case Checkpoint():
                    saved += len(event.trials)
                    left |= pickle.loads(pickle.dumps({trial.trial_id: trial for trial in event.trials}))
            if kills < 40 and rng.random() < 0.1:
                kills += 1
                break
    assert kills
    assert saved
    return results


@pytest.mark.parametrize(("name", "engine"), TRAINED)
def test_a_pack_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(name, engine):
    specs = [CASES[name].model_copy(update={"seed": n}) for n in range(24)]
    expected, results = whole(specs, engine), killed(specs, engine, seed=len(name))
    assert results.keys() == expected.keys()
    for key, result in results.items():
        truth = expected[key]
        assert (result.outcome, result.steps) == (truth.outcome, truth.steps)
        np.testing.assert_array_equal(result.trace.steps, truth.trace.steps)
        np.testing.assert_array_equal(result.trace.values[:, 0], truth.trace.values[:, 0])
        # Measures of many rows at once are matrix products, whose last bits may depend on how many they are on other processors.
        np.testing.assert_allclose(result.trace.values, truth.trace.values, rtol=1e-12, atol=1e-15)
        for factor, value in result.factors.items():
            np.testing.assert_array_equal(value, truth.factors[factor])
        assert result.checkpoints.keys() == truth.checkpoints.keys()
        for kept, factors in result.checkpoints.items():
            for factor, value in factors.items():
                np.testing.assert_array_equal(value, truth.checkpoints[kept][factor])


def test_the_time_that_a_trial_was_paused_is_not_counted():
    now = [1000.0]
    one = two_by_two(2, stop={"seconds": 100.0})
    pair = [one, one.model_copy(update={"seed": 1})]

    def clock():
        now[0] += 1.0
        return now[0]

    asked = iter([None, None, Request.HALF])
    events = train(trials(pair), Recording(()), create("batched"), clock=clock, asked=lambda: next(asked, None), policy=READY)
    given = next(e for e in events if isinstance(e, HandedOver)).trials
    assert [type(t) for t in given] == [Paused]
    assert 0 < given[0].seconds < 50
    now[0] += 1_000_000
    (result,) = (
        r for e in train(given, Recording(()), create("batched"), clock=clock, policy=SHORT) if isinstance(e, Finished) for r in e.results
    )
    assert result.outcome is Outcome.EXHAUSTED
    assert 99 <= result.seconds <= 110


def test_a_lone_trial_and_a_lone_group_stay_where_they_are():
    policy = replace(SHORT, splits=partial(splits_well, worth=0.0))
    long = two_by_two(3, stop={"steps": 3000})
    for engine, count in (("fused", 1), ("fused", 8), ("batched", 2)):
        specs = [long.model_copy(update={"seed": n}) for n in range(count)]
        events = list(train(trials(specs), RECORDING, create(engine), asked=lambda: Request.HALF, policy=policy))
        assert [e.trials for e in events if isinstance(e, HandedOver)]
        assert not any(e.trials for e in events if isinstance(e, HandedOver))


class Narrow(BatchedEngine):
    """Has memory for a few lanes only: more of them fail, at once or in the middle of their training."""

    def __init__(self, room: int, at_step: int) -> None:
        super().__init__()
        self.room, self.at_step = room, at_step
        self.widest = 0

    def advance(self, lanes, until_step, until_loss, limit):
        if len(lanes) > self.room and lanes.step.max() >= self.at_step:
            raise torch.OutOfMemoryError("out of memory")
        self.widest = max(self.widest, len(lanes))
        return super().advance(lanes, until_step, until_loss, limit)


@pytest.mark.parametrize("at_step", [0, 20, 200])
def test_out_of_memory_halves_the_pack_and_goes_on(at_step):
    specs = [two_by_two(2, seed=n, optimizer__lr=0.05, stop={"steps": 300 + 10 * n}) for n in range(13)]
    expected = whole(specs, "batched")
    engine = Narrow(4, at_step)
    events = list(train(trials(specs), RECORDING, engine, policy=SHORT))
    notices = [e.text for e in events if isinstance(e, Notice)]
    assert notices[0] == "out of memory with 13 trials at once: going on with 6"
    assert engine.widest <= 4 or at_step
    results = {r.trial_id: r for e in events if isinstance(e, Finished) for r in e.results}
    assert results.keys() == expected.keys()
    for key, result in results.items():
        assert (result.outcome, result.steps) == (expected[key].outcome, expected[key].steps)
        np.testing.assert_array_equal(result.trace.steps, expected[key].trace.steps)
        np.testing.assert_allclose(result.trace.values, expected[key].trace.values, rtol=1e-9)


def test_out_of_memory_with_a_single_lane_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        list(train(trials([two_by_two(2)]), RECORDING, Narrow(0, 0)))


def test_measuring_trials_that_have_ended_is_shared_too():
    policy = replace(SHORT, final_numbers=2 * 24)
    recording = Recording(("frobenius", "cp_rank"), points=5)
    base = spec(problem=TENSOR, factorization={"kind": "cp", "components": 3}, loss="mse", optimizer__lr=0.1, stop={"steps": 50})
    specs = [base.model_copy(update={"seed": n}) for n in range(20)]
    expected = {
        r.trial_id: r
        for e in train(trials(specs), recording, create("batched"), policy=policy)
        if isinstance(e, Finished)
        for r in e.results
    }
    packs, results, given = deque([trials(specs)]), {}, 0
    while packs:
        pack = pickle.loads(pickle.dumps(packs.popleft()))
        for event in train(pack, recording, create("batched"), asked=lambda: Request.HALF, policy=policy):
            match event:
                case Finished():
                    results |= {r.trial_id: r for r in event.results}
                case HandedOver() if event.trials:
                    assert all(isinstance(trial, Paused) and trial.outcome is Outcome.EXHAUSTED for trial in event.trials)
                    given += len(event.trials)
                    packs.append(list(event.trials))
    assert given > 10
    assert results.keys() == expected.keys()
    for key, result in results.items():
        assert (result.outcome, result.steps) == (expected[key].outcome, expected[key].steps)
        np.testing.assert_array_equal(result.trace.steps, expected[key].trace.steps)
        np.testing.assert_array_equal(result.trace.values, expected[key].trace.values)
        assert np.isfinite(result.trace.final()["cp_rank"])
        for name, factor in result.factors.items():
            np.testing.assert_array_equal(factor, expected[key].factors[name])
