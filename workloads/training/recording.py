"""What a sweep records, and when. No torch here: planning needs it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads import measures
from workloads.training.references import Reference, against
from workloads.trial import TrialSpec

NEVER = np.iinfo(np.int64).max
OPEN_END = 10**9
"""Steps over which points are spread where only a time budget is given."""


def _looks() -> NDArray[np.int64]:
    steps = [0]
    while steps[-1] < NEVER // 2:
        steps.append(steps[-1] + max(1, steps[-1] // 20))
    return np.array(steps, dtype=np.int64)


LOOKS = _looks()
"""The steps at which conditions to stop are looked at, each at most a twentieth further than the last. They depend on nothing, so that
where a trial ends follows from its spec alone: neither from what else is recorded, nor from how many steps there may be."""

DEFAULT_MEASURES = ("error", "frobenius", "effective_rank")


@dataclass(frozen=True)
class Recording:
    """What a sweep records: ``points`` spread over log(step) and again over log(loss), or explicit ``steps``; and the ``measures``.

    The first step (unless explicit ``steps`` leave it out) and the last are always recorded, and the loss is always a measure; so is what
    a trial's conditions to stop look at, where they do. Factors are kept at ``checkpoint_steps`` and when one of ``checkpoint_losses`` is
    first reached; that is recorded, too. ``references`` are the arrays that measures are against, by their names.
    """

    measures: tuple[str, ...] = DEFAULT_MEASURES
    points: int = 200
    steps: tuple[int, ...] | None = None
    checkpoint_steps: tuple[int, ...] = ()
    checkpoint_losses: tuple[float, ...] = ()
    references: Mapping[str, Reference] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return this as plain data: of measures that are a user's own with the SHA-256 of their code, and of those that are against an
        array with that of its file."""
        plain = asdict(self) | {"measures": list(self.measures)}
        code = {name: digest for name in self.measures if (digest := measures.code_of(name))}
        kept = {"code": code, "references": against(self.measures, self.references)}
        return {key: value for key, value in plain.items() if key not in kept} | {key: value for key, value in kept.items() if value}

    def names(self, spec: TrialSpec) -> tuple[str, ...]:
        """Return the measures that are defined for trials of this spec, the loss first."""
        names = (*self.measures, *measures.watched(spec))
        asked = [name for name in names if name != "loss" and measures.undefined(name, spec) is None]
        return ("loss", *dict.fromkeys(asked))

    def columns(self, spec: TrialSpec) -> tuple[str, ...]:
        """Return the columns of a trace, in order."""
        return tuple(dict.fromkeys(c for name in self.names(spec) for c in measures.column_names(name, spec)))

    def step_points(self, spec: TrialSpec) -> NDArray[np.int64]:
        """Return the steps to record at, ascending."""
        last = spec.stop.steps or OPEN_END
        if self.steps is not None:
            chosen = np.array(self.steps)
        else:
            spread = np.rint(np.geomspace(1, last, max(self.points, 1))) if self.points else np.empty(0)
            chosen = np.concatenate(([0], spread))
        looks = LOOKS[: np.searchsorted(LOOKS, last, side="right")] if spec.stop.conditions else np.empty(0)
        return np.unique(np.concatenate((chosen, looks, [step for step in self.checkpoint_steps if step <= last])).astype(np.int64))

    def rows(self, spec: TrialSpec) -> int:
        """Return how many rows a trace may have."""
        return len(self.step_points(spec)) + (self.points if self.steps is None else 0) + len(self.checkpoint_losses) + 1

    def loss_levels(self, spec: TrialSpec, initial: float) -> NDArray[np.float64]:
        """Return the losses to record at when first reached, falling: from the initial one to the one that ends the trial.

        Without a loss to stop at they go as far down as rounding allows.
        """
        if not math.isfinite(initial) or initial <= 0:
            return np.empty(0)
        last = spec.stop.loss or initial * (1e-16 if spec.dtype == "float64" else 1e-8)
        levels: NDArray[np.float64] = np.empty(0)
        if self.steps is None and self.points and last < initial:
            levels = np.geomspace(initial, last, self.points + 1)[1:]
            levels[-1] = last
        kept = [loss for loss in self.checkpoint_losses if loss < initial]
        return np.unique(np.concatenate((levels, kept)))[::-1] if kept else levels

    def checkpoints(self, step: int, loss: float, known: Collection[str]) -> list[str]:
        """Return the names of the checkpoints to be made at ``step``, where the loss is ``loss``, besides those that are ``known``."""
        names = [f"step-{step}"] if step in self.checkpoint_steps else []
        names += [f"loss-{level!r}" for level in self.checkpoint_losses if loss <= level]
        return [name for name in names if name not in known]
