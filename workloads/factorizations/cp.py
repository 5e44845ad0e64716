"""CP factorization (arXiv 2102.09972, equation 2): factors ``A1`` ... ``AN``, A_n of shape [d_n, C]."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from workloads.factorizations.base import Cost, Factorization, Program
from workloads.factorizations.programs.modes import split_modes
from workloads.mode_tree import khatri_rao
from workloads.section import Conflict, Count

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.factorizations.base import Matrix


class Cp(Factorization):
    """W = sum over r of a_r^1 x ... x a_r^N, ``components`` terms: by default the largest possible rank."""

    kind = "cp"
    example = "{kind: cp, components: 64}"
    derived = ("components",)

    components: Count | None = None
    """Number of rank-one terms: by default the largest possible rank, the product of all dimensions but the largest."""

    def terms(self, shape: tuple[int, ...]) -> int:
        """See `Factorization.terms`: the product of all dimensions but the largest, unless given."""
        return self.components or math.prod(shape) // max(shape)

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if len(shape) < 2:
            yield "factorization.kind", f"cp is for matrices and tensors, but shape is {list(shape)}: use diagonal or linear"
            return
        yield from super().conflicts(shape)

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {f"A{mode}": (n, self.terms(shape)) for mode, n in enumerate(shape, 1)}

    def resolved(self, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"components": self.terms(shape)}

    def program_key(self, shape: tuple[int, ...]) -> object:
        return self.kind

    def product(self, *factors: Tensor) -> Tensor:
        return self.products([f.unsqueeze(0) for f in factors])[0]

    def products(self, factors: Sequence[Tensor]) -> Tensor:
        shape = tuple(f.shape[1] for f in factors)
        middle = split_modes(shape)
        left, right = khatri_rao(factors[:middle]), khatri_rao(factors[middle:])
        whole: Tensor = (left @ right.mT).view(len(left), *shape)
        return whole

    def program(self, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> Program:
        from workloads.factorizations.programs.cp import CpProgram

        return CpProgram(params, grads, outer)

    def cost(self, shape: tuple[int, ...]) -> Cost:
        middle, size, terms = split_modes(shape), math.prod(shape), self.terms(shape)
        left, right = math.prod(shape[:middle]), math.prod(shape[middle:])
        sides = (left if middle > 1 else 0) + (right if middle < len(shape) - 1 else 0)
        return Cost(6 * size * terms + 5 * sides * terms, 3 * sides * terms + size, 3 * (len(shape) - 1))

    def component_norms(self, factors: Sequence[Tensor]) -> Tensor:
        """See `Factorization.component_norms`: the products of the vectors' norms."""
        import torch

        return torch.stack([f.square().sum(1).sqrt() for f in factors]).prod(0)

    def unbalancedness(self, factors: Sequence[Tensor]) -> Tensor:
        """See `Factorization.unbalancedness`: the largest difference of squared norms of two vectors of a component."""
        import torch

        squares = torch.stack([f.square().sum(1) for f in factors], 1)
        return (squares.amax(1) - squares.amin(1)).amax(1)

    def balanced(self, factors: list[Matrix]) -> list[Matrix]:
        """Return factors whose vectors have equal norms within each component; the components stay what they are."""
        import numpy as np

        norms = np.stack([np.linalg.norm(f, axis=0) for f in factors])
        mean = np.exp(np.log(norms, where=norms > 0, out=np.full_like(norms, -np.inf)).mean(0))
        return [f * np.divide(mean, n, out=np.zeros_like(n), where=n > 0) for f, n in zip(factors, norms, strict=True)]

    def determinant_sign(self, factors: list[Matrix]) -> float:
        import numpy as np

        left, right = factors
        return float(np.linalg.slogdet(left @ right.T)[0])

    def reflected(self, factors: list[Matrix]) -> list[Matrix]:
        first, *others = (f.copy() for f in factors)
        first[0] *= -1
        return [first, *others]

    def singular(self, shape: tuple[int, ...]) -> str:
        return f"fewer than {min(shape)} components make the determinant zero" if self.terms(shape) < min(shape) else ""
