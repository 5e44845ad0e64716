"""Programs that are lists of operations, each into a buffer made once."""

from __future__ import annotations

from workloads.factorizations.programs.maps import Operation


class ListedProgram:
    """See `workloads.factorizations.base.Program`: what a forward pass does one after another, and what a backward pass does."""

    def __init__(self) -> None:
        self._forward: list[Operation] = []
        self._backward: list[Operation] = []

    def forward(self) -> None:
        for operation in self._forward:
            operation()

    def backward(self) -> None:
        for operation in self._backward:
            operation()
