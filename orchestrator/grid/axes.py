"""Axes: what varies in a grid, and the points of each. Assignments are dotted keys with their value and where it was written."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.grid.source import Mistake, Path
from orchestrator.grid.spreads import is_spread

BLOCKS = ("grid", "zip", "random")
"""Axes that the whole file, or a case, may have."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """A dotted key of a trial's spec, its value, and the path in the file that it came from."""

    key: str
    value: Any
    path: Path


@dataclass(frozen=True, eq=False)
class Axis:
    """Points that are gone through one by one; each sets some keys. ``left_out`` are those that it does not set any more."""

    name: str
    points: tuple[tuple[Assignment, ...], ...]
    left_out: tuple[str, ...] = ()
    coinciding: int = 0
    """Points that were drawn, and were the same as others before them."""

    @property
    def keys(self) -> dict[str, Path]:
        """All keys that some point sets, with one place where each is."""
        return {a.key: a.path for point in self.points for a in point}

    @property
    def independent(self) -> tuple[str, ...]:
        """The keys that tell points apart, without those that follow from others before them: ``init.kind`` from ``factorization.kind``."""
        if len(self.points) < 2 or len(self.keys) == 1 or self.name == "random":
            return tuple(self.keys) if len(self.points) > 1 else ()
        told: list[object] = [()] * len(self.points)
        kept = []
        given = [{a.key: repr(a.value) for a in point} for point in self.points]
        for key in self.keys:
            finer = [(before, values.get(key)) for before, values in zip(told, given, strict=True)]
            if len(set(finer)) > len(set(told)):
                kept.append(key)
                # Small and equal where the pairs are: pairs of pairs would grow with every key.
                numbers = {pair: n for n, pair in enumerate(dict.fromkeys(finer))}
                told = [numbers[pair] for pair in finer]
        return tuple(kept)

    @property
    def twice(self) -> Mapping[str, Any]:
        """The values of a point that comes again, by their keys; empty where all are different."""
        points = {repr(values): values for values in ({a.key: a.value for a in point} for point in self.points)}
        listed = Counter(repr({a.key: a.value for a in point}) for point in self.points)
        return next((points[text] for text, count in listed.items() if count > 1), {})

    def without(self, prefix: str) -> Axis | None:
        """Return the axis without ``prefix`` and the keys below it; ``None`` if it sets nothing else."""
        points = tuple(_unset(point, prefix) for point in self.points)
        if points == self.points:
            return self
        return Axis(self.name, points, (*self.left_out, prefix), self.coinciding) if any(points) else None


@dataclass(frozen=True, eq=False)
class Cases(Axis):
    """The axis of ``cases``: of each the keys that it gives, and the axes of its own."""

    parts: tuple[tuple[tuple[Assignment, ...], tuple[Axis, ...]], ...] = ()

    @classmethod
    def of(cls, parts: tuple[tuple[tuple[Assignment, ...], tuple[Axis, ...]], ...], left_out: tuple[str, ...] = ()) -> Cases:
        """Return the axis with all points of each case: one, or all that its own axes make of it."""
        points = (
            (*given, *(a for point in combination for a in point))
            for given, axes in parts
            for combination in itertools.product(*(axis.points for axis in axes))
        )
        return cls("cases", tuple(points), left_out, parts=parts)

    def without(self, prefix: str) -> Axis | None:
        if not any(_below(key, prefix) for key in self.keys):
            return self
        parts = tuple(
            (_unset(given, prefix), tuple(left for axis in axes if (left := axis.without(prefix)) is not None))
            for given, axes in self.parts
        )
        left = Cases.of(parts, (*self.left_out, prefix))
        return left if any(left.points) else None

    def within(self, override: Override) -> Cases | None:
        """Return the cases with an override in each that has an axis of its key; ``None`` if none has, or one gives it itself."""
        having = [any(_below(key, override.key) for axis in axes for key in axis.keys) for _, axes in self.parts]
        if not any(having) or any(_unset(given, override.key) != given for given, _ in self.parts):
            return None
        parts = []
        for (given, axes), has in zip(self.parts, having, strict=True):
            fixed, inner = overridden([], axes, [override]) if has else ([], axes)
            parts.append(((*given, *fixed), tuple(inner)))
        return Cases.of(tuple(parts), (*self.left_out, override.key))


@dataclass(frozen=True, eq=False)
class Override:
    """What the command line says of ``key`` and the keys below it, in place of all that the file does: one point, or an axis of several."""

    key: str
    axis: Axis


def overridden(given: list[Assignment], axes: Sequence[Axis], overrides: Sequence[Override]) -> tuple[list[Assignment], list[Axis]]:
    """Return what is fixed, and the axes, with ``overrides`` in place.

    One that is an axis stands where the axis of its key stood, or else after all but seeds. Where axes of cases alone set a key, it stands
    in these cases.
    """
    for override in overrides:
        key, points = override.key, override.axis.points
        if (inner := _within_cases(given, axes, override)) is not None:
            axes = inner
            continue
        last = len(axes) - any(axis.name == "seeds" for axis in axes)
        place = next((n for n, axis in enumerate(axes) if axis.name == override.axis.name), last)
        kept = [a for a in given if not _below(a.key, key)]
        reduced = [axis.without(key) for axis in axes]
        if len(points) > 1:
            reduced.insert(place, override.axis)
        elif points[0][-1].value is not None or (len(kept) == len(given) and reduced == list(axes)):
            # A null has taken away what it should, unless there was nothing, which is to be said.
            kept += points[0]
        given, axes = kept, [axis for axis in reduced if axis is not None]
    return given, list(axes)


def _within_cases(given: Sequence[Assignment], axes: Sequence[Axis], override: Override) -> list[Axis] | None:
    """Return the axes with an override in those of cases; ``None`` if its key is set elsewhere, too, or in no axis of a case."""
    if any(_below(a.key, override.key) for a in given):
        return None
    found: list[Axis] = []
    for axis in axes:
        if isinstance(axis, Cases):
            if (changed := axis.within(override)) is None:
                return None
            found.append(changed)
        elif any(_below(key, override.key) for key in axis.keys):
            return None
        else:
            found.append(axis)
    return found if any(isinstance(axis, Cases) for axis in axes) else None


def _unset(given: tuple[Assignment, ...], prefix: str) -> tuple[Assignment, ...]:
    return tuple(a for a in given if not _below(a.key, prefix))


def _below(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}.")


def parents(key: str) -> Iterator[str]:
    """Yield the keys of the sections that a dotted key is in, from the innermost outwards."""
    while key := key.rpartition(".")[0]:
        yield key


def assignments(value: object, path: Path, prefix: str, mistakes: list[Mistake]) -> Iterator[Assignment]:
    """Yield the leaves of nested mappings under ``prefix``, with dotted keys.

    What would set nothing is a mistake: a key written twice, dotted and nested, one that a null after it takes away, and a section
    without keys.
    """
    seen: dict[str, Path] = {}
    within: dict[str, str] = {}
    for leaf in _leaves(value, path, prefix, mistakes):
        if leaf.key in seen:
            mistakes.append(Mistake(leaf.path, leaf.key, "is given twice: once dotted and once nested"))
        if leaf.value is None and leaf.key in within:
            mistakes.append(Mistake(leaf.path, leaf.key, f"is null, which takes away {within[leaf.key]}, given beside it"))
        within |= dict.fromkeys(parents(leaf.key), leaf.key)
        seen[leaf.key] = leaf.path
        yield leaf


def _leaves(value: object, path: Path, prefix: str, mistakes: list[Mistake]) -> Iterator[Assignment]:
    if isinstance(value, Mapping) and not is_spread(value):
        for key, inner in value.items():
            below = f"{prefix}.{key}" if prefix else str(key)
            if inner == {}:
                mistakes.append(
                    Mistake((*path, key), below, "is a section without keys, which sets nothing: give it some, or leave it out")
                )
            yield from _leaves(inner, (*path, key), below, mistakes)
    else:
        yield Assignment(prefix, value, path)
