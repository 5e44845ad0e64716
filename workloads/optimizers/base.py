"""What all optimizers have in common: one update of R lanes, each with hyperparameters of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from workloads.amounts import agreeing, amount
from workloads.kinds import Kind, Registry
from workloads.optimizers.schedule import RateSchedule
from workloads.section import Conflict, Count, Finite, Positive
from workloads.stepping import Stepping
from workloads.stop import Stop

if TYPE_CHECKING:
    from torch import Tensor

Params = Sequence["Tensor"]
State = Mapping[str, list["Tensor"]]
Hyper = Mapping[str, "Tensor"]
Step = Callable[[], None]
Decay = Annotated[Finite, Field(ge=0, lt=1)]

OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")

OPTIONS = ("schedule", "clip", "weight_decay", "batch", "label_noise")
"""Keys of all kinds that are not their own: what is done to gradients before the step, and to the step size, of which a kind knows nothing.
What is not given is no part of a trial's id."""

Root = Callable[[str], str]
"""Makes code of the square root of what some code stands for."""


def _nothing(kind: str, root: Root) -> list[str]:  # noqa: ARG001
    return []


@dataclass(frozen=True)
class KernelStep:
    """How a generated kernel takes a step: the arithmetic of `Optimizer.bind` as C++, entry by entry.

    Hyperparameters and the numbers of a lane's state are variables of the kernel by their names. ``entry(w, g, state, root)`` is code that
    changes the parameter ``w`` by its gradient ``g``, with one expression of ``state`` for each that is like the parameters;
    ``prepare(kind, root)`` is what comes before the entries, once a step, in variables of type ``kind``. ``outer`` is what the residual is
    multiplied by to give dL/dW: ``rate`` has the learning rate in it already. ``whole`` says that no parameter may change before
    the squared norm of the whole gradient, ``squared``, is known. ``g`` is what options have made of the gradient.
    """

    entry: Callable[[str, str, list[str], Root], list[str]]
    prepare: Callable[[str, Root], list[str]] = _nothing
    outer: str = "twice"
    whole: bool = False


class Optimizer(Kind):
    """A way to take a step; ``lr`` is the step size. Its fields are hyperparameters, numbers that lanes may differ in."""

    registry: ClassVar[Registry[Any]] = OPTIMIZERS
    stepping: ClassVar[Stepping] = Stepping()
    kernel: ClassVar[KernelStep | None] = None
    """``None`` where fused kernels cannot take its steps."""

    evaluations: ClassVar[int] = 1
    """Gradients that a step takes. One that takes several has `integrate` instead of `bind`."""
    decoupled: ClassVar[bool] = False
    """True where weight decay shrinks the parameters themselves (Loshchilov and Hutter 2019), rather than adding to the gradient."""

    lr: Positive
    """Step size."""
    schedule: RateSchedule | None = None
    """What lr is multiplied by from step to step, {warmup, cosine, floor, milestones, factors}."""
    clip: Positive | None = None
    """Largest Euclidean norm of the whole gradient: a longer one is shortened to it."""
    weight_decay: Positive | None = None
    """So many times the parameters are added to the gradient, after clipping; with adamw lr times it is taken off them instead."""
    batch: Count | None = None
    """Observations that each step sees, drawn anew without replacement; their gradient is that of all on average."""
    label_noise: Positive | None = None
    """Standard deviation of normal noise on what is observed, drawn anew for each step."""

    @classmethod
    def __pydantic_init_subclass__(cls, **named: Any) -> None:
        if "bind" in vars(cls) and "kernel" not in vars(cls):
            # What a base has written for kernels are its own steps.
            cls.kernel = None
        super().__pydantic_init_subclass__(**named)

    @classmethod
    def hyper(cls) -> tuple[str, ...]:
        """Return the names of the hyperparameters of the kind itself."""
        return tuple(name for name in cls.model_fields if name not in OPTIONS)

    @property
    def given(self) -> tuple[str, ...]:
        """Which of `OPTIONS` are used."""
        return tuple(name for name in OPTIONS if getattr(self, name) is not None)

    def numbers(self, stop: Stop) -> dict[str, float]:
        """Return the hyperparameters of a lane that ends as ``stop`` says, by their names, those of the options that are used included."""
        return {name: getattr(self, name) for name in (*self.hyper(), *self.given) if name != "schedule"}

    def canonical_with(self, stop: Stop) -> str:
        """Return `canonical` of a trial that ends as ``stop`` says, with what steps make of that."""
        return self.canonical

    @property
    def structure(self) -> tuple[str, ...]:
        """What is equal for optimizers whose steps one program can take."""
        return (self.kind, *self.given)

    @property
    def draws(self) -> bool:
        """True where steps are random: by the trial's seed, the step, and the number of the observation."""
        return self.batch is not None or self.label_noise is not None

    @property
    def keeps_time(self) -> bool:
        """True if `time_at` knows how far along gradient flow steps lead."""
        return False

    def time_at(self, step: int, state: Mapping[str, float]) -> float:
        """Return the time of gradient flow that a lane has come to after a ``step``, with the numbers of its ``state``."""
        raise NotImplementedError(f"optimizer {self.kind} keeps no time")

    def conflicts(self, observations: int | None) -> Iterator[Conflict]:
        """Yield what the fields' types alone cannot refuse; ``observations`` where their number is known."""
        if self.schedule is not None:
            yield from self.schedule.conflicts("optimizer.schedule")
        if self.batch is not None and observations is not None and self.batch > observations:
            there = f"there {agreeing(observations, 'is', 'are')} only {amount(observations, 'observation')}"
            yield "optimizer.batch", f"is {self.batch}, but {there}"

    def ineffective(self, observations: int | None, steps: int | None) -> Iterator[Conflict]:
        """Yield the keys that make no difference to a trial of so many ``observations`` and ``steps``, where these are known."""
        if self.schedule is not None:
            yield from self.schedule.ineffective("optimizer.schedule", steps)
        if self.batch is not None and self.batch == observations:
            every = f"{agreeing(self.batch, 'the', 'all of the')} {amount(self.batch, 'observation')}"
            yield "optimizer.batch", f"has no effect: each step sees {every} without it, too"

    @classmethod
    @abstractmethod
    def bind(cls, params: Params, grads: Params, state: State, hyper: Hyper) -> Step:
        """Return what takes a step of R lanes, in place, with the gradients ``grads`` [R, ...] of ``params`` [R, ...].

        ``state`` has what `Stepping` names, lists of [R, ...] like the parameters or of one tensor [R]; ``hyper`` are tensors [R], of which
        ``lr`` may change from step to step. Views and scratch are made here, once, so that a step allocates nothing.
        """

    @classmethod
    def integrate(cls, params: Params, grads: Params, state: State, hyper: Hyper, gradient: Step) -> Step:
        """Return what takes a step as `bind` does, of one that looks at gradients elsewhere, too: ``gradient`` fills ``grads`` for the
        present ``params``, for which they are filled when the step begins."""
        raise NotImplementedError(f"optimizer {cls.kind} takes its steps by one gradient")


def over(lanes: Tensor, params: Params) -> list[Tensor]:
    """Return views of [R] that broadcast over each parameter [R, ...]."""
    return [lanes.view(-1, *(1,) * (p.dim() - 1)) for p in params]
