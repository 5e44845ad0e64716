"""What a CP kernel is generated for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workloads.engines.kernels.options import PLAIN, Options
from workloads.engines.kernels.source import simd_width
from workloads.engines.kernels.updates import Update
from workloads.engines.pointwise import Pointwise


@dataclass(frozen=True)
class CpKey:
    """What a kernel is generated for: the tensor's ``shape`` [d_1 ... d_N], the number of ``components``, and the rest of the step.

    The optimizer's ``options`` are part of that, and the ``loss``, ``None`` for a multiple of the sum of squares.
    """

    shape: tuple[int, ...]
    components: int
    optimizer: str
    dtype: str
    options: Options = PLAIN
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
        return Update.of(self.optimizer, self.options)

    @property
    def workspace(self) -> int:
        """``vec`` of scratch memory: the gradient, a partial product and a partial gradient a level, and what is drawn in a step."""
        return self.drawn + self.options.room(-(-math.prod(self.shape) // self.width), self.dtype)

    @property
    def drawn(self) -> int:
        """Where that begins."""
        return (self.rows + 2 * len(self.shape)) * self.vectors
