"""The graphs of factorizations, each traced once in a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from workloads.factorizations.graphs.graph import Graph

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Traceable(Protocol):
    """What can have a graph: a ``product`` of one run's factors, and all that tells it from others of its class."""

    @property
    def canonical(self) -> str:
        """Its keys with their values."""

    @property
    def product(self) -> Callable[..., Tensor]:
        """The function that is traced."""

    def shapes(self, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """Return the factors' shapes by name."""


_KNOWN: dict[tuple[object, ...], Graph | str] = {}


def graph_of(factorization: Traceable, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Graph | str:
    """Return the graph of a factorization with factors of ``shapes``, or why it has none."""
    from workloads.factorizations.graphs.tracing import traced

    key = (type(factorization), factorization.canonical, tuple(shapes), dtype)
    if key not in _KNOWN:
        found = traced(factorization.product, shapes, dtype)
        _KNOWN[key] = found if isinstance(found, str) else _tried(found, dtype)
    return _KNOWN[key]


def _tried(graph: Graph, dtype: torch.dtype) -> Graph | str:
    """Return a graph, or why it does not run over lanes: of what is called as it is, nobody knows before."""
    import torch

    from workloads.factorizations.programs.traced import TracedProgram

    if graph.calls:
        params = [torch.rand(3, *shape, dtype=dtype) + 0.5 for shape in graph.parameters]
        program = TracedProgram(graph, params, [torch.empty_like(p) for p in params], torch.ones(3, *graph.shape, dtype=dtype).flatten(1))
        try:
            program.forward()
            program.backward()
        except RuntimeError as error:
            return f"{' and '.join(graph.calls)} cannot be run over lanes: {str(error).splitlines()[0]}"
    return graph
