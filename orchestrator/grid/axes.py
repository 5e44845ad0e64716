"""Axes: what varies in a grid, and the points of each. Assignments are dotted keys with their value and where it was written."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.grid.quoting import shown
from orchestrator.grid.source import Mistake, Path
from orchestrator.grid.spreads import MAX_TRIALS, Misdrawn, distribution, is_count, is_spread, spread

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

    def without(self, prefix: str) -> Axis | None:
        """Return the axis without ``prefix`` and the keys below it; ``None`` if it sets nothing else."""
        points = tuple(tuple(a for a in point if not _below(a.key, prefix)) for point in self.points)
        if points == self.points:
            return self
        return Axis(self.name, points, (*self.left_out, prefix), self.coinciding) if any(points) else None


@dataclass(frozen=True, eq=False)
class Override:
    """What the command line says of ``key`` and the keys below it, in place of all that the file does: one point, or an axis of several."""

    key: str
    axis: Axis


def overridden(given: list[Assignment], axes: Sequence[Axis], overrides: Sequence[Override]) -> tuple[list[Assignment], list[Axis]]:
    """Return what is fixed, and the axes, with ``overrides`` in place.

    One that is an axis stands where the axis of its key stood, or else after all but seeds.
    """
    for override in overrides:
        key, points = override.key, override.axis.points
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


class AxisReader:
    """Reads the axes of a grid file; what is wrong with them goes to ``mistakes``."""

    def __init__(self, data: Mapping[str, Any], mistakes: list[Mistake]) -> None:
        self.data, self.mistakes = data, mistakes

    def read(self) -> list[Axis]:
        """All axes, in the order in which they multiply: the last varies fastest."""
        axes = [*self._cases(), *self._block(self.data, ()), *self._seeds()]
        self._check_owners(axes)
        return axes

    def _check_owners(self, axes: Sequence[Axis], given: Sequence[Assignment] = ()) -> None:
        """Report keys that two axes set, or that an axis of a case sets and the case itself does."""
        owners = {a.key: "the case" for a in given}
        above = {k: "the case" for a in given for k in (a.key, *parents(a.key))}
        for axis in axes:
            for key, path in axis.keys.items():
                other = above.get(key) or next((owners[k] for k in (key, *parents(key)) if k in owners), None)
                if other is not None:
                    self._mistake(path, key, f"is set by {other} already: one axis sets a key")
            owners.update(dict.fromkeys(axis.keys, axis.name))
            for key in axis.keys:
                above |= {k: axis.name for k in (key, *parents(key)) if k not in above}

    def _mistake(self, path: Path, key: str, message: str) -> None:
        self.mistakes.append(Mistake(path, key, message))

    def _block(self, data: Mapping[str, Any], root: Path) -> Iterator[Axis]:
        """Yield the axes of ``grid``, ``zip`` and ``random``, of the whole file or of a case at ``root``."""
        yield from self._grid(data, root)
        yield from self._zip(data, root)
        yield from self._random(data, root)

    def _mapping(self, data: Mapping[str, Any], root: Path, name: str) -> Mapping[str, Any]:
        value = data.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._mistake((*root, name), name, "must be a mapping of keys")
            return {}
        return value

    def _cases(self) -> Iterator[Axis]:
        cases = self.data.get("cases")
        if not cases:
            if cases not in (None, []):
                self._mistake(("cases",), "cases", "must be a list, each item a set of keys")
            return
        if not isinstance(cases, list):
            self._mistake(("cases",), "cases", "must be a list, each item a set of keys")
            return
        points: list[tuple[Assignment, ...]] = []
        for place, case in enumerate(cases):
            path: Path = ("cases", place)
            if not isinstance(case, Mapping) or not case:
                self._mistake(path, "cases", "each item must be a set of keys, such as {factorization.depth: 3}")
                continue
            points += self._case(case, path)
        yield Axis("cases", tuple(points))

    def _case(self, case: Mapping[str, Any], path: Path) -> Iterator[tuple[Assignment, ...]]:
        """Yield the points of a case: one, or all that its own ``grid``, ``zip`` and ``random`` make of it."""
        given = tuple(assignments({key: value for key, value in case.items() if key not in BLOCKS}, path, "", self.mistakes))
        axes = list(self._block(case, path))
        self._check_owners(axes, given)
        for combination in itertools.product(*(axis.points for axis in axes)):
            yield (*given, *(a for point in combination for a in point))

    def _values(self, block: Mapping[str, Any], root: Path) -> Iterator[tuple[str, list[tuple[Assignment, ...]]]]:
        for key, written in block.items():
            points = self.points(str(key), written, (*root, key))
            if points is not None:
                yield key, points

    def points(self, key: str, written: object, path: Path) -> list[tuple[Assignment, ...]] | None:
        """Return the points of an axis of ``key``: a list of values, or a range or space of numbers; ``None`` after a mistake."""
        values = self._spread(written, path, key)
        if values is not None:
            return [(Assignment(key, value, path),) for value in values]
        if is_spread(written):
            return None
        if not isinstance(written, list):
            self._mistake(path, key, f"must be a list of values, not {shown(written)}; a single value belongs under fixed")
        elif not written:
            self._mistake(path, key, "is an empty axis: give at least one value, or leave the key out")
        else:
            return [tuple(assignments(value, (*path, n), key, self.mistakes)) for n, value in enumerate(written)]
        return None

    def _spread(self, written: object, path: Path, key: str) -> Sequence[int] | Sequence[float] | None:
        """Return the values of a range or a space; ``None`` for what is none, or is wrong."""
        if not is_spread(written):
            return None
        try:
            return spread(written)
        except ValueError as error:
            self._mistake(path, key, str(error))
            return None

    def _grid(self, data: Mapping[str, Any], root: Path) -> Iterator[Axis]:
        for key, points in self._values(self._mapping(data, root, "grid"), (*root, "grid")):
            yield Axis(f"grid.{key}", tuple(points))

    def _zip(self, data: Mapping[str, Any], root: Path) -> Iterator[Axis]:
        written = data.get("zip")
        if not isinstance(written, list):
            yield from self._zipped(self._mapping(data, root, "zip"), (*root, "zip"), "zip")
            return
        for n, block in enumerate(written):
            if isinstance(block, Mapping) and block:
                yield from self._zipped(block, (*root, "zip", n), f"zip[{n}]")
            else:
                self._mistake((*root, "zip", n), "zip", "each item must be a mapping from keys to lists of equal length")

    def _zipped(self, block: Mapping[str, Any], path: Path, name: str) -> Iterator[Axis]:
        columns = list(self._values(block, path))
        if not columns:
            return
        lengths = {key: len(points) for key, points in columns}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} has {count}" for key, count in lengths.items())
            self._mistake(path, "zip", f"axes that advance together need equally many values, but {listed}")
        yield Axis(name, tuple(tuple(a for part in row for a in part) for row in zip(*(points for _, points in columns), strict=False)))

    def _random(self, data: Mapping[str, Any], root: Path) -> Iterator[Axis]:
        settings = dict(self._mapping(data, root, "random"))
        if not settings:
            return
        path: Path = (*root, "random")
        samples, seed = settings.pop("samples", None), settings.pop("seed", 0)
        for name, value, least in (("samples", samples, 1), ("seed", seed, 0)):
            if not is_count(value, least):
                self._mistake((*path, name), f"random.{name}", f"must be a whole number of at least {least}, not {shown(value)}")
        if is_count(samples, MAX_TRIALS + 1):
            self._mistake((*path, "samples"), "random.samples", f"are more than {MAX_TRIALS:,}, as many as a grid may have trials")
            return
        if not settings:
            self._mistake(path, "random", "names no key to draw: add one, such as optimizer.lr: {loguniform: [1e-4, 1e-1]}")
        draws: dict[str, Callable[[float], Any]] = {}
        for key, value in settings.items():
            try:
                draws[key] = distribution(value)
            except Misdrawn as error:
                self._mistake((*path, key, *error.below), key, str(error))
        if not draws or not is_count(samples, 1) or not is_count(seed, 0):
            return
        # Each key has a stream of its own, so that neither more samples nor another key changes what has been drawn.
        streams = {key: random.Random(f"{seed}:{key}") for key in draws}
        drawn = [{key: draw(streams[key].random()) for key, draw in draws.items()} for _ in range(samples)]
        # Few values, of a choice say, come up again: that is chance, and no mistake, but no other trial either.
        distinct = {repr(values): values for values in drawn}.values()
        points = (
            tuple(a for key, value in values.items() for a in assignments(value, (*path, key), key, self.mistakes)) for values in distinct
        )
        yield Axis("random", tuple(points), coinciding=len(drawn) - len(distinct))

    def _seeds(self) -> Iterator[Axis]:
        seeds = self.data.get("seeds")
        if seeds is None:
            return
        if is_count(seeds, 1):
            if seeds > MAX_TRIALS:
                self._mistake(("seeds",), "seeds", f"are more than {MAX_TRIALS:,}, which is as many trials as a grid may have")
                return
            yield Axis("seeds", tuple((Assignment("seed", n, ("seeds",)),) for n in range(int(seeds))))
        elif is_spread(seeds):
            yield Axis("seeds", tuple((Assignment("seed", n, ("seeds",)),) for n in self._spread(seeds, ("seeds",), "seeds") or ()))
        elif isinstance(seeds, list) and seeds:
            yield Axis("seeds", tuple((Assignment("seed", s, ("seeds", n)),) for n, s in enumerate(seeds)))
        elif seeds == []:
            self._mistake(("seeds",), "seeds", "is an empty axis: give at least one seed, or leave the key out")
        else:
            self._mistake(
                ("seeds",), "seeds", f"must be a whole number of at least 1, a list of seeds or a range such as 0..9, not {shown(seeds)}"
            )
