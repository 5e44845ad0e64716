"""The protocol all engines share, and the table of engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workloads.engines.lanes import Lanes


class Engine(Protocol):
    """Advances lanes; knows nothing of measures, Ray or MLflow."""

    name: str

    def advance(self, lanes: Lanes, until_step: NDArray[np.int64], until_loss: NDArray[np.float64], limit: int) -> NDArray[np.bool_]:
        """Train ``lanes`` in place until at least one active lane has arrived, and return which have [R].

        A lane arrives at the first step, its present one included, at which it has done ``until_step`` [R] steps, or its loss is at
        most ``until_loss`` [R], or its loss is not finite, or the engine marks it as ``solved``. It is never taken further, so
        ``lanes.step`` and ``lanes.loss`` are exact. Lanes that have not arrived may stand anywhere short of it. After about ``limit``
        steps it returns even if none has arrived. Where it raises `torch.OutOfMemoryError`, each lane's parameters, state and ``step``
        belong together.
        """
        ...

    def release(self) -> None:
        """Let go of all buffers: they are made anew for the lanes of the next call."""
        ...


def create(name: str) -> Engine:
    """Return the engine called ``name``. Raises `KeyError` for a name that is not in the table."""
    return _ENGINES[name]()


def _autograd() -> Engine:
    from workloads.engines.autograd import AutogradEngine

    return AutogradEngine()


def _batched() -> Engine:
    from workloads.engines.batched import BatchedEngine

    return BatchedEngine()


def _fused() -> Engine:
    from workloads.engines.fused import FusedEngine

    return FusedEngine()


def _convex() -> Engine:
    from workloads.engines.convex import ConvexEngine

    return ConvexEngine()


_ENGINES: dict[str, Callable[[], Engine]] = {"autograd": _autograd, "batched": _batched, "convex": _convex, "fused": _fused}
