"""The step of factorizations that have no hand-written one: the gradient of one run's product, over lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workloads.factorizations.graphs.known import Traceable, graph_of
from workloads.factorizations.programs.traced import TracedProgram


def differentiated(
    factorization: Traceable, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor
) -> TracedProgram | LaneByLane:
    """Return the step of a factorization: its graph's, or lane by lane where it has none."""
    graph = graph_of(factorization, [tuple(p.shape[1:]) for p in params], outer.dtype)
    if isinstance(graph, str):
        return LaneByLane(factorization.product, params, grads, outer)
    return TracedProgram(graph, params, grads, outer)


class LaneByLane:
    """See `workloads.factorizations.base.Program`: of the ``product`` of one run, which PyTorch differentiates lane after lane.

    What is remembered between the passes is Python's: no graph of a GPU can replay it.
    """

    replayed = False

    def __init__(
        self,
        product: Callable[..., Tensor],
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        outer: Tensor,
    ) -> None:
        self._function, self._params, self._grads, self._outer = product, params, grads, outer
        self.product = torch.empty_like(outer)
        self._runs: list[tuple[list[Tensor], Tensor]] = []

    def forward(self) -> None:
        self._runs = []
        for lane in range(len(self._outer)):
            with torch.enable_grad():
                # By `data`, since a step of other lanes in the same tensors does not spoil what is remembered of these.
                leaves = [p.data[lane].requires_grad_() for p in self._params]
                whole = self._function(*leaves)
            self._runs.append((leaves, whole))
            self.product[lane] = whole.detach().flatten()

    def backward(self) -> None:
        for lane, (leaves, whole) in enumerate(self._runs):
            outer = self._outer[lane].view_as(whole)
            found = torch.autograd.grad(whole, leaves, outer, allow_unused=True, materialize_grads=True)
            for mine, gradient in zip(self._grads, found, strict=True):
                mine[lane] = gradient
        self._runs = []
