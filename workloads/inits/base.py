"""What all starts have in common: factors of one trial, on the CPU and in float64, from the trial's own generator.

``balanced`` and ``det_sign`` are applied to whatever a kind draws, so no kind can forget them.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from workloads.amounts import agreeing, amount
from workloads.factorizations import FACTORIZATIONS, Factorization
from workloads.kinds import Kind, Registry
from workloads.section import LARGEST, Conflict, Magnitude, as_tuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Dims = tuple[int, ...]
    Files = Mapping[str, bytes]
    Matrix = NDArray[np.float64]
    Rng = np.random.Generator

INITS: Registry[Init] = Registry("init")
Sign = Literal["positive", "negative"]


class Init(Kind):
    """Where the factors start. ``balanced`` and ``det_sign`` hold for every kind."""

    registry: ClassVar[Registry[Any]] = INITS
    seeded: ClassVar[bool] = True
    """False where `draw` takes nothing from its generator."""

    balanced: bool = False
    """Start from balanced factors with the same product: W_(l+1)^T W_(l+1) = W_l W_l^T."""
    det_sign: Sign | None = None
    """Sign that the determinant of the initial product is to have: one row is reflected where it has the other."""

    def conflicts(self, factorization: Factorization, shape: tuple[int, ...] | None) -> Iterator[Conflict]:
        """Yield what does not go together with a ``factorization`` of ``shape``, which is ``None`` where it is not known."""
        if self.balanced and not factorization.balances:
            yield "init.balanced", f"is not defined for factorization.kind {factorization.kind}"
        if self.det_sign is None or shape is None:
            return
        if len(set(shape)) != 1 or len(shape) != 2:
            yield "init.det_sign", f"needs a square matrix, but shape is {list(shape)}"
        elif not factorization.reflects:
            yield "init.det_sign", f"is not defined for factorization.kind {factorization.kind}"
        elif reason := factorization.singular(shape):
            yield "init.det_sign", f"cannot hold: {reason}"

    def ineffective(self, factorization: Factorization, shape: tuple[int, ...]) -> Iterator[Conflict]:
        """Yield the keys that make no difference to the start of a ``factorization`` of ``shape``, though they may to others of a grid."""
        if self.balanced and len(factorization.shapes(shape)) == 1:
            yield "init.balanced", "has no effect: a single factor has none to be balanced with"

    def data_conflicts(self, factorization: Factorization, shape: tuple[int, ...], contents: Mapping[str, bytes]) -> Iterator[Conflict]:
        """Yield what does not go together with the data file that is named; ``contents`` maps SHA-256 digests to bytes."""
        return iter(())

    @abstractmethod
    def draw(self, factorization: Factorization, shape: Dims, rng: Rng, files: Files) -> list[Matrix]:
        """Return the factors, in the order of `Factorization.shapes`; ``files`` maps SHA-256 digests to the content of data files."""

    def factors(self, factorization: Factorization, shape: tuple[int, ...], seed: int, files: Mapping[str, bytes]) -> list[Matrix]:
        """Return the factors at step 0. Raises `ValueError` when ``det_sign`` is asked of a start whose determinant is zero."""
        from workloads.rng import Stream, generator

        factors = self.draw(factorization, shape, generator(seed, Stream.INIT), files)
        if self.balanced:
            factors = factorization.balanced(factors)
        if self.det_sign is None:
            return factors
        found = factorization.determinant_sign(factors)
        if found == 0:
            raise ValueError("init.det_sign cannot hold: the determinant of the initial product is zero")
        return factors if found == (1.0 if self.det_sign == "positive" else -1.0) else factorization.reflected(factors)


class Scaled(Init):
    """``scale`` is that of one factor, ``scales`` are those of each, ``product_scale`` that of the whole product; one of them is given."""

    independent: ClassVar[bool] = False
    """True where the factors' entries are independent random numbers."""

    scale: Magnitude | None = None
    """That of one factor: the standard deviation of its entries, or what a kind that is not random multiplies by."""
    product_scale: Magnitude | None = None
    """That of the whole product, of which the factors' is made: the standard deviation of its entries, say."""

    scales: Annotated[tuple[Magnitude, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None
    """A scale for each factor, in the order of their names: W1, W2, …, or A1, A2, …."""

    def conflicts(self, factorization: Factorization, shape: tuple[int, ...] | None) -> Iterator[Conflict]:
        given = [name for name in ("scale", "product_scale", "scales") if getattr(self, name) is not None]
        if len(given) > 1:
            yield f"init.{given[1]}", f"has no effect beside init.{given[0]}: give one of them"
        if not given:
            yield "init", "needs scale (one factor's), scales (each factor's) or product_scale (the product's)"
        if self.product_scale is not None and not factorization.scales_products:
            kinds = [kind for kind, model in FACTORIZATIONS.items() if model.factor_scale is not Factorization.factor_scale]
            yield "init.product_scale", f"is for {' and '.join(kinds)}; use init.scale, the scale of one factor"
        if self.scales is not None and shape is not None and len(self.scales) != len(names := list(factorization.shapes(shape))):
            there = f"there {agreeing(len(names), 'is', 'are')} {amount(len(names), 'factor')}"
            yield "init.scales", f"has {amount(len(self.scales), 'value')}, but {there}: {', '.join(names)}"
        wrong = list(super().conflicts(factorization, shape))
        yield from wrong
        if self.balanced and self.product_scale is None and len(given) == 1 and shape is not None and not wrong:
            size = sum(math.log10(scale) for scale in self.factor_scales(factorization, shape))
            if abs(size) > math.log10(LARGEST):
                yield f"init.{given[0]}", f"makes a product near 1e{size:+.0f}, too {'large' if size > 0 else 'small'} to be balanced"

    def factor_scales(self, factorization: Factorization, shape: tuple[int, ...]) -> tuple[float, ...]:
        """Return the scale of each factor: given, or such that the product gets ``product_scale``."""
        if self.scales is not None:
            return self.scales
        scale = self.scale
        if scale is None:
            assert self.product_scale is not None
            scale = factorization.factor_scale(self.product_scale, shape, independent=self.independent)
        return (scale,) * len(factorization.shapes(shape))
