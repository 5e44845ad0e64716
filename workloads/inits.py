"""Initial factors of one trial, on the CPU and in float64, from the trial's own generator.

A kind of start is a function and a row of `INITS`; `balanced` and `det_sign` are then applied to whatever it returned, so no kind can
forget them. Factors are given as the spec stores them: W_1 ... W_L, each [width_l, width_(l-1)], or A_1 ... A_N, each [d_n, C].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from workloads.data import read_factors
from workloads.rng import Stream, generator
from workloads.shapes import parameter_shapes
from workloads.spec import DeepMatrix, FromFile, Gaussian, Identity, Init, Orthogonal, TrialSpec

Matrix = NDArray[np.float64]
Shapes = Sequence[tuple[int, ...]]
Draw = Callable[[TrialSpec, Shapes, np.random.Generator, Mapping[str, bytes]], list[Matrix]]


def factor_scale(init: Gaussian | Identity | Orthogonal, shapes: Shapes) -> float:
    """The scale of one factor: given, or such that the product gets ``product_scale``.

    A product of L Gaussian factors has entries of standard deviation scale^L * sqrt(product of the hidden widths); a product of
    identities or of orthogonal matrices has the scale scale^L.
    """
    if init.scale is not None:
        return init.scale
    assert init.product_scale is not None
    depth = len(shapes)
    paths = math.prod(out for out, _ in shapes[:-1]) if isinstance(init, Gaussian) else 1
    return float((init.product_scale / math.sqrt(paths)) ** (1 / depth))


def gaussian(spec: TrialSpec, shapes: Shapes, rng: np.random.Generator, files: Mapping[str, bytes]) -> list[Matrix]:  # noqa: ARG001
    """Independent normal entries.

    Balanced deep matrices draw the product itself, with the standard deviation an unbalanced product would have, and are then taken
    apart (arXiv 1810.02281, procedure 1): multiplying first would change the product's distribution.
    """
    assert isinstance(spec.init, Gaussian)
    scale = factor_scale(spec.init, shapes)
    if spec.init.balanced and isinstance(spec.factorization, DeepMatrix):
        paths = math.prod(out for out, _ in shapes[:-1])
        product = rng.standard_normal((shapes[-1][0], shapes[0][1])) * (scale ** len(shapes) * math.sqrt(paths))
        return balance_product(product, shapes)
    return [rng.standard_normal(shape) * scale for shape in shapes]


def identity(spec: TrialSpec, shapes: Shapes, rng: np.random.Generator, files: Mapping[str, bytes]) -> list[Matrix]:  # noqa: ARG001
    """(Rectangular) identities."""
    assert isinstance(spec.init, Identity)
    scale = factor_scale(spec.init, shapes)
    return [np.eye(rows, columns) * scale for rows, columns in shapes]


def orthogonal(spec: TrialSpec, shapes: Shapes, rng: np.random.Generator, files: Mapping[str, bytes]) -> list[Matrix]:  # noqa: ARG001
    """Random matrices with orthonormal rows or columns, whichever are fewer, uniformly distributed (Mezzadri 2007)."""
    assert isinstance(spec.init, Orthogonal)
    scale = factor_scale(spec.init, shapes)
    factors = []
    for rows, columns in shapes:
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q *= np.where(np.diagonal(r) < 0, -1.0, 1.0)
        factors.append(scale * (q if rows >= columns else q.T))
    return factors


def from_file(spec: TrialSpec, shapes: Shapes, rng: np.random.Generator, files: Mapping[str, bytes]) -> list[Matrix]:  # noqa: ARG001
    """The factors of an ``.npz`` file."""
    assert isinstance(spec.init, FromFile)
    prefix = "W" if isinstance(spec.factorization, DeepMatrix) else "A"
    arrays = read_factors(spec.init.file.path, files[spec.init.file.digest])
    return [arrays[f"{prefix}{n + 1}"].astype(np.float64) for n in range(len(shapes))]


INITS: dict[str, Draw] = {"gaussian": gaussian, "identity": identity, "orthogonal": orthogonal, "file": from_file}


def initial_factors(spec: TrialSpec, files: Mapping[str, bytes]) -> list[Matrix]:
    """The parameters at step 0, in float64. ``files`` maps SHA-256 digests to contents.

    Raises `ValueError` when ``det_sign`` is asked of a start whose determinant is zero.
    """
    shapes = parameter_shapes(spec)
    init: Init | None = spec.init
    if init is None:
        return [np.zeros(shape) for shape in shapes]
    factors = INITS[init.kind](spec, shapes, generator(spec.seed, Stream.INIT), files)
    deep = isinstance(spec.factorization, DeepMatrix)
    if init.balanced:
        factors = balance_deep(factors) if deep else balance_components(factors)
    if init.det_sign is not None:
        factors = with_det_sign(factors, 1.0 if init.det_sign == "positive" else -1.0, deep)
    return factors


def balance_deep(factors: list[Matrix]) -> list[Matrix]:
    """The same product from balanced factors, W_(l+1)^T W_(l+1) = W_l W_l^T; rank beyond the hidden widths is cut off."""
    product = factors[0]
    for factor in factors[1:]:
        product = factor @ product
    return balance_product(product, [(f.shape[0], f.shape[1]) for f in factors])


def balance_product(product: Matrix, shapes: Shapes) -> list[Matrix]:
    """Factors of ``product`` [m, n] with the singular values shared out evenly (arXiv 1810.02281, procedure 1)."""
    depth = len(shapes)
    if depth == 1:
        return [product]
    u, s, vt = np.linalg.svd(product, full_matrices=False)
    root = s ** (1 / depth)
    factors = []
    for layer, (rows, columns) in enumerate(shapes):
        left = u if layer == depth - 1 else np.eye(rows, len(s))
        right = vt if layer == 0 else np.eye(len(s), columns)
        factors.append(left @ (root[:, None] * right))
    return factors


def balance_components(factors: list[Matrix]) -> list[Matrix]:
    """CP factors whose vectors have equal norms within each component; the components stay what they are."""
    norms = np.stack([np.linalg.norm(f, axis=0) for f in factors])
    mean = np.exp(np.log(norms, where=norms > 0, out=np.full_like(norms, -np.inf)).mean(0))
    return [f * np.divide(mean, n, out=np.zeros_like(n), where=n > 0) for f, n in zip(factors, norms, strict=True)]


def with_det_sign(factors: list[Matrix], sign: float, deep: bool) -> list[Matrix]:
    """The factors, with one row of the last (of the first, for CP) negated if their product's determinant has the other sign.

    A reflection keeps norms, balance and, for a Gaussian start, the distribution. Raises `ValueError` if the determinant is zero.
    """
    if deep:
        found = math.prod(float(np.linalg.slogdet(f)[0]) for f in factors) if _square(factors) else _sign(factors)
    else:
        found = float(np.linalg.slogdet(factors[0] @ factors[1].T)[0])
    if found == 0:
        raise ValueError("init.det_sign cannot hold: the determinant of the initial product is zero")
    if found == sign:
        return factors
    flipped = -1 if deep else 0
    factors = [f.copy() for f in factors]
    factors[flipped][0] *= -1
    return factors


def _square(factors: list[Matrix]) -> bool:
    return all(f.shape[0] == f.shape[1] for f in factors)


def _sign(factors: list[Matrix]) -> float:
    product = factors[0]
    for factor in factors[1:]:
        product = factor @ product
    return float(np.linalg.slogdet(product)[0])
