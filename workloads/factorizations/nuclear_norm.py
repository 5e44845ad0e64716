"""The least nuclear norm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field

from workloads.factorizations.base import Cost, Solver
from workloads.factorizations.solved import Solved
from workloads.section import Conflict, Finite
from workloads.stepping import Stepping

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.problems.data.fitting import Fitting


class NuclearNorm(Solved):
    """The matrix of least nuclear norm that fits the observations; ``tolerance`` is the relative duality gap at which it is solved."""

    kind = "nuclear_norm"
    example = "{kind: nuclear_norm, tolerance: 1e-8}"
    stepping = Stepping(like_params=("shadow",), per_lane={"penalty": 0.0}, scratch=7)

    tolerance: Annotated[Finite, Field(ge=1e-12, lt=1)] = 1e-6
    """The relative duality gap at which it is solved."""

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if len(shape) != 2:
            yield "factorization.kind", f"nuclear_norm is for matrices, but shape is {list(shape)}: use min_frobenius or linear"

    def cost(self, shape: tuple[int, ...]) -> Cost:
        """See `Factorization.cost`: the eigenvectors of the smaller Gram matrix, and three products with them."""
        return Cost(30 * math.prod(shape) * min(shape), 0, 3)

    def solver(
        self, lanes: Sequence[Self], shape: tuple[int, ...], fitting: Fitting, state: Mapping[str, list[Tensor]], like: Tensor
    ) -> Solver:
        from workloads.factorizations.programs.douglas_rachford import DouglasRachford

        return DouglasRachford([lane.tolerance for lane in lanes], shape, fitting, state, like)
