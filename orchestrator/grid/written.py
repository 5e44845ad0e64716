"""What a grid file says of each of its trials: the assignments of every part, by the points of the axes that set it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from orchestrator.grid.axes import Assignment, Axis
from orchestrator.grid.derived import Undefined, compute, derivation, is_derived
from orchestrator.grid.model import SCALARS
from orchestrator.grid.quoting import nearest, shown, unquoted
from orchestrator.grid.sections import KINDED, PARTS, named
from orchestrator.grid.source import MAX_DEPTH, Mistake, Path
from workloads import measures
from workloads.expressions import Expression, ExpressionError
from workloads.section import FileRef, Section
from workloads.stop import Stop
from workloads.trial import DEFAULT_LOSS, TrialSpec

Indices = tuple[int, ...]
"""A trial, by its point on each axis."""


class Written:
    """The assignments of a grid, and what they come to in each trial; mistakes go to ``mistakes``.

    ``named`` are the keys that derived values follow from; ``touching`` are the axes that set something of a part, and ``deciding`` those
    that what it comes to depends on: values may be derived from those of other parts.
    """

    def __init__(self, fixed: Sequence[Assignment], axes: Sequence[Axis], mistakes: list[Mistake]) -> None:
        self.mistakes = mistakes
        self.misspelt: set[str] = set()
        self.fixed = self.by_part(fixed)
        self.points = [[self.by_part(point) for point in axis.points] for axis in axes]
        self.touching = {part: [n for n, axis in enumerate(self.points) if any(part in point for point in axis)] for part in PARTS}
        self._read: dict[tuple[Path, str], bool] = {}
        self._known: tuple[Indices, dict[str, Any]] = ((), {})
        self.named: set[str] = set()
        self._sources = self._read_derived()
        self.deciding = {part: self.axes_of(self._sources.get(part, {part})) for part in PARTS}

    def by_part(self, given: Sequence[Assignment]) -> dict[str, list[Assignment]]:
        """Return assignments by the part that they set something of; what sets none is a mistake."""
        parts: dict[str, list[Assignment]] = defaultdict(list)
        for assignment in given:
            part = assignment.key.partition(".")[0]
            if assignment.key.count(".") >= MAX_DEPTH:
                self.mistakes.append(Mistake(assignment.path, part, f"is nested more than {MAX_DEPTH} levels deep"))
            elif part in PARTS:
                parts[part].append(assignment)
            else:
                hint = nearest(part, PARTS)
                self.misspelt.update(p for p in PARTS if f"mean {p}?" in hint)
                # Where the section itself was written, so that its keys do not each repeat it.
                depth = next((n for n, step in enumerate(assignment.path) if str(step).startswith(part)), len(assignment.path))
                self.mistakes.append(Mistake(assignment.path[: depth + 1], part, f"unknown key{hint}"))
        return dict(parts)

    def axes_of(self, parts: Sequence[str] | set[str]) -> list[int]:
        """Return the axes that touch any of some parts, in order."""
        return sorted({n for part in parts for n in self.touching[part]})

    def sources(self, expression: Expression) -> set[str]:
        """Return the parts that the value of an expression depends on."""
        return {source for part in _parts_of(expression) for source in self._sources.get(part, {part})}

    def _read_derived(self) -> dict[str, set[str]]:
        """Return, for each part that has derived values, all parts that it depends on; expressions are checked."""
        direct: dict[str, set[str]] = {}
        for parts in (self.fixed, *(point for axis in self.points for point in axis)):
            for part, given in parts.items():
                for assignment in given:
                    if is_derived(assignment.value) and self._is_read(assignment):
                        direct.setdefault(part, {part}).update(_parts_of(derivation(assignment.value)))
        while True:  # until what those depend on is in it, too
            wider = {part: found.union(*(direct.get(other, ()) for other in found)) for part, found in direct.items()}
            if wider == direct:
                return direct
            direct = wider

    def _is_read(self, assignment: Assignment) -> bool:
        """Return whether a derived value can be read; what cannot be is reported, once."""
        key, path, text = assignment.key, assignment.path, assignment.value
        if (path, text) not in self._read:
            try:
                self._read[path, text] = self.knows_names(derivation(text), path, key)
                self.named.update(name.partition("[")[0] for name in derivation(text).names)
            except ExpressionError as error:
                self._read[path, text] = False
                self.mistakes.append(Mistake(path, key, f"{shown(text)} {error}"))
        return self._read[path, text]

    def knows_names(self, expression: Expression, path: Path, key: str) -> bool:
        """Return whether all names in an expression are keys of a spec; those that are not are reported."""
        unknown = [name for name in expression.names if name.partition("[")[0] not in spec_keys()]
        for name in unknown:
            meant = nearest(name.partition("[")[0], sorted(spec_keys()))
            quoted = "" if measures.find(name) else unquoted(name)
            hint = meant if meant.startswith("; did") else f"{quoted}: it has the keys of its spec alone"
            self.mistakes.append(Mistake(path, key, f"there is no {name} in a trial before it is trained{hint}"))
        return not unknown

    def _left(self, part: str, indices: Indices) -> list[Assignment]:
        """Return what is left of a part when each null has taken away what was set before it: its key, or all keys of its section."""
        left: list[Assignment] = []
        for assignment in self._all(part, indices):
            if assignment.value is not None:
                left.append(assignment)
                continue
            kept = [a for a in left if a.key != assignment.key and not a.key.startswith(f"{assignment.key}.")]
            if len(kept) == len(left):
                self.mistakes.append(Mistake(assignment.path, assignment.key, "is null, which takes away what was set, but nothing was"))
            left = kept
        return left

    def _all(self, part: str, indices: Indices) -> Iterator[Assignment]:
        yield from self.fixed.get(part, ())
        for n in self.touching[part]:
            yield from self.points[n][indices[n]].get(part, ())

    def given(self, part: str, indices: Indices) -> list[Assignment] | None:
        """Return what a trial's part is made of, derived values computed; ``None`` where one cannot be, which is reported."""
        left = self._left(part, indices)
        if not any(is_derived(a.value) for a in left):
            return left
        computed = []
        for assignment in left:
            try:
                computed.append(Assignment(assignment.key, self._settled(assignment, indices, ()), assignment.path))
            except Undefined as error:
                if not isinstance(error, _Unread):
                    self.mistakes.append(Mistake(assignment.path, assignment.key, f"{shown(assignment.value)} {error}"))
                return None
        return computed

    def _settled(self, assignment: Assignment, indices: Indices, asking: tuple[str, ...]) -> Any:
        if not is_derived(assignment.value):
            return assignment.value
        if not self._read[assignment.path, assignment.value]:
            raise _Unread
        if assignment.key in asking:
            raise Undefined(f"goes round in a circle: {' needs '.join((*asking, assignment.key))}")
        return compute(derivation(assignment.value), lambda name: self.value(name, indices, (*asking, assignment.key)))

    def value(self, name: str, indices: Indices, asking: tuple[str, ...] = ()) -> Any:
        """Return the value of a dotted key, or, as ``problem.shape[0]``, of one item of it, in a trial: ``None`` where it has none.

        What was not written has its default. Raises `orchestrator.grid.derived.Undefined` if it is derived, but cannot be computed.
        """
        key, _, position = name.partition("[")
        if self._known[0] != indices:
            self._known = (indices, {})
        known = self._known[1]
        # Once a trial: values that follow from values that follow from others would be computed over and over.
        if key not in known:
            left = self._left(key.partition(".")[0], indices)
            last = next((a for a in reversed(left) if a.key == key), None)
            known[key] = self._settled(last, indices, asking) if last is not None else _default(key, left)
        value = known[key]
        if not position:
            return value
        return value[int(position[:-1])] if isinstance(value, list | tuple) and int(position[:-1]) < len(value) else None

    def place(self, key: str, indices: Indices) -> Path:
        """Where the value of ``key`` in a trial was written, or something beside it."""
        plain, _, position = key.partition("[")
        given = list(self._all(plain.partition(".")[0], indices))
        exact = [a.path for a in given if a.key == plain]
        if exact:
            return (*exact[-1], int(position[:-1])) if position else exact[-1]
        while "." in plain:
            plain = plain.rpartition(".")[0]
            if beside := next((a.path for a in given if a.key.startswith(f"{plain}.")), None):
                return beside
        return given[0].path if given else ("fixed",)

    def path(self, key: str, indices: Indices) -> Path | None:
        """Return where the value of ``key`` in a trial was written; ``None`` where it was not."""
        given = list(self._all(key.partition(".")[0], indices))
        last = next((a for a in reversed(given) if a.key == key), None)
        return None if last is None or last.value is None else last.path


class _Unread(Undefined):
    """A derived value that cannot be read, which has been reported."""


def _parts_of(expression: Expression) -> set[str]:
    """Return the parts that the names in an expression are keys of."""
    return {name.partition("[")[0].partition(".")[0] for name in expression.names}


def _default(key: str, left: Sequence[Assignment]) -> Any:
    """Return the default of a key that was not written, among the assignments that are left of its part."""
    part, *within = key.split(".")
    field = within.pop() if within else ""
    if part in SCALARS:
        return TrialSpec.model_fields[part].default
    kind = next((a.value for a in reversed(named(part, left)) if a.key == f"{part}.kind"), None)
    if part == "loss":
        kind = DEFAULT_LOSS.kind if kind is None else kind
        if key in ("loss", "loss.kind"):
            return kind
    model = Stop if part == "stop" else KINDED[part].get(kind) if isinstance(kind, str) else None
    above = part
    for name in within:
        above = f"{above}.{name}"
        written = any(assignment.key.startswith(f"{above}.") for assignment in left)
        model = next(inner_sections(model, name), None) if model is not None and written and name in model.model_fields else None
    if not left or model is None or field not in model.model_fields or model.model_fields[field].is_required():
        return None
    return model.model_fields[field].default


def spec_keys() -> Mapping[str, int]:
    """Return the dotted keys that trials may have, each with how many lists may lie within each other in its value."""
    return _keys_of(("stop", Stop), *((part, model) for part, kinds in KINDED.items() for model in kinds.values()))


@cache
def _keys_of(*models: tuple[str, type[Section]]) -> Mapping[str, int]:
    keys = dict.fromkeys(("loss", *SCALARS), 0)
    keys |= {f"{part}.kind": 0 for part in KINDED}
    for part, model in models:
        for key, depth in _fields(part, model):
            keys[key] = max(depth, keys.get(key, 0))
    return keys


def _fields(prefix: str, model: type[Section]) -> Iterator[tuple[str, int]]:
    for name, field in model.model_fields.items():
        yield f"{prefix}.{name}", _depth(field.annotation)
        for inner in inner_sections(model, name):
            yield from _fields(f"{prefix}.{name}", inner)


def inner_sections(model: type[Section], name: str) -> Iterator[type[Section]]:
    """Yield the sections that a field of a section may be; a data file, which a grid names by its path alone, is none."""
    for part in _parts(model.model_fields[name].annotation):
        if isinstance(part, type) and issubclass(part, Section) and part is not FileRef:
            yield part


def _parts(annotation: Any) -> tuple[Any, ...]:
    """Return the types that an annotation may mean."""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(part for option in get_args(annotation) for part in _parts(option))
    return (annotation,)


def _depth(annotation: Any) -> int:
    """Return how many lists may lie within each other in a value of a type."""
    deepest = 0
    for part in _parts(annotation):
        if get_origin(part) is tuple:
            deepest = max(deepest, 1 + max(_depth(item) for item in get_args(part) if item is not Ellipsis))
    return deepest
