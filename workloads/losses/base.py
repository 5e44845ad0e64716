"""What all losses have in common: a function of a prediction and what was observed of it, added up over the observations."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from workloads.kinds import Kind, Registry
from workloads.problems import Problem
from workloads.section import Conflict

if TYPE_CHECKING:
    from torch import Tensor

LOSSES: Registry[Loss] = Registry("loss")


class Loss(Kind):
    """What training lowers: the sum or the mean of a number for each observation. One without keys is written as its kind's name alone."""

    registry: ClassVar[Registry[Any]] = LOSSES
    reduction: ClassVar[Literal["sum", "mean"]] = "sum"
    """Whether numbers are added up over the observations, or averaged."""
    squares: ClassVar[float | None] = None
    """c where `pointwise` is c (prediction - observation)^2, for which engines have the shortest steps; ``None`` where it is not."""
    smooth: ClassVar[bool] = True
    """False where the Hessian says nothing of how the loss bends, as of what has kinks."""
    signs: ClassVar[bool] = False
    """True where observations are -1 and 1."""

    @classmethod
    def __pydantic_init_subclass__(cls, **given: Any) -> None:
        """Raise `ValueError` for what is set to nothing that it can be."""
        if cls.reduction not in ("sum", "mean"):
            raise ValueError(f'reduction of {cls.__qualname__} must be "sum" or "mean", not {cls.reduction!r}')
        squares: object = cls.squares
        if squares is not None and (isinstance(squares, bool) or not isinstance(squares, int | float) or not 0 < squares < math.inf):
            raise ValueError(f"squares of {cls.__qualname__} must be a number above 0, or None, not {squares!r}")
        for name in ("smooth", "signs"):
            if not isinstance(value := getattr(cls, name), bool):
                raise ValueError(f"{name} of {cls.__qualname__} must be True or False, not {value!r}")
        super().__pydantic_init_subclass__(**given)

    @abstractmethod
    def pointwise(self, prediction: Tensor, observation: Tensor) -> Tensor:
        """Return the loss, never negative, of each of N predictions [N] and observations [N] of one run; none depends on another."""

    def value(self, prediction: Tensor, observation: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the loss of one run's predictions [N] and observations [N], each counted by its ``weights`` [N] where there are any."""
        each = self.pointwise(prediction, observation)
        each = each if weights is None else each * weights
        return each.sum() if self.reduction == "sum" else each.mean()

    def factor(self, count: int) -> float:
        """Return what the sum over ``count`` observations is multiplied by: of `pointwise`, or, with `squares`, of squared residuals."""
        each = 1.0 if self.squares is None else self.squares
        return each / count if self.reduction == "mean" else each

    @property
    def structure(self) -> tuple[object, ...]:
        """What is equal for losses that lanes of one program can have: all multiples of the squares are one."""
        return () if self.squares is not None else (type(self), self.canonical)

    def conflicts(self, problem: Problem) -> Iterator[Conflict]:
        """Yield what the fields' types alone cannot refuse."""
        if self.signs and not problem.sees_signs:
            how = "problem.signs: true makes them so" if "signs" in type(problem).model_fields else f"those of {problem.kind} are others"
            yield "loss", f"is {self.kind}, which is of observations that are -1 or 1: {how}"

    # What is traced (`workloads.factorizations.graphs.known.Traceable`).

    def shapes(self, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of a prediction and an observation, for as many as ``shape`` says."""
        return {"prediction": shape, "observation": shape}

    @property
    def product(self) -> Callable[..., Tensor]:
        """The function that is traced."""
        return self.pointwise

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> Any:
        fields = handler(self)
        return {"kind": self.kind, **fields} if fields else self.kind
