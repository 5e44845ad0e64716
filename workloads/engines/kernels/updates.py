"""Optimizer steps inside generated kernels: the code that optimizers bring, for vectors of a width."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from workloads.engines.kernels.source import root
from workloads.optimizers import OPTIMIZERS
from workloads.optimizers.base import KernelStep

RESERVED = frozenset(
    {
        "w",
        "s",
        "y",
        "m",
        "x",
        "h",
        "g",
        "n",
        "q",
        "rate",
        "scale",
        "twice",
        "low",
        "last",
        "done",
        "total",
        "zero",
        "one",
        "squared",
        "norm",
    }
    | {"real", "vec", "across", "weights", "state", "numbers", "scratch", "seen", "operators", "hyper", "until", "steps", "losses"}
    | {"values", "index", "child", "roots", "lane", "group"}
)
"""Names that kernels use for variables of their own."""


@dataclass(frozen=True)
class Update:
    """How a kernel takes one optimizer's step.

    ``hyper`` names the hyperparameters, variables of the kernel; ``arrays`` the state kept per parameter, ``numbers`` per lane.
    """

    hyper: tuple[str, ...]
    arrays: tuple[str, ...]
    numbers: tuple[str, ...]
    step: KernelStep

    @classmethod
    def of(cls, optimizer: str) -> Update:
        """Return the step of a kind of optimizer. Raises `KeyError` for one that does not exist."""
        model = OPTIMIZERS[optimizer]
        assert model.kernel is not None, f"kernels cannot take the steps of {optimizer}"
        taken = RESERVED & {*model.hyper(), *model.stepping.per_lane}
        if taken:
            raise ValueError(f"optimizer.kind {optimizer}: kernels have a variable {min(taken)} already: call the key or number otherwise")
        return cls(model.hyper(), model.stepping.like_params, tuple(model.stepping.per_lane), model.kernel)

    @property
    def outer(self) -> str:
        """What the residual is multiplied by to give dL/dW."""
        return self.step.outer

    @property
    def whole(self) -> bool:
        """True if no parameter may change before the squared norm of the whole gradient is known."""
        return self.step.whole

    def entry(self, w: str, g: str, state: list[str], width: int) -> list[str]:
        """Return code that changes the parameter ``w`` by its gradient ``g``, in vectors of ``width`` numbers."""
        return self.step.entry(w, g, state, partial(root, width=width))

    def prepare(self, kind: str, width: int) -> list[str]:
        """Return code that comes before the entries, once a step, in variables of type ``kind``."""
        return self.step.prepare(kind, partial(root, width=width))
