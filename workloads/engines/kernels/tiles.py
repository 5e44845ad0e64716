"""Loops of generated kernels: nests over digits, and register tiles of matrix products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache

from workloads.engines.kernels.source import Writer
from workloads.factorizations.graphs.views import Axis, View, refined

Digits = Sequence[tuple[int, tuple[int, ...]]]
"""A size and a stride in each of several arrays, the most significant first (`workloads.factorizations.graphs.views.refined`)."""


def cut(size: int, most: int) -> list[tuple[int, int, int]]:
    """Return ``size`` cut into tiles of two lengths at most, differing by one: (start, stop, length) of each."""
    parts = -(-size // most)
    small, large = divmod(size, parts)
    middle = large * (small + 1)
    return [piece for piece in ((0, middle, small + 1), (middle, size, small)) if piece[0] < piece[1]]


@cache
def best_tile(rows: int, columns: int, registers: int) -> tuple[int, int]:
    """Return the height and width of the tiles in which a product of so many rows and columns reads the fewest numbers.

    A tile's results, a column of one operand and an entry of the other have registers.
    """
    fitting = [
        (height, width)
        for height in range(1, min(rows, registers) + 1)
        for width in range(1, min(columns, registers) + 1)
        if height * width + min(height, width) + 1 <= registers - 2
    ]
    return min(fitting, key=lambda tile: (-(-rows // tile[0]) * -(-columns // tile[1]) * (tile[0] + tile[1]), tile))


def index(offset: int, *terms: tuple[str, int]) -> str:
    """Return the code of an offset and of variables times strides."""
    parts = [f"{name} * {stride}" if stride != 1 else name for name, stride in terms if stride]
    return " + ".join([*parts, str(offset)] if offset or not parts else parts)


@contextmanager
def nest(write: Writer, digits: Digits, prefix: str) -> Iterator[list[str]]:
    """Write loops over ``digits``, and yield the names of their variables."""
    with ExitStack() as stack:
        names = [f"{prefix}{n}" for n in range(len(digits))]
        for name, (size, _) in zip(names, digits, strict=True):
            stack.enter_context(write.loop(name, 0, size))
        yield names


def refined_digits(*axes: Axis) -> Digits:
    """Return axes of one size as the same digits."""
    found = refined(axes)
    assert found is not None, "a graph's views have digits in common"
    return found


def digits_of(*views: View) -> Digits:
    """Return the digits that views of one shape have in common, all axes one number."""
    return refined_digits(*(tuple(digit for axis in view.axes for digit in axis) for view in views))


def longest(digits: Digits) -> tuple[Digits, tuple[int, tuple[int, ...]]]:
    """Return all digits but the longest, and that."""
    if not digits:
        return [], (1, (0, 0))
    found = max(digits, key=lambda digit: digit[0])
    place = digits.index(found)
    return [*digits[:place], *digits[place + 1 :]], found


def terms(names: list[str], digits: Digits, which: int) -> list[tuple[str, int]]:
    """Return the variables of loops over ``digits`` with their strides in one of the arrays."""
    return [(name, strides[which]) for name, (_, strides) in zip(names, digits, strict=True)]
