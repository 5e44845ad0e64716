"""Tensor trains (Oseledets 2011, equation 1.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from workloads.factorizations.base import Factorization
from workloads.section import Conflict, Counts

if TYPE_CHECKING:
    from torch import Tensor


class TensorTrain(Factorization):
    """W[i_1, ..., i_N] = G_1[i_1] G_2[i_2] ... G_N[i_N], a product of matrices; `ranks` are the N - 1 dimensions between them."""

    kind = "tensor_train"
    example = "{kind: tensor_train, ranks: [2, 2]}"

    ranks: Counts
    """TT ranks: what G_n and G_(n+1) have in common, for all n but the last."""

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        first, *between = zip((1, *self.ranks), shape, (*self.ranks, 1), strict=True)
        cores = [first[1:], *between[:-1], between[-1][:2]]
        return {f"G{n}": core for n, core in enumerate(cores, 1)}

    def product(self, *factors: Tensor) -> Tensor:
        out, *others = factors
        for core in others:
            out = (out @ core.flatten(1)).reshape(*out.shape[:-1], *core.shape[1:])
        return out

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if len(shape) < 3:
            other = ": use deep_matrix" if len(shape) == 2 else ""
            yield "factorization.kind", f"tensor_train is for tensors of order three or more, but shape is {list(shape)}{other}"
            return
        if len(self.ranks) != len(shape) - 1:
            yield "factorization.ranks", f"needs one between each two of {len(shape)} dimensions, not {len(self.ranks)}"
            return
        for n, rank in enumerate(self.ranks, 1):
            most = min(math.prod(shape[:n]), math.prod(shape[n:]))
            if rank > most:
                yield (
                    "factorization.ranks",
                    f"{rank} is more than the unfolding after dimension {n} of shape {list(shape)} can have, {most}",
                )
                return
        yield from super().conflicts(shape)
