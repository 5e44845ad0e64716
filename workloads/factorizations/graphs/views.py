"""Views of flat arrays: where the entries of a tensor lie. No torch here: planning asks.

An axis is a number in a mixed radix: digits, the most significant first, each with its size and its stride. So a transposed tensor that
is reshaped stays a view, which strides alone cannot say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

Digit = tuple[int, int]
Axis = tuple[Digit, ...]


def size_of(axis: Axis) -> int:
    """Return how many entries an axis has."""
    return math.prod(size for size, _ in axis)


def _joined(digits: Sequence[Digit]) -> Axis:
    """Return digits without those of size one, neighbours that are one number in one."""
    out: list[Digit] = []
    for size, stride in digits:
        if size == 1:
            continue
        if out and out[-1][1] == size * stride:
            out[-1] = (out[-1][0] * size, stride)
        else:
            out.append((size, stride))
    return tuple(out)


@dataclass(frozen=True)
class View:
    """Entries of the array number ``array``, from ``offset`` on."""

    array: int
    offset: int
    axes: tuple[Axis, ...]

    @classmethod
    def whole(cls, array: int, shape: Sequence[int]) -> Self:
        """Return the view of all entries, the last index running fastest."""
        strides = [math.prod(shape[n + 1 :]) for n in range(len(shape))]
        return cls(array, 0, tuple(_joined([digit]) for digit in zip(shape, strides, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return tuple(map(size_of, self.axes))

    @property
    def size(self) -> int:
        """How many entries are seen."""
        return math.prod(self.shape)

    def covers(self, size: int) -> bool:
        """Return whether it is a whole array of ``size`` entries in their order."""
        return self.offset == 0 and _joined([digit for axis in self.axes for digit in axis]) == _joined([(size, 1)])

    def permuted(self, order: Sequence[int]) -> Self:
        """Return the axes in another order."""
        return replace(self, axes=tuple(self.axes[n] for n in order))

    def reshaped(self, shape: Sequence[int]) -> Self | None:
        """Return the same entries in another shape, or ``None`` where no digits say where they are."""
        digits = [digit for axis in self.axes for digit in axis]
        axes: list[Axis] = []
        for size in reversed(shape):
            axis, left = [], size
            while left > 1:
                have, stride = digits.pop()
                if have <= left and left % have == 0:
                    axis.append((have, stride))
                    left //= have
                elif have % left == 0:
                    digits.append((have // left, stride * left))
                    axis.append((left, stride))
                    left = 1
                else:
                    return None
            axes.append(_joined(axis[::-1]))
        return replace(self, axes=tuple(axes[::-1]))

    def expanded(self, shape: Sequence[int]) -> Self:
        """Return it repeated along axes of size one, and along new ones in front, up to ``shape``; -1 stands for the size it has."""
        have = [()] * (len(shape) - len(self.axes)) + list(self.axes)
        sizes = [size_of(axis) if size == -1 else size for axis, size in zip(have, shape, strict=True)]
        return replace(self, axes=tuple(axis if size_of(axis) == size else ((size, 0),) for axis, size in zip(have, sizes, strict=True)))

    def selected(self, axis: int, index: int) -> Self:
        """Return the part at an ``index`` of an axis, which goes."""
        offset = self.offset
        for size, stride in reversed(self.axes[axis]):
            index, digit = divmod(index, size)
            offset += digit * stride
        return replace(self, offset=offset, axes=self.axes[:axis] + self.axes[axis + 1 :])

    def sliced(self, axis: int, start: int, stop: int, step: int) -> Self | None:
        """Return some indices of an axis, or ``None`` where no digits say where they are."""
        count = max(0, -(-(stop - start) // step))
        if count == 1:
            kept = self.selected(axis, start)
            return replace(kept, axes=(*kept.axes[:axis], (), *kept.axes[axis:]))
        if count == size_of(self.axes[axis]):
            return self
        if len(self.axes[axis]) != 1 or count == 0:
            return None
        ((_, stride),) = self.axes[axis]
        axes = (*self.axes[:axis], ((count, stride * step),), *self.axes[axis + 1 :])
        return replace(self, offset=self.offset + start * stride, axes=axes)

    def indices(self) -> NDArray[np.int64]:
        """Return the flat index of each entry [*shape]."""
        out = np.full((), self.offset, dtype=np.int64)
        for axis in self.axes:
            along = np.zeros((), dtype=np.int64)
            for size, stride in axis:
                along = np.add.outer(along, np.arange(size) * stride)
            out = np.add.outer(out, along.reshape(-1))
        return out.reshape(self.shape)


def refined(axes: Sequence[Axis]) -> list[tuple[int, tuple[int, ...]]] | None:
    """Return axes of one size as the same digits: of each its size and its stride in every axis. ``None`` where there are none such."""
    lists = [list(axis) for axis in axes]
    out: list[tuple[int, tuple[int, ...]]] = []
    while any(lists):
        if not all(lists):
            return None
        least = min(digits[-1][0] for digits in lists)
        strides = []
        for digits in lists:
            size, stride = digits.pop()
            if size % least:
                return None
            strides.append(stride)
            if size > least:
                digits.append((size // least, stride * least))
        out.append((least, tuple(strides)))
    joined: list[tuple[int, tuple[int, ...]]] = []
    for size, these in reversed(out):
        if joined and joined[-1][1] == tuple(size * stride for stride in these):
            joined[-1] = (joined[-1][0] * size, these)
        else:
            joined.append((size, these))
    return joined
