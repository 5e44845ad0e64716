"""The convex baselines against an independent convex-optimization package, the pseudo-inverse, and closed forms."""

from __future__ import annotations

import pickle
from collections import deque

import cvxpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.specs import spec, trials
from workloads.engines.base import create
from workloads.factorizations.programs.douglas_rachford import threshold
from workloads.problems.data.fitting import orthonormal_rows
from workloads.training.loop import train
from workloads.training.policy import Policy
from workloads.training.preparing import Preparer
from workloads.training.recording import Recording
from workloads.training.results import Finished, HandedOver, Request
from workloads.training.trial_state import Outcome, Paused

RECORDING = Recording(("nuclear", "frobenius", "error", "rank"), points=5)


def baseline(how="nuclear_norm", tolerance=None, steps=20_000, **problem):
    factorization = {"kind": how} | ({"tolerance": tolerance} if tolerance else {})
    problem = {"kind": "matrix_completion", **problem}
    return spec(problem=problem, factorization=factorization, init=None, optimizer=None, stop={"steps": steps})


def solve(*specs, **options):
    """Results in the order of ``specs``."""
    events = train(trials(list(specs)), RECORDING, create("convex"), **options)
    found = {r.trial_id: r for e in events if isinstance(e, Finished) for r in e.results}
    return [found[f"t{n}"] for n in range(len(specs))]


def reference(one):
    """The least nuclear norm by cvxpy's interior-point solver."""
    problem = Preparer({}).problem(one)
    w = cvxpy.Variable(problem.shape)
    # In units of the observations: an interior-point method is not invariant to scale.
    scale = np.linalg.norm(problem.target if problem.mask is not None else problem.values) or 1.0
    if problem.mask is not None:
        mask = problem.mask.reshape(problem.shape)
        constraint = cvxpy.multiply(mask.astype(float), w) == problem.target.reshape(problem.shape) / scale
    else:
        constraint = problem.measurements @ cvxpy.vec(w, order="C") == problem.values / scale
    objective = cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(w)), [constraint])
    return scale * objective.solve(solver=cvxpy.CLARABEL, tol_gap_abs=1e-8, tol_gap_rel=1e-8, tol_feas=1e-8)


PROBLEMS = {
    "square": {"shape": [8, 8], "target": {"rank": 2}, "observed": 40},
    "too few observations": {"shape": [8, 8], "target": {"rank": 2}, "observed": 20},
    "tall": {"shape": [12, 6], "target": {"rank": 1, "frobenius": 1e4}, "observed": 30},
    "wide": {"shape": [5, 11], "target": {"rank": 2, "frobenius": 1e-4}, "observed": 35},
    "one observation": {"shape": [4, 4], "target": {"rank": 4}, "observed": 1},
    "sensing": {"kind": "matrix_sensing", "shape": [6, 7], "target": {"rank": 1}, "observed": 18},
    "tall sensing": {"kind": "matrix_sensing", "shape": [9, 4], "target": {"rank": 2, "frobenius": 50}, "observed": 25},
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_least_nuclear_norm_is_that_of_an_independent_solver(name):
    one = baseline(**PROBLEMS[name])
    (result,) = solve(one)
    assert result.outcome is Outcome.CONVERGED
    problem = Preparer({}).problem(one)
    found, scale = result.factors["W"], np.linalg.norm(problem.truth)
    seen = (
        found.ravel()[problem.mask] - problem.target[problem.mask]
        if problem.mask is not None
        else problem.measurements @ found.ravel() - problem.values
    )
    assert np.abs(seen).max() < 1e-9 * scale
    assert result.trace.final()["nuclear"] == pytest.approx(np.linalg.norm(found, "nuc"), rel=1e-12)
    assert np.linalg.norm(found, "nuc") == pytest.approx(reference(one), rel=1.5e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 7), st.integers(2, 7), st.integers(0, 2**31), st.floats(0.2, 1.0))
def test_any_small_completion(rows, columns, seed, share):
    one = baseline(shape=[rows, columns], target={"rank": 1 + seed % 2}, observed=share, seed=seed)
    (result,) = solve(one)
    assert result.outcome is Outcome.CONVERGED
    assert result.trace.final()["nuclear"] == pytest.approx(reference(one), rel=2e-6, abs=1e-9)


def test_closed_forms():
    corner = baseline(shape=[2, 2], entries=[[0, 1, 1.0], [1, 0, 1.0], [1, 1, 0.0]])
    (result,) = solve(corner)
    np.testing.assert_allclose(result.factors["W"], [[0, 1], [1, 0]], atol=1e-5)
    zero = baseline(shape=[3, 3], entries=[[0, 1, 0.0], [2, 2, 0.0]])
    (result,) = solve(zero)
    assert (result.outcome, np.abs(result.factors["W"]).max()) == (Outcome.CONVERGED, 0)
    # One row of a matrix: nothing is gained beside it.
    row = baseline(shape=[3, 4], entries=[[1, n, n + 1.0] for n in range(4)])
    (result,) = solve(row)
    np.testing.assert_allclose(result.factors["W"], np.outer([0, 1, 0], np.arange(1, 5)), atol=1e-6)
    whole = baseline(shape=[5, 5], target={"rank": 5}, observed=1.0)
    (result,) = solve(whole)
    assert result.trace.final()["error"] < 1e-12


def test_a_low_rank_matrix_is_recovered_from_enough_observations():
    one = baseline(shape=[40, 40], target={"rank": 2, "frobenius": 40}, observed=900)
    (result,) = solve(one)
    assert result.trace.final()["error"] < 1e-5


def test_least_frobenius_norm_is_the_pseudo_inverse():
    problems = [
        {"shape": [5, 4], "target": {"rank": 2}, "observed": 9},
        {"kind": "matrix_sensing", "shape": [5, 4], "target": {"rank": 2}, "observed": 9},
        {"kind": "tensor_sensing", "shape": [3, 2, 4], "target": {"rank": 2}, "observed": 10},
        {"kind": "tensor_completion", "shape": [3, 2, 4], "target": {"rank": 2}, "observed": 10},
    ]
    for description in problems:
        one = baseline("min_frobenius", **description)
        (result,) = [
            r
            for e in train(trials([one]), Recording(("frobenius",), points=3), create("convex"))
            if isinstance(e, Finished)
            for r in e.results
        ]
        problem = Preparer({}).problem(one)
        operator = problem.measurements if problem.measurements is not None else np.eye(len(problem.mask))[problem.mask]
        values = problem.values if problem.measurements is not None else problem.target[problem.mask]
        assert (result.outcome, result.steps) == (Outcome.CONVERGED, 1)
        np.testing.assert_allclose(result.factors["W"].ravel(), np.linalg.pinv(operator) @ values, atol=1e-12)


def test_measurements_that_depend_on_each_other_or_contradict():
    rng = np.random.default_rng(0)
    operator = rng.standard_normal((6, 12))
    operator[3] = operator[0] + operator[1]
    values = operator @ rng.standard_normal(12)
    values[5] += 1
    rows, numbers = orthonormal_rows(torch.from_numpy(operator), torch.from_numpy(values))
    np.testing.assert_allclose(
        (rows.T @ (rows @ torch.ones(12, dtype=torch.float64))).numpy(), np.linalg.pinv(operator) @ operator @ np.ones(12), atol=1e-9
    )
    np.testing.assert_allclose((rows.T @ numbers).numpy(), np.linalg.pinv(operator) @ values, atol=1e-9)
    more = np.concatenate([operator, operator + 0.1 * rng.standard_normal((6, 12)), operator[:4]])
    wanted = more @ rng.standard_normal(12) + rng.standard_normal(16)
    rows, numbers = orthonormal_rows(torch.from_numpy(more), torch.from_numpy(wanted))
    np.testing.assert_allclose((rows.T @ numbers).numpy(), np.linalg.lstsq(more, wanted, rcond=1e-9)[0], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(10, 20), (30, 20)])
def test_nearly_dependent_measurements(shape, dtype):
    """The largest singular value is 1e7 times the smallest, or, where numbers have half the digits, a thousand."""
    rng, double = np.random.default_rng(0), dtype == torch.float64
    left, right = (np.linalg.qr(rng.standard_normal((n, min(shape))))[0] for n in shape)
    operator = torch.from_numpy((left * np.geomspace(1, 1e-7 if double else 1e-3, min(shape))) @ right.T).to(dtype)
    values = operator @ torch.from_numpy(rng.standard_normal(shape[1])).to(dtype)
    rows, numbers = (found.double().numpy() for found in orthonormal_rows(operator, values))
    expected = np.linalg.pinv(operator.double().numpy(), rcond=1e-5 if not double else None) @ values.double().numpy()
    close = 1e-8 if double else 1e-3
    np.testing.assert_allclose(rows.T @ numbers, expected, atol=close * np.linalg.norm(expected))
    np.testing.assert_allclose(rows @ rows.T @ rows, rows, atol=close / 100)
    assert (rows.shape, round(np.linalg.norm(rows) ** 2)) == (shape, min(shape))


def test_a_lane_with_fewer_measurements_is_as_it_is_alone():
    operator = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 12)))
    padded, values = torch.cat([operator, torch.zeros(3, 12)]), torch.arange(9).double() * (torch.arange(9) < 6)
    for alone, beside in zip(orthonormal_rows(operator, values[:6]), orthonormal_rows(padded, values), strict=True):
        assert torch.equal(beside, torch.cat([alone, torch.zeros_like(beside[6:])]))
    assert not any(found.any() for found in orthonormal_rows(torch.zeros(3, 12), torch.ones(3)))


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7)])
def test_threshold_lowers_singular_values(shape):
    rng = np.random.default_rng(1)
    matrices = rng.standard_normal((4, *shape))
    by = np.array([0.0, 0.5, 1.0, 100.0])
    found = threshold(torch.from_numpy(matrices), torch.from_numpy(by)).numpy()
    for matrix, amount, low in zip(matrices, by, found, strict=True):
        u, s, v = np.linalg.svd(matrix, full_matrices=False)
        np.testing.assert_allclose(low, (u * np.maximum(s - amount, 0)) @ v, atol=1e-10)


def test_numbers_do_not_depend_on_the_pack():
    specs = [baseline(shape=[10, 9], target={"rank": 2}, observed=n, seed=s) for n in (30, 60, 90) for s in range(4)]
    together = solve(*specs)
    few = solve(*specs, width=3)
    for one, mine, other in zip(specs, together, few, strict=True):
        (alone,) = solve(one)
        assert mine.steps == alone.steps == other.steps
        np.testing.assert_allclose(mine.factors["W"], alone.factors["W"], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(mine.factors["W"], other.factors["W"], rtol=1e-10, atol=1e-12)


def test_a_problem_that_is_paused_goes_on_as_if_it_had_not_been():
    policy = Policy(call_seconds=0.0, splits=lambda _engine, specs, *_: len(specs) > 1)
    specs = [baseline(shape=[10, 9], target={"rank": 2}, observed=60, seed=s, tolerance=1e-6) for s in range(6)]
    expected = {f"t{n}": r for n, r in enumerate(solve(*specs))}
    packs, results, paused = deque([trials(specs)]), {}, 0
    while packs:
        pack = pickle.loads(pickle.dumps(packs.popleft()))
        for event in train(pack, RECORDING, create("convex"), asked=lambda: Request.HALF, policy=policy):
            match event:
                case Finished():
                    results |= {r.trial_id: r for r in event.results}
                case HandedOver() if event.trials:
                    paused += sum(isinstance(trial, Paused) and trial.step > 0 for trial in event.trials)
                    packs.append(list(event.trials))
    assert paused, "no problem was paused in the middle"
    assert {key: r.steps for key, r in results.items()} == {key: r.steps for key, r in expected.items()}
    for key, result in results.items():
        np.testing.assert_allclose(result.factors["W"], expected[key].factors["W"], rtol=1e-10, atol=1e-12)


def test_tolerance_and_steps_are_kept():
    problem = {"shape": [20, 20], "target": {"rank": 3}, "observed": 150}
    loose, exact, short = solve(*(baseline(**problem, tolerance=t, steps=n) for t, n in ((1e-2, 20_000), (1e-8, 20_000), (1e-12, 7))))
    assert loose.steps < exact.steps
    assert loose.trace.final()["nuclear"] == pytest.approx(exact.trace.final()["nuclear"], rel=1e-2)
    assert (short.outcome, short.steps) == (Outcome.EXHAUSTED, 7)
    assert exact.trace.steps[0] == 0
    assert exact.trace.values[0, 0] > 0, "at step 0 there is nothing yet"
    assert (exact.trace.values[1:, 0] == 0).all(), "from then on observations fit"
