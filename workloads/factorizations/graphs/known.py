"""The graphs of factorizations, each traced once in a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from workloads.factorizations.graphs.graph import Graph
from workloads.factorizations.graphs.opened import Opened

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


def model_of(traceable: Traceable) -> type:
    """Return the class whose code it is."""
    return traceable.model if isinstance(traceable, Opened) else type(traceable)


LANES = 3
"""Lanes on which a graph is tried."""
_KNOWN: dict[tuple[object, ...], Graph | str] = {}


def graph_of(factorization: Traceable, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Graph | str:
    """Return the graph of a factorization with factors of ``shapes``, or why it has none."""
    from workloads.factorizations.graphs.tracing import traced

    key = (model_of(factorization), factorization.canonical, tuple(shapes), dtype)
    if key not in _KNOWN:
        found = traced(factorization.product, shapes, dtype)
        found = found if isinstance(found, str) else _tried(found, factorization.product, dtype)
        stray = factorization.strays(dtype) if isinstance(factorization, Opened) and not isinstance(found, str) else ""
        _KNOWN[key] = stray or found
    return _KNOWN[key]


def _tried(graph: Graph, product: Callable[..., Tensor], dtype: torch.dtype) -> Graph | str:
    """Return a graph, or why it is not used: it cannot be run over lanes, or gives other numbers than the ``product`` that it is of.

    PyTorch has more operations, with more arguments, than anybody has thought of: what came of them is held to them.
    """
    import torch

    # Whoever trains remembers nothing, which is what gradients are made of.
    with torch.inference_mode(False), torch.enable_grad():
        return _why_not(graph, product, dtype) or graph


def _why_not(graph: Graph, product: Callable[..., Tensor], dtype: torch.dtype) -> str:
    import torch

    from workloads.factorizations.programs.traced import TracedProgram

    generator = torch.Generator().manual_seed(1)
    for spread in (torch.rand, torch.randn):
        drawn = [spread(LANES, *shape, generator=generator, dtype=torch.float64) for shape in graph.parameters]
        # All positive, then of both signs and larger: what has a limit somewhere has entries on both sides of it.
        params = [(d + 0.5 if spread is torch.rand else 3 * d).to(dtype) for d in drawn]
        outer = torch.randn(LANES, *graph.shape, generator=generator, dtype=torch.float64).to(dtype)
        grads = [torch.empty_like(p) for p in params]
        try:
            program = TracedProgram(graph, params, grads, outer.flatten(1))
            with torch.no_grad():
                program.forward()
                program.backward()
        except Exception as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            return f"{' and '.join(graph.calls) or 'its trace'} cannot be run over lanes: {said}"
        for lane in range(LANES):
            leaves = [p[lane].clone().requires_grad_() for p in params]
            whole = product(*leaves)
            slopes = [torch.zeros_like(leaf) for leaf in leaves]
            if whole.requires_grad:
                slopes = list(torch.autograd.grad(whole, leaves, outer[lane], allow_unused=True, materialize_grads=True))
            found = [program.product[lane].view_as(whole), *(g[lane] for g in grads)]
            if not all(_close(*pair) for pair in zip(found, [whole.detach(), *slopes], strict=True)):
                return "its trace gives other numbers than it does"
    return ""


def _close(one: Tensor, other: Tensor) -> bool:
    """Return whether numbers are the same but for rounding."""
    import torch

    known = other.isfinite()
    largest = float(other[known].abs().max()) if known.any() else 0.0
    bound = torch.finfo(other.dtype).eps ** 0.5
    return torch.allclose(one, other, rtol=bound, atol=bound * largest, equal_nan=True)
