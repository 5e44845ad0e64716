"""A user's factorization or loss, tried: before anything is trained by it, and at more length by ``orchestrate check``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workloads.extensions.loading import place_of
from workloads.extensions.locating import ExtensionError, explained, within
from workloads.factorizations import Factorization
from workloads.kinds import Kind
from workloads.losses import Loss

if TYPE_CHECKING:
    from torch import Tensor

TRY_SECONDS = 60.0
"""How long a product of some lanes may take where it is tried."""
LANES = 3
SCALE = 0.1
"""Standard deviation of the factors' entries: as of a start, since a product may refuse large ones."""
SLOPE, STEP = 1e-5, 1e-6
"""By how much a gradient may differ from finite differences, relative to its size; and the step of these, relative to the factors'."""


def try_factorization(factorization: Factorization, shape: tuple[int, ...], seconds: float = TRY_SECONDS) -> list[Tensor]:
    """Compute some lanes of a user's factorization. Returns their factors [R, ...].

    Raises `ExtensionError` for shapes that are none, a product that cannot be computed in so many ``seconds`` or has another shape, and
    for lanes that depend on each other, or whose gradient cannot be computed.
    """
    import torch

    factors = drawn(shapes_of(factorization, shape))
    if type(factorization).product is Factorization.product:
        whole: Any = products(factorization, factors, seconds)[0]
    else:
        single = [factor[0] for factor in factors]
        whole = _called(factorization, "product", lambda: factorization.product(*single), seconds)
    if not hasattr(whole, "shape") or tuple(whole.shape) != shape:
        found = list(whole.shape) if hasattr(whole, "shape") else type(whole).__name__
        where = place_of(_method(factorization, "product"))
        raise ExtensionError(f"{where}: product of {factorization.kind} is {found}, not {list(shape)}")
    if (which := mixing(factorization, factors, seconds)) is not None:
        raise ExtensionError(which)
    gradients(factorization, factors, torch.ones(len(factors[0]), *shape, dtype=torch.float64))
    return factors


def shapes_of(factorization: Factorization, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
    """Return the factors' shapes. Raises `ExtensionError` for what are none."""
    found: Any = _called(factorization, "shapes", lambda: factorization.shapes(shape), TRY_SECONDS)
    where = place_of(_method(factorization, "shapes"))
    if not isinstance(found, Mapping) or not found:
        raise ExtensionError(f"{where}: shapes of {factorization.kind} is {type(found).__name__}, and not the factors' shapes by name")
    for name, sizes in found.items():
        whole = isinstance(sizes, tuple) and all(type(size) is int and size > 0 for size in sizes)
        if not isinstance(name, str) or not name.isidentifier() or not whole or not sizes:
            raise ExtensionError(f"{where}: shapes of {factorization.kind} has {name}: {sizes!r}, and not a tuple of whole numbers above 0")
    return found


def drawn(shapes: Mapping[str, tuple[int, ...]], lanes: int = LANES) -> list[Tensor]:
    """Return factors [R, ...] in float64, always the same ones."""
    import torch

    rng = torch.Generator().manual_seed(0)
    return [SCALE * torch.randn(lanes, *sizes, generator=rng, dtype=torch.float64) for sizes in shapes.values()]


def products(factorization: Factorization, factors: Sequence[Tensor], seconds: float = TRY_SECONDS) -> Tensor:
    """Return the products [R, *shape] of factors [R, ...]. Raises `ExtensionError`."""
    found: Tensor = _called(factorization, "products", lambda: factorization.products(factors), seconds)
    return found


def gradients(factorization: Factorization, factors: Sequence[Tensor], outer: Tensor) -> list[Tensor]:
    """Return the gradients [R, ...] of the sum of the products [R, *shape] times ``outer``. Raises `ExtensionError`."""
    import torch

    def call() -> list[Tensor]:
        grads = [torch.zeros_like(factor) for factor in factors]
        program = factorization.program(factors, grads, outer.flatten(1))
        program.forward()
        program.backward()
        return grads

    found: list[Tensor] = _called(factorization, "product", call, TRY_SECONDS)
    return found


def mixing(factorization: Factorization, factors: Sequence[Tensor], seconds: float = TRY_SECONDS) -> str | None:
    """Return in words that lanes depend on each other, if they do: another's factors must change no bit of theirs."""
    before = products(factorization, factors, seconds)
    same = True
    for lane in (0, len(before) - 1):
        changed = [factor.clone() for factor in factors]
        for factor in changed:
            factor[lane] = SCALE / 2 - factor[lane]
        others = [other for other in range(len(before)) if other != lane]
        same &= _equal(before[others], products(factorization, changed, seconds)[others])
    if same and _equal(before, products(factorization, factors, seconds)):
        return None
    method = "product" if type(factorization).products is Factorization.products else "products"
    return f"{place_of(_method(factorization, method))}: {method} of {factorization.kind} mixes runs: what one has changes another's"


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same numbers, or none, in the same places."""
    return one.nan_to_num(nan=1.5).equal(other.nan_to_num(nan=1.5))


def slope_error(factorization: Factorization, factors: Sequence[Tensor], outer: Tensor) -> float:
    """Return by how much the gradients [R, ...] differ from finite differences, along a direction, relative to their size."""
    import torch

    rng = torch.Generator().manual_seed(1)
    along = [torch.randn(factor.shape, generator=rng, dtype=factor.dtype) for factor in factors]
    found = sum((g * d).flatten(1).sum(1) for g, d in zip(gradients(factorization, factors, outer), along, strict=True))
    sides = []
    for sign in (1, -1):
        moved = [factor + sign * STEP * SCALE * d for factor, d in zip(factors, along, strict=True)]
        sides.append((products(factorization, moved) * outer).flatten(1).sum(1))
    slope = (sides[0] - sides[1]) / (2 * STEP * SCALE)
    return float(((found - slope).abs() / (slope.abs() + (sides[0].abs() + sides[1].abs()) / 2 + 1e-300)).max())


def try_loss(loss: Loss, seconds: float = TRY_SECONDS) -> tuple[Tensor, Tensor, Tensor]:
    """Compute a user's loss of some observations. Returns predictions, observations and losses, each [N].

    Raises `ExtensionError` for one that cannot be computed in so many ``seconds``, mixes observations, is below zero or nowhere finite.
    """
    import torch

    from workloads.engines.pointwise import mixes

    wrong = f"{place_of(type(loss).pointwise)}: pointwise of {loss.kind}"
    if _called(loss, "pointwise", lambda: mixes(loss), seconds):
        raise ExtensionError(f"{wrong} mixes observations, or gives no number for each")
    prediction = torch.linspace(-1.9, 2.1, 12, dtype=torch.float64)
    observed = torch.ones_like(prediction) if loss.signs else torch.full_like(prediction, 0.3)
    each: Tensor = _called(loss, "pointwise", lambda: loss.pointwise(prediction, observed), seconds).detach()
    if not each.isfinite().any():
        raise ExtensionError(f"{wrong} is finite for none of the predictions {prediction[0]:.3g} to {prediction[-1]:.3g}")
    # Of some predictions it may have no value, as what has a logarithm.
    lowest = int(each.nan_to_num(nan=math.inf).argmin())
    if float(each[lowest]) < 0:
        raise ExtensionError(f"{wrong} is {float(each[lowest]):.3g} at {float(prediction[lowest]):.3g}, below zero")
    return prediction, observed, each


def slope_of_loss_error(loss: Loss, prediction: Tensor, observed: Tensor) -> float:
    """Return by how much a loss's derivatives at predictions [N] differ from finite differences, relative to the largest."""
    import torch

    leaf = prediction.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss.pointwise(leaf, observed).sum(), [leaf], materialize_grads=True, allow_unused=True)
    above, below = (loss.pointwise(prediction + sign * STEP, observed) for sign in (1, -1))
    slope = (above - below) / (2 * STEP)
    return float((found - slope).abs().max() / slope.abs().max().clamp(min=1e-300))


def apart_error(factorization: Factorization, factors: Sequence[Tensor]) -> float:
    """Return by how much the products [R, *shape] differ from those of each lane alone, relative to the largest entry; 0 for equal bits."""
    import torch

    together = products(factorization, factors)
    alone = torch.cat([products(factorization, [factor[lane : lane + 1] for factor in factors]) for lane in range(len(together))])
    return float((together - alone).abs().max() / together.abs().max().clamp(min=1e-300))


def _method(kind: Kind, name: str) -> Any:
    return getattr(type(kind), name)


def _called(kind: Kind, name: str, call: Any, seconds: float) -> Any:
    """Return what a method returns. Raises `ExtensionError` for whatever it raises."""
    try:
        return within(seconds, call, f"{name} of {kind.kind}")
    except ExtensionError:
        raise
    except Exception as error:
        words = " ".join(str(error).split())
        where = place_of(_method(kind, name))
        raise ExtensionError(explained(error) or f"{where}: {name} of {kind.kind}: {type(error).__name__}: {words}") from error
