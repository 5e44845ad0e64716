"""Measures of the loss around a trial, and of its factors: against dense Hessians, autograd on a plain loop, and numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.contract.references import FACTORIZATIONS, loss_of, pairs
from tests.contract.references import spec as small
from tests.specs import spec, trials
from workloads import measures
from workloads.engines.base import create
from workloads.measures.numerics.objective import largest_eigenvalue
from workloads.measures.numerics.snapshot import Snapshot, evaluate
from workloads.training.afterwards import measure_factors
from workloads.training.loop import train
from workloads.training.preparing import Preparer
from workloads.training.recording import Recording
from workloads.training.results import Finished

LANES = 3


def snapshot(one, seed=0):
    """Lanes at random places, each with a problem of its own."""
    generator = torch.Generator().manual_seed(seed)
    params = [0.7 * torch.randn(LANES, *shape, dtype=torch.float64, generator=generator) for shape in one.factor_shapes.values()]
    specs = [one.model_copy(update={"seed": n, "problem": one.problem.model_copy(update={"seed": n})}) for n in range(LANES)]
    problems = [each.problem.realize({}) for each in specs]
    start = Preparer({}).start
    return Snapshot(one.factorization, params, torch.zeros(LANES), problems, 1e-16, specs, start)


def plain_loss(one, data):
    product, loss = FACTORIZATIONS[one.factorization.kind].product, loss_of(one, data, torch.float64)
    return lambda *params: loss(product(*params))


def flat_loss(one, data):
    """The loss of one run, by all its parameters in a row."""
    shapes = list(one.factor_shapes.values())
    sizes = [int(np.prod(shape)) for shape in shapes]
    loss = plain_loss(one, data)
    return lambda row: loss(*(part.view(shape) for part, shape in zip(row.split(sizes), shapes, strict=True)))


def dense(one, lanes):
    """The gradients [R, P] and Hessians [R, P, P], by autograd on one run after another."""
    rows = torch.cat([p.flatten(1) for p in lanes.params], 1)
    losses = [flat_loss(one, data) for data in lanes.problems]
    gradients = torch.stack([torch.func.grad(loss)(row) for loss, row in zip(losses, rows, strict=True)])
    hessians = torch.stack([torch.autograd.functional.hessian(loss, row) for loss, row in zip(losses, rows, strict=True)])
    return gradients.numpy(), hessians.numpy()


@pytest.mark.parametrize(
    ("problem", "factorization", "loss"),
    [
        *((*pair, loss) for pair in pairs(trained=True, functions=False) for loss in ("half_sse", "mse")),
        *(("matrix_completion", "deep_matrix", loss) for loss in ("huber", "logistic")),
        *(("matrix_sensing", "linear", loss) for loss in ("huber", "logistic")),
    ],
)
def test_gradient_norm_and_sharpness_are_those_of_dense_hessians(problem, factorization, loss):
    one = small(problem, factorization, "gd", loss)
    lanes = snapshot(one)
    gradients, hessians = dense(one, lanes)
    np.testing.assert_allclose(lanes.gradient_norms, np.linalg.norm(gradients, axis=1), rtol=1e-10)
    np.testing.assert_allclose(lanes.sharpness, np.linalg.eigvalsh(hessians)[:, -1], rtol=1e-8)


def test_sharpness_of_what_is_too_large_for_a_dense_hessian_every_time():
    one = spec(problem__shape=[12, 12], problem__observed=70, factorization={"kind": "deep_matrix", "depth": 3}, loss="mse")
    lanes = snapshot(one)
    _, hessians = dense(one, lanes)
    assert hessians.shape[1] == 432
    np.testing.assert_allclose(lanes.sharpness, np.linalg.eigvalsh(hessians)[:, -1], rtol=1e-8)


def test_sharpness_is_the_largest_eigenvalue_not_the_largest_in_size():
    rng = np.random.default_rng(0)
    turned = np.linalg.qr(rng.standard_normal((2, 40, 40)))[0]
    spectra = np.stack([np.linspace(-9, 2, 40), np.r_[np.zeros(39), -1.0]])
    matrices = torch.from_numpy(turned * spectra[:, None] @ turned.swapaxes(1, 2))
    found = largest_eigenvalue(lambda v: (matrices @ v.unsqueeze(2)).squeeze(2), 2, 40, matrices)
    np.testing.assert_allclose(found, [2.0, 0.0], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("far", [np.inf, np.nan, 1e200])
def test_a_lane_that_is_not_finite_or_soon_will_not_be_has_no_sharpness_and_leaves_the_others_theirs(far):
    one = small("matrix_completion", "deep_matrix")
    lanes, wild = snapshot(one), snapshot(one)
    wild.params[0][1, 0, 0] = far
    assert np.isnan(wild.sharpness[1])
    np.testing.assert_allclose(wild.sharpness[[0, 2]], lanes.sharpness[[0, 2]], rtol=1e-12)


def test_descent_beyond_two_over_the_sharpness_leaves_a_minimum_and_descent_below_stays():
    """What the measure is for, on a quadratic."""
    one = small("matrix_sensing", "linear")
    value = float(snapshot(one).sharpness[0])
    for lr, grows in ((1.9 / value, False), (2.1 / value, True)):
        far = small("matrix_sensing", "linear", optimizer={"kind": "gd", "lr": lr}, stop={"steps": 400})
        (result,) = (r for e in train(trials([far]), Recording(), create("batched")) if isinstance(e, Finished) for r in e.results)
        assert (result.trace.values[-1, 0] > result.trace.values[0, 0]) == grows


def test_factors_are_measured_as_numpy_measures_them():
    one = small("matrix_completion", "deep_matrix")
    lanes = snapshot(one)
    factors = [p.numpy() for p in lanes.params]
    columns = measures.column_names("factor_singular_values", one)
    assert columns == ("sv_W1_0", "sv_W1_1", "sv_W1_2", "sv_W1_3", "sv_W2_0", "sv_W2_1", "sv_W3_0", "sv_W3_1")
    values = np.concatenate([np.linalg.svd(f, compute_uv=False) for f in factors], 1)
    np.testing.assert_allclose(evaluate(["factor_singular_values"], lanes), values, rtol=1e-10)
    norms = np.stack([np.linalg.norm(f.reshape(LANES, -1), axis=1) for f in factors], 1)
    np.testing.assert_allclose(evaluate(["factor_norms"], lanes), norms, rtol=1e-12)
    assert measures.column_names("factor_norms", small("tensor_completion", "tucker")) == (*("norm_core", "norm_A1", "norm_A2", "norm_A3"),)
    assert measures.column_names("factor_singular_values", small("tensor_completion", "tucker"))[0] == "sv_A1_0"


def test_alignment_is_that_of_leading_singular_vectors():
    one = small("matrix_completion", "deep_matrix")
    lanes = snapshot(one)
    found = evaluate(["alignment"], lanes)
    for n in range(LANES):
        parts = [np.linalg.svd(p[n].numpy()) for p in lanes.params]
        wanted = [abs(lower.U[:, 0] @ upper.Vh[0]) for lower, upper in itertools.pairwise(parts)]
        np.testing.assert_allclose(found[n], wanted, rtol=1e-8)
    assert measures.column_names("alignment", one) == ("alignment_W2", "alignment_W3")
    assert measures.undefined("alignment", small("tensor_completion", "cp")) is not None


def test_balanced_factors_are_aligned_and_zeros_are_not():
    one = spec(factorization={"kind": "deep_matrix", "depth": 3}, init={"kind": "gaussian", "scale": 0.5, "balanced": True})
    factors = [torch.from_numpy(np.stack([f, 0 * f])) for f in one.initial_factors({})]
    lanes = Snapshot(one.factorization, factors, torch.zeros(2), [one.problem.realize({})] * 2, 1e-16, [one, one])
    found = evaluate(["alignment"], lanes)
    np.testing.assert_allclose(found[0], 1.0, rtol=1e-8)
    assert np.isnan(found[1]).all()


def test_distance_from_the_start_is_that_of_all_parameters_also_after_a_trial_has_ended():
    one = spec(stop={"steps": 40})
    names = ("start_distance", "sharpness", "gradient_norm")
    (result,) = (
        r for e in train(trials([one]), Recording(names, steps=(0, 40)), create("batched")) if isinstance(e, Finished) for r in e.results
    )
    factors = list(result.factors.values())
    wanted = np.sqrt(sum(((end - began) ** 2).sum() for end, began in zip(factors, one.initial_factors({}), strict=True)))
    assert result.trace.values[0, result.trace.columns.index("start_distance")] == 0
    assert result.trace.final()["start_distance"] == pytest.approx(wanted, rel=1e-12)
    afterwards = measure_factors(names, [one], [factors], Preparer({}))[0]
    np.testing.assert_allclose(afterwards, [result.trace.final()[name] for name in names], rtol=1e-10)


def test_what_is_solved_has_no_landscape():
    solved = spec(factorization={"kind": "nuclear_norm"}, init=None, optimizer=None)
    assert measures.undefined("sharpness", solved) == "is defined for what is trained, not for factorization.kind nuclear_norm"
