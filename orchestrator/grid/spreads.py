"""Many values written short: ranges, evenly spaced numbers, and distributions to draw from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.grid.quoting import nearest, shown

MAX_TRIALS = 1_000_000
"""As many as a grid may have, and so as many values as an axis."""
DISTRIBUTIONS = ("uniform", "loguniform", "choice", "integers")
SPACES = {"linspace": "[0, 1, 5]", "logspace": "[1e-5, 1e-1, 5]"}
"""Evenly spaced numbers and their logarithms, each with an example of what it needs: the first, the last, and how many."""
RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")
"""Whole numbers from the first to the last, both meant."""
DIGITS = 12
"""Of spaced numbers, which then are those that people write, 1e-06 and 0.3, and not what rounding made of them."""


class Misdrawn(ValueError):
    """A distribution that is none; ``below`` is where in it what is wrong was written."""

    def __init__(self, message: str, *below: str) -> None:
        super().__init__(message)
        self.below = below


def is_spread(written: object) -> bool:
    """Return whether a value means many numbers: a range, or a space of one."""
    if isinstance(written, str):
        return RANGE.fullmatch(written.strip()) is not None
    return isinstance(written, Mapping) and len(written) == 1 and next(iter(written)) in SPACES


def many(written: Any) -> int:
    """Return how many values an axis lists, as a list, a range or a space; 1 for what is none of them, or more than a grid may have."""
    count = 1
    if isinstance(written, list):
        count = len(written)
    elif isinstance(written, str) and (match := RANGE.fullmatch(written.strip())):
        count = int(match[2]) - int(match[1]) + 1
    elif is_spread(written) and isinstance(given := next(iter(written.values())), list) and len(given) == 3 and is_count(given[2], 1):
        count = given[2]
    return count if 1 <= count <= MAX_TRIALS else 1


def spread(written: Any) -> Sequence[int] | Sequence[float]:
    """Return the numbers that ``0..9``, ``{linspace: [first, last, many]}`` or ``{logspace: …}`` mean. Raises `ValueError`."""
    if isinstance(written, str):
        match = RANGE.fullmatch(written.strip())
        assert match is not None, "asked of what is a range"
        first, last = (int(end) for end in match.groups())
        if not 0 <= last - first < MAX_TRIALS:
            raise ValueError(f"{shown(written)} must rise, to {MAX_TRIALS:,} values at most: both ends are meant")
        return range(first, last + 1)
    ((name, given),) = written.items()
    if not isinstance(given, list) or len(given) != 3 or not all(is_number(end) for end in given[:2]) or not is_count(given[2], 2):
        raise ValueError(f"{name} needs the first number, the last and how many, such as {SPACES[name]}, not {shown(given)}")
    low, high, many = float(given[0]), float(given[1]), int(given[2])
    if many > MAX_TRIALS or not math.isfinite(high - low):
        raise ValueError(f"{name} makes {MAX_TRIALS:,} values at most, between numbers whose difference floating point can hold")
    if name == "logspace":
        if min(low, high) <= 0:
            raise ValueError("logspace needs numbers above 0")
        low, high = math.log(low), math.log(high)
    spaced = [low + place / (many - 1) * (high - low) for place in range(many)]
    numbers = [float(f"{math.exp(value) if name == 'logspace' else value:.{DIGITS}g}") for value in spaced]
    # Where whole numbers are written and all are, they count: observed entries, say.
    whole = all(isinstance(end, int) for end in given[:2]) and all(number.is_integer() for number in numbers)
    return [int(number) for number in numbers] if whole else numbers


def distribution(value: object) -> Callable[[float], Any]:
    """Return what makes a draw of a number in [0, 1). Raises `Misdrawn`."""
    if not isinstance(value, Mapping) or len(value) != 1:
        raise Misdrawn(f"must name one distribution, such as {{uniform: [0, 1]}}: one of {', '.join(DISTRIBUTIONS)}")
    ((name, given),) = value.items()
    if name not in DISTRIBUTIONS:
        raise Misdrawn(f"unknown distribution {shown(name)}{nearest(name, DISTRIBUTIONS)}", name)
    if name == "choice":
        if not isinstance(given, list) or not given:
            raise Misdrawn("choice needs a list of values", name)
        return lambda u: given[int(u * len(given))]
    whole = name == "integers"
    if not isinstance(given, list) or len(given) != 2 or not all(is_number(a, whole) for a in given) or given[0] > given[1]:
        message = f"{name} needs [low, high], two {'whole ' if whole else ''}numbers in rising order, not {shown(given)}"
        raise Misdrawn(message, name)
    low, high = given
    if not math.isfinite(float(high) - float(low)):
        raise Misdrawn(f"{name} needs bounds whose difference is a number that floating point can hold", name)
    if name == "loguniform":
        if low <= 0:
            raise Misdrawn("loguniform needs bounds above 0", name)
        return lambda u: min(max(math.exp(math.log(low) + u * (math.log(high) - math.log(low))), float(low)), float(high))
    if whole:
        return lambda u: int(low) + int(u * (int(high) - int(low) + 1))
    return lambda u: low + u * (high - low)


def is_number(value: object, whole: bool = False) -> bool:
    """Return whether ``value`` is a finite number, and a whole one if asked."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and (not whole or float(value).is_integer())
    )


def is_count(value: object, least: int) -> bool:
    """Return whether ``value`` is a whole number of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def nesting(value: object) -> int:
    """Return how many lists lie within each other in a value."""
    return 1 + max((nesting(item) for item in value), default=0) if isinstance(value, list) else 0
