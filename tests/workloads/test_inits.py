"""Initial factors: distributions, balance, the sign of the determinant."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.specs import spec

SQUARE = {"kind": "matrix_completion", "shape": [4, 4], "target": {"rank": 1}, "observed": 8}
WIDE = {"kind": "matrix_completion", "shape": [3, 6], "target": {"rank": 1}, "observed": 8}
TENSOR = {"kind": "tensor_completion", "shape": [3, 4, 5], "target": {"rank": 1}, "observed": 30}


def start(init, depth=3, problem=SQUARE, seed=0, **factorization):
    kind = {"kind": "deep_matrix", "depth": depth} if problem is not TENSOR else {"kind": "cp"}
    return spec(problem=problem, factorization={**kind, **factorization}, init=init, seed=seed).initial_factors({})


def product(factors):
    return np.linalg.multi_dot(factors[::-1]) if len(factors) > 1 else factors[0]


def test_gaussian_scale_is_the_standard_deviation_of_a_factor_entry():
    entries = np.concatenate([f.ravel() for n in range(300) for f in start({"kind": "gaussian", "scale": 0.3}, seed=n)])
    assert entries.std() == pytest.approx(0.3, rel=0.02)
    assert abs(entries.mean()) < 0.01


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("problem", [SQUARE, WIDE])
def test_gaussian_product_scale_is_the_standard_deviation_of_a_product_entry(depth, balanced, problem):
    init = {"kind": "gaussian", "product_scale": 1e-3, "balanced": balanced}
    squares = np.mean([np.mean(product(start(init, depth, problem, seed=n)) ** 2) for n in range(2000)])
    # A product of Gaussians has heavy tails, so its variance needs many draws; the balanced product is Gaussian itself.
    assert np.sqrt(squares) == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal", "identity"])
@pytest.mark.parametrize("widths", [None, [6, 5], [3, 3]])
def test_balanced_factors_are_balanced(kind, widths):
    init = {"kind": kind, "scale": 0.4, "balanced": True}
    factors = start(init, 3, WIDE, **({"widths": widths} if widths else {}))
    for below, above in itertools.pairwise(factors):
        np.testing.assert_allclose(above.T @ above, below @ below.T, atol=1e-12)


def test_balancing_keeps_the_product():
    plain, balanced = (start({"kind": "orthogonal", "scale": 0.7, "balanced": b}) for b in (False, True))
    np.testing.assert_allclose(product(balanced), product(plain), atol=1e-12)


def test_balanced_components_have_equal_norms_and_are_the_same_components():
    plain, balanced = (start({"kind": "gaussian", "scale": 0.5, "balanced": b}, problem=TENSOR) for b in (False, True))
    norms = np.stack([np.linalg.norm(f, axis=0) for f in balanced])
    np.testing.assert_allclose(norms, np.broadcast_to(norms[0], norms.shape), rtol=1e-12)
    np.testing.assert_allclose(np.einsum("ir,jr,kr->ijkr", *balanced), np.einsum("ir,jr,kr->ijkr", *plain), atol=1e-12)


@pytest.mark.parametrize("sign", ["positive", "negative"])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "orthogonal", "identity"])
@pytest.mark.parametrize("widths", [None, [5, 6]])
def test_determinant_has_the_sign_asked_for(kind, balanced, sign, widths):
    for seed in range(8):
        init = {"kind": kind, "scale": 0.5, "det_sign": sign, "balanced": balanced}
        found = np.linalg.det(product(start(init, 3, seed=seed, **({"widths": widths} if widths else {}))))
        assert np.sign(found) == (1 if sign == "positive" else -1)


def test_determinant_sign_survives_products_that_underflow():
    for seed in range(6):
        factors = start({"kind": "gaussian", "scale": 1e-100, "det_sign": "positive"}, 3, seed=seed)
        assert np.prod([np.linalg.slogdet(f)[0] for f in factors]) > 0


@pytest.mark.parametrize(("depth", "problem"), [(3, SQUARE), (2, WIDE)])
def test_orthogonal_and_identity_products_have_their_scale(depth, problem):
    for kind in ("orthogonal", "identity"):
        s = np.linalg.svd(product(start({"kind": kind, "product_scale": 1e-2}, depth, problem)), compute_uv=False)
        np.testing.assert_allclose(s, 1e-2, rtol=1e-12)


def test_the_determinant_of_equal_entries_has_no_sign():
    for depth in (1, 3):
        with pytest.raises(ValueError, match=r"init\.det_sign: cannot hold: factors of equal entries have a product of rank one"):
            start({"kind": "constant", "scale": 0.5, "det_sign": "positive"}, depth)
    scalar = {"kind": "matrix_completion", "shape": [1, 1], "target": {"rank": 1}, "observed": 1}
    assert product(start({"kind": "constant", "scale": 0.5, "det_sign": "negative"}, problem=scalar)) == -0.125


def test_a_start_depends_on_the_seed_and_on_nothing_else():
    init = {"kind": "gaussian", "scale": 0.3}
    again, other = start(init, seed=5), start(init, seed=6)
    for a, b, c in zip(start(init, seed=5), again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_linear_starts_from_zero():
    (w,) = spec(factorization={"kind": "linear"}, init=None).initial_factors({})
    assert w.shape == (4, 4)
    assert not w.any()


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal", "identity"])
def test_each_factor_has_its_scale(kind):
    plain, scaled = (start({"kind": kind, **given}, 3, WIDE) for given in ({"scale": 1.0}, {"scales": [0.1, 2.0, 30.0]}))
    for scale, one, other in zip((0.1, 2.0, 30.0), plain, scaled, strict=True):
        np.testing.assert_allclose(other, scale * one, rtol=1e-15)


def test_equal_scales_are_one_scale():
    one, each = (start({"kind": "gaussian", "balanced": True, **given}) for given in ({"scale": 0.3}, {"scales": [0.3] * 3}))
    for a, b in zip(one, each, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_balanced_product_of_scales_has_the_deviation_of_the_plain_one():
    given = {"kind": "gaussian", "scales": [0.1, 0.5, 2.0]}
    plain, balanced = (
        np.concatenate([product(start({**given, "balanced": b}, seed=n)).ravel() for n in range(2000)]).std() for b in (False, True)
    )
    assert balanced == pytest.approx(plain, rel=0.1)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"scales": [0.1, 0.2]}, "init.scales: has 2 values, but there are 3 factors: W1, W2, W3"),
        ({"scales": [0.1] * 3, "scale": 1.0}, "init.scales: has no effect beside init.scale"),
        ({}, r"needs scale \(one factor's\), scales \(each factor's\)"),
    ],
)
def test_scales_that_do_not_fit(init, message):
    with pytest.raises(ValueError, match=message):
        start({"kind": "gaussian", **init})
