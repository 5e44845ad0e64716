"""When a trial ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from workloads.section import Conflict, Count, Finite, Positive, Section


class Stop(Section):
    """When a trial ends: at a ``loss``, after ``steps`` or after ``seconds``, whichever comes first.

    The loss is checked at every step, or, with ``check_every``, only at multiples of it, and it must then be low enough at
    ``consecutive`` checks in a row.
    """

    loss: Annotated[Finite, Field(ge=0)] | None = None
    """End as converged when the loss is at most this."""
    steps: Count | None = None
    """End as exhausted after so many steps."""
    seconds: Positive | None = None
    """End as exhausted after so many seconds of training."""
    check_every: Count = 1
    """Look at the loss only at multiples of so many steps."""
    consecutive: Count = 1
    """So many checks in a row have to find the loss low enough."""

    def conflicts(self) -> Iterator[Conflict]:
        """Yield what the fields' types alone cannot refuse."""
        if self.steps is None and self.seconds is None:
            yield "stop", "needs steps or seconds: without them a trial might never end"
        if self.loss is None:
            for key in ("check_every", "consecutive"):
                if key in self.model_fields_set:
                    yield f"stop.{key}", "has no effect without stop.loss"
