"""What the fused engine knows of a factorization: a kernel that trains lanes of it. No torch here: planning asks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from workloads.engines.rates import Rates
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.engines.lanes import Lanes

Steps = NDArray[np.int64]
Losses = NDArray[np.float64]


class Layout(Protocol):
    """A set of lanes in the layout of a kernel."""

    lanes: Lanes
    params: list[Tensor]

    def run(self, left: Steps, goals: Losses) -> tuple[Steps, Losses]:
        """Launch the kernel with at most ``left`` [R] steps and losses ``goals`` [R] to stop at; the steps done and the losses, [R]."""


class Kernel(ABC):
    """A kernel for one kind of factorization."""

    @abstractmethod
    def why_not(self, spec: TrialSpec, *, cuda: bool) -> str:
        """Return why it cannot train ``spec`` well, on a GPU with ``cuda``; empty where it can."""

    @abstractmethod
    def seconds(self, specs: Sequence[TrialSpec], steps: Sequence[int], rates: Rates) -> float:
        """Return the seconds that lanes of ``specs`` take for so many ``steps`` each."""

    @abstractmethod
    def layout(self, lanes: Lanes, *, threads: bool) -> Layout:
        """Return the lanes in the kernel's layout; ``threads``: each lane is to have a thread of its own, as on a GPU."""


KERNELS: dict[str, Kernel] = {}
"""Written by hand, by the kind of factorization."""
