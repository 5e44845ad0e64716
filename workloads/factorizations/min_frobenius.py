"""The least Frobenius norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from workloads.factorizations.base import Solver
from workloads.factorizations.solved import Solved
from workloads.stepping import Stepping

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.problems.data.fitting import Fitting


class MinFrobenius(Solved):
    """The matrix or tensor of least Frobenius norm that fits the observations, in one step: where ``linear`` converges to."""

    kind = "min_frobenius"
    example = "{kind: min_frobenius}"
    stepping = Stepping(scratch=3)

    def solver(
        self, lanes: Sequence[Self], shape: tuple[int, ...], fitting: Fitting, state: Mapping[str, list[Tensor]], like: Tensor
    ) -> Solver:
        from workloads.factorizations.programs.projection import Projection

        return Projection(fitting, like)
