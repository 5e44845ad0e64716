"""Step sizes that change in training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field

from workloads.amounts import amount
from workloads.section import Conflict, Count, Counts, Finite, Section, as_tuple

Share = Annotated[Finite, Field(ge=0, le=1)]
Shares = Annotated[tuple[Annotated[Finite, Field(ge=0)], ...], BeforeValidator(as_tuple)]


class RateSchedule(Section):
    """What ``lr`` is multiplied by, from step to step. It depends on the step alone, so that a trial goes on with it wherever it stands."""

    warmup: Count | None = None
    """Steps in which it rises to lr, by equal parts."""
    cosine: Count | None = None
    """Steps after those in which it falls, along half a cosine, to the share floor of lr."""
    floor: Share = 0.0
    """The share of lr that the cosine ends at."""
    milestones: Counts | None = None
    """Steps from which on it is another multiple of lr, until the next."""
    factors: Shares | None = None
    """Those multiples, one for each of milestones."""

    def conflicts(self, key: str) -> Iterator[Conflict]:
        """Yield what is wrong with the schedule at ``key``."""
        if self.warmup is None and self.cosine is None and self.milestones is None and self.factors is None:
            yield key, "is empty: give warmup, cosine, or milestones and factors"
        if self.cosine is None and "floor" in self.model_fields_set:
            yield f"{key}.floor", f"has no effect without {key}.cosine"
        milestones, factors = self.milestones or (), self.factors or ()
        if len(milestones) != len(factors):
            place = f"{key}.{'factors' if self.factors is not None else 'milestones'}"
            there = f"there are {amount(len(milestones), 'milestone')} and {amount(len(factors), 'factor')}"
            yield place, f"needs a factor for each milestone: {there}"
        if any(later <= earlier for earlier, later in itertools.pairwise(milestones)):
            yield f"{key}.milestones", "must rise"

    def ineffective(self, key: str, steps: int | None) -> Iterator[Conflict]:
        """Yield the keys below ``key`` that make no difference to a trial of so many ``steps``, where these are known."""
        warmup = self.warmup or 0
        if warmup == 1:
            yield f"{key}.warmup", "has no effect: after a single step lr is what it is without"
        if self.cosine is not None and self.floor == 1:
            yield f"{key}.cosine", f"has no effect: {key}.floor is 1, from which nothing falls"
        elif self.cosine is not None and steps is not None and warmup >= steps - 1:
            yield f"{key}.cosine", f"has no effect: it begins after {warmup:,} steps of warmup, and there are {steps:,} at most"
        if self.milestones is not None and steps is not None and min(self.milestones, default=0) >= steps:
            yield f"{key}.milestones", f"has no effect: the first of them is step {self.milestones[0]:,}, and there are {steps:,} at most"
        elif self.factors is not None and set(self.factors) == {1.0}:
            yield f"{key}.factors", "has no effect: all of them are 1"

    def factor(self, step: int) -> float:
        """Return what ``lr`` is multiplied by in the step that follows ``step`` others."""
        warmup = self.warmup or 0
        factor = 1.0 if step >= warmup else (step + 1) / warmup
        if self.cosine is not None:
            done = min(max(step - warmup, 0) / self.cosine, 1.0)
            factor *= self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
        for milestone, share in zip(reversed(self.milestones or ()), reversed(self.factors or ()), strict=True):
            if step >= milestone:
                return factor * share
        return factor
