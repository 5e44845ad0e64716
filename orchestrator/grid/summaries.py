"""Numbers of a group of trials: ``rate(error < 1e-2)``, and conditions on them, ``rate(error < 1e-2) >= 0.9 and median(loss) < 1e-4``.

What stands in the brackets is an expression that is taken once a trial (`workloads.expressions`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from workloads.expressions import Expression, ExpressionError

SUMMARIES = ("rate", "median", "mean")
"""The share of trials for which a condition holds, and statistics of a number."""
_TOKEN = re.compile(rf"'[^'\n]*'|\"[^\"\n]*\"|(?<![\w.])(?P<function>{'|'.join(SUMMARIES)})\s*\(|[()]|[^'\"()\w]+|[\w.]+|.", re.DOTALL)


@dataclass(frozen=True)
class Summary:
    """A function over a group of trials: of what, and where in a text it stands."""

    function: str
    of: str
    start: int
    end: int


def summaries_of(text: str) -> list[Summary]:
    """Return the summaries in a text, in their order; what is within one belongs to it. Brackets that are not closed have none."""
    found: list[Summary] = []
    opened: tuple[str, int, int] | None = None
    depth = 0
    for token in _TOKEN.finditer(text):
        if opened is None and token["function"]:
            opened, depth = (token["function"], token.start(), token.end()), 0
        elif token[0].endswith("("):
            depth += 1
        elif token[0] == ")" and depth:
            depth -= 1
        elif token[0] == ")" and opened is not None:
            function, start, inner = opened
            found.append(Summary(function, text[inner : token.start()].strip(), start, token.end()))
            opened = None
    return found


def rate_in(text: str) -> str | None:
    """Return the condition of a text that is a rate and nothing else."""
    match summaries_of(text):
        case [Summary("rate", of, start, end)] if not (text[:start] + text[end:]).strip():
            return of
    return None


@dataclass(frozen=True)
class Criterion:
    """A condition on a group of trials. Raises `ExpressionError` when made from a text that is none."""

    text: str
    summaries: tuple[Summary, ...] = field(init=False)
    _outer: Expression = field(init=False)

    def __post_init__(self) -> None:
        summaries = tuple(summaries_of(self.text))
        outer, place = "", 0
        for number, found in enumerate(summaries):
            outer += f"{self.text[place : found.start]} {_name(number)} "
            place = found.end
        expression = Expression((outer + self.text[place:]).strip())
        names = {_name(number) for number in range(len(summaries))}
        if alone := [name for name in expression.names if name not in names]:
            example = f"rate({alone[0]} < 1e-2) >= 0.9 or median({alone[0]}) < 1e-2"
            raise ExpressionError(f"has {alone[0]} of a single trial, where a group is asked for: write {example}, say")
        if not summaries:
            raise ExpressionError("says nothing of trials: write rate(error < 1e-2) >= 0.9, say")
        if not expression.is_condition:
            raise ExpressionError(f"is a number, not a condition: compare it with something, such as {self.text[:60]} >= 0.9")
        object.__setattr__(self, "summaries", summaries)
        object.__setattr__(self, "_outer", expression)

    def holds(self, values: Sequence[float]) -> bool:
        """Return whether the condition holds of a group with these values of its summaries."""
        return bool(self._outer.evaluate({_name(number): value for number, value in enumerate(values)}))


def _name(number: int) -> str:
    """Return what stands for a summary in the expression around it."""
    return f"summary.{number}"
