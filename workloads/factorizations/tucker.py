"""Tucker factorization (Tucker 1966; De Lathauwer, De Moor and Vandewalle 2000)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from workloads.factorizations.base import Factorization
from workloads.section import Conflict, Counts

if TYPE_CHECKING:
    from torch import Tensor


class Tucker(Factorization):
    """W = a core of ``ranks`` [r_1, ..., r_N], multiplied in each mode n by a matrix A_n of shape [d_n, r_n]."""

    kind = "tucker"
    example = "{kind: tucker, ranks: [2, 2, 3]}"

    ranks: Counts
    """Dimensions of the core, one for each mode."""

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"core": self.ranks} | {f"A{n}": (d, r) for n, (d, r) in enumerate(zip(shape, self.ranks, strict=True), 1)}

    def product(self, *factors: Tensor) -> Tensor:
        import torch

        out, *matrices = factors
        for matrix in matrices:
            # The first mode moves to the end: after N turns all are in their places.
            out = torch.tensordot(out, matrix, dims=([0], [1]))
        return out

    def products(self, factors: Sequence[Tensor]) -> Tensor:
        # As `product`, in matrix products over lanes: a quarter of the time of `torch.vmap`.
        out, *matrices = factors
        for matrix in matrices:
            rest = out.shape[2:]
            out = (out.flatten(2).mT @ matrix.mT).view(len(out), *rest, matrix.shape[1])
        return out

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if len(shape) < 3:
            other = ": use deep_matrix" if len(shape) == 2 else ""
            yield "factorization.kind", f"tucker is for tensors of order three or more, but shape is {list(shape)}{other}"
        elif len(self.ranks) != len(shape):
            yield "factorization.ranks", f"needs one for each of {len(shape)} dimensions, not {len(self.ranks)}"
        elif wrong := [n for n, (d, r) in enumerate(zip(shape, self.ranks, strict=True)) if r > d]:
            yield "factorization.ranks", f"{self.ranks[wrong[0]]} is more than the dimension, {shape[wrong[0]]}"
        else:
            yield from super().conflicts(shape)
