"""Distances to solutions of convex problems: against numpy's pseudo-inverse, and truths that the least nuclear norm recovers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.specs import spec, trials
from tests.workloads.test_convex import reference as least_by_cvxpy
from workloads import measures
from workloads.engines.base import create
from workloads.factorizations.programs.douglas_rachford import DouglasRachford
from workloads.measures.numerics import solutions
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.training.loop import train
from workloads.training.recording import Recording
from workloads.training.results import Finished

SENSING = {"kind": "matrix_sensing", "shape": [3, 4], "target": {"rank": 1}, "observed": 7}


def snapshot(one, count=3):
    """Lanes at random places, with problems of two seeds."""
    specs = [one.model_copy(update={"problem": one.problem.model_copy(update={"seed": n % 2})}) for n in range(count)]
    data = [each.problem.realize({}) for each in specs[:2]]
    rng = torch.Generator().manual_seed(0)
    params = [torch.randn(count, *shape, generator=rng, dtype=torch.float64) for shape in one.factor_shapes.values()]
    return Snapshot(one.factorization, params, torch.zeros(count), [data[n % 2] for n in range(count)], 1e-16, specs)


@pytest.mark.parametrize("problem", [SENSING, {"kind": "tensor_completion", "shape": [3, 2, 4], "target": {"rank": 1}, "observed": 9}])
def test_distance_to_the_least_frobenius_norm_is_that_to_the_pseudo_inverse(problem):
    lanes = snapshot(spec(problem=problem, factorization={"kind": "linear"}, init=None))
    found = evaluate(["distance_to_min_frobenius"], lanes)[:, 0]
    for lane, data in enumerate(lanes.problems):
        nearest = data.target if data.measurements is None else np.linalg.pinv(data.measurements) @ data.values
        wanted = np.linalg.norm(lanes.product[lane].numpy().ravel() - nearest) / np.linalg.norm(nearest)
        assert found[lane] == pytest.approx(wanted, rel=1e-8)


def test_distance_to_the_least_nuclear_norm_is_the_error_where_that_recovers_the_truth():
    lanes = snapshot(spec(problem__shape=[12, 12], problem__observed=110, problem__target={"rank": 1, "frobenius": 3.0}))
    found = evaluate(["distance_to_nuclear_norm", "error"], lanes)
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-5)


def test_each_problem_is_solved_once(monkeypatch):
    asked = []
    solve = solutions._solved
    monkeypatch.setattr(solutions, "_solved", lambda kind, one, problems: asked.append((kind, len(problems))) or solve(kind, one, problems))
    lanes = snapshot(spec(problem=SENSING))
    for _ in range(3):
        evaluate(["distance_to_min_frobenius", "distance_to_nuclear_norm"], lanes)
    assert asked == [("min_frobenius", 2), ("nuclear_norm", 2)]


def test_a_problem_near_the_phase_transition_holds_nobody_up_and_is_solved_as_far_as_it_comes(monkeypatch):
    specs = [spec(problem__shape=[6, 6], problem__target={"rank": 1}, problem__observed=22, problem__seed=seed) for seed in (5, 9, 11)]
    problems, sizes, step = [one.problem.realize({}) for one in specs], [], DouglasRachford.step
    monkeypatch.setattr(DouglasRachford, "step", lambda self, done, *rest: sizes.append(len(done)) or step(self, done, *rest))
    monkeypatch.setattr(solutions, "STAGES", ((1e-9, 100), (1e-8, 200), (1e-4, 210)))
    found = solutions._solved("nuclear_norm", specs[0], problems)
    assert (len(sizes), sizes[-1]) == (210, 1)
    seen = problems[0].mask
    np.testing.assert_allclose(found[0].numpy().ravel()[seen], problems[0].target[seen], atol=1e-12)
    assert np.linalg.norm(found[0], "nuc") == pytest.approx(least_by_cvxpy(specs[0]), rel=1e-4)
    assert [np.linalg.norm(found[n].numpy().ravel() - problems[n].truth.ravel()) < 1e-6 for n in (1, 2)] == [True, True]
    monkeypatch.setattr(solutions, "STAGES", ((1e-9, 200),))
    assert solutions._solved("nuclear_norm", specs[0], problems).isnan().flatten(1).any(1).tolist() == [True, False, False]


def test_descent_from_zero_comes_to_the_least_frobenius_norm():
    """What the measure is for; also that of a trial that is solved itself."""
    linear = spec(problem=SENSING, factorization={"kind": "linear"}, init=None, optimizer__lr=0.05, stop={"loss": 1e-24, "steps": 50_000})
    solved = spec(problem=SENSING, factorization={"kind": "nuclear_norm"}, init=None, optimizer=None)
    names = ("distance_to_min_frobenius", "distance_to_nuclear_norm")
    ends = []
    for one, engine in ((linear, "batched"), (solved, "convex")):
        (result,) = (r for e in train(trials([one]), Recording(names), create(engine)) if isinstance(e, Finished) for r in e.results)
        ends.append([result.trace.final()[name] for name in names])
    assert ends[0][0] < 1e-10 < 1e-3 < ends[0][1]
    assert ends[1][1] < 1e-4 < 1e-3 < ends[1][0]


def test_distance_to_an_array_is_that_of_numpy():
    rng = np.random.default_rng(1)
    for shape in ([4], [3, 4], [2, 3, 4]):
        kind = {1: "vector_sensing", 2: "matrix_sensing", 3: "tensor_sensing"}[len(shape)]
        rank = {} if len(shape) == 1 else {"rank": 1}
        problem = {"kind": kind, "shape": shape, "target": rank, "observed": 3}
        lanes = snapshot(spec(problem=problem, factorization={"kind": "linear"}, init=None))
        there = rng.standard_normal(shape)
        lanes._references = {"found": there, "other": rng.standard_normal((5, 5)), "zero": np.zeros(shape)}
        found = evaluate(["distance_to_found", "distance_to_other", "distance_to_zero"], lanes)
        wanted = [np.linalg.norm(w - there) / np.linalg.norm(there) for w in lanes.product.numpy()]
        np.testing.assert_allclose(found[:, 0], wanted, rtol=1e-12)
        assert np.isnan(found[:, 1:]).all()


def test_it_is_defined_where_the_problem_can_be_solved():
    tensor = spec(
        problem={"kind": "tensor_completion", "shape": [3, 2, 4], "target": {"rank": 1}, "observed": 9}, factorization={"kind": "cp"}
    )
    assert measures.undefined("distance_to_min_frobenius", tensor) is None
    assert "is for matrices" in measures.undefined("distance_to_nuclear_norm", tensor)
    assert measures.reference_of("distance_to_nuclear_norm") is None
    assert measures.reference_of("distance_to_linear") == "linear"
    zero = spec(problem={"kind": "matrix_completion", "shape": [2, 2], "entries": [[0, 0, 0.0], [1, 1, 0.0]]})
    assert np.isnan(evaluate(["distance_to_min_frobenius"], snapshot(zero))).all()
