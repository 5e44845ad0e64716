"""What measures hold while they are computed, which a plan has to know: how many lanes are measured side by side, and the bytes of that.

No torch here: planning needs it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from workloads.factorizations import FACTORIZATIONS
from workloads.trial import DEFAULT_LOSS, TrialSpec, lane_cost, measurement_bytes

ITERATIONS = 300
"""Steps of Lanczos' method at most."""
NUMBERS = 1 << 24
"""Numbers of float64 that lanes which are differentiated side by side may take, unless it is a single one."""
INPUTS = 64
"""Inputs of a function that are worth a pass over its parameters."""
TWICE = 3
"""How many numbers a second derivative of a function holds for each that is computed of an input."""
SOLVED = 256
"""Convex problems that are solved side by side."""
ENTRIES = 1 << 21
"""Entries of the products of lanes that are measured at once, at most, unless it is a single one."""
ARRAYS = 5
"""How many numbers measures hold for each entry of a product: itself, what it should be, and copies that a decomposition makes."""
BYTES = 8


@dataclass(frozen=True)
class Rows:
    """What is measured at once: ``count`` lanes of trials like ``spec``, of so many distinct ``problems``."""

    spec: TrialSpec
    count: int
    problems: int

    @property
    def seen(self) -> int:
        """How many observations each has; as many as there are entries where only a data file says."""
        return self.spec.problem.observations() or math.prod(self.spec.shape)


def rows_at_once(spec: TrialSpec) -> int:
    """Return how many lanes of trials like ``spec`` are measured at once."""
    return max(1, ENTRIES // math.prod(spec.shape))


def of_products(rows: Rows) -> int:
    """Return the bytes that measures hold of end-to-end matrices or tensors."""
    return 0 if rows.spec.factorization.maps else BYTES * ARRAYS * rows.count * math.prod(rows.spec.shape)


def of_inputs(spec: TrialSpec) -> int:
    """Return about how many numbers a lane holds for each input of a function that is differentiated twice."""
    return TWICE * (spec.factorization.cost(spec.shape).buffers + math.prod(spec.shape))


def _own(rows: Rows, *, vectors: bool) -> int:
    """Return about how many numbers a lane holds whose loss is differentiated, besides those of inputs; with ``vectors`` twice, and those
    of Lanczos' method."""
    spec = rows.spec
    size, parameters = math.prod(spec.shape), sum(math.prod(shape) for shape in spec.factor_shapes.values())
    held, copied = 3 * parameters, 0
    if spec.factorization.maps:
        # Gradients by the inputs of one problem beside those by others'.
        copied = 3 * parameters if rows.problems > 1 else 0
    else:
        # Entries with their mask; or predictions, by measurements of which each lane has a copy unless all share them.
        held += spec.factorization.cost(spec.shape).buffers + (size + 2 * rows.seen if spec.problem.sensing else 4 * size)
        copied = rows.seen * size if spec.problem.sensing and rows.problems > 1 else 0
    if not vectors:
        return held + copied
    steps = min(parameters, ITERATIONS)
    return 2 * held + copied + steps * (parameters + steps)


def side_by_side(rows: Rows, *, vectors: bool = False) -> int:
    """Return how many lanes are differentiated side by side; with ``vectors`` twice, by Lanczos' method."""
    inputs = min(INPUTS, rows.seen) * of_inputs(rows.spec) if rows.spec.factorization.maps else 0
    return max(1, NUMBERS // (_own(rows, vectors=vectors) + inputs))


def differentiated(rows: Rows, *, vectors: bool = False) -> int:
    """Return the bytes that it takes to differentiate the losses of lanes; with ``vectors`` twice, by Lanczos' method."""
    lanes = min(rows.count, side_by_side(rows, vectors=vectors))
    numbers = lanes * _own(rows, vectors=vectors)
    if rows.spec.factorization.maps:
        # Those of one problem after another's.
        each = -(-lanes // rows.problems) * of_inputs(rows.spec)
        # A gradient alone holds half of it.
        numbers += min(each * rows.seen, max(NUMBERS, each)) // (1 if vectors else 2)
    return BYTES * numbers


def solved(rows: Rows, kind: str) -> int:
    """Return the bytes that it takes to solve lanes' problems by a factorization of a ``kind``, and to keep the solutions."""
    one = rows.spec.model_copy(
        update={"factorization": FACTORIZATIONS[kind](), "init": None, "optimizer": None, "loss": DEFAULT_LOSS, "dtype": "float64"}
    )
    # Measurements are made orthonormal beside what they were. A solution is kept of each problem, and repeated for each lane afterwards.
    each = lane_cost(one, rows.seen).bytes + measurement_bytes(one, rows.seen) * 3 // 2
    size = BYTES * math.prod(one.shape)
    return rows.problems * size + max(min(rows.problems, SOLVED) * each, 2 * rows.count * size)
