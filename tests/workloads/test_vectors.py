"""Problems of order one: where descent comes to, against linear programs, cones and the pseudo-inverse."""

from __future__ import annotations

import cvxpy
import numpy as np
import pytest
import scipy.optimize

from tests.specs import spec
from tests.workloads import oracle
from tests.workloads.test_engines import advance, lanes_of
from workloads.engines.base import create
from workloads.engines.choice import why_not_fused
from workloads.training.loop import train
from workloads.training.recording import Recording
from workloads.training.results import Finished
from workloads.trial import Trial


def vector(factorization, init=None, **fields):
    """Of 12 entries, two of which are not zero, and 8 measurements."""
    problem = {"kind": "vector_sensing", "shape": [12], "target": {"sparsity": 2, "frobenius": 1.5}, "observed": 8, "seed": 1}
    parts = {"problem": problem, "factorization": factorization, "init": init, "optimizer": {"kind": "gd", "lr": 2e-3}, **fields}
    return spec(**parts)


def trained(one, steps):
    """The product after so many steps by the fastest engine."""
    engine = "batched" if why_not_fused(one) else "fused"
    lanes = advance(create(engine), lanes_of([one]), steps)
    return one.factorization.products(lanes.params)[0].numpy(), float(lanes.loss[0])


@pytest.mark.parametrize(
    ("kind", "keys", "init"),
    [
        ("diagonal", {"depth": 3}, {"kind": "constant", "scale": 0.1}),
        ("diagonal", {"depth": 3, "signed": False}, {"kind": "gaussian", "scale": 0.5}),
        ("convolutional", {"depth": 2}, {"kind": "gaussian", "scale": 0.3}),
        ("convolutional", {"depth": 4}, {"kind": "gaussian", "scale": 0.5}),
    ],
)
@pytest.mark.parametrize("engine", ["autograd", "batched", "fused"])
def test_a_thousand_steps_are_those_of_the_plain_loop(kind, keys, init, engine):
    one = vector({"kind": kind, **keys}, init)
    truth = oracle.train(one, 1000)
    lanes = advance(create(engine), lanes_of([one]), 1000)
    assert float(lanes.loss[0]) == pytest.approx(truth.losses[-1], rel=1e-8)
    np.testing.assert_allclose(one.factorization.products(lanes.params)[0], truth.product, rtol=1e-8, atol=1e-12)


def least_l1(data):
    """The w of least l1 norm that fits, by a linear program over w = p - q with p, q >= 0."""
    both = np.concatenate([data.measurements, -data.measurements], axis=1)
    best = scipy.optimize.linprog(np.ones(both.shape[1]), A_eq=both, b_eq=data.values)
    return np.subtract(*np.split(best.x, 2))


@pytest.mark.parametrize(
    "fields", [{"target": {"sparsity": 3, "frobenius": 2.0}}, {"kind": "regression", "noise": {"std": 0.3}, "seed": 4}]
)
def test_least_l1_norm_is_that_of_a_linear_program(fields):
    base = {"kind": "vector_sensing", "shape": [20], "target": {"frobenius": 1.0}, "observed": 9, "seed": 1}
    one = spec(
        problem={**base, **fields}, factorization={"kind": "l1_norm", "tolerance": 1e-9}, init=None, optimizer=None, stop={"steps": 20_000}
    )
    events = train([Trial("t", one)], Recording(("l1",), points=3), create("convex"))
    (result,) = (result for event in events if isinstance(event, Finished) for result in event.results)
    data = one.problem.realize({})
    least = least_l1(data)
    assert result.outcome == "converged"
    assert result.trace.values[-1][list(result.trace.columns).index("l1")] == pytest.approx(abs(least).sum(), rel=1e-8)
    np.testing.assert_allclose(data.measurements @ result.factors["W"], data.values, rtol=1e-10)
    np.testing.assert_allclose(result.factors["W"], least, atol=1e-6)


@pytest.mark.parametrize(("depth", "scale"), [(2, 1e-4), (3, 1e-2)])
def test_diagonal_networks_come_from_small_starts_to_the_least_l1_norm(depth, scale):
    one = vector({"kind": "diagonal", "depth": depth}, {"kind": "constant", "scale": scale})
    data = one.problem.realize({})
    least = least_l1(data)
    found, loss = trained(one, 60_000)
    assert loss < 1e-5
    np.testing.assert_allclose(found, least, atol=5e-3)
    assert np.linalg.norm(least - np.linalg.pinv(data.measurements) @ data.values) > 0.1, "the least Euclidean norm is elsewhere"


def test_convolutions_come_from_small_starts_to_the_least_l1_norm_of_the_transform():
    """By a cone program, over real and imaginary parts."""
    target = {"sparsity": 2, "domain": "fourier", "frobenius": 1.5}
    problem = {"kind": "vector_sensing", "shape": [12], "target": target, "observed": 8, "seed": 1}
    one = vector({"kind": "convolutional", "depth": 2}, {"kind": "gaussian", "scale": 1e-4}, problem=problem)
    data = one.problem.realize({})
    waves = np.exp(-2j * np.pi * np.outer(range(12), range(12)) / 12) / np.sqrt(12)
    w = cvxpy.Variable(12)
    sizes = cvxpy.norm(cvxpy.vstack([waves.real @ w, waves.imag @ w]), axis=0)
    cvxpy.Problem(cvxpy.Minimize(cvxpy.sum(sizes)), [data.measurements @ w == data.values]).solve(solver="CLARABEL")
    found, loss = trained(one, 60_000)
    assert loss < 1e-5
    np.testing.assert_allclose(found, w.value, atol=5e-3)


REGRESSION = {"kind": "regression", "shape": [9], "target": {}, "observed": 5, "correlation": 0.3, "noise": {"std": 0.2}}
ADAPTIVE = {"kind": "adam", "lr": 1e-2}


@pytest.mark.parametrize(
    "optimizer",
    [
        {"kind": "gd", "lr": 0.02},
        {"kind": "momentum", "lr": 0.01, "momentum": 0.8},
        {"kind": "nesterov", "lr": 0.01, "momentum": 0.8},
        {"kind": "group_rmsprop", "lr": 0.02, "schedule": {"cosine": 1500}},
        ADAPTIVE,
    ],
    ids=lambda o: o["kind"],
)
def test_regression_from_zero_comes_to_the_pseudo_inverse_unless_each_coordinate_has_its_own_step(optimizer):
    one = spec(problem=REGRESSION, factorization={"kind": "linear"}, init=None, optimizer=optimizer)
    data = one.problem.realize({})
    least = np.linalg.pinv(data.measurements) @ data.values
    found, loss = trained(one, 1500)
    assert loss < 1e-12
    if optimizer is ADAPTIVE:
        assert np.linalg.norm(found) > 1.02 * np.linalg.norm(least)
    else:
        np.testing.assert_allclose(found, least, atol=1e-6)


@pytest.mark.parametrize("scale", [3.0, 10.0])
def test_diagonal_networks_come_from_large_starts_to_the_least_euclidean_norm(scale):
    one = vector({"kind": "diagonal", "depth": 2}, {"kind": "constant", "scale": scale}, optimizer={"kind": "gd", "lr": 5e-3 / scale**2})
    data = one.problem.realize({})
    found, loss = trained(one, 5000)
    assert loss < 1e-12
    np.testing.assert_allclose(found, np.linalg.pinv(data.measurements) @ data.values, atol=0.1 / scale**2)


def test_diagonal_networks_of_depth_two_keep_to_the_span_in_their_mirror():
    """What gradient flow keeps (arXiv 2002.09277, theorem 1): arcsinh(w / 2 alpha^2) is a sum of measurements."""
    scale = 0.3
    one = vector({"kind": "diagonal", "depth": 2}, {"kind": "constant", "scale": scale}, optimizer={"kind": "gd", "lr": 2e-4})
    rows = one.problem.realize({}).measurements
    found, loss = trained(one, 40_000)
    assert loss < 1e-9

    def outside(w):
        return np.linalg.norm(w - np.linalg.pinv(rows) @ (rows @ w)) / np.linalg.norm(w)

    assert outside(np.arcsinh(found / (2 * scale**2))) < 5e-3
    assert outside(found) > 0.1
