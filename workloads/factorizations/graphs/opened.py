"""Losses that are traced with their numbers as inputs, so that lanes of one program may differ in them. No torch here: planning asks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workloads.losses import Loss
from workloads.section import canonical_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TRIED = 7
"""Predictions on which it is tried that a loss reads its numbers whenever it is called."""
APART = (1.0, 1.25, 0.8)
"""What numbers are multiplied by there."""


def numbers_in(loss: Loss) -> tuple[str, ...]:
    """Return the names of the fields of a ``loss`` that are floating-point numbers."""
    return tuple(name for name in type(loss).model_fields if isinstance(getattr(loss, name), float))


@dataclass(frozen=True)
class Opened:
    """A ``loss`` whose fields ``numbers`` are inputs as well. See `workloads.factorizations.graphs.known.Traceable`."""

    loss: Loss
    numbers: tuple[str, ...]

    @cached_property
    def canonical(self) -> str:
        """What is equal for losses that differ in these numbers alone."""
        fields: dict[str, Any] = self.loss.canonical_fields
        return canonical_json([self.numbers, {key: value for key, value in fields.items() if key not in self.numbers}])

    @property
    def model(self) -> type[Loss]:
        """The class whose code it is."""
        return type(self.loss)

    @property
    def structure(self) -> tuple[object, ...]:
        """See `workloads.losses.Loss.structure`."""
        return self.model, self.canonical

    def shapes(self, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of predictions, observations and each number."""
        return {**self.loss.shapes(shape), **dict.fromkeys(self.numbers, (1,))}

    @property
    def product(self) -> Callable[..., Tensor]:
        """The function that is traced."""

        def pointwise(prediction: Tensor, observation: Tensor, *numbers: Tensor) -> Tensor:
            # Nobody asks for derivatives by them.
            return self._with([number[0].detach() for number in numbers]).pointwise(prediction, observation)

        return pointwise

    def _with(self, values: Sequence[Any]) -> Loss:
        """Return the loss with other numbers, or tensors in their place."""
        changed = self.loss.model_copy(update=dict(zip(self.numbers, values, strict=True)))
        for name in vars(changed).keys() - type(changed).model_fields.keys():
            # What was made of the numbers before.
            vars(changed).pop(name)
        return changed

    def strays(self, dtype: torch.dtype) -> str:
        """Return why the trace is of no use; empty where the loss comes to the same with its numbers as inputs, also with others."""
        import torch

        generator = torch.Generator().manual_seed(2)
        drawn = (3 * torch.randn(2, TRIED, generator=generator, dtype=torch.float64)).to(dtype)
        kept = {name: getattr(self.loss, name) for name in type(self.loss).model_fields}
        for apart in APART:
            values = {name: kept[name] * apart for name in self.numbers}
            try:
                # As a grid would make it.
                other = type(self.loss).model_validate({**kept, **values})
            except ValidationError:
                continue
            with torch.inference_mode(False), torch.enable_grad():
                ends = []
                for call, rest in ((other.pointwise, []), (self.product, [torch.tensor([v], dtype=dtype) for v in values.values()])):
                    leaf = drawn[0].clone().requires_grad_()
                    each = call(leaf, drawn[1], *rest)
                    ends.append((each.detach(), *torch.autograd.grad(each.sum(), [leaf], allow_unused=True, materialize_grads=True)))
            if not all(torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True) for a, b in zip(*ends, strict=True)):
                return f"its {' and '.join(self.numbers)} {'is' if len(self.numbers) == 1 else 'are'} not read whenever it is called"
        return ""
