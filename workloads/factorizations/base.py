"""What all factorizations have in common: from parameters to the end-to-end matrix or tensor, and gradients back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from workloads.kinds import Kind, Registry
from workloads.mode_tree import Modes
from workloads.section import LARGEST_SIZE, MADE, Conflict, FileRef, canonical_json
from workloads.stepping import Stepping

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from workloads.problems.data.fitting import Fitting

    Matrix = NDArray[np.float64]

APART = "_apart"
"""Where a factorization keeps that its lanes have to be computed one by one."""
FACTORIZATIONS: Registry[Factorization] = Registry("factorization")
LANE_BY_LANE = 5_000_000
"""Operations that take as long as the step of one lane by PyTorch's autograd, where nothing better is known."""


class Program(Protocol):
    """The forward and backward pass of R lanes, bound to their parameters and gradients [R, ...] and to dL/dW [R, D]."""

    product: Tensor
    """The end-to-end matrix or tensor [R, D]: a buffer, or a view of a parameter."""

    def forward(self) -> None:
        """Bring ``product`` up to date with the parameters."""

    def backward(self) -> None:
        """Fill the gradients from dL/dW, for the parameters of the last forward pass."""


class Solver(Protocol):
    """What finds the parameters of R lanes by other means than descent."""

    def step(self, done: NDArray[np.int64], active: NDArray[np.bool_], until: NDArray[np.int64]) -> tuple[Tensor | None, NDArray[np.bool_]]:
        """Take a step of the lanes that are ``active`` [R], which have ``done`` [R] steps and are looked at next after ``until`` [R].

        Returns solutions [R, D], or ``None`` where nobody has to look, and which lanes are solved by them [R].
        """


@dataclass(frozen=True)
class Cost:
    """What a lane costs in the batched engine: operations a step, and numbers held beside parameters and their gradients.

    ``products`` is how many small matrix products, or what takes as long as one, a step is made of.
    """

    flops: int
    buffers: int
    products: int


class Factorization(Kind):
    """A way to write the matrix or tensor by parameters that are trained.

    A new kind has a ``kind``, its keys as fields, `shapes` and `product`. All else has a default: gradients are autograd's, over lanes.
    """

    registry: ClassVar[Registry[Any]] = FACTORIZATIONS
    starts: ClassVar[bool] = True
    """False where all lanes start from zero: an ``init`` has no effect then."""
    solved: ClassVar[bool] = False
    """True where the parameters are found by `solver` rather than by descent: an ``optimizer`` has no effect then."""
    stepping: ClassVar[Stepping] = Stepping()
    """The state that `solver` keeps."""
    chained: ClassVar[bool] = False
    """True where the product is that of all factors as matrices, the first one rightmost."""
    maps: ClassVar[bool] = False
    """True where it is a function of inputs, with `encoded`, `decoded` and `mapped` in place of a product; `cost` is that of one input."""
    derived: ClassVar[tuple[str, ...]] = ()
    """Keys whose defaults follow from the shape."""

    @classmethod
    def __pydantic_init_subclass__(cls, **named: Any) -> None:
        # What a base has written of its own product, by hand, is not true of another one.
        if "product" in vars(cls) and "products" not in vars(cls):
            cls.products = Factorization.products  # type: ignore[method-assign]
        if "products" in vars(cls) and "product" not in vars(cls):
            # Of one run it is that of a lone lane: what a base has is another product.
            cls.product = _of_a_lone_lane  # type: ignore[method-assign, assignment]
        if {"product", "products"} & vars(cls).keys() and "program" not in vars(cls):
            cls.program = Factorization.program  # type: ignore[method-assign]
        super().__pydantic_init_subclass__(**named)

    @property
    def structure(self) -> tuple[str, ...]:
        """See `workloads.optimizers.Optimizer.structure`: of what is solved."""
        return (self.kind,)

    def shapes(self, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """Return the factors' shapes by name, for a matrix or tensor of ``shape``."""
        raise NotImplementedError

    def product(self, *factors: Tensor) -> Tensor:
        """Return the end-to-end matrix or tensor [*shape] of one run's factors."""
        raise NotImplementedError

    def products(self, factors: Sequence[Tensor]) -> Tensor:
        """Return the end-to-end matrices or tensors [R, *shape] of R lanes' factors [R, ...].

        A ``product`` that looks at numbers, as an ``if`` does, is called for one lane after another.
        """
        import torch

        if not vars(self).get(APART):
            try:
                out: Tensor = torch.vmap(self.product)(*factors)
                return out
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                # What looks at numbers, or knows no lanes but PyTorch's own: from now on. What else is wrong it says itself, without lanes.
                vars(self)[APART] = True
        return torch.stack([self.product(*lane) for lane in zip(*factors, strict=True)])

    def program(self, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> Program:
        """Return a training step bound to parameters and gradients [R, ...] and to dL/dW ``outer`` [R, D]."""
        from workloads.factorizations.programs.differentiated import differentiated

        return differentiated(self, params, grads, outer)

    def encoded(self, factors: Sequence[Tensor], inputs: Tensor) -> Tensor:
        """Return what R lanes' factors [R, ...] make of inputs [R or 1, B, D] in their midst [R, B, K]."""
        raise NotImplementedError(f"factorization {self.kind} is no function of inputs")

    def decoded(self, factors: Sequence[Tensor], codes: Tensor) -> Tensor:
        """Return the values [R, B, D] that belong to ``codes`` [R, B, K]."""
        raise NotImplementedError(f"factorization {self.kind} is no function of inputs")

    def code_width(self) -> int | None:
        """Return K, the numbers of a code; ``None`` where there are none."""
        return None

    def mapped(self, params: Sequence[Tensor], grads: Sequence[Tensor], inputs: Tensor, outer: Tensor) -> Program:
        """Return a training step as `program` does, of a function's values [R, B * D] for ``inputs`` [R, B, D], which may change."""
        raise NotImplementedError(f"factorization {self.kind} is no function of inputs")

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        """Yield what the fields' types alone cannot refuse."""
        parameters = sum(math.prod(s) for s in self.shapes(shape).values())
        if parameters > LARGEST_SIZE:
            yield "factorization", f"has {parameters:,} parameters, more than the {LARGEST_SIZE:,} that can be trained"

    def ineffective(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        """Yield the keys that make no difference to a matrix or tensor of ``shape``, though they may to others of a grid."""
        return iter(())

    def input_conflicts(self, inputs: FileRef) -> Iterator[Conflict]:
        """Yield why the numbers in a file of ``inputs`` are no values of the function, once its ``span`` is known."""
        return iter(())

    def resolved(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return the keys that are `derived`, with their values."""
        return {}

    def identity(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return what makes two factorizations of this shape the same, as part of the trial's id."""
        return {**self.canonical_fields, **self.resolved(shape)}

    def canonical_in(self, shape: tuple[int, ...]) -> str:
        """Return `identity` as JSON. Made once: trials by the thousand share a factorization."""
        known: dict[tuple[int, ...], str] = vars(self).setdefault(MADE, {})
        if shape not in known:
            known[shape] = canonical_json(self.identity(shape))
        return known[shape]

    def program_key(self, shape: tuple[int, ...]) -> object:
        """Return what is equal for two factorizations whose lanes one program can hold, factors of the same shapes given."""
        return canonical_json(self.identity(shape))

    def cost(self, shape: tuple[int, ...]) -> Cost:
        """Return what the product and its gradient cost a lane."""
        from workloads.factorizations.graphs.facts import facts_of

        facts = facts_of(self, shape)
        if facts.why:
            return Cost(LANE_BY_LANE, 2 * math.prod(shape), 1)
        return Cost(facts.flops, facts.numbers, facts.products + facts.steps // 4)

    @property
    def differentiated(self) -> bool:
        """True if its steps are known from `product` alone."""
        return not self.solved and not self.maps and type(self).program is Factorization.program

    def terms(self, shape: tuple[int, ...]) -> int | None:
        """Return how many components of rank one the product is a sum of; ``None`` where it is none."""
        return None

    def component_norms(self, factors: Sequence[Tensor]) -> Tensor:
        """Return the Frobenius norms [R, C] of the components of R lanes' factors [R, ...]."""
        raise NotImplementedError(f"factorization {self.kind} has no components")

    def nodes(self, order: int) -> tuple[Modes, ...]:
        """Return the modes, in rising order, below each node that has components, of a tree of ``order`` modes; none without a tree."""
        return ()

    def node_terms(self, shape: tuple[int, ...], modes: Modes) -> int:
        """Return how many components one of the `nodes` has."""
        raise NotImplementedError(f"factorization {self.kind} has no nodes")

    def node_component_norms(self, factors: Sequence[Tensor], modes: Modes) -> Tensor:
        """Return the norms [R, C] of the components of one of the `nodes`."""
        raise NotImplementedError(f"factorization {self.kind} has no nodes")

    def unbalancedness(self, factors: Sequence[Tensor]) -> Tensor:
        """Return how far R lanes' factors are from what gradient flow keeps apart or together [R]; 0 where they are balanced."""
        raise NotImplementedError(f"factorization {self.kind} does not know what balance is")

    @property
    def knows_balance(self) -> bool:
        """True if `unbalancedness` has a meaning here."""
        return type(self).unbalancedness is not Factorization.unbalancedness

    # What starts ask for.

    def fan_ins(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return of how many numbers each factor's output is made: of a matrix its columns, of more axes all but the first."""
        return tuple(math.prod(s[1:]) for s in self.shapes(shape).values())

    def factor_scale(self, product_scale: float, shape: tuple[int, ...], *, independent: bool) -> float:
        """Return the scale of a factor that gives the product's entries ``product_scale``.

        ``independent``: the factors' entries are independent random numbers, else they are scaled orthonormal rows or columns.
        """
        raise NotImplementedError(f"factorization {self.kind} does not know what scale its product has")

    @property
    def scales_products(self) -> bool:
        """True if `factor_scale` is known."""
        return type(self).factor_scale is not Factorization.factor_scale

    def product_deviation(self, scale: float, shape: tuple[int, ...]) -> float | None:
        """Return the standard deviation of the product's entries for independent factors of ``scale``.

        ``None`` where balanced starts draw factors and balance those, rather than the product to take it apart.
        """
        return None

    def taken_apart(self, product: Matrix, shape: tuple[int, ...]) -> list[Matrix]:
        """Return balanced factors of a ``product`` that was drawn."""
        raise NotImplementedError(f"factorization {self.kind} draws factors")

    def balanced(self, factors: list[Matrix]) -> list[Matrix]:
        """Return balanced factors of the same product."""
        raise NotImplementedError(f"factorization {self.kind} has no balanced starts")

    @property
    def balances(self) -> bool:
        """True if `balanced` has a meaning here."""
        return type(self).balanced is not Factorization.balanced

    def determinant_sign(self, factors: list[Matrix]) -> float:
        """Return the sign of the determinant of a square product: -1, 0 or 1."""
        import numpy as np
        import torch

        product = self.product(*(torch.from_numpy(f) for f in factors))
        return float(np.linalg.slogdet(product.numpy())[0])

    def reflected(self, factors: list[Matrix]) -> list[Matrix]:
        """Return factors of a product with one row negated: its determinant has the other sign, and a Gaussian start is as likely."""
        raise NotImplementedError(f"factorization {self.kind} does not know how to change the sign of a determinant")

    @property
    def reflects(self) -> bool:
        """True if `reflected` is known."""
        return type(self).reflected is not Factorization.reflected

    def singular(self, shape: tuple[int, ...]) -> str:
        """Return why all products of a square ``shape`` are singular; empty where they are not."""
        return ""

    def solver(
        self, lanes: Sequence[Self], shape: tuple[int, ...], fitting: Fitting, state: Mapping[str, list[Tensor]], like: Tensor
    ) -> Solver:
        """Return what takes the steps of R ``lanes``, with their ``state``; ``like`` [R, D] is a tensor as solutions are."""
        raise NotImplementedError(f"factorization {self.kind} is trained")


def _of_a_lone_lane(factorization: Factorization, *factors: Tensor) -> Tensor:
    """`Factorization.product` of what has `Factorization.products` alone."""
    return factorization.products([f.unsqueeze(0) for f in factors])[0]
