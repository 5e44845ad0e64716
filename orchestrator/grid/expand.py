"""From a parsed grid file to its trials.

A grid of 100,000 trials has few distinct sections: each is built and checked once, for the combination of axis points that it depends
on, and shared by all trials that have it.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from orchestrator.grid.axes import Assignment, Override, assignments, overridden
from orchestrator.grid.axis_reader import AxisReader
from orchestrator.grid.data_files import Files
from orchestrator.grid.effects import Effects
from orchestrator.grid.excludes import Excludes
from orchestrator.grid.identity import trial_id
from orchestrator.grid.model import SCALARS
from orchestrator.grid.own_code import try_kind, try_loss_of
from orchestrator.grid.quoting import shown
from orchestrator.grid.sections import PARTS, REQUIRED, build_scalar, build_section, named
from orchestrator.grid.source import Mistake, Path
from orchestrator.grid.watched import watched_conflicts
from orchestrator.grid.written import Written
from workloads.kinds import Kind
from workloads.trial import DEFAULT_LOSS, Trial, TrialSpec, conflicts

if TYPE_CHECKING:
    from orchestrator.grid.conditions import Table

TOLD = 1000
"""Trials between two words on how far expanding is."""
_BAD = object()
"""Stands for a section with a mistake in it, which has been reported."""


@dataclass(frozen=True)
class Extent:
    """What a grid spans: the dotted ``keys`` that vary, and how many of its points were ``merged``.

    A point is merged into an earlier one that differs from it in seeds alone which make no difference: both are the same trial. And
    ``coinciding`` are draws of `random` that were the same as earlier ones, which are points once.
    """

    keys: tuple[str, ...] = ()
    merged: int = 0
    coinciding: int = 0


class Expander:
    """Expands one grid; mistakes go to ``mistakes``. ``overrides`` replace what the file says of their keys."""

    def __init__(self, data: Mapping[str, Any], overrides: Sequence[Override], files: Files, mistakes: list[Mistake]) -> None:
        self.mistakes, self.files = mistakes, files
        fixed = data.get("fixed")
        if not isinstance(fixed, Mapping | None):
            mistakes.append(Mistake(("fixed",), "fixed", "must be a mapping of keys"))
            fixed = None
        fixed = list(assignments(fixed or {}, ("fixed",), "", mistakes))
        given, self.axes = overridden(fixed, AxisReader(data, mistakes).read(), overrides)
        self.written = Written(given, self.axes, mistakes)
        self._excludes = Excludes(data, self.written)
        self._overrides = overrides
        self._merged = 0
        # Which points of the axes a part depends on, and what was built for them.
        self._sections: dict[str, tuple[Callable[[tuple[int, ...]], Any], dict[Any, Any]]] = {
            part: (operator.itemgetter(*axes) if axes else (lambda _: None), {}) for part, axes in self.written.deciding.items()
        }
        self._checked: dict[tuple[Any, ...], bool] = {}
        self._effects = Effects(self.written, [override.key for override in overrides])
        if "seed" in self.written.fixed and self.written.touching["seed"]:
            clash = self.written.fixed["seed"][0]
            mistakes.append(Mistake(clash.path, clash.key, "has no effect: seeds sets it"))

    def trials(self, advanced: Callable[[int, int], None] = lambda *_: None) -> tuple[Trial, ...]:
        """All trials, in order. Empty if something about the grid is wrong. ``advanced`` is told how many are done, and of how many."""
        count = math.prod(len(axis) for axis in self.written.points)
        left_out = self._excludes.left_out()
        found: dict[str, Trial] = {}
        first: dict[object, int] = {}
        seeds = _Seeds(self)
        for place, indices in enumerate(itertools.product(*(range(len(axis)) for axis in self.written.points))):
            if place % TOLD == 0:
                advanced(place, count)
            if left_out is not None and left_out[place]:
                continue
            spec = self._spec(indices)
            if spec is None:
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
        if not self.mistakes:
            self._excludes.report_unused()
        if not found and not self.mistakes:
            self.mistakes.append(Mistake(("exclude",), "exclude", "leaves out every trial"))
        if not self.mistakes:
            self.mistakes += seeds.mistakes()
            self.mistakes += self._effects.mistakes(self._points(left_out))
        return tuple(found.values())

    def _points(self, left_out: Table | None) -> Iterator[tuple[tuple[int, ...], TrialSpec]]:
        """Yield the position on each axis, and the spec, of each point that is not left out and has no mistakes."""
        for place, indices in enumerate(itertools.product(*(range(len(axis)) for axis in self.written.points))):
            if (left_out is None or not left_out[place]) and (spec := self._spec(indices)) is not None:
                yield indices, spec

    def extent(self) -> Extent:
        """Return the keys that differ between trials, and how many points `trials` has merged."""
        return Extent(
            tuple(key for axis in self.axes for key in axis.independent), self._merged, sum(axis.coinciding for axis in self.axes)
        )

    def _spec(self, indices: tuple[int, ...]) -> TrialSpec | None:
        parts = {part: self._part(part, indices) for part in PARTS}
        if any(value is _BAD for value in parts.values()):
            return None
        whole = (parts["problem"].alike, *(id(parts[name]) for name in ("factorization", "init", "loss", "stop")))
        # Of the optimizer little makes a difference, and a random axis may have a hundred thousand.
        optimizer = parts["optimizer"]
        steps: object = None
        if optimizer is not None:
            steps = id(optimizer) if optimizer.code else (optimizer.structure, optimizer.schedule, optimizer.batch)
        key = (*whole, steps, parts["dtype"])
        if key not in self._checked:
            self._checked[key] = self._check(parts, indices)
        if not self._checked[key]:
            return None
        return _made(parts)

    def _part(self, part: str, indices: tuple[int, ...]) -> Any:
        """One part of a spec, built once for the points of the axes that touch it."""
        place_of, built = self._sections[part]
        place = place_of(indices)
        if place not in built:
            given = self.written.given(part, indices)
            built[place] = _BAD if given is None else self._build(part, given)
        return built[place]

    def _build(self, part: str, given: Sequence[Assignment]) -> Any:
        if not given:
            if part in self.written.misspelt:
                return _BAD
            if part in REQUIRED:
                self.mistakes.append(Mistake(("fixed",), part, "is missing: put it under fixed, cases or an axis"))
                return _BAD
            return None
        if part in SCALARS:
            value = build_scalar(part, given, self.mistakes)
            return _BAD if value is None else value
        section = build_section(part, named(part, given, self.mistakes), self.mistakes)
        if section is None:
            return _BAD
        try_loss_of(section)
        if isinstance(section, Kind) and section.data_file is not None:
            where = {a.key: a.path for a in given}
            return self.files.attach(part, section, section.data_file, where, self.mistakes) or _BAD
        return section

    def _check(self, parts: Mapping[str, Any], indices: tuple[int, ...]) -> bool:
        """Return whether the parts go together; what does not is reported at the key's own place."""
        whole = {**parts, "loss": parts["loss"] or DEFAULT_LOSS}
        sections = (whole[name] for name in ("problem", "factorization", "init", "optimizer", "loss", "stop"))
        factorization, shape = parts["factorization"], parts["problem"].shape
        found = try_kind(factorization, shape, lambda: list(conflicts(*sections, dtype=parts["dtype"] or "float64")))
        if not found and parts["init"] is not None:
            found = list(parts["init"].data_conflicts(factorization, shape, self.files.contents))
        found = found or list(watched_conflicts(_made(parts)))
        if not found:
            self._effects.note(_made(parts))
        for key, message in found:
            self.mistakes.append(Mistake(self.written.place(key, indices), key, message))
        return not found

    def _same(self, before: int, after: int) -> None:
        """Report that two points are the same trial, where the axis was written in which they differ."""
        one, other = (self._indices(place) for place in (before, after))
        apart = [n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
        message = f"points {before + 1} and {after + 1} of the grid are the same trial"
        for override in self._overrides:
            key = override.key
            if twice := override.axis.twice:
                listed = shown(next(iter(twice.values())) if len(twice) == 1 else twice)
                message = f"lists {listed} twice: every value of an axis has to make a difference"
                self.mistakes.append(Mistake(("--set", key), key, message))
                return
            if names := [self.axes[n].name for n in apart if key in self.axes[n].left_out]:
                top = names[0].partition(".")[0].partition("[")[0]
                message += f": it was this key that told them apart in {names[0]}; with --set {top}=null beside it there are none"
                self.mistakes.append(Mistake(("--set", key), key, message))
                return
        points = [self.written.points[n][other[n]] for n in apart]
        last = next((a for point in reversed(points) for given in point.values() for a in given), None)
        message += ": every value of an axis has to make a difference"
        self.mistakes.append(Mistake(last.path if last else (), last.key if last else "", message))

    def _indices(self, place: int) -> tuple[int, ...]:
        """Return the position on each axis of the point at ``place``, of which the last varies fastest."""
        indices = []
        for axis in reversed(self.written.points):
            place, index = divmod(place, len(axis))
            indices.append(index)
        return tuple(reversed(indices))


def _made(parts: Mapping[str, Any]) -> TrialSpec:
    """Return the spec of checked parts, of which those that are not given are ``None``."""
    given = {name: value for name, value in parts.items() if value is not None}
    spec = copy(_blank(tuple(given)))
    vars(spec).update(given)
    return spec


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
            point = tuple(indices[n] for n in self._expander.written.touching[key.partition(".")[0]])
            known = self._matters[key].get(point)
            if known is None or not known[0]:
                self._matters[key][point] = (matters(spec) or key in self._expander.written.named, indices)

    def mistakes(self) -> Iterator[Mistake]:
        """Yield each place where a seed was written that makes no difference to any trial."""
        for key, (_, message) in self.KEYS.items():
            places: dict[Path, bool] = {}
            for matters, indices in self._matters[key].values():
                path = self._expander.written.path(key, indices)
                if path is not None:
                    # Of a list of values, the list.
                    whole = path[:-1] if isinstance(path[-1], int) else path
                    places[whole] = places.get(whole, False) or matters
            yield from (Mistake(path, key, message) for path, matters in places.items() if not matters)
