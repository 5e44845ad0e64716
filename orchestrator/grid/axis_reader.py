"""Reading axes: what a file's ``cases``, ``grid``, ``zip``, ``random`` and ``seeds`` say, with where it is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.grid.axes import BLOCKS, Assignment, Axis, Cases, assignments, parents
from orchestrator.grid.quoting import shown
from orchestrator.grid.source import Mistake, Path
from orchestrator.grid.spreads import MAX_TRIALS, Misdrawn, distribution, is_count, is_spread, spread


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
        parts: list[tuple[tuple[Assignment, ...], tuple[Axis, ...]]] = []
        for place, case in enumerate(cases):
            path: Path = ("cases", place)
            if not isinstance(case, Mapping) or not case:
                self._mistake(path, "cases", "each item must be a set of keys, such as {factorization.depth: 3}")
                continue
            given = tuple(assignments({key: value for key, value in case.items() if key not in BLOCKS}, path, "", self.mistakes))
            axes = tuple(self._block(case, path))
            self._check_owners(axes, given)
            parts.append((given, axes))
        yield Cases.of(tuple(parts))

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
