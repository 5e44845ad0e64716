"""From a parsed grid file to its trials.

A grid of 100,000 trials has few distinct sections: each is built and checked once, for the combination of axis points that it depends
on, and shared by all trials that have it.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

from orchestrator.grid.axes import Assignment, Axis, AxisReader, assignments
from orchestrator.grid.data_files import Files
from orchestrator.grid.identity import trial_id
from orchestrator.grid.model import SCALARS
from orchestrator.grid.quoting import nearest, shown
from orchestrator.grid.sections import PARTS, REQUIRED, build_scalar, build_section
from orchestrator.grid.source import MAX_DEPTH, Mistake, Path
from orchestrator.grid.spreads import MAX_TRIALS
from workloads.kinds import Kind
from workloads.section import as_tuple
from workloads.trial import DEFAULT_LOSS, Trial, TrialSpec, conflicts

TOLD = 1000
"""Trials between two words on how far expanding is."""
_BAD = object()
"""Stands for a section with a mistake in it, which has been reported."""


@dataclass(frozen=True)
class Extent:
    """What a grid spans: the dotted ``keys`` that vary, and how many of its points were ``merged``.

    A point is merged into an earlier one that differs from it in seeds alone which make no difference: both are the same trial.
    """

    keys: tuple[str, ...] = ()
    merged: int = 0


class Expander:
    """Expands one grid; mistakes go to ``mistakes``."""

    def __init__(self, data: Mapping[str, Any], overrides: Sequence[Assignment], files: Files, mistakes: list[Mistake]) -> None:
        self.mistakes, self.files, self.data = mistakes, files, data
        self._misspelt: set[str] = set()
        fixed = data.get("fixed") or {}
        if not isinstance(fixed, Mapping):
            mistakes.append(Mistake(("fixed",), "fixed", "must be a mapping of keys"))
            fixed = {}
        axes: list[Axis | None] = [*AxisReader(data, mistakes).read()]
        for override in overrides:
            axes = [axis and axis.without(override.key) for axis in axes]
        self.axes = [axis for axis in axes if axis is not None]
        given = list(assignments(fixed, ("fixed",), "", mistakes))
        for override in overrides:
            given = [a for a in given if a.key != override.key and not a.key.startswith(f"{override.key}.")]
        self.fixed = self._by_part([*given, *overrides])
        self.points = [[self._by_part(point) for point in axis.points] for axis in self.axes]
        self.touching = {part: [n for n, axis in enumerate(self.points) if any(part in point for point in axis)] for part in PARTS}
        self._overridden = tuple(override.key for override in overrides)
        self._merged = 0
        # Which points of the axes a part depends on, and what was built for them.
        self._sections: dict[str, tuple[Callable[[tuple[int, ...]], Any], dict[Any, Any]]] = {
            part: (operator.itemgetter(*axes) if axes else (lambda _: None), {}) for part, axes in self.touching.items()
        }
        self._checked: dict[tuple[Any, ...], bool] = {}
        if "seed" in self.fixed and self.touching["seed"]:
            clash = self.fixed["seed"][0]
            mistakes.append(Mistake(clash.path, clash.key, "has no effect: seeds sets it"))

    def _by_part(self, given: Sequence[Assignment]) -> dict[str, list[Assignment]]:
        parts: dict[str, list[Assignment]] = defaultdict(list)
        for assignment in given:
            part = assignment.key.partition(".")[0]
            if assignment.key.count(".") >= MAX_DEPTH:
                self.mistakes.append(Mistake(assignment.path, part, f"is nested more than {MAX_DEPTH} levels deep"))
            elif part in PARTS:
                parts[part].append(assignment)
            else:
                hint = nearest(part, PARTS)
                self._misspelt.update(p for p in PARTS if f"mean {p}?" in hint)
                # Where the section itself was written, so that its keys do not each repeat it.
                depth = next((n for n, step in enumerate(assignment.path) if str(step).startswith(part)), len(assignment.path))
                self.mistakes.append(Mistake(assignment.path[: depth + 1], part, f"unknown key{hint}"))
        return dict(parts)

    def trials(self, advanced: Callable[[int, int], None] = lambda *_: None) -> tuple[Trial, ...]:
        """All trials, in order. Empty if something about the grid is wrong. ``advanced`` is told how many are done, and of how many."""
        count = math.prod(len(axis) for axis in self.points)
        if count > MAX_TRIALS:
            self.mistakes.append(Mistake((), "", f"has {count:,} trials, more than the {MAX_TRIALS:,} that a grid may have"))
            return ()
        excludes = self._excludes()
        matched = [False] * len(excludes)
        found: dict[str, Trial] = {}
        first: dict[object, int] = {}
        seeds = _Seeds(self)
        for place, indices in enumerate(itertools.product(*(range(len(axis)) for axis in self.points))):
            if place % TOLD == 0:
                advanced(place, count)
            spec = self._spec(indices)
            if spec is None:
                continue
            fits = [all(_value(spec, key) == value for key, value in partial.items()) for _, partial in excludes]
            matched = list(map(operator.or_, matched, fits))
            if any(fits):
                continue
            seeds.note(spec, indices)
            identity = trial_id(spec)
            # As it was written: seeds that make no difference may vary, but not be listed twice.
            point = identity if spec.seeded and spec.problem.draws else (identity, spec.seed, spec.problem.seed)
            if point in first:
                self._same(first[point], place)
                return ()
            first[point] = place
            self._merged += identity in found
            found.setdefault(identity, Trial(identity, spec.settled()))
        for (path, partial), used in zip(excludes, matched, strict=True):
            if not used and not self.mistakes:
                self.mistakes.append(Mistake(path, "exclude", f"leaves out nothing: no trial has {shown(partial)}"))
        if not found and not self.mistakes:
            self.mistakes.append(Mistake(("exclude",), "exclude", "leaves out every trial"))
        if not self.mistakes:
            self.mistakes += seeds.mistakes()
        return tuple(found.values())

    def extent(self) -> Extent:
        """Return the keys that differ between trials, and how many points `trials` has merged."""
        return Extent(tuple(key for axis in self.axes if len(axis.points) > 1 for key in axis.keys), self._merged)

    def _spec(self, indices: tuple[int, ...]) -> TrialSpec | None:
        parts = {part: self._part(part, indices) for part in PARTS}
        if any(value is _BAD for value in parts.values()):
            return None
        whole = (parts["problem"].alike, *(id(parts[name]) for name in ("factorization", "init", "stop")))
        # Which optimizer it is makes no difference, and a random axis may have a hundred thousand.
        key = (*whole, parts["optimizer"] is None, parts["dtype"])
        if key not in self._checked:
            self._checked[key] = self._check(parts, indices)
        if not self._checked[key]:
            return None
        given = {name: value for name, value in parts.items() if value is not None}
        spec = copy(_blank(tuple(given)))
        vars(spec).update(given)
        return spec

    def _part(self, part: str, indices: tuple[int, ...]) -> Any:
        """One part of a spec, built once for the points of the axes that touch it."""
        place_of, built = self._sections[part]
        place = place_of(indices)
        if place not in built:
            given = [*self.fixed.get(part, ()), *(a for n in self.touching[part] for a in self.points[n][indices[n]].get(part, ()))]
            built[place] = self._build(part, self._without_nulls(given))
        return built[place]

    def _without_nulls(self, given: Sequence[Assignment]) -> list[Assignment]:
        """Return what is left when each null has taken away what was set before it: its key, or all keys of its section."""
        left: list[Assignment] = []
        for assignment in given:
            if assignment.value is not None:
                left.append(assignment)
                continue
            kept = [a for a in left if a.key != assignment.key and not a.key.startswith(f"{assignment.key}.")]
            if len(kept) == len(left):
                self.mistakes.append(Mistake(assignment.path, assignment.key, "is null, which takes away what was set, but nothing was"))
            left = kept
        return left

    def _build(self, part: str, given: Sequence[Assignment]) -> Any:
        if not given:
            if part in self._misspelt:
                return _BAD
            if part in REQUIRED:
                self.mistakes.append(Mistake(("fixed",), part, "is missing: put it under fixed, cases or an axis"))
                return _BAD
            return None
        if part in SCALARS:
            value = build_scalar(part, given, self.mistakes)
            return _BAD if value is None else value
        section = build_section(part, given, self.mistakes)
        if section is None:
            return _BAD
        if isinstance(section, Kind) and section.data_file is not None:
            where = {a.key: a.path for a in given}
            return self.files.attach(part, section, section.data_file, where, self.mistakes) or _BAD
        return section

    def _check(self, parts: Mapping[str, Any], indices: tuple[int, ...]) -> bool:
        """Return whether the parts go together; what does not is reported at the key's own place."""
        sections = (parts[name] for name in ("problem", "factorization", "init", "optimizer", "stop"))
        found = list(conflicts(*sections, dtype=parts["dtype"] or "float64"))
        if not found and parts["init"] is not None:
            found = list(parts["init"].data_conflicts(parts["factorization"], parts["problem"].shape, self.files.contents))
        for key, message in found:
            self.mistakes.append(Mistake(self._place(key, indices), key, message))
        return not found

    def _place(self, key: str, indices: tuple[int, ...]) -> Path:
        """Where the value of ``key`` in this trial was written, or something of its section."""
        given = self._given(key, indices)
        plain, _, position = key.partition("[")
        steps = (int(position[:-1]),) if position else ()
        exact = [a.path for a in given if a.key == plain]
        return (*exact[-1], *steps) if exact else given[0].path if given else ("fixed",)

    def _given(self, key: str, indices: tuple[int, ...]) -> list[Assignment]:
        """Return all that was written of the section of ``key`` in a trial."""
        part = key.partition(".")[0]
        return [*self.fixed.get(part, ()), *(a for n, i in enumerate(indices) for a in self.points[n][i].get(part, ()))]

    def written(self, key: str, indices: tuple[int, ...]) -> Path | None:
        """Return where the value of ``key`` in a trial was written; ``None`` where it was not."""
        last = next((a for a in reversed(self._given(key, indices)) if a.key == key), None)
        return None if last is None or last.value is None else last.path

    def _excludes(self) -> list[tuple[Path, dict[str, Any]]]:
        listed = self.data.get("exclude") or []
        if not isinstance(listed, list):
            self.mistakes.append(Mistake(("exclude",), "exclude", "must be a list of partial specs"))
            return []
        out = []
        for n, partial in enumerate(listed):
            path: Path = ("exclude", n)
            if not isinstance(partial, Mapping) or not partial:
                self.mistakes.append(Mistake(path, "exclude", "each item must be a set of keys and values"))
                continue
            leaves = list(assignments(partial, path, "", self.mistakes))
            self._by_part(leaves)
            out.append((path, {a.key: as_tuple(a.value) for a in leaves}))
        return out

    def _same(self, before: int, after: int) -> None:
        """Report that two points are the same trial, where the axis was written in which they differ."""
        one, other = (self._indices(place) for place in (before, after))
        apart = [n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
        message = f"points {before + 1} and {after + 1} of the grid are the same trial"
        for key in self._overridden:
            if names := [self.axes[n].name for n in apart if key in self.axes[n].left_out]:
                self.mistakes.append(Mistake(("--set", key), key, f"{message}: it was this key that told them apart in {names[0]}"))
                return
        points = [self.points[n][other[n]] for n in apart]
        last = next((a for point in reversed(points) for given in point.values() for a in given), None)
        message += ": every value of an axis has to make a difference"
        self.mistakes.append(Mistake(last.path if last else (), last.key if last else "", message))

    def _indices(self, place: int) -> tuple[int, ...]:
        """Return the position on each axis of the point at ``place``, of which the last varies fastest."""
        indices = []
        for axis in reversed(self.points):
            place, index = divmod(place, len(axis))
            indices.append(index)
        return tuple(reversed(indices))


@cache
def _blank(names: tuple[str, ...]) -> TrialSpec:
    """Return a spec that gives some parts, which are yet to be put in: Pydantic takes longer to make one than to copy it."""
    return TrialSpec.model_construct(**{"loss": DEFAULT_LOSS, **dict.fromkeys(names)})  # type: ignore[arg-type]


class _Seeds:
    """Seeds of a grid that are written, and whether any trial that has them draws something by them."""

    KEYS: Mapping[str, tuple[Callable[[TrialSpec], bool], str]] = {
        "seed": (
            lambda spec: spec.seeded,
            "has no effect: the trials that it is set for draw nothing by it, and would be the same for all seeds",
        ),
        "problem.seed": (lambda spec: spec.problem.draws, "has no effect: neither the ground truth nor what is seen of it is drawn"),
    }
    """How to tell whether a key makes a difference to a trial, and what is wrong where it makes none."""

    def __init__(self, expander: Expander) -> None:
        self._expander = expander
        self._matters: dict[str, dict[tuple[int, ...], tuple[bool, tuple[int, ...]]]] = {key: {} for key in self.KEYS}

    def note(self, spec: TrialSpec, indices: tuple[int, ...]) -> None:
        """Take note of a trial."""
        for key, (matters, _) in self.KEYS.items():
            point = tuple(indices[n] for n in self._expander.touching[key.partition(".")[0]])
            known = self._matters[key].get(point)
            if known is None or not known[0]:
                self._matters[key][point] = (matters(spec), indices)

    def mistakes(self) -> Iterator[Mistake]:
        """Yield each place where a seed was written that makes no difference to any trial."""
        for key, (_, message) in self.KEYS.items():
            places: dict[Path, bool] = {}
            for matters, indices in self._matters[key].values():
                path = self._expander.written(key, indices)
                if path is not None:
                    # Of a list of values, the list.
                    whole = path[:-1] if isinstance(path[-1], int) else path
                    places[whole] = places.get(whole, False) or matters
            yield from (Mistake(path, key, message) for path, matters in places.items() if not matters)


def _value(spec: TrialSpec, dotted: str) -> Any:
    """Return the value of a dotted key in a spec; ``None`` where this trial has no such key."""
    value: Any = spec
    for name in dotted.split("."):
        # Only what a grid can set: sections have methods and properties, too.
        value = getattr(value, name, None) if name == "kind" or name in getattr(type(value), "model_fields", ()) else None
    return value.model_dump() if isinstance(value, Kind) else value
