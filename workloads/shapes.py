"""Sizes that follow from a spec alone: parameter shapes, memory, arithmetic. No torch here: planning needs it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from workloads.spec import Cp, DeepMatrix, Factorization, NuclearNorm, Solved, TrialSpec

ITEM_BYTES = {"float64": 8, "float32": 4}
OPTIMIZER_COPIES = {"gd": 0, "group_rmsprop": 0, "momentum": 2, "adam": 5, "min_frobenius": 3, "nuclear_norm": 9}
"""Arrays of the parameters' size that an optimizer or solver needs: its state, the copy of it to step back to, scratch."""


def factor_shapes(factorization: Factorization, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of one lane's parameters: W_1 ... W_L, A_1 ... A_N, or the matrix or tensor itself."""
    match factorization:
        case DeepMatrix():
            rows, columns = shape
            widths = (columns, *factorization.hidden(shape), rows)
            return [(out, into) for into, out in pairwise(widths)]
        case Cp():
            return [(n, factorization.terms(shape)) for n in shape]
    return [shape]


def parameter_shapes(spec: TrialSpec) -> list[tuple[int, ...]]:
    """`factor_shapes` of a trial."""
    return factor_shapes(spec.factorization, spec.shape)


def split_modes(shape: tuple[int, ...]) -> int:
    """How many leading modes make the left side of a CP product: the split whose sides are nearest in size."""
    return min(range(1, len(shape)), key=lambda k: max(math.prod(shape[:k]), math.prod(shape[k:])))


def lane_key(spec: TrialSpec) -> tuple[object, ...]:
    """Trials with equal keys can be lanes of one program: same arithmetic, whatever their data, seeds, starts and step sizes."""
    return (spec.problem.sensing, spec.shape, spec.factorization.kind, tuple(parameter_shapes(spec)), spec.method, spec.dtype)


@dataclass(frozen=True)
class LaneCost:
    """What one lane costs: bytes held in training, and floating-point operations and elements touched per step."""

    bytes: int
    flops: int
    touched: int


def lane_cost(spec: TrialSpec, observations: int | None = None) -> LaneCost:
    """Cost of one lane of ``spec`` in the batched engine; ``observations`` where the spec alone does not tell their number."""
    shapes = parameter_shapes(spec)
    size = math.prod(spec.shape)
    parameters = sum(math.prod(s) for s in shapes)
    kept = parameters * (3 + OPTIMIZER_COPIES[spec.method])  # parameters, gradients, the copy to step back to
    work, buffers = 0, 0
    match spec.factorization:
        case DeepMatrix():
            columns = spec.shape[1]
            work = sum(6 * columns * out * into for out, into in shapes[1:])
            buffers = 2 * sum(columns * out for out, _ in shapes[1:])
        case Cp() as f:
            middle = split_modes(spec.shape)
            left, right = math.prod(spec.shape[:middle]), math.prod(spec.shape[middle:])
            terms = f.terms(spec.shape)
            sides = (left if middle > 1 else 0) + (right if middle < len(spec.shape) - 1 else 0)
            work = 6 * size * terms + 5 * sides * terms
            buffers = 3 * sides * terms + size
        case NuclearNorm():
            # The eigenvectors of the smaller Gram matrix, and three products with them.
            work = 30 * size * min(spec.shape)
    seen = spec.problem.observations() or observations or size
    if spec.problem.sensing:
        work += 4 * seen * size
        buffers += 2 * seen + size
    else:
        work += 4 * size
        buffers += 3 * size
    return LaneCost((kept + buffers) * ITEM_BYTES[spec.dtype], work + 2 * parameters, kept + buffers)


def measurement_bytes(spec: TrialSpec, observations: int | None = None) -> int:
    """Bytes of a sensing problem's measurement arrays; 0 for completion. What is solved keeps them with orthonormal rows, too."""
    if not spec.problem.sensing:
        return 0
    copies = 2 if isinstance(spec.factorization, Solved) else 1
    return copies * (spec.problem.observations() or observations or 0) * math.prod(spec.shape) * ITEM_BYTES[spec.dtype]
