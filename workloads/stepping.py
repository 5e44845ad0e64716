"""What takes a trial's steps, optimizer or solver, as far as those have to know that hold lanes and estimate them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stepping:
    """What a lane keeps from step to step besides its parameters.

    ``like_params`` names state of the parameters' shapes, zero at first, ``per_lane`` numbers and what they start from; ``scratch`` is how
    many more arrays of the parameters' size a step needs.
    """

    like_params: tuple[str, ...] = ()
    per_lane: Mapping[str, float] = field(default_factory=dict)
    scratch: int = 0

    @property
    def copies(self) -> int:
        """Arrays of the parameters' size that a lane takes: its state, the copy of it to step back to, scratch."""
        return 2 * len(self.like_params) + self.scratch
