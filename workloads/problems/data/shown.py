"""What R lanes see of inputs that a function is looked for of: a few of them in each step, or all."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor

from workloads.problems.data.observations import Observations
from workloads.problems.data.realized import ProblemData, unique


class Shown(Observations):
    """Values of a function are observed, which are to be its ``inputs`` [R, B, D], ``shown`` at once: the first ones unless others are.

    The inputs of distinct problems are held once.
    """

    in_place = True

    def __init__(self, problems: Sequence[ProblemData], dtype: torch.dtype, device: torch.device, shown: int) -> None:
        distinct, which = unique(problems)
        tables = [torch.from_numpy(p.inputs).to(device, dtype) for p in distinct if p.inputs is not None]
        self.table = tables[0] if len(tables) == 1 else torch.cat(tables)
        counts = torch.tensor([len(table) for table in tables], device=device)
        self.counts, self.starts = counts[which], (counts.cumsum(0) - counts)[which]
        self.inputs: Tensor = self.table.new_empty(len(problems), shown, self.table.shape[1])
        self.width = self.size = shown * self.table.shape[1]
        self.show(torch.arange(shown, device=device).expand(len(problems), -1))

    def show(self, chosen: Tensor) -> None:
        places = (chosen + self.starts.unsqueeze(1)).view(-1)
        torch.index_select(self.table, 0, places, out=self.inputs.view(len(places), -1))

    def predict(self, product: Tensor, out: Tensor) -> Tensor:
        return out.copy_(product)

    def residual(self, product: Tensor, out: Tensor) -> Tensor:
        return torch.sub(product, self.inputs.flatten(1), out=out)

    def adjoint(self, residual: Tensor, out: Tensor) -> Tensor:
        return residual

    def observed(self) -> Tensor:
        return self.inputs.flatten(1)

    @property
    def seen(self) -> Tensor:
        """All numbers of what is shown [1, N]."""
        return self.inputs.new_ones(1, self.width, dtype=torch.bool)

    @property
    def drawn(self) -> Tensor:
        return torch.arange(int(self.counts.max()), device=self.counts.device) < self.counts.unsqueeze(1)

    def part(self, lanes: slice) -> Self:
        some = copy(self)
        some.inputs, some.starts, some.counts = self.inputs[lanes], self.starts[lanes], self.counts[lanes]
        return some
