"""What a grid leaves out: partial specs, and conditions on the keys of a spec. What is left out is not even checked."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.grid.axes import assignments
from orchestrator.grid.derived import Undefined, holds
from orchestrator.grid.expressions import Expression, ExpressionError
from orchestrator.grid.quoting import nearest, shown
from orchestrator.grid.source import Mistake, Path
from orchestrator.grid.spreads import nesting
from orchestrator.grid.written import Indices, Written, spec_keys


@dataclass(eq=False)
class _Exclude:
    """One item of ``exclude``: whether it meets a trial, which is known once for the points of the axes that it depends on."""

    path: Path
    text: str
    meets: Callable[[Indices], bool]
    point_of: Callable[[Indices], Any]
    known: dict[Any, bool] = field(default_factory=dict)

    def leaves_out(self, indices: Indices) -> bool:
        point = self.point_of(indices)
        if point not in self.known:
            self.known[point] = self.meets(indices)
        return self.known[point]


class Excludes:
    """The items of ``exclude`` in ``data``; what is wrong with them goes to the mistakes of ``written``."""

    def __init__(self, data: Mapping[str, Any], written: Written) -> None:
        self._written = written
        listed = data.get("exclude")
        if not isinstance(listed, list | None):
            self._mistake(("exclude",), "must be a list of partial specs and conditions")
            listed = None
        found = [self._read(item, ("exclude", n)) for n, item in enumerate(listed or ())]
        self._items = [item for item in found if item is not None]

    def _mistake(self, path: Path, message: str, key: str = "exclude") -> None:
        self._written.mistakes.append(Mistake(path, key, message))

    def _read(self, item: object, path: Path) -> _Exclude | None:
        if isinstance(item, str):
            return self._condition(item, path)
        if isinstance(item, Mapping) and item:
            return self._partial(item, path)
        self._mistake(path, "each item must be a set of keys and values, or a condition such as optimizer.lr > 0.1 and init.scale < 1e-3")
        return None

    def _condition(self, text: str, path: Path) -> _Exclude | None:
        try:
            expression = Expression(text)
        except ExpressionError as error:
            self._mistake(path, f"{shown(text)} {error}")
            return None
        if not expression.is_condition:
            self._mistake(path, f"{shown(text)} is a number, not a condition: compare it with something")
            return None
        if not self._written.knows_names(expression, path, "exclude"):
            return None

        def meets(indices: Indices) -> bool:
            try:
                return holds(expression, lambda name: self._written.value(name, indices))
            except Undefined as error:
                self._mistake(path, f"{shown(text)} {error}")
                return False

        return _Exclude(path, text, meets, _point_of(self._written.axes_of(self._written.sources(expression))))

    def _partial(self, item: Mapping[str, Any], path: Path) -> _Exclude | None:
        leaves = list(assignments(item, path, "", self._written.mistakes))
        parts, known = self._written.by_part(leaves), spec_keys()
        for leaf in leaves:
            if leaf.key not in known and leaf.key.partition(".")[0] in parts:
                self._mistake(leaf.path, f"unknown key{nearest(leaf.key, known)}", leaf.key)
        if any(leaf.key not in known for leaf in leaves):
            return None
        wanted = [(leaf.key, _matcher(leaf.value, known[leaf.key])) for leaf in leaves]

        def meets(indices: Indices) -> bool:
            try:
                return all(matches(self._written.value(key, indices)) for key, matches in wanted)
            except Undefined:
                return False  # which is reported where it was written

        sources = set().union(*(self._written.sources(Expression(leaf.key)) for leaf in leaves))
        return _Exclude(path, shown(item), meets, _point_of(self._written.axes_of(sources)))

    def leave_out(self, indices: Indices) -> bool:
        """Return whether any item leaves out a trial. All are looked at, so that one that leaves out nothing is found."""
        # Not any(): it would stop at the first.
        return max([item.leaves_out(indices) for item in self._items], default=False)

    def report_unused(self) -> None:
        """Report every item that has left out no trial so far."""
        for item in self._items:
            if not any(item.known.values()):
                self._mistake(item.path, f"leaves out nothing: no trial has {item.text}")


def _point_of(axes: list[int]) -> Callable[[Indices], Any]:
    return operator.itemgetter(*axes) if axes else (lambda _: None)


def _matcher(wanted: Any, depth: int) -> Callable[[Any], bool]:
    """Return what tells whether a value is the one that is wanted, or among a list of them; ``depth`` is how deep lists are in one."""
    options = wanted if isinstance(wanted, list) and nesting(wanted) > depth else [wanted]
    if any(isinstance(option, list | dict) for option in options):
        return lambda value: any(bool(_listed(value) == option) for option in options)
    known = set(options)
    return lambda value: not isinstance(value, list | tuple | dict) and value in known


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
