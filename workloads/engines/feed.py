"""What steps need besides gradients and depends on how many have been done: factors of step sizes, and the step for random numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.trial import TrialSpec


class Feed:
    """For R lanes and up to ``longest`` steps of a block: ``factors`` and ``steps`` have a row [R] each, filled from the host, the
    latter one for the step after them, too.

    They are tables rather than arithmetic on the device, so that every engine has them with the same bits.
    """

    def __init__(self, specs: Sequence[TrialSpec], longest: int, dtype: torch.dtype, device: torch.device) -> None:
        self._optimizers = [spec.optimizer for spec in specs]
        first = self._optimizers[0]
        size = (longest, len(specs))
        self.factors = torch.ones(size, dtype=dtype, device=device) if first is not None and first.schedule is not None else None
        # One more: what is seen before the next step may be drawn for it already.
        self.steps = torch.zeros(longest + 1, len(specs), dtype=torch.int64, device=device) if first is not None and first.draws else None

    def fill(self, done: NDArray[np.int64], count: int) -> None:
        """Make the tables those of the next ``count`` steps of lanes that have ``done`` [R]."""
        if self.steps is not None:
            self.steps[: count + 1].copy_(torch.from_numpy(done + np.arange(count + 1)[:, None]))
        if self.factors is None or not count:
            return
        known: dict[tuple[object, int], list[float]] = {}
        columns = []
        for optimizer, start in zip(self._optimizers, done.tolist(), strict=True):
            assert optimizer is not None
            schedule = optimizer.schedule
            assert schedule is not None
            key = (id(schedule), start)
            if key not in known:
                known[key] = [schedule.factor(start + n) for n in range(count)]
            columns.append(known[key])
        self.factors[:count].copy_(torch.tensor(columns, dtype=torch.float64).T)

    def row(self, place: int) -> tuple[Tensor | None, Tensor | None]:
        """Return the factors [R] and the steps [R] of one step of the block."""
        return None if self.factors is None else self.factors[place], None if self.steps is None else self.steps[place]
