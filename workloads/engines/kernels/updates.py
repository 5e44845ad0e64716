"""Optimizer steps inside generated kernels: the code that optimizers bring, for vectors of a width, and what options do around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from workloads.engines.kernels.options import PLAIN, Options
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
"""Names that kernels use for variables of their own. Those of options end in an underscore."""
Gradient = Callable[[str, str], str]
"""Makes code of a parameter's gradient of the code of the parameter and of what was computed as its gradient."""


@dataclass(frozen=True)
class Update:
    """How a kernel takes one optimizer's step.

    ``hyper`` names the hyperparameters, and the options that are numbers, variables of the kernel; ``arrays`` the state kept per parameter,
    ``numbers`` per lane; ``decoupled`` is as `Optimizer.decoupled`.
    """

    hyper: tuple[str, ...]
    arrays: tuple[str, ...]
    numbers: tuple[str, ...]
    step: KernelStep
    options: Options = PLAIN
    decoupled: bool = False

    @classmethod
    def of(cls, optimizer: str, options: Options = PLAIN) -> Update:
        """Return the step of a kind of optimizer with ``options``. Raises `KeyError` for one that does not exist."""
        model = OPTIMIZERS[optimizer]
        assert model.kernel is not None, f"kernels cannot take the steps of {optimizer}"
        taken = RESERVED & {*model.hyper(), *model.stepping.per_lane}
        if taken:
            raise ValueError(f"optimizer.kind {optimizer}: kernels have a variable {min(taken)} already: call the key or number otherwise")
        names = (*model.hyper(), *options.numbers)
        return cls(names, model.stepping.like_params, tuple(model.stepping.per_lane), model.kernel, options, model.decoupled)

    @property
    def outer(self) -> str:
        """What the residual is multiplied by to give dL/dW."""
        return "twice" if self._shaped else self.step.outer

    @property
    def whole(self) -> bool:
        """True if no parameter may change before the norm of the whole gradient is known."""
        return self.step.whole or "clip" in self.options

    @property
    def _shaped(self) -> bool:
        """True if a gradient is not what the optimizer gets."""
        return "clip" in self.options or ("weight_decay" in self.options and not self.decoupled)

    def _slope(self, w: str, g: str) -> str:
        """Return the gradient that the optimizer gets."""
        if not self._shaped:
            return g
        code = f"{g} * clipping_" if "clip" in self.options else g
        if "weight_decay" in self.options and not self.decoupled:
            code = f"{code} + {w} * weight_decay"
        # Where the residual would have had the learning rate in it already.
        return f"lr * ({code})" if self.step.outer == "rate" else f"({code})"

    def norms(self, kind: str, width: int) -> list[tuple[str, Gradient, list[str]]]:
        """Return which squared norms of the whole gradient are needed, one after the other: name, gradient, and what follows in code."""
        found: list[tuple[str, Gradient, list[str]]] = []
        if "clip" in self.options:
            lines = [f"const {kind} shorter_ = clip / {root('raw_', width)};", f"const {kind} clipping_ = shorter_ < one ? shorter_ : one;"]
            found.append(("raw_", lambda _, g: g, lines))
        if self.step.whole:
            found.append(("squared", self._slope, []))
        return found

    def entry(self, w: str, g: str, state: list[str], width: int) -> list[str]:
        """Return code that changes the parameter ``w`` by what was computed as its gradient, ``g``, in vectors of ``width`` numbers."""
        decays = "weight_decay" in self.options and self.decoupled
        if not self._shaped and not decays:
            return self.step.entry(w, g, state, partial(root, width=width))
        # Named before the parameter changes.
        slope = [f"const vec slope_ = {self._slope(w, g)};"]
        shrunk = [f"{w} = {w} * (one - lr * weight_decay);"] if decays else []
        return ["{", *slope, *shrunk, *self.step.entry(w, "slope_", state, partial(root, width=width)), "}"]

    def prepare(self, kind: str, width: int) -> list[str]:
        """Return code that comes before the entries, once a step, in variables of type ``kind``."""
        return self.step.prepare(kind, partial(root, width=width))
