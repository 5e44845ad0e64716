"""Infimal measures of the 2x2 completion problem against brute force over the unobserved entry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tests.specs import spec, two_by_two
from workloads import measures
from workloads.engines.base import create
from workloads.factorizations import factorization_of
from workloads.loop import train
from workloads.problems import realize
from workloads.recording import Recording
from workloads.results import Finished
from workloads.snapshot import Snapshot, evaluate
from workloads.spec import Linear, Trial

NORMS = ["nuclear", "frobenius", "spectral", "schatten_1", "schatten_2"]
VALUES = st.one_of(st.just(0.0), st.floats(-5, 5).filter(lambda v: abs(v) > 1e-3))


def norm(name, w):
    s = np.linalg.svd(w, compute_uv=False)
    power = {"nuclear": 1, "frobenius": 2, "spectral": np.inf}.get(name) or float(name.partition("_")[2])
    return s[0] if power == np.inf else (s**power).sum() ** (1 / power)


def problem_with(place, beside, below, across):
    """A 2x2 completion whose entry at ``place`` is not observed."""
    i, j = place
    entries = [[i, 1 - j, beside], [1 - i, j, below], [1 - i, 1 - j, across]]
    return two_by_two(problem={"kind": "matrix_completion", "shape": [2, 2], "entries": entries})


def found(name, one):
    data = realize(one.problem, {})
    linear = one.model_copy(update={"factorization": Linear(), "init": None})
    w = torch.zeros(1, 2, 2, dtype=torch.float64)
    return float(evaluate([f"infimal_{name}"], Snapshot(factorization_of(linear), [w], torch.zeros(1), [data], 1e-16))[0, 0])


def brute_force(name, place, beside, below, across):
    i, j = place
    w = np.zeros((2, 2))
    w[i, 1 - j], w[1 - i, j], w[1 - i, 1 - j] = beside, below, across

    def of(x):
        w[i, j] = x
        return norm(name, w)

    # Convex in x for p >= 1, with its minimum where |x| is at most the largest norm at 0 times a little.
    reach = 4 * (abs(beside) + abs(below) + abs(across)) + 1
    best = min(
        (
            minimize_scalar(of, bounds=(low, low + reach / 4), method="bounded", options={"xatol": 1e-13})
            for low in np.arange(-4, 4) * reach / 4
        ),
        key=lambda r: r.fun,
    )
    return min(best.fun, of(0.0))


@pytest.mark.parametrize("name", NORMS)
@settings(max_examples=40, deadline=None)
@given(place=st.tuples(st.integers(0, 1), st.integers(0, 1)), beside=VALUES, below=VALUES, across=VALUES)
def test_least_norm_is_that_of_a_search(name, place, beside, below, across):
    assume(beside or below or across)
    one = problem_with(place, beside, below, across)
    assert measures.undefined(f"infimal_{name}", one) is None
    # The search is good to the square root of rounding at best where the norm has a kink.
    assert found(name, one) == pytest.approx(brute_force(name, place, beside, below, across), rel=1e-7)


@pytest.mark.parametrize("power", [0.3, 0.5, 1.5, 3])
@settings(max_examples=20, deadline=None)
@given(beside=st.floats(-5, 5), below=st.floats(-5, 5), data=st.data())
def test_schatten_norms_where_the_entry_across_is_zero(power, beside, below, data):
    one = problem_with((0, 0), beside, below, 0.0)
    least = found(f"schatten_{power}", one)
    xs = np.concatenate([[0.0], np.linspace(-20, 20, 400), data.draw(st.lists(st.floats(-100, 100), min_size=5, max_size=5))])
    norms = [norm(f"schatten_{power}", np.array([[x, beside], [below, 0.0]])) for x in xs]
    assert least <= min(norms) * (1 + 1e-9) + 1e-12
    assert least == pytest.approx(norms[0], rel=1e-9, abs=1e-12)


@given(beside=VALUES, below=VALUES, across=VALUES)
@settings(max_examples=60, deadline=None)
def test_ranks_are_infima_over_all_completions(beside, below, across):
    one = problem_with((0, 0), beside, below, across)
    xs = [0.0, *(s * 10.0**e for s in (-1, 1) for e in range(-2, 13, 2)), *([beside * below / across] if across else [])]
    completions = [np.array([[x, beside], [below, across]]) for x in xs]
    values = np.array([np.linalg.svd(w, compute_uv=False) for w in completions])
    numerical = min(np.linalg.matrix_rank(w, tol=1e-13 * max(1.0, np.abs(w).max())) for w in completions if np.abs(w).max() < 1e3)
    assert found("rank", one) == numerical
    assert found("rank_distance_1", one) == 0 <= values[:, 1].min() < 1e-6
    share = values[values[:, 0] > 0] / values[values[:, 0] > 0].sum(1, keepdims=True)
    effective = np.exp(-(share * np.log(np.where(share > 0, share, 1))).sum(1))
    if beside or below or across:
        assert found("effective_rank", one) == found("stable_rank", one) == 1 <= effective.min() + 1e-12
        assert effective.min() < 1 + 1e-6
    else:
        assert found("effective_rank", one) == 0


def test_where_it_is_defined():
    three = two_by_two()
    assert measures.undefined("infimal_schatten_0.5", three) is None
    across = problem_with((0, 1), 1.0, 1.0, 0.5)
    assert "powers 1 and 2" in measures.undefined("infimal_schatten_0.5", across)
    assert "three observed" in measures.undefined("infimal_nuclear", spec())
    drawn = spec(problem={"kind": "matrix_completion", "shape": [2, 2], "target": {"rank": 1}, "observed": 3})
    assert measures.undefined("infimal_nuclear", drawn) is None
    assert found("rank", drawn) == 1
    assert measures.find("infimal_det") is None


def test_they_and_observed_values_stay_the_same_along_a_trace():
    one = two_by_two(
        3,
        problem={"kind": "matrix_completion", "shape": [2, 2], "entries": [[0, 1, -2.0], [1, 0, 0.5], [1, 1, 0.1]]},
        stop={"steps": 50},
        init={"kind": "gaussian", "scale": 0.5},
    )
    recording = Recording(("infimal_nuclear", "observed_0_1", "observed_1_1", "observed_0_0", "nuclear"), points=5)
    (result,) = [r for e in train([Trial("a", one)], recording, create("batched")) if isinstance(e, Finished) for r in e.results]
    columns = dict(zip(result.trace.columns, result.trace.values.T, strict=True))
    assert set(columns["infimal_nuclear"]) == {columns["infimal_nuclear"][0]}
    assert columns["infimal_nuclear"][0] == pytest.approx(2.5)
    assert (set(columns["observed_0_1"]), set(columns["observed_1_1"])) == ({-2.0}, {0.1})
    assert np.isnan(columns["observed_0_0"]).all()
    assert (columns["nuclear"][-1:] > 0).all()
