"""Problems with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.problems.target import Target
from workloads.rng import Stream, generator


@dataclass(frozen=True, eq=False)
class ProblemData:
    """A problem with its numbers. Completion has ``mask`` and ``target``; sensing has ``measurements`` and ``values``.

    ``truth`` [D] is the ground truth, or ``None`` where only observations are known; ``mask`` [D] tells which entries are observed and
    ``target`` [D] holds their values (zero elsewhere); ``measurements`` [N, D] and ``values`` [N] are the sensing operator and what it saw.
    ``held_out`` are entries that are known but not trained on, by flat indices [H] and values [H]; ``None`` stands for those of the truth
    that are not observed. Of measurements ``held_out_measurements`` are such ones [H, D] and their values [H]. Where a function is looked
    for, ``inputs`` [N, D] and ``held_out_inputs`` [H, D] are what it is of.
    """

    shape: tuple[int, ...]
    count: int
    truth: NDArray[np.float64] | None
    mask: NDArray[np.bool_] | None = None
    target: NDArray[np.float64] | None = None
    measurements: NDArray[np.float64] | None = None
    values: NDArray[np.float64] | None = None
    held_out: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None
    held_out_measurements: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    inputs: NDArray[np.float64] | None = None
    held_out_inputs: NDArray[np.float64] | None = None


def draw_truth(target: Target, shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    """Draw a sum of ``rank`` outer products of standard normal vectors [*shape], scaled to the Frobenius norm asked for.

    A vector has ``sparsity`` standard normal entries, or complex amplitudes, at places that are drawn. A hierarchical truth has standard
    normal factors. Where singular values are asked for, the vectors of a matrix are made orthonormal (uniformly distributed: Mezzadri 2007)
    and those of a tensor normalized, and each product is weighted.
    """
    rng = generator(seed, Stream.TRUTH)
    if target.kind == "hierarchical":
        drawn = _hierarchical(target, shape, rng)
        return drawn * (target.frobenius / np.linalg.norm(drawn))
    if len(shape) == 1:
        return _vector(target, shape[0], rng)
    factors = [rng.standard_normal((n, target.terms)) for n in shape]
    weights = _weights(target, target.terms)
    if weights is not None:
        factors = [_orthonormal(factor) if len(shape) == 2 else factor / np.linalg.norm(factor, axis=0) for factor in factors]
        factors[0] = factors[0] * weights
    truth = factors[0]
    for factor in factors[1:]:
        truth = truth[..., None, :] * factor
    total: NDArray[np.float64] = truth.sum(-1)
    return total if target.spectrum is not None else total * (target.frobenius / np.linalg.norm(total))


def _vector(target: Target, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a vector [D]; magnitudes that are asked for come in the order of the drawn places, with random signs or phases."""
    count = target.nonzeros(size)
    if target.domain is None:
        places, drawn = rng.permutation(size)[:count], rng.standard_normal(count)
    else:
        places, (real, imaginary) = rng.permutation(size // 2 + 1)[:count], rng.standard_normal((2, count))
        # What is its own complex conjugate is real.
        drawn = real + 1j * np.where((places == 0) | (2 * places == size), 0.0, imaginary)
    weights = _weights(target, count)
    numbers = np.zeros(size, dtype=drawn.dtype)
    numbers[places] = drawn if weights is None else weights * drawn / abs(drawn)
    out: NDArray[np.float64] = numbers if target.domain is None else np.fft.irfft(numbers[: size // 2 + 1], size, norm="ortho")
    return out if target.spectrum is not None else out * (target.frobenius / np.linalg.norm(out))


def _hierarchical(target: Target, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the tensor of standard normal factors (arXiv 2201.11729, section 6)."""
    assert target.widths is not None
    tree = target.tree(len(shape))
    factors = [rng.standard_normal(each) for each in tree.shapes(shape, target.widths)]
    drawn: NDArray[np.float64] = tree.product(factors).reshape([shape[mode] for mode in tree.leaves]).transpose(tree.places)
    return drawn


def _weights(target: Target, terms: int) -> NDArray[np.float64] | None:
    """Return the singular values, or magnitudes, that are asked for, up to their scale if there is a condition number alone."""
    if target.spectrum is not None:
        return np.array(target.spectrum)
    return None if target.condition is None else np.geomspace(target.condition, 1.0, terms)


def _orthonormal(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    q, r = np.linalg.qr(factor)
    found: NDArray[np.float64] = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)
    return found


def unique(problems: Sequence[ProblemData]) -> tuple[list[ProblemData], list[int]]:
    """Return the distinct objects among ``problems`` and, for each lane, which of them is its own."""
    places: dict[int, int] = {}
    distinct: list[ProblemData] = []
    which = []
    for problem in problems:
        if id(problem) not in places:
            places[id(problem)] = len(distinct)
            distinct.append(problem)
        which.append(places[id(problem)])
    return distinct, which
