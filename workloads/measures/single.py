"""Measures as users write them: functions of one run, a number or a vector each.

They are called for one run after another, so that a run's numbers are the same whatever others are measured beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from workloads.measures import base
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot

RESERVED = frozenset({"step", "steps", "seconds", "outcome", "reason", "error_message", "trial_id", "run_id", "seed", "sv", "component"})
"""Names that columns have already, or whose numbered columns others have."""
SEED, SCALE = 0, 0.1
"""What the run is drawn by on which a measure is tried, and the standard deviation of its factors' entries."""


class NoColumns(ValueError):
    """A measure of a run is neither a number nor a vector."""


@dataclass(frozen=True, eq=False)
class Run:
    """What a measure sees of one run, in float64: the ``product`` [*shape], the ``factors`` by name, the training ``loss``, and the
    ``truth`` [*shape], which is NaN where it is not known."""

    product: Tensor
    factors: Mapping[str, Tensor]
    loss: Tensor
    truth: Tensor

    @cached_property
    def singular_values(self) -> Tensor:
        """The singular values of a matrix in falling order. Raises `ValueError` for a tensor."""
        import torch

        if self.product.dim() != 2:
            raise ValueError(f"singular_values are those of a matrix, and the product has {self.product.dim()} dimensions")
        found: Tensor = torch.linalg.svdvals(self.product)
        return found


def measure(name: str, summary: str | None = None, **fields: Any) -> Callable[[base.F], base.F]:
    """Register the function below, from a `Run` to a number or a vector, as the measure ``name``; a vector fills ``name_0``, ``name_1``, ….

    ``summary`` is what the guide says of it, by default the function's docstring; ``fields`` are `Measure`'s. Raises `ValueError` if the
    name is taken, or cannot be one.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or len(name) > base.MAX_NAME:
        raise ValueError(f"a measure's name has letters, digits and underscores, and begins with a letter, unlike {name!r}")
    if name in RESERVED:
        raise ValueError(f"a measure cannot be called {name}: columns of other things are")

    def register(function: base.F) -> base.F:
        single = _Single(name, function)
        base.enter(base.Measure(re.escape(name), name, single, summary or function.__doc__ or name, columns=single.columns, **fields))
        return function

    return register


class _Single:
    """A function of one run as a measure of R lanes."""

    def __init__(self, name: str, function: Callable[[Run], Any]) -> None:
        self.name, self.function = name, function
        self.__module__, self.__qualname__, self.__wrapped__ = function.__module__, function.__qualname__, function
        self._sizes: dict[object, int | None] = {}

    def columns(self, spec: TrialSpec) -> Sequence[str]:
        """Return the columns for trials of this spec, found out by a run that is drawn. Raises what the function raises."""
        import torch

        key = _key(spec.factorization, spec.shape)
        if key not in self._sizes:
            from workloads.measures.numerics.snapshot import Snapshot

            rng = torch.Generator().manual_seed(SEED)
            params = [SCALE * torch.randn(1, *shape, generator=rng, dtype=torch.float64) for shape in spec.factor_shapes.values()]
            snapshot = Snapshot(spec.factorization, params, torch.ones(1), [_Drawn(spec.shape)], 0.0)  # type: ignore[list-item]
            (value,) = self._values(snapshot)
            self._sizes[key] = None if value.dim() == 0 else len(value)
        size = self._sizes[key]
        return (self.name,) if size is None else [f"{self.name}_{n}" for n in range(size)]

    def __call__(self, snapshot: Snapshot) -> Tensor:
        """Return the numbers of R lanes [R, k]."""
        import torch

        values = [value.reshape(-1) for value in self._values(snapshot)]
        expected = self._sizes.get(_key(snapshot.factorization, snapshot.shape), None) or 1
        wrong = next((value for value in values if len(value) != expected), None)
        if wrong is not None:
            raise ValueError(f"measure {self.name} gave {len(wrong)} numbers for one run, and {expected} when it was tried")
        return torch.stack(values)

    def _values(self, snapshot: Snapshot) -> list[Tensor]:
        import torch

        names = list(snapshot.factorization.shapes(snapshot.shape))
        values = []
        for lane, product in enumerate(snapshot.product):
            factors = dict(zip(names, (p[lane] for p in snapshot.params), strict=True))
            found = self.function(Run(product, factors, snapshot.loss[lane], snapshot.truth[lane]))
            try:
                value = torch.as_tensor(found, dtype=torch.float64).detach()
            except (TypeError, ValueError, RuntimeError) as error:
                raise NoColumns(f"measure {self.name} gave {type(found).__name__}, and neither a number nor a vector") from error
            if value.dim() > 1:
                raise NoColumns(f"measure {self.name} gave an array of {value.dim()} dimensions, and neither a number nor a vector")
            values.append(value)
        return values


def _key(factorization: Any, shape: tuple[int, ...]) -> object:
    return type(factorization), factorization.canonical_in(shape), shape


class _Drawn:
    """Stands for the problem of the run on which a measure is tried: `ProblemData`, as far as a `Run` shows it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        import numpy as np

        self.shape = shape
        self.truth = np.random.default_rng(SEED).standard_normal(shape)
