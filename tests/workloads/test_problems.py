"""Drawn problems: ranks, norms, nested observations."""

from __future__ import annotations

import numpy as np
import pytest

from tests.specs import spec, two_by_two


def problem(**fields):
    base = {"kind": "matrix_completion", "shape": [6, 5], "target": {"rank": 2, "frobenius": 3.0}, "observed": 10}
    return spec(problem={**base, **fields}).problem


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_truth_has_the_rank_and_norm_asked_for(rank):
    truth = problem(target={"rank": rank, "frobenius": 3.0}).realize({}).truth
    assert np.linalg.matrix_rank(truth.reshape(6, 5)) == rank
    assert np.linalg.norm(truth) == pytest.approx(3.0, rel=1e-12)


def test_tensor_truth_has_the_multilinear_rank_of_its_components():
    p = spec(
        problem={"kind": "tensor_completion", "shape": [4, 5, 6], "target": {"rank": 3}, "observed": 50}, factorization={"kind": "cp"}
    ).problem
    truth = p.realize({}).truth.reshape(4, 5, 6)
    assert np.linalg.norm(truth) == pytest.approx(1.0)
    for mode in range(3):
        assert np.linalg.matrix_rank(np.moveaxis(truth, mode, 0).reshape(truth.shape[mode], -1)) == 3


def test_a_larger_observation_set_contains_the_smaller_and_the_truth_stays():
    small, large, half = (problem(observed=n).realize({}) for n in (7, 19, 0.5))
    assert (small.mask.sum(), large.mask.sum(), half.mask.sum()) == (7, 19, 15)
    assert large.mask[small.mask].all()
    np.testing.assert_array_equal(small.truth, large.truth)
    np.testing.assert_array_equal(small.target[small.mask], small.truth[small.mask])
    assert not small.target[~small.mask].any()


def test_more_measurements_begin_with_the_fewer():
    few, many = (problem(kind="matrix_sensing", observed=n).realize({}) for n in (4, 60))
    np.testing.assert_array_equal(many.measurements[:4], few.measurements)
    np.testing.assert_allclose(many.values, many.measurements @ many.truth, rtol=1e-13)
    assert many.measurements.std() == pytest.approx(1.0, rel=0.1)


def test_another_seed_is_another_problem():
    a, b = problem().realize({}), problem(seed=1).realize({})
    assert not np.allclose(a.truth, b.truth)
    assert (a.mask != b.mask).any()


def test_given_entries():
    data = two_by_two().problem.realize({})
    assert data.truth is None
    assert data.mask.tolist() == [False, True, True, True]
    assert data.target.tolist() == [0.0, 1.0, 1.0, 0.0]
