"""Conditions on measures that end trials: where, as what, and that neither what is recorded nor the budget changes it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from orchestrator.grid.identity import trial_id
from orchestrator.grid.watched import watched_conflicts
from tests.specs import spec, two_by_two
from tests.workloads import oracle
from tests.workloads.test_loop import ENGINES, run
from workloads import measures
from workloads.engines.choice import chosen
from workloads.measures import work
from workloads.training.recorder import Recorder
from workloads.training.recording import LOOKS, Recording
from workloads.training.trial_state import Outcome


def descending(**stop):
    return two_by_two(2, optimizer__lr=0.05, stop={"steps": 3000, **stop})


@pytest.mark.parametrize("engine", ENGINES)
def test_a_trial_ends_where_its_condition_first_holds_among_the_steps_at_which_it_is_looked_at(engine):
    specs = [descending(when="frobenius > 1.3").model_copy(update={"seed": n}) for n in range(3)]
    for n, result in run(specs, Recording(("entry_0_0",), points=5), engine).items():
        norms = {
            step: np.sqrt((oracle.train(specs[n], int(step)).product ** 2).sum())
            for step in LOOKS[: np.searchsorted(LOOKS, result.steps) + 1]
        }
        assert result.outcome is Outcome.CONVERGED
        assert [step for step, norm in norms.items() if norm > 1.3] == [result.steps]
        assert result.trace.final()["frobenius"] == pytest.approx(norms[result.steps], rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_runs_away_is_aborted_and_its_neighbours_are_not(engine):
    specs = [spec(optimizer__lr=lr, stop={"steps": 200, "abort": "loss > 4 * first(loss)"}) for lr in (0.05, 3.0)]
    results = run(specs, engine=engine)
    calm, wild = results[0], results[1]
    assert (calm.outcome, calm.steps) == (Outcome.EXHAUSTED, 200)
    assert wild.outcome is Outcome.ABORTED
    losses = wild.trace.values[np.isin(wild.trace.steps, LOOKS), 0]
    assert (losses[:-1] <= 4 * losses[0]).all()
    assert losses[-1] > 4 * losses[0]


def test_a_solver_is_ended_too():
    one = spec(factorization={"kind": "nuclear_norm"}, init=None, optimizer=None, stop={"steps": 500, "when": "step >= 3"})
    assert run([one], engine=chosen("auto", [one]))[0].steps in (1, 3)


def test_conditions_see_the_lowest_and_the_highest_so_far():
    """A trial that first falls and then rises again ends as it rises, not before."""
    one = spec(
        optimizer={"kind": "momentum", "lr": 0.05, "momentum": 0.97}, stop={"steps": 3000, "abort": "loss > 3 * lowest(loss) and step > 2"}
    )
    result = run([one])[0]
    assert result.outcome is Outcome.ABORTED
    looked = result.trace.values[np.isin(result.trace.steps, LOOKS), 0]
    lowest = np.minimum.accumulate(looked)
    assert np.flatnonzero(looked > 3 * lowest)[-1] == len(looked) - 1
    late = spec(optimizer=one.optimizer, stop={"steps": 3000, "abort": "loss < highest(loss) and step >= 1"})
    assert run([late])[0].steps == 1


def test_where_a_trial_ends_depends_neither_on_what_is_recorded_nor_on_the_budget():
    one = descending(when="sv_0 > 1.2")
    (end,) = {
        run([one.model_copy(update={"stop": one.stop.model_copy(update={"steps": steps})})], recording)[0].steps
        for steps in (1000, 5000)
        for recording in (Recording((), points=0), Recording(("singular_values",), points=300), Recording((), steps=(0, 7)))
    }
    assert end < 1000


def test_the_last_step_is_no_other_step():
    """Else a trial would have converged that with more steps would not have."""
    one = descending(when="frobenius > 1.3")
    whole = run([one])[0]
    before = int(LOOKS[np.searchsorted(LOOKS, whole.steps) - 1])
    assert whole.steps - before > 2
    short = run([one.model_copy(update={"stop": one.stop.model_copy(update={"steps": whole.steps - 1})})])[0]
    assert short.outcome is Outcome.EXHAUSTED


def test_a_loss_that_is_reached_counts_before_a_condition_and_a_condition_before_the_budget():
    assert run([descending(loss=1e9, abort="loss > 0")])[0].outcome is Outcome.CONVERGED
    assert run([descending(steps=1, when="step == 1")])[0].outcome is Outcome.CONVERGED
    assert run([descending(when="step >= 1", abort="step >= 1")])[0].outcome is Outcome.CONVERGED
    assert run([descending(abort="step >= 0")])[0].steps == 0


@pytest.mark.parametrize("time", [0, 3])
def test_memory_that_runs_out_where_it_is_looked_loses_no_trial(time, monkeypatch):
    specs = [descending(when="frobenius > 1.3").model_copy(update={"seed": n}) for n in range(5)]
    expected, measure, times = run(specs), Recorder._measure_together, itertools.count()

    def out_of_memory(recorder, some):
        # On the device, and then on the host.
        if next(times) in (time, time + 1):
            raise torch.OutOfMemoryError("out of memory")
        measure(recorder, some)

    monkeypatch.setattr(Recorder, "_measure_together", out_of_memory)
    same(run(specs), expected)


def test_lanes_whose_products_are_large_are_measured_a_few_at_a_time(monkeypatch):
    specs = [descending(when="frobenius > 1.3").model_copy(update={"seed": n}) for n in range(5)]
    expected, measure, counts = run(specs), Recorder._measure_together, []

    def counted(recorder, some):
        counts.append(sum(map(len, some)))
        measure(recorder, some)

    monkeypatch.setattr(Recorder, "_measure_together", counted)
    monkeypatch.setattr(work, "ENTRIES", 2 * math.prod(specs[0].shape) + 1)
    same(run(specs), expected)
    assert set(counts) == {1, 2}, "five lanes are two, two and one"


def same(results, expected):
    assert results.keys() == expected.keys()
    for key, result in results.items():
        assert (result.outcome, result.steps) == (expected[key].outcome, expected[key].steps)
        np.testing.assert_array_equal(result.trace.steps, expected[key].trace.steps)
        np.testing.assert_allclose(result.trace.values, expected[key].trace.values, rtol=1e-9)


def test_undefined_measures_end_nothing():
    one = descending(when="log(-frobenius) < 3", steps=30)
    assert run([one])[0].outcome is Outcome.EXHAUSTED


def test_what_is_looked_at_is_recorded():
    one = descending(when="sv_1 < 1e-9 and lowest(det) > 4", steps=50)
    recording = Recording(("frobenius",))
    assert recording.names(one) == ("loss", "frobenius", "singular_values", "det")
    assert run([one], recording)[0].trace.columns == ("loss", "frobenius", "sv_0", "sv_1", "det")
    assert measures.of_column("sv_2", one) is None


def test_columns_of_measures_with_arguments_are_looked_at():
    one = spec(
        problem={"kind": "tensor_completion", "shape": [4, 3, 3, 4], "target": {"rank": 1}, "observed": 40},
        factorization={"kind": "hierarchical", "pattern": "half", "widths": [2, 3]},
        stop={"when": "sv_1_at_0_2 > 1e-9 and component_0_at_1_3 > 1e-9", "steps": 50},
    )
    assert not list(watched_conflicts(one))
    assert Recording(()).names(one) == ("loss", "singular_values_at_0_2", "components_at_1_3")
    assert run([one], Recording(()))[0].outcome is Outcome.CONVERGED
    assert measures.of_column("sv_10_at_0_2", one) is None
    assert measures.of_column("sv_12", spec(problem__shape=[20, 20])) == "singular_values_13"


def test_a_trial_is_the_same_however_its_condition_is_spaced():
    bare, one, same, other = (
        trial_id(descending(**stop)) for stop in ({}, {"when": "error<1e-3"}, {"when": "(error < 0.001)"}, {"abort": "error<1e-3"})
    )
    assert one == same
    assert len({bare, one, other}) == 3


def test_steps_are_never_more_than_a_twentieth_apart():
    assert LOOKS[:22].tolist() == list(range(22))
    assert (np.diff(LOOKS) <= np.maximum(1, LOOKS[:-1] // 20)).all()
    assert (np.diff(LOOKS) > 0).all()
