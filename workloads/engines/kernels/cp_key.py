"""What a CP kernel is generated for."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.engines.kernels.source import simd_width
from workloads.engines.kernels.updates import Update
from workloads.engines.pointwise import Pointwise


@dataclass(frozen=True)
class CpKey:
    """What a kernel is generated for: the tensor's ``shape`` [d_1 ... d_N], the number of ``components``, the ``loss``, ``None`` for
    a multiple of the sum of squares, and the rest of the step."""

    shape: tuple[int, ...]
    components: int
    optimizer: str
    dtype: str
    loss: Pointwise | None = None

    @property
    def width(self) -> int:
        """Components in a ``vec``."""
        return simd_width(self.dtype)

    @property
    def vectors(self) -> int:
        """``vec`` in a row of a factor: the components, with zeros to fill the last."""
        return -(-self.components // self.width)

    @property
    def rows(self) -> int:
        """Rows of all factors."""
        return sum(self.shape)

    @property
    def update(self) -> Update:
        """The optimizer's step."""
        return Update.of(self.optimizer)

    @property
    def workspace(self) -> int:
        """``vec`` of scratch memory: the gradient, and a partial product and a partial gradient a level."""
        return (self.rows + 2 * len(self.shape)) * self.vectors
