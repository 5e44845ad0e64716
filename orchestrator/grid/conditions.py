"""Which trials of a grid have a value, or meet a condition.

The answers are tables with a dimension for each axis of several points, of length 1 where they do not depend on it: broadcast, they are
those of all trials. So what is asked of one key is looked at once for each of its values, whatever else varies.
"""

from __future__ import annotations

import ast
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from orchestrator.grid.derived import Missing, Undefined, holds
from orchestrator.grid.spreads import is_spread, nesting, spread
from orchestrator.grid.written import Written
from workloads.expressions import Expression

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Table = NDArray[np.bool_]
    Numbers = NDArray[np.int64]

MET = -1
"""Stands for a condition that holds, beside 0 for one that does not and the numbers of reasons why one is undefined."""


class _Column:
    """The values of a dotted key, of the axes that it depends on the last varying fastest; ``shape`` is that of their table."""

    def __init__(self, key: str, written: Written) -> None:
        axes = set(written.axes_of(written.sources(Expression(key))))
        lengths = [len(axis) for axis in written.points]
        self.shape = [length if n in axes else 1 for n, length in enumerate(lengths) if length > 1]
        self.values: list[Any] = []
        """An `Undefined` stands for a value that cannot be computed."""
        for indices in itertools.product(*(range(length if n in axes else 1) for n, length in enumerate(lengths))):
            try:
                self.values.append(written.value(key, indices))
            except Undefined as error:
                self.values.append(error)

    @cached_property
    def _places(self) -> dict[Any, list[int]]:
        """Where each value is that is no list."""
        found: dict[Any, list[int]] = defaultdict(list)
        for place, value in enumerate(self.values):
            if not isinstance(value, list | tuple | dict):
                found[value].append(place)
        return found

    def matching(self, wanted: Any, depth: int) -> Table:
        """Return where the value is the one that is wanted, or among a list or a range of them; ``depth`` is how deep lists are in one."""
        import numpy as np

        listed = wanted if isinstance(wanted, list) and nesting(wanted) > depth else [wanted]
        options = [value for option in listed for value in (spread(option) if is_spread(option) else [option])]
        table = np.zeros(len(self.values), dtype=np.bool_)
        for option in options:
            if isinstance(option, list | dict):
                table |= [bool(_listed(value) == option) for value in self.values]
            else:
                table[self._places.get(option, [])] = True
        return table.reshape(self.shape)


class Columns:
    """The values of keys in a grid's trials, each computed when it is first asked for."""

    def __init__(self, written: Written) -> None:
        self._written = written
        self._known: dict[str, _Column] = {}

    def __getitem__(self, key: str) -> _Column:
        if key not in self._known:
            self._known[key] = _Column(key, self._written)
        return self._known[key]

    def none(self) -> Table:
        """Return the table of no trial, over all axes."""
        import numpy as np

        return np.zeros([len(axis) for axis in self._written.points if len(axis) > 1], dtype=np.bool_)

    def meeting(self, wanted: Mapping[str, Any], depths: Mapping[str, int]) -> Table:
        """Return where all keys have the values that are wanted; ``depths`` are how deep lists are in one value of each."""
        import numpy as np

        found: Table = np.array(True)
        for key, value in wanted.items():
            found = found & self[key].matching(value, depths[key])
        return found

    def holding(self, condition: Expression, report: Callable[[str], None]) -> Table:
        """Return where a condition holds; why it is undefined where ``and`` and ``or`` have to look at it goes to ``report``."""
        reasons: dict[str, int] = {}
        states = self._states(condition, condition.tree, reasons)
        for reason, number in reasons.items():
            if (states == number).any():
                report(reason)
        found: Table = states == MET
        return found

    def _states(self, condition: Expression, node: ast.expr, reasons: dict[str, int]) -> Numbers:
        """Return whether a part of a condition is `MET`, is not, 0, or is undefined: the number of why among the ``reasons``."""
        import numpy as np

        match node:
            case ast.BoolOp(values=[first, *others]):
                # Others are looked at as long as all before them hold, or none of them does.
                looks = MET if isinstance(node.op, ast.And) else 0
                states = self._states(condition, first, reasons)
                for part in others:
                    states = np.where(states == looks, self._states(condition, part, reasons), states)
                return states
            case ast.UnaryOp(op=ast.Not()):
                states = self._states(condition, node.operand, reasons)
                return np.where(states > 0, states, MET - states)
        columns = {name: self[name] for key, name in condition.columns.items() if key in _names(node)}
        places = np.broadcast_arrays(*(np.arange(len(column.values)).reshape(column.shape) for column in columns.values()))
        found = []
        for point in zip(*(place.ravel().tolist() for place in places), strict=True) if places else [()]:
            values = {name: column.values[place] for (name, column), place in zip(columns.items(), point, strict=True)}
            found.append(_state(condition, node, values, reasons))
        return np.array(found, dtype=np.int64).reshape(places[0].shape if places else ())


def _names(node: ast.expr) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _state(condition: Expression, node: ast.expr, values: Mapping[str, Any], reasons: dict[str, int]) -> int:
    def value_of(name: str) -> Any:
        if isinstance(values[name], Undefined):
            raise values[name]
        return values[name]

    try:
        return MET if holds(condition, value_of, node) else 0
    except Missing:
        return 0
    except Undefined as error:
        return reasons.setdefault(str(error), len(reasons) + 1)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
