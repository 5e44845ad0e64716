"""YAML as plain values with positions: safe, bounded, and with every mistake of a file reported at once.

Built from the parser's events rather than its object constructor: nothing is recursive, aliases are counted as what they expand to, and
scalars follow YAML 1.2, in which ``1e-3`` is a number and ``no`` is a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from orchestrator.errors import GridError

MAX_BYTES = 10 << 20
MAX_NODES = 1_000_000
MAX_DEPTH = 40
MAX_KEY = 200
MAX_MISTAKES = 100
"""Mistakes that are reported at once. Nobody reads more, and looking for what a million keys may have meant takes minutes."""

Path = tuple[str | int, ...]
"""Keys and list positions from the top of the file down to a value."""

_INT = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}
_INFINITE = {".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}


@dataclass(frozen=True)
class Mistake:
    """One mistake: where it is, the dotted key it concerns, and what is wrong."""

    path: Path
    key: str
    message: str


@dataclass
class Source:
    """A parsed file: its ``data``, and the line and column (from 1) of every key and list item by path."""

    name: str
    data: dict[str, Any]
    marks: dict[Path, tuple[int, int]] = field(default_factory=dict)
    replaced: dict[Path, str] = field(default_factory=dict)
    """Paths at which ``--set`` put something else, with the key that it gave."""

    def where(self, path: Path) -> tuple[int, int]:
        """Line and column of ``path``, or of the nearest thing around it that has a position."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, (1, 1))

    def _given(self, path: Path) -> str | None:
        """Return the key of the ``--set`` that said what is at ``path``; ``None`` if the file did."""
        if path[:1] == ("--set",):
            return str(path[1])
        return next((key for n in range(len(path), 0, -1) if (key := self.replaced.get(path[:n])) is not None), None)

    def error(self, mistakes: list[Mistake]) -> GridError:
        """Return the mistakes as one exception: each once, in the order of the file."""
        lines: dict[str, tuple[int, int]] = {}
        for mistake in mistakes:
            key = self._given(mistake.path)
            if key is not None:
                place, order = f"--set {_short(key)}", (0, 0)
            else:
                order = self.where(mistake.path)
                place = f"{self.name}:{order[0]}:{order[1]}"
            text = f"{_short(mistake.key)}: {mistake.message}" if mistake.key else mistake.message
            lines.setdefault(f"{place}: {text}", order)
        shown = sorted(lines, key=lambda line: lines[line])
        more = [f"{self.name}: has more mistakes than these {MAX_MISTAKES}: mend them first"] if len(mistakes) > MAX_MISTAKES else []
        return GridError(shown[:MAX_MISTAKES] + more)


class Mistakes(list[Mistake]):
    """The mistakes found in ``source`` so far, each once. Raises `GridError` with them when there are more than are reported."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._seen: set[Mistake] = set()

    def append(self, mistake: Mistake) -> None:
        if mistake in self._seen:
            return
        self._seen.add(mistake)
        super().append(mistake)
        if len(self) > MAX_MISTAKES:
            raise self._source.error(self)


def parse(text: str, name: str) -> Source:
    """Parse one YAML document that is a mapping. Raises `GridError` with all that is wrong with it."""
    if len(text) > MAX_BYTES:
        raise GridError([f"{name}: is larger than {MAX_BYTES >> 20} MiB, which no grid needs: put data into files of their own"])
    builder = _Builder(name)
    try:
        value = builder.build(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise GridError([f"{place}: is not valid YAML: {error.problem or error.context}"]) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise GridError([f"{name}: is not valid YAML: {str(error).splitlines()[0]}"]) from error
    if builder.source.data is None or value is None:
        raise GridError([f"{name}: is empty"])
    if not isinstance(value, dict):
        raise GridError([f"{name}:1:1: must be a mapping with keys such as name, fixed and grid"])
    builder.source.data = value
    if builder.mistakes:
        raise builder.source.error(builder.mistakes)
    return builder.source


def parse_value(text: str, name: str) -> Any:
    """Parse a single value, as given to ``--set``. Raises `GridError`."""
    read = parse(f"value: {text}", name).data
    if len(read) > 1:
        raise GridError([f"{name}: holds more than one value: what follows the first line is not part of it"])
    return read["value"]


@dataclass
class _Open:
    """A mapping or list that is still being read."""

    path: Path
    value: dict[str, Any] | list[Any]
    anchor: str | None
    started: int
    key: str | None = None
    levels: int = 1
    """How many mappings and lists lie within each other in it so far, itself included."""


class _Builder:
    def __init__(self, name: str) -> None:
        self.source = Source(name, {})
        self.mistakes: list[Mistake] = []
        self.anchors: dict[str, tuple[Any, int, int]] = {}
        self.nodes = 0
        self.stack: list[_Open] = []
        self.root: Any = None
        self.documents = 0

    def build(self, events: Iterator[Any]) -> Any:
        for event in events:
            match event:
                case yaml.ScalarEvent():  # nearly all are, of which there may be a million
                    self._scalar(event)
                case yaml.AliasEvent():
                    self._alias(event)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    self._start(event)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    done = self.stack.pop()
                    self._reach(done.levels)
                    if done.anchor:
                        self.anchors[done.anchor] = (done.value, self.nodes - done.started, done.levels)
                case yaml.DocumentStartEvent():
                    self.documents += 1
                    if self.documents > 1:
                        self._fail(event, "a grid file holds one document: remove what follows ---")
        return self.root

    def _fail(self, event: Any, message: str) -> None:
        """Return a mistake after which reading on makes no sense."""
        mark = event.start_mark
        raise GridError([f"{self.source.name}:{mark.line + 1}:{mark.column + 1}: {message}"])

    def _count(self, event: Any, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            self._fail(
                event, f"expands to more than {MAX_NODES:,} values: aliases that multiply, or data that belongs in a file of its own"
            )

    def _check_depth(self, event: Any, levels: int) -> None:
        if len(self.stack) + levels > MAX_DEPTH:
            self._fail(event, f"is nested more than {MAX_DEPTH} levels deep")

    def _reach(self, levels: int) -> None:
        """Note that what is being read holds a value of so many ``levels``."""
        if self.stack:
            self.stack[-1].levels = max(self.stack[-1].levels, levels + 1)

    def _start(self, event: Any) -> None:
        if event.tag not in (None, "!"):
            self._fail(event, f"YAML tags such as {event.tag} are not supported")
        self._check_depth(event, 1)
        self._count(event, 1)
        value: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self._place(value, event)
        self.stack.append(_Open(path, value, event.anchor, self.nodes))

    def _alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            self._fail(event, f"alias *{event.anchor} comes before its anchor is complete")
        value, nodes, levels = self.anchors[event.anchor]
        self._check_depth(event, levels)
        self._count(event, nodes + 1)
        self._reach(levels)
        self._place(value, event)

    def _scalar(self, event: Any) -> None:
        if event.tag not in (None, "!"):
            self._fail(event, f"YAML tags such as {event.tag} are not supported")
        self._count(event, 1)
        top = self.stack[-1] if self.stack else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            self._key(top, event)
            return
        value = resolve(event.value) if event.implicit[0] else event.value
        if event.anchor:
            self.anchors[event.anchor] = (value, 1, 0)
        self._place(value, event)

    def _key(self, top: _Open, event: Any) -> None:
        if len(event.value) > MAX_KEY:
            self._fail(event, f"a key has {len(event.value):,} characters, more than the {MAX_KEY} that any may have")
        top.key = event.value
        path = (*top.path, event.value)
        dotted = ".".join(map(str, path))
        if event.value == "<<" and event.implicit[0]:
            self.mistakes.append(Mistake(path, dotted, "merge keys are not supported: write the keys out"))
        elif event.value in top.value:
            line = self.source.marks[path][0]
            again = (*top.path, f"{event.value}\0{event.start_mark.line}")
            self.source.marks[again] = _position(event)
            self.mistakes.append(Mistake(again, dotted, f"is given twice (first in line {line})"))
            return
        self.source.marks[path] = _position(event)

    def _place(self, value: Any, event: Any) -> Path:
        """Put a value where it belongs and return its path."""
        if not self.stack:
            self.root = value
            return ()
        top = self.stack[-1]
        if isinstance(top.value, list):
            path: Path = (*top.path, len(top.value))
            top.value.append(value)
            self.source.marks[path] = _position(event)
            return path
        if top.key is None:
            self._fail(event, "a key must be plain text")
        assert top.key is not None
        path = (*top.path, top.key)
        top.value[top.key] = value
        top.key = None
        return path


def _short(key: str) -> str:
    return key if len(key) <= MAX_KEY else f"{key[:MAX_KEY]}..."


def _position(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def resolve(text: str) -> Any:
    """Return the value of an unquoted scalar: YAML 1.2's core schema, with ``1_000`` for long numbers."""
    if text.lower() in _WORDS and (text.islower() or text.istitle() or text.isupper() or not text.isalpha()):
        return _WORDS[text.lower()]
    if len(text) <= 300:
        if _INT.fullmatch(text):
            return int(text.replace("_", ""))
        if _FLOAT.fullmatch(text):
            return float(text.replace("_", ""))
    return _INFINITE.get(text.lower(), text)
