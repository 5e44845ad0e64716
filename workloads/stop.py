"""When a trial ends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from workloads.expressions import OVER_TRACE, Expression, ExpressionError
from workloads.section import Conflict, Count, Finite, Positive, Section


def _condition(text: str) -> str:
    try:
        expression = Expression(text)
    except ExpressionError as error:
        raise ValueError(f"{text[:60]!r} {error}") from error
    if not expression.is_condition:
        raise ValueError(f"{text[:60]!r} is a number, not a condition: compare it with something, such as error < 1e-3")
    if not expression.names:
        raise ValueError(f"{text[:60]!r} is always the same: it names no measure")
    return text


Condition = Annotated[str, AfterValidator(_condition)]


class Stop(Section):
    """When a trial ends: at a ``loss``, after ``steps`` or after ``seconds``, or when a condition on measures holds, whichever comes first.

    The loss is checked at every step, or, with ``check_every``, only at multiples of it, and it must then be low enough at
    ``consecutive`` checks in a row. Conditions are looked at where `workloads.training.recording.LOOKS` says.
    """

    loss: Annotated[Finite, Field(ge=0)] | None = None
    """End as converged when the loss is at most this."""
    when: Condition | None = None
    """End as converged when this holds of the measures, such as error < 1e-3."""
    abort: Condition | None = None
    """End as aborted when this holds of the measures, such as loss > 10 * first(loss)."""
    steps: Count | None = None
    """End as exhausted after so many steps."""
    seconds: Positive | None = None
    """End as exhausted after so many seconds of training."""
    check_every: Count = 1
    """Look at the loss only at multiples of so many steps."""
    consecutive: Count = 1
    """So many checks in a row have to find the loss low enough."""

    @property
    def conditions(self) -> dict[str, str]:
        """The conditions on measures, by their keys."""
        return {key: text for key, text in (("when", self.when), ("abort", self.abort)) if text is not None}

    @property
    def canonical_fields(self) -> Any:
        return super().canonical_fields | {key: Expression(text).spelled for key, text in self.conditions.items()}

    def conflicts(self) -> Iterator[Conflict]:
        """Yield what the fields' types alone cannot refuse."""
        if self.steps is None and self.seconds is None:
            yield "stop", "needs steps or seconds: without them a trial might never end"
        if self.loss is None:
            for key in ("check_every", "consecutive"):
                if key in self.model_fields_set:
                    yield f"stop.{key}", "has no effect without stop.loss"


@lru_cache(maxsize=1000)
def holds_from(condition: str, column: str) -> float:
    """Return from which value of a column on a condition holds, whatever all others are; infinity where there is none."""
    return Expression(condition).holds_from(column)


def columns_in(condition: str) -> list[str]:
    """Return the columns that a condition looks at, once each; of ``lowest(det)`` that is ``det``."""
    names = Expression(condition).names
    inner = (name.partition("(") for name in names)
    return list(dict.fromkeys(rest[:-1] if function in OVER_TRACE and rest else function for function, _, rest in inner))
