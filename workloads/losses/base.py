"""What all losses have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import SerializerFunctionWrapHandler, model_serializer

from workloads.kinds import Kind, Registry

if TYPE_CHECKING:
    from torch import Tensor

LOSSES: Registry[Loss] = Registry("loss")


class Loss(Kind):
    """A multiple of the sum of squared residuals over the observations. One without keys is written as the name of its kind alone."""

    registry: ClassVar[Registry[Any]] = LOSSES

    @abstractmethod
    def value(self, residual: Tensor) -> Tensor:
        """Return the loss of one run's residuals [N]."""

    @abstractmethod
    def factor(self, count: int) -> float:
        """Return c in c * sum of r^2 over ``count`` residuals r."""

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> Any:
        fields = handler(self)
        return {"kind": self.kind, **fields} if fields else self.kind
