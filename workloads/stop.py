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
    steps: Count | None = None
    seconds: Positive | None = None
    check_every: Count = 1
    consecutive: Count = 1

    def conflicts(self) -> Iterator[Conflict]:
        """Yield what the fields' types alone cannot refuse."""
        if self.steps is None and self.seconds is None:
            yield "stop", "needs steps or seconds: without them a trial might never end"
        if self.loss is None:
            for key in ("check_every", "consecutive"):
                if key in self.model_fields_set:
                    yield f"stop.{key}", "has no effect without stop.loss"
