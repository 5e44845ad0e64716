"""What baselines have in common that are solved rather than descended to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field

from workloads.factorizations.base import Solver
from workloads.factorizations.whole import Whole
from workloads.section import Finite
from workloads.stepping import Stepping

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.factorizations.programs.douglas_rachford import Norm
    from workloads.problems.data.fitting import Fitting


class Solved(Whole):
    """The matrix or tensor itself, found by solving a convex problem rather than by descent: no start, no optimizer, no loss to stop at."""

    solved: ClassVar[bool] = True


class LeastNorm(Solved):
    """What fits the observations and has the least of some `norm`, with a proof of that by duality."""

    stepping = Stepping(like_params=("shadow",), per_lane={"penalty": 0.0}, scratch=7)

    tolerance: Annotated[Finite, Field(ge=1e-12, lt=1)] = 1e-6
    """The relative duality gap at which it is solved."""

    def norm(self) -> Norm:
        """Return the norm."""
        raise NotImplementedError

    def solver(
        self, lanes: Sequence[Self], shape: tuple[int, ...], fitting: Fitting, state: Mapping[str, list[Tensor]], like: Tensor
    ) -> Solver:
        from workloads.factorizations.programs.douglas_rachford import DouglasRachford

        return DouglasRachford(self.norm(), [lane.tolerance for lane in lanes], shape, fitting, state, like)
