"""Uniform starts, as PyTorch's linear layers have them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workloads.factorizations import Factorization
from workloads.inits.base import Init
from workloads.section import Magnitude

if TYPE_CHECKING:
    from workloads.inits.base import Dims, Files, Matrix, Rng


class Uniform(Init):
    """Independent entries, uniform between ±``scale``/√n for outputs made of n numbers: a matrix's columns, of a bias its layer's."""

    kind = "uniform"
    example = "{kind: uniform}"

    scale: Magnitude = 1.0
    """1 for what PyTorch's linear layers start from."""

    def draw(self, factorization: Factorization, shape: Dims, rng: Rng, files: Files) -> list[Matrix]:
        shapes = factorization.shapes(shape).values()
        bounds = [self.scale / math.sqrt(into) for into in factorization.fan_ins(shape)]
        return [rng.uniform(-bound, bound, s) for s, bound in zip(shapes, bounds, strict=True)]
