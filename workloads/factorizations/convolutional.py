"""Linear convolutional networks of full width (Gunasekar et al. 2018, arXiv 1806.00468, section 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from workloads.factorizations.base import Factorization
from workloads.section import Conflict, Count

if TYPE_CHECKING:
    from torch import Tensor


class Convolutional(Factorization):
    """w = w_1 * ... * w_L, circular convolutions of L = `depth` filters as wide as w, each over the root of the width D.

    So the unitary discrete Fourier transform of w is the product of those of the filters, entry by entry.
    """

    kind = "convolutional"
    example = "{kind: convolutional, depth: 2}"

    depth: Annotated[Count, Field(ge=2, le=1000)]
    """Number of filters L."""

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {f"w{layer}": shape for layer in range(1, self.depth + 1)}

    def product(self, *factors: Tensor) -> Tensor:
        import torch

        out, *others = factors
        places = torch.arange(len(out))
        around = (places.unsqueeze(1) - places) % len(out)
        for factor in others:
            out = out[around] @ factor / math.sqrt(len(out))
        return out

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if len(shape) != 1:
            yield "factorization.kind", f"convolutional is for vectors, but shape is {list(shape)}"
            return
        yield from super().conflicts(shape)
