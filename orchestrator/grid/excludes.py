"""What a grid leaves out: partial specs, and conditions on the keys of a spec. What is left out is not even checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.grid.axes import assignments
from orchestrator.grid.conditions import Columns
from orchestrator.grid.quoting import nearest, shown
from orchestrator.grid.source import Mistake, Path
from orchestrator.grid.spreads import is_spread, spread
from orchestrator.grid.written import Written, spec_keys
from workloads.expressions import Expression, ExpressionError

if TYPE_CHECKING:
    from orchestrator.grid.conditions import Table


@dataclass(frozen=True, eq=False)
class _Exclude:
    """One item of ``exclude``: where it is written, and the values by key or the condition that it leaves out."""

    path: Path
    text: str
    wanted: Mapping[str, Any] | Expression


class Excludes:
    """The items of ``exclude`` in ``data``; what is wrong with them goes to the mistakes of ``written``."""

    def __init__(self, data: Mapping[str, Any], written: Written) -> None:
        self._written = written
        self._unused: list[_Exclude] = []
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

        return _Exclude(path, text, expression)

    def _partial(self, item: Mapping[str, Any], path: Path) -> _Exclude | None:
        leaves = list(assignments(item, path, "", self._written.mistakes))
        parts, known = self._written.by_part(leaves), spec_keys()
        for leaf in leaves:
            if leaf.key not in known and leaf.key.partition(".")[0] in parts:
                self._mistake(leaf.path, f"unknown key{nearest(leaf.key, known)}", leaf.key)
            for option in leaf.value if isinstance(leaf.value, list) else [leaf.value]:
                try:
                    _ = spread(option) if is_spread(option) else None
                except ValueError as error:
                    self._mistake(leaf.path, str(error), leaf.key)
                    return None
        if any(leaf.key not in known for leaf in leaves):
            return None
        return _Exclude(path, shown(item), {leaf.key: leaf.value for leaf in leaves})

    def left_out(self) -> Table | None:
        """Return which trials [K] some item leaves out, in their order; ``None`` if there is no item."""
        if not self._items:
            return None
        columns = Columns(self._written)
        total = columns.none()
        for item in self._items:
            table = self._table(item, columns)
            if not table.any():
                self._unused.append(item)
            total |= table
        return total.reshape(-1)

    def _table(self, item: _Exclude, columns: Columns) -> Table:
        if isinstance(item.wanted, Expression):
            return columns.holding(item.wanted, lambda reason: self._mistake(item.path, f"{shown(item.text)} {reason}"))
        return columns.meeting(item.wanted, spec_keys())

    def report_unused(self) -> None:
        """Report every item that has left out no trial."""
        for item in self._unused:
            self._mistake(item.path, f"leaves out nothing: no trial has {item.text}")
