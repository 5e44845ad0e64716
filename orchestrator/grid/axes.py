"""Axes: what varies in a grid, and the points of each. Assignments are dotted keys with their value and where it was written."""

from __future__ import annotations

import difflib
import math
import random
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.grid.source import Mistake, Path

MAX_TRIALS = 1_000_000
DISTRIBUTIONS = ("uniform", "loguniform", "choice", "integers")


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

    @property
    def keys(self) -> dict[str, Path]:
        """All keys that some point sets, with one place where each is."""
        return {a.key: a.path for point in self.points for a in point}

    def without(self, prefix: str) -> Axis | None:
        """Return the axis without ``prefix`` and the keys below it; ``None`` if it sets nothing else."""
        points = tuple(tuple(a for a in point if not _below(a.key, prefix)) for point in self.points)
        if points == self.points:
            return self
        return Axis(self.name, points, (*self.left_out, prefix)) if any(points) else None


def _below(key: str, prefix: str) -> bool:
    return key == prefix or key.startswith(f"{prefix}.")


def _upward(key: str) -> Iterator[str]:
    """Yield a dotted key, and those of the sections that it is in."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def assignments(value: object, path: Path, prefix: str, mistakes: list[Mistake]) -> Iterator[Assignment]:
    """Yield the leaves of nested mappings under ``prefix``, with dotted keys; a key written twice, dotted and nested, is a problem."""
    seen: dict[str, Path] = {}
    for leaf in _leaves(value, path, prefix):
        if leaf.key in seen:
            mistakes.append(Mistake(leaf.path, leaf.key, "is given twice: once dotted and once nested"))
        seen[leaf.key] = leaf.path
        yield leaf


def _leaves(value: object, path: Path, prefix: str) -> Iterator[Assignment]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key), f"{prefix}.{key}" if prefix else str(key))
    else:
        yield Assignment(prefix, value, path)


class AxisReader:
    """Reads the axes of a grid file; what is wrong with them goes to ``mistakes``."""

    def __init__(self, data: Mapping[str, Any], mistakes: list[Mistake]) -> None:
        self.data, self.mistakes = data, mistakes

    def read(self) -> list[Axis]:
        """All axes, in the order in which they multiply: the last varies fastest."""
        axes = [*self._cases(), *self._grid(), *self._zip(), *self._random(), *self._seeds()]
        owners: dict[str, str] = {}
        above: dict[str, str] = {}
        for axis in axes:
            for key, path in axis.keys.items():
                other = above.get(key) or next((owners[k] for k in _upward(key) if k in owners), None)
                if other is not None:
                    self._mistake(path, key, f"is set by {other} already: one axis sets a key")
            owners.update(dict.fromkeys(axis.keys, axis.name))
            for key in axis.keys:
                above |= {k: axis.name for k in _upward(key) if k not in above}
        return axes

    def _mistake(self, path: Path, key: str, message: str) -> None:
        self.mistakes.append(Mistake(path, key, message))

    def _mapping(self, name: str) -> Mapping[str, Any]:
        value = self.data.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._mistake((name,), name, "must be a mapping of keys")
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
        points = []
        for place, case in enumerate(cases):
            path: Path = ("cases", place)
            if not isinstance(case, Mapping) or not case:
                self._mistake(path, "cases", "each item must be a set of keys, such as {factorization.depth: 3}")
                continue
            points.append(tuple(assignments(case, path, "", self.mistakes)))
        yield Axis("cases", tuple(points))

    def _values(self, section: str) -> Iterator[tuple[str, list[tuple[Assignment, ...]]]]:
        for key, values in self._mapping(section).items():
            path: Path = (section, key)
            if not isinstance(values, list):
                self._mistake(path, key, f"must be a list of values, not {shown(values)}; a single value belongs under fixed")
            elif not values:
                self._mistake(path, key, "is an empty axis: give at least one value, or leave the key out")
            else:
                yield key, [tuple(assignments(value, (*path, n), key, self.mistakes)) for n, value in enumerate(values)]

    def _grid(self) -> Iterator[Axis]:
        for key, points in self._values("grid"):
            yield Axis(f"grid.{key}", tuple(points))

    def _zip(self) -> Iterator[Axis]:
        columns = list(self._values("zip"))
        if not columns:
            return
        lengths = {key: len(points) for key, points in columns}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} has {count}" for key, count in lengths.items())
            self._mistake(("zip",), "zip", f"axes that advance together need equally many values, but {listed}")
        yield Axis("zip", tuple(tuple(a for part in row for a in part) for row in zip(*(points for _, points in columns), strict=False)))

    def _random(self) -> Iterator[Axis]:
        settings = dict(self._mapping("random"))
        if not settings:
            return
        samples, seed = settings.pop("samples", None), settings.pop("seed", 0)
        for name, value, least in (("samples", samples, 1), ("seed", seed, 0)):
            if not is_count(value, least):
                self._mistake(("random", name), f"random.{name}", f"must be a whole number of at least {least}, not {shown(value)}")
        if is_count(samples, MAX_TRIALS + 1):
            self._mistake(("random", "samples"), "random.samples", f"are more than {MAX_TRIALS:,}, as many as a grid may have trials")
            return
        if not settings:
            self._mistake(("random",), "random", "names no key to draw: add one, such as optimizer.lr: {loguniform: [1e-4, 1e-1]}")
        draws = {key: drawn for key, value in settings.items() if (drawn := self._distribution(key, value)) is not None}
        if not draws or not is_count(samples, 1) or not is_count(seed, 0):
            return
        # Each key has a stream of its own, so that neither more samples nor another key changes what has been drawn.
        streams = {key: random.Random(f"{seed}:{key}") for key in draws}
        yield Axis(
            "random",
            tuple(
                tuple(Assignment(key, draw(streams[key].random()), ("random", key)) for key, draw in draws.items()) for _ in range(samples)
            ),
        )

    def _distribution(self, key: str, value: object) -> Any:
        """From a number in [0, 1) to a draw, or ``None`` after a mistake."""
        path: Path = ("random", key)
        if not isinstance(value, Mapping) or len(value) != 1:
            self._mistake(path, key, f"must name one distribution, such as {{uniform: [0, 1]}}: one of {', '.join(DISTRIBUTIONS)}")
            return None
        ((name, arguments),) = value.items()
        if name not in DISTRIBUTIONS:
            self._mistake((*path, name), key, f"unknown distribution {shown(name)}{nearest(name, DISTRIBUTIONS)}")
            return None
        if name == "choice":
            if not isinstance(arguments, list) or not arguments:
                self._mistake((*path, name), key, "choice needs a list of values")
                return None
            return lambda u: arguments[int(u * len(arguments))]
        whole = name == "integers"
        if (
            not isinstance(arguments, list)
            or len(arguments) != 2
            or not all(is_number(a, whole) for a in arguments)
            or arguments[0] > arguments[1]
        ):
            self._mistake(
                (*path, name),
                key,
                f"{name} needs [low, high], two {'whole ' if whole else ''}numbers in rising order, not {shown(arguments)}",
            )
            return None
        low, high = arguments
        if not math.isfinite(float(high) - float(low)):
            self._mistake((*path, name), key, f"{name} needs bounds whose difference is a number that floating point can hold")
            return None
        if name == "loguniform":
            if low <= 0:
                self._mistake((*path, name), key, "loguniform needs bounds above 0")
                return None
            return lambda u: min(max(math.exp(math.log(low) + u * (math.log(high) - math.log(low))), float(low)), float(high))
        if whole:
            return lambda u: int(low) + int(u * (int(high) - int(low) + 1))
        return lambda u: low + u * (high - low)

    def _seeds(self) -> Iterator[Axis]:
        seeds = self.data.get("seeds")
        if seeds is None:
            return
        if is_count(seeds, 1):
            if seeds > MAX_TRIALS:
                self._mistake(("seeds",), "seeds", f"are more than {MAX_TRIALS:,}, which is as many trials as a grid may have")
                return
            yield Axis("seeds", tuple((Assignment("seed", n, ("seeds",)),) for n in range(int(seeds))))
        elif isinstance(seeds, list) and seeds:
            yield Axis("seeds", tuple((Assignment("seed", s, ("seeds", n)),) for n, s in enumerate(seeds)))
        elif seeds == []:
            self._mistake(("seeds",), "seeds", "is an empty axis: give at least one seed, or leave the key out")
        else:
            self._mistake(("seeds",), "seeds", f"must be a whole number of at least 1 or a list of seeds, not {shown(seeds)}")


def is_number(value: object, whole: bool = False) -> bool:
    """Return whether ``value`` is a finite number, and a whole one if asked."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and (not whole or float(value).is_integer())
    )


def is_count(value: object, least: int) -> bool:
    """Return whether ``value`` is a whole number of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def shown(value: object) -> str:
    """Return a value as a message quotes it: as YAML would write it, and short."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else _SHORT.repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_SHORT = reprlib.Repr()
"""Looks no further into a value than a message can show: aliases make huge ones of a few lines."""
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict = 40, 60, 60, 60
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 400


def nearest(name: object, known: Iterable[str]) -> str:
    """``; did you mean X?``, or else the list of what is known."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, 1, 0.65) if isinstance(name, str) else []
    return f"; did you mean {close[0]}?" if close else f": known are {', '.join(known)}"
