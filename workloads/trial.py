"""What a trial is: the frozen, validated description that determines its numbers.

Each part of a grid file (``problem``, ``factorization``, ``init``, ``optimizer``, ``loss``) is one of the kinds in its registry. Models are
strict: no string becomes a number, no unknown key is dropped. What concerns two parts at once is checked by `conflicts`.

This module imports neither torch nor numpy: planning a grid has to start in a fraction of a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, model_validator

from workloads.factorizations import FACTORIZATIONS, Factorization
from workloads.inits import INITS, Init
from workloads.kinds import Registry
from workloads.losses import LOSSES, Loss
from workloads.optimizers import OPTIMIZERS, Optimizer
from workloads.problems import PROBLEMS, Problem
from workloads.section import UNSET, Conflict, Section, Seed, canonical_json, flatten
from workloads.stop import Stop

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from workloads.factorizations.graphs.opened import Opened

SPEC_VERSION = 1
"""Part of every trial id. Raise it whenever the same spec would give other numbers."""

KINDS: Mapping[str, Registry[Any]] = {
    "problem": PROBLEMS,
    "factorization": FACTORIZATIONS,
    "init": INITS,
    "optimizer": OPTIMIZERS,
}
"""Sections that come in kinds. ``init`` is absent where the factorization starts from zero, ``optimizer`` where it is solved."""

Dtype = Literal["float64", "float32"]
ITEM_BYTES = {"float64": 8, "float32": 4}
RANDOM = 8
"""Numbers that a random step holds for each that may be observed, and about as many operations for each of those."""
UNTRACED = 5_000
"""Operations that a loss which cannot be traced is taken to have for each observation."""
AnyProblem = Annotated[SerializeAsAny[Problem], BeforeValidator(PROBLEMS.read)]
AnyFactorization = Annotated[SerializeAsAny[Factorization], BeforeValidator(FACTORIZATIONS.read)]
AnyInit = Annotated[SerializeAsAny[Init], BeforeValidator(INITS.read)]
AnyOptimizer = Annotated[SerializeAsAny[Optimizer], BeforeValidator(OPTIMIZERS.read)]
AnyLoss = Annotated[SerializeAsAny[Loss], BeforeValidator(LOSSES.read)]
DEFAULT_LOSS: Loss = LOSSES["half_sse"]()


def conflicts(
    problem: Problem, factorization: Factorization, init: Init | None, optimizer: Optimizer | None, loss: Loss, stop: Stop, *, dtype: str
) -> Iterator[Conflict]:
    """Yield all that single fields cannot tell: keys without effect, sizes that do not fit."""
    yield from problem.conflicts()
    yield from loss.conflicts(problem)
    yield from stop.conflicts()
    shape = problem.shape
    if shape is not None:
        wrong = list(factorization.conflicts(shape))
        yield from wrong
        if any(key == "factorization.kind" for key, _ in wrong):
            return
        shape = None if wrong else shape
    if problem.inputs != factorization.maps:
        yield "factorization.kind", _unlike(problem, factorization)
        return
    if problem.inputs and problem.data_file is not None:
        yield from factorization.input_conflicts(problem.data_file)
    if factorization.solved:
        yield from _solved_conflicts(factorization, optimizer, loss, stop, dtype)
    elif optimizer is None:
        yield "optimizer", "is missing: put it under fixed, cases or an axis"
    else:
        yield from _trained_conflicts(problem, optimizer, loss, dtype)
    if not factorization.starts:
        if init is not None:
            yield "init", f"has no effect with factorization.kind {factorization.kind}, which starts from zero{UNSET}"
    elif init is None:
        yield "init", f"is missing: factorization {factorization.kind} needs a start"
    else:
        yield from init.conflicts(factorization, shape)


def _unlike(problem: Problem, factorization: Factorization) -> str:
    """Return why a function and a matrix or tensor do not go together."""
    if problem.inputs:
        kinds = [kind for kind, model in FACTORIZATIONS.items() if model.maps]
        return f"{factorization.kind} is no function of inputs, which problem.kind {problem.kind} needs: {' or '.join(kinds)}"
    kinds = [kind for kind, model in PROBLEMS.items() if model.inputs]
    return f"{factorization.kind} is a function of inputs, which problem.kind {problem.kind} has not: it goes with {' or '.join(kinds)}"


def _trained_conflicts(problem: Problem, optimizer: Optimizer, loss: Loss, dtype: str) -> Iterator[Conflict]:
    yield from optimizer.conflicts(problem.observations())
    if optimizer.evaluations > 1 and dtype != "float64":
        yield "dtype", f"must be float64 with optimizer.kind {optimizer.kind}, whose errors are smaller than {dtype} tells apart"
    if optimizer.evaluations > 1 and not loss.smooth:
        yield "optimizer.kind", f"{optimizer.kind} is not defined for loss {loss.kind}, whose kinks no step passes within a tolerance"
    if loss.signs and optimizer.label_noise is not None:
        yield "optimizer.label_noise", f"is noise on numbers, and loss {loss.kind} is of signs"
    elif problem.inputs and optimizer.label_noise is not None:
        yield "optimizer.label_noise", f"is not defined for problem.kind {problem.kind}, whose inputs are all that is observed"


def _solved_conflicts(factorization: Factorization, optimizer: Optimizer | None, loss: Loss, stop: Stop, dtype: str) -> Iterator[Conflict]:
    if loss.squares is None:
        squares = " or ".join(kind for kind, model in LOSSES.items() if model.squares is not None)
        yield "loss", f"must be {squares} with factorization.kind {factorization.kind}, which fits what is observed by least squares{UNSET}"
    if dtype != "float64":
        yield "dtype", f"must be float64 with factorization.kind {factorization.kind}, which is solved to more digits than {dtype} has"
    if optimizer is not None:
        yield "optimizer", f"has no effect with factorization.kind {factorization.kind}, which is solved{UNSET}"
    for key in ("loss", "check_every", "consecutive"):
        if key in stop.model_fields_set and getattr(stop, key) is not None:
            yield f"stop.{key}", f"has no effect with factorization.kind {factorization.kind}, which ends when it is solved{UNSET}"


class TrialSpec(BaseModel):
    """One point of a grid. Everything here, and nothing else, determines the trial's numbers.

    Raises `pydantic.ValidationError` when a field has the wrong type or value, or when `conflicts` finds something.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    problem: AnyProblem
    factorization: AnyFactorization
    init: AnyInit | None = None
    optimizer: AnyOptimizer | None = None
    loss: AnyLoss = DEFAULT_LOSS
    stop: Stop
    dtype: Dtype = "float64"
    seed: Seed = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = (self.problem, self.factorization, self.init, self.optimizer, self.loss, self.stop)
        found = [f"{key}: {message}" for key, message in conflicts(*parts, dtype=self.dtype)]
        if found:
            raise ValueError("; ".join(found))
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of the end-to-end matrix or tensor. Raises `ValueError` while a data file has not been read for it."""
        if self.problem.shape is None:
            raise ValueError(f"the shape of {self.problem.data_file} is not known before the file is read")
        return self.problem.shape

    @property
    def factor_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of one lane's parameters by name, in their order."""
        return self.factorization.shapes(self.shape)

    @property
    def shown(self) -> int:
        """For how many inputs a step evaluates the factorization: see `Problem.shown`."""
        return self.problem.shown(None if self.optimizer is None else self.optimizer.batch)

    @property
    def share(self) -> float:
        """How many times the loss of the inputs of a step counts, so that it is that of all on average."""
        return (self.problem.observations() or 1) / self.shown if self.problem.inputs else 1.0

    @property
    def seeded(self) -> bool:
        """True where ``seed`` changes the numbers. Else all seeds are one trial."""
        parts = (self.problem, self.factorization, self.init, self.optimizer, self.loss)
        return any(part is not None and part.seeded for part in parts) or (self.optimizer is not None and self.optimizer.draws)

    def settled(self) -> Self:
        """Return the same trial, with the default in place of each seed that changes nothing."""
        update: dict[str, Any] = {}
        if self.seed and not self.seeded:
            update["seed"] = 0
        if self.problem.seed and not self.problem.draws:
            update["problem"] = self.problem.model_copy(update={"seed": 0})
        return self.model_copy(update=update) if update else self

    def ineffective(self, steps: int | None) -> Iterator[Conflict]:
        """Yield the keys that make no difference to this trial, as the control of an axis need not; ``steps`` is how many it may take.

        They are for the whole grid to judge: what has no effect in any of its trials is a mistake of it.
        """
        yield from self.problem.ineffective()
        yield from self.factorization.ineffective(self.shape)
        if self.init is not None:
            yield from self.init.ineffective(self.factorization, self.shape)
        if self.optimizer is not None:
            yield from self.optimizer.ineffective(self.problem.observations(), steps)

    @property
    def own(self) -> tuple[Section, ...]:
        """The parts whose kinds are from a user's own code."""
        parts = (self.problem, self.factorization, self.init, self.optimizer, self.loss, self.stop)
        return tuple(part for part in parts if part is not None and part.code)

    @property
    def method(self) -> Optimizer | Factorization:
        """What takes steps: the optimizer, or the factorization where that is solved."""
        return self.factorization if self.optimizer is None else self.optimizer

    @property
    def sections(self) -> tuple[object, ...]:
        """What specs that share their sections, as those of a grid do, have in common: as long as they are there, specs of which this is
        equal differ in start, step size, stop and seeds alone, and what follows from all else has to be found out for one of them only."""
        steps = (None if self.optimizer is None else self.optimizer.structure, self.loss.structure, self.shown)
        return (self.problem.alike, id(self.factorization), steps, self.dtype, self.stop.when, self.stop.abort)

    @property
    def open_loss(self) -> Loss | Opened:
        """The loss, with the numbers as inputs that lanes of one program may differ in."""
        from workloads.factorizations.graphs.facts import opened

        return opened(self.loss, self.dtype)

    @property
    def lane_key(self) -> tuple[object, ...]:
        """Trials with equal keys can be lanes of one program: same arithmetic, whatever their data, seeds, starts, step sizes and
        their losses' numbers."""
        shapes = tuple(self.factor_shapes.values())
        program = self.factorization.program_key(self.shape)
        own = tuple(type(part) for part in self.own)
        observed = (self.problem.sensing, self.problem.inputs, self.shown)
        steps = (self.method.structure, self.open_loss.structure)
        return (observed, self.shape, self.factorization.kind, program, shapes, *steps, self.dtype, own)

    def initial_factors(self, files: Mapping[str, bytes]) -> list[NDArray[np.float64]]:
        """Return the parameters at step 0, in float64. ``files`` maps SHA-256 digests to contents.

        Raises `ValueError` when ``init.det_sign`` is asked of a start whose determinant is zero.
        """
        import numpy as np

        if self.init is None:
            return [np.zeros(shape) for shape in self.factor_shapes.values()]
        return self.init.factors(self.factorization, self.shape, self.seed, files)

    def canonical(self) -> str:
        """Return JSON that is equal for two specs exactly when their numbers are.

        Of kinds that are a user's own their code is part of it, of others' it is not.
        """
        init = self.init.canonical if self.init is not None else "null"
        optimizer = self.optimizer.canonical_with(self.stop) if self.optimizer is not None else "null"
        factorization = self.factorization.canonical_in(self.shape)
        seed = self.seed if self.seeded else 0
        code = sorted({digest for part in self.own for digest in part.codes()})
        first = f'"code":{canonical_json(code)},' if code else ""
        return (
            f'{{{first}"dtype":"{self.dtype}","factorization":{factorization},"init":{init},"loss":{self.loss.canonical},'
            f'"optimizer":{optimizer},"problem":{self.problem.canonical},"seed":{seed},"stop":{self.stop.canonical}}}'
        )

    def flat(self) -> dict[str, Any]:
        """Return the spec as dotted keys with resolved defaults, for tables and MLflow params."""
        nested = self.model_dump(mode="json", exclude_none=True)
        nested["factorization"] |= self.factorization.resolved(self.shape)
        if not isinstance(nested["loss"], str):
            # The kind under the name that it has alone, so that losses are told apart by one column.
            rest = {f"loss.{key}": value for key, value in nested["loss"].items() if key != "kind"}
            nested |= {"loss": self.loss.kind, **rest}
        return dict(flatten(nested))


@dataclass(frozen=True, slots=True)
class Trial:
    """One training run: its spec, and the id that follows from it."""

    trial_id: str
    spec: TrialSpec


@dataclass(frozen=True)
class LaneCost:
    """What one lane costs: bytes held in training, and floating-point operations and elements touched per step."""

    bytes: int
    flops: int
    touched: int


def lane_cost(spec: TrialSpec, observations: int | None = None) -> LaneCost:
    """Return the cost of one lane of ``spec`` in the batched engine; ``observations`` where the spec alone does not tell their number."""
    size, parameters = math.prod(spec.shape), sum(math.prod(s) for s in spec.factor_shapes.values())
    seen = spec.problem.observations() or observations or size
    program, shown = spec.factorization.cost(spec.shape), spec.shown
    flops, numbers = spec.problem.cost(shown if spec.problem.inputs else seen)
    kept = parameters * (3 + spec.method.stepping.copies)  # parameters, gradients, the copy to step back to
    if spec.factorization.maps:
        kept += parameters  # a copy of parameters that do not lie on lines of cache
    # How many numbers the residual has, or what is in place of it.
    width = seen if spec.problem.sensing else size * shown
    buffers = program.buffers * shown + numbers
    scale = spec.loss.factor(seen * size if spec.problem.inputs else seen) * spec.share
    if not spec.problem.sensing and scale != (0.5 if spec.loss.squares is not None else 1.0):
        buffers += width  # dL/dW is not the residual itself
    if spec.loss.squares is None:
        from workloads.factorizations.graphs.facts import facts_of

        of_each = facts_of(spec.open_loss, (1,), spec.dtype)
        buffers += width * (of_each.steps + 1)
        flops += width * (of_each.flops or UNTRACED)
    flops = flops + program.flops * shown
    if spec.optimizer is not None:
        flops *= spec.optimizer.evaluations
    if spec.optimizer is not None and spec.optimizer.draws:
        drawn = RANDOM * (seen if spec.problem.sensing or spec.problem.inputs else size)
        buffers, flops = buffers + drawn, flops + RANDOM * drawn
    return LaneCost((kept + buffers) * ITEM_BYTES[spec.dtype], flops + 2 * parameters, kept + buffers)


def factor_bytes(spec: TrialSpec) -> int:
    """Return the bytes of the factors of one lane, in the dtype that it trains in."""
    return sum(map(math.prod, spec.factor_shapes.values())) * ITEM_BYTES[spec.dtype]


def measurement_bytes(spec: TrialSpec, observations: int | None = None) -> int:
    """Return the bytes of a problem's measurements or inputs; 0 for completion. What is solved keeps them with orthonormal rows, too."""
    copies, seen = 2 if spec.factorization.solved else 1, spec.problem.observations() or observations or 0
    kept = spec.problem.kept_entries(seen) * ITEM_BYTES["float64"]
    return copies * spec.problem.measurement_entries(seen) * ITEM_BYTES[spec.dtype] + kept
