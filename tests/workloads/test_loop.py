"""The training loop: what is recorded, how trials end, and that a trial does not notice its neighbours."""

from __future__ import annotations

import io

import numpy as np
import pytest

from tests.specs import spec, trials, two_by_two
from tests.workloads import oracle
from workloads.engines.base import create
from workloads.training.loop import train
from workloads.training.recording import Recording
from workloads.training.results import Finished, Progress
from workloads.training.trial_state import Outcome

ENGINES = ["autograd", "batched", "fused"]


def run(specs, recording=Recording(), engine="batched", **options):
    events = list(train(trials(specs), recording, create(engine), **options))
    results = [r for e in events if isinstance(e, Finished) for r in e.results]
    assert sorted(r.trial_id for r in results) == sorted(t.trial_id for t in trials(specs)), "every trial comes out once"
    return {int(r.trial_id[1:]): r for r in results}


@pytest.mark.parametrize("engine", ENGINES)
def test_stops_at_the_first_step_whose_loss_is_low_enough(engine):
    specs = [two_by_two(2, seed=n, optimizer__lr=0.05, stop={"loss": 1e-3, "steps": 5000}) for n in range(4)]
    for n, result in run(specs, engine=engine).items():
        losses = oracle.train(specs[n], result.steps).losses
        assert result.outcome is Outcome.CONVERGED
        assert losses[-1] <= 1e-3 < losses[-2]
        assert result.trace.steps[-1] == result.steps
        assert result.trace.final()["loss"] == pytest.approx(losses[-1], rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_recorded_steps_are_those_asked_for_and_the_last(engine):
    one = two_by_two(2, stop={"steps": 120}, optimizer__lr=0.05)
    result = run([one], Recording(("entry_0_0", "frobenius"), steps=(0, 1, 10, 100)), engine)[0]
    assert result.outcome is Outcome.EXHAUSTED
    assert result.trace.steps.tolist() == [0, 1, 10, 100, 120]
    assert result.trace.columns == ("loss", "entry_0_0", "frobenius")
    for step, (loss, entry, norm) in zip(result.trace.steps, result.trace.values, strict=True):
        truth = oracle.train(one, int(step))
        assert loss == pytest.approx(truth.losses[-1], rel=1e-10)
        assert entry == pytest.approx(truth.product[0, 0], rel=1e-10)
        assert norm == pytest.approx(np.sqrt((truth.product**2).sum()), rel=1e-10)


def test_points_are_dense_both_in_step_and_in_loss():
    one = two_by_two(2, stop={"loss": 1e-4, "steps": 100_000}, optimizer__lr=0.05)
    trace = run([one], Recording((), points=60))[0].trace
    assert (np.diff(trace.steps) > 0).all()
    assert len(trace.steps) <= 2 * 60 + 2
    decades = np.log10(trace.values[0, 0] / 1e-4)
    falling = np.minimum.accumulate(trace.values[:, 0])
    # Each step of the loss between two rows is at most two of the 60 asked for, unless a single training step jumped further.
    gaps = np.log10(falling[:-1] / falling[1:])
    single = np.diff(trace.steps) == 1
    assert (gaps[~single] <= 2.5 * decades / 60).all()
    late = trace.steps[trace.steps > 100]
    assert (np.diff(np.log(late)) <= 1.5 * np.log(100_000) / 59).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_checked_only_at_multiples_and_several_times_in_a_row(engine):
    one = two_by_two(2, optimizer__lr=0.05, stop={"loss": 1e-2, "steps": 5000, "check_every": 50, "consecutive": 3})
    losses = oracle.train(one, 2000).losses
    low = [k for k in range(0, 2000, 50) if losses[k] <= 1e-2 and losses[k - 50] <= 1e-2 and losses[k - 100] <= 1e-2]
    result = run([one], engine=engine)[0]
    assert result.steps == low[0]
    assert result.outcome is Outcome.CONVERGED


@pytest.mark.parametrize("engine", ENGINES)
def test_consecutive_without_check_every_counts_single_steps(engine):
    one = two_by_two(2, optimizer__lr=0.05, stop={"loss": 1e-2, "steps": 5000, "consecutive": 4})
    first = run([two_by_two(2, optimizer__lr=0.05, stop={"loss": 1e-2, "steps": 5000})], engine=engine)[0].steps
    assert run([one], engine=engine)[0].steps == first + 3


def test_a_loss_that_rises_again_starts_the_count_anew():
    # Momentum overshoots: the loss dips under the bound, rises above it, and falls again.
    one = spec(
        problem={"kind": "matrix_completion", "shape": [2, 2], "entries": [[0, 0, 1.0]]},
        factorization={"kind": "linear"},
        init=None,
        optimizer={"kind": "momentum", "lr": 0.02, "momentum": 0.95},
        stop={"loss": 0.02, "steps": 5000, "consecutive": 12},
    )
    losses = oracle.train(one, 600).losses
    low = losses <= 0.02
    streaks = [k for k in range(11, 600) if low[k - 11 : k + 1].all()]
    assert streaks[0] > int(np.argmax(low)) + 12, "the test needs an overshoot"
    assert run([one])[0].steps == streaks[0]


@pytest.mark.parametrize("engine", ENGINES)
def test_divergence_is_an_outcome_and_leaves_the_others_alone(engine):
    calm = [two_by_two(2, seed=n, stop={"steps": 200}) for n in range(3)]
    wild = two_by_two(2, optimizer__lr=1e3, init={"kind": "gaussian", "scale": 3.0}, stop={"steps": 200})
    results = run([calm[0], wild, *calm[1:]], Recording(("nuclear", "effective_rank", "det", "rank")), engine)
    assert results[1].outcome is Outcome.DIVERGED
    assert not np.isfinite(results[1].trace.final()["loss"])
    assert np.isnan(results[1].trace.final()["nuclear"])
    assert results[1].steps < 20
    alone = run(calm, Recording(("nuclear", "effective_rank", "det", "rank")), engine)
    for mine, theirs in ((0, 0), (2, 1), (3, 2)):
        np.testing.assert_array_equal(results[mine].trace.values, alone[theirs].trace.values)


def test_a_time_budget_ends_a_trial():
    ticks = iter(range(10**6))
    one = two_by_two(2, stop={"seconds": 30})
    result = run([one], clock=lambda: float(next(ticks)))[0]
    assert result.outcome is Outcome.EXHAUSTED
    assert result.seconds >= 30
    assert result.steps > 0


def test_waiting_trials_take_the_places_of_finished_ones_and_end_the_same():
    specs = [two_by_two(2, seed=n, optimizer__lr=0.02 * (1 + n % 5), stop={"loss": 1e-3, "steps": 3000}) for n in range(23)]
    wide, narrow = run(specs), run(specs, width=4)
    for n in range(23):
        assert narrow[n].steps == wide[n].steps
        np.testing.assert_array_equal(narrow[n].trace.steps, wide[n].trace.steps)
        np.testing.assert_allclose(narrow[n].trace.values, wide[n].trace.values, rtol=1e-9)


def test_a_trial_that_cannot_start_fails_alone():
    buffer = io.BytesIO()
    np.savez(buffer, W1=np.zeros((2, 2)), W2=np.eye(2))
    bad = two_by_two(2, init={"kind": "file", "file": {"path": "zero.npz", "digest": "0"}, "det_sign": "positive"})
    files = {"0": buffer.getvalue()}
    results = run([two_by_two(2), bad, two_by_two(2, seed=1)], files=files)
    assert [results[n].outcome for n in range(3)] == [Outcome.EXHAUSTED, Outcome.FAILED, Outcome.EXHAUSTED]
    assert "determinant of the initial product is zero" in (results[1].error or "")
    assert [r.outcome for r in run([bad], files=files).values()] == [Outcome.FAILED]


def test_a_trial_that_has_converged_at_the_start_ends_there():
    done = two_by_two(2, stop={"loss": 1e3, "steps": 10})
    results = run([done, two_by_two(2), done.model_copy(update={"seed": 3})], width=1)
    assert [(results[n].outcome, results[n].steps) for n in range(3)] == [
        (Outcome.CONVERGED, 0),
        (Outcome.EXHAUSTED, 100),
        (Outcome.CONVERGED, 0),
    ]


def test_progress_counts_trial_steps():
    events = list(train(trials([two_by_two(2, seed=n) for n in range(3)]), Recording(), create("batched")))
    assert sum(e.steps for e in events if isinstance(e, Progress)) == 300


def test_factors_come_out_by_name():
    result = run([two_by_two(3)])[0]
    assert list(result.factors) == ["W1", "W2", "W3"]
    product = result.factors["W3"] @ result.factors["W2"] @ result.factors["W1"]
    assert product[0, 0] == pytest.approx(oracle.train(two_by_two(3), 100).product[0, 0], rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_factors_are_kept_at_the_steps_and_losses_asked_for(engine):
    one = two_by_two(2, stop={"loss": 1e-3, "steps": 5000}, optimizer__lr=0.05)
    recording = Recording(("frobenius",), points=4, checkpoint_steps=(0, 7, 6000), checkpoint_losses=(1e-2, 1e-9))
    result = run([one], recording, engine)[0]
    losses = oracle.train(one, result.steps).losses
    first = next(step for step, loss in enumerate(losses) if loss <= 1e-2)
    assert set(result.checkpoints) == {"step-0", "step-7", "loss-0.01"}, "what the trial has not come to is not there"
    for name, step in (("step-0", 0), ("step-7", 7), ("loss-0.01", first)):
        factors = result.checkpoints[name]
        np.testing.assert_allclose(factors["W2"] @ factors["W1"], oracle.train(one, step).product, rtol=1e-9, atol=1e-14)
        assert step in result.trace.steps
