"""Deep matrix factorization (arXiv 1905.13655, equation 2): factors ``W1`` ... ``WL``, W_l of shape [width_l, width_(l-1)]."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from workloads.factorizations.base import Cost, Factorization, Program
from workloads.section import Conflict, Count, Counts

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.factorizations.base import Matrix

LARGEST_DEPTH = 1000


class DeepMatrix(Factorization):
    """W = W_L ... W_1 with L = ``depth`` factors; ``widths`` are the L - 1 hidden ones, from W_1's output to W_L's input."""

    kind = "deep_matrix"
    chained = True
    example = "{kind: deep_matrix, depth: 3, widths: [20, 10]}"
    derived = ("widths",)

    depth: Annotated[Count, Field(le=LARGEST_DEPTH)]
    """Number of factors L; 1 is the matrix itself."""
    widths: Counts | Count | None = None
    """The L - 1 hidden widths, or one for all of them: by default the smaller dimension of the matrix."""

    def hidden(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the hidden widths, ``min(shape)`` unless given."""
        if isinstance(self.widths, tuple):
            return self.widths
        return (min(shape) if self.widths is None else self.widths,) * (self.depth - 1)

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        rows, columns = shape
        widths = (columns, *self.hidden(shape), rows)
        return {f"W{layer}": (out, into) for layer, (into, out) in enumerate(pairwise(widths), 1)}

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        hidden = self.depth - 1
        if isinstance(self.widths, tuple):
            if len(self.widths) != hidden:
                yield "factorization.widths", f"depth {self.depth} has {hidden} hidden widths, not {len(self.widths)}"
        elif self.widths is not None and hidden == 0:
            yield "factorization.widths", "has no effect at depth 1: there is no hidden width"
        if len(shape) != 2:
            other = "use one of tensors, such as cp or tucker" if len(shape) > 2 else "use diagonal, convolutional or linear"
            yield "factorization.kind", f"deep_matrix is for matrices, but shape is {list(shape)}: {other}"
            return
        yield from super().conflicts(shape)

    def resolved(self, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"widths": list(self.hidden(shape))}

    def identity(self, shape: tuple[int, ...]) -> dict[str, Any]:
        # The widths tell the depth.
        return {"kind": self.kind, "widths": self.hidden(shape)}

    def program_key(self, shape: tuple[int, ...]) -> object:
        return self.kind

    def product(self, *factors: Tensor) -> Tensor:
        return reduce(lambda below, factor: factor @ below, factors)

    def products(self, factors: Sequence[Tensor]) -> Tensor:
        return self.product(*factors)

    def program(self, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> Program:
        from workloads.factorizations.programs.deep_matrix import DeepMatrixProgram

        return DeepMatrixProgram(params, grads, outer)

    def cost(self, shape: tuple[int, ...]) -> Cost:
        columns, above = shape[1], list(self.shapes(shape).values())[1:]
        flops = sum(6 * columns * out * into for out, into in above)
        # The prefix products, and the gradients of all of them but the last, which is dL/dW.
        buffers = columns * (sum(out for out, _ in above) + sum(out for out, _ in above[:-1]))
        return Cost(flops, buffers, 3 * max(self.depth - 1, 1))

    def unbalancedness(self, factors: Sequence[Tensor]) -> Tensor:
        """See `Factorization.unbalancedness`: the largest ||W_(l+1)^T W_(l+1) - W_l W_l^T||_F of neighbours; 0 at depth 1."""
        import torch

        apart = [(above.mT @ above - below @ below.mT).flatten(1).norm(dim=1) for below, above in pairwise(factors)]
        return torch.stack(apart).amax(0) if apart else factors[0].new_zeros(len(factors[0]))

    def factor_scale(self, product_scale: float, shape: tuple[int, ...], *, independent: bool) -> float:
        """See `Factorization.factor_scale`.

        A product of L Gaussian factors has entries of standard deviation scale^L * sqrt(product of the hidden widths); a product of
        identities or of orthogonal matrices has the scale scale^L.
        """
        paths = math.prod(self.hidden(shape)) if independent else 1
        return float((product_scale / math.sqrt(paths)) ** (1 / self.depth))

    # Multiplying balanced factors that were drawn one by one would change the product's distribution.
    def product_deviation(self, scale: float, shape: tuple[int, ...]) -> float:
        return float(scale**self.depth * math.sqrt(math.prod(self.hidden(shape))))

    def taken_apart(self, product: Matrix, shape: tuple[int, ...]) -> list[Matrix]:
        """Return factors of ``product`` [m, n] with the singular values shared out evenly (arXiv 1810.02281, procedure 1)."""
        import numpy as np

        if self.depth == 1:
            return [product]
        u, s, vt = np.linalg.svd(product, full_matrices=False)
        root = s ** (1 / self.depth)
        factors = []
        for layer, (rows, columns) in enumerate(self.shapes(shape).values()):
            left = u if layer == self.depth - 1 else np.eye(rows, len(s))
            right = vt if layer == 0 else np.eye(len(s), columns)
            factors.append(left @ (root[:, None] * right))
        return factors

    def balanced(self, factors: list[Matrix]) -> list[Matrix]:
        """Return balanced factors, W_(l+1)^T W_(l+1) = W_l W_l^T, of the same product; rank beyond the hidden widths is cut off."""
        product = reduce(lambda below, factor: factor @ below, factors)
        return self.taken_apart(product, product.shape)

    def determinant_sign(self, factors: list[Matrix]) -> float:
        import numpy as np

        if all(f.shape[0] == f.shape[1] for f in factors):
            # Of each factor: their product may underflow.
            return math.prod(float(np.linalg.slogdet(f)[0]) for f in factors)
        return float(np.linalg.slogdet(reduce(lambda below, factor: factor @ below, factors))[0])

    def reflected(self, factors: list[Matrix]) -> list[Matrix]:
        *others, last = (f.copy() for f in factors)
        last[0] *= -1
        return [*others, last]

    def singular(self, shape: tuple[int, ...]) -> str:
        return f"a hidden width below {min(shape)} makes the determinant zero" if any(w < min(shape) for w in self.hidden(shape)) else ""
