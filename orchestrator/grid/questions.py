"""What a grid asks of its runs: what figures and claims have in common, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from orchestrator.errors import UsageError
from orchestrator.files import MAX_NAME
from orchestrator.grid.axes import Assignment
from orchestrator.grid.mixed import mixed
from orchestrator.grid.quoting import nearest, shown, unquoted
from orchestrator.grid.sections import validate
from orchestrator.grid.source import Mistake, Path
from orchestrator.grid.summaries import Criterion, rate_in, summaries_of
from workloads import measures
from workloads.expressions import OVER_TRACE, Expression, ExpressionError
from workloads.section import Count, Finite, Section, as_tuple
from workloads.trial import TrialSpec


def checked(text: str) -> str:
    """Return an expression. Raises `ValueError` if it is none."""
    try:
        Expression(text)
    except ExpressionError as error:
        if found := summaries_of(text):
            raise ValueError(f"{shown(text)} has {found[0].function}(...), which {_PLACES[found[0].function]}") from error
        raise ValueError(f"{shown(text)} {error}") from error
    return text


_PLACES = {
    "rate": "stands alone, in y of medians or color of heatmap, or in when of threshold",
    **dict.fromkeys(("median", "mean"), "stands in when of threshold; medians and heatmap have statistic: for it"),
}
"""Of summaries over trials, where they may stand."""


def _condition(text: str) -> str:
    if not Expression(checked(text)).is_condition:
        raise ValueError(f"{shown(text)} is a number, not a condition: compare it with something, such as {text[:60]} > 0")
    return text


def _quantity(text: str) -> str:
    condition = rate_in(text)
    if condition is None:
        return checked(text)
    _condition(condition)
    return text


def _criterion(text: str) -> str:
    try:
        criterion = Criterion(text)
    except ExpressionError as error:
        raise ValueError(f"{shown(text)} {error}") from error
    for summary in criterion.summaries:
        (_condition if summary.function == "rate" else checked)(summary.of)
    return text


def _inner(text: str) -> Iterator[str]:
    """Yield the expressions in an expression that are taken once a trial: those in summaries over trials, or the whole."""
    found = summaries_of(text)
    yield from (summary.of for summary in found) if found else (text,)


def read_condition(text: str, field: str = "where") -> str:
    """Return a condition that did not come with a grid but as ``field``. Raises `orchestrator.errors.UsageError` if it is none."""
    try:
        return _condition(text)
    except ValueError as error:
        raise UsageError(f"{field}: {error}") from error


def read_formula(text: str, field: str) -> str:
    """Return an expression that did not come with a grid but as ``field``. Raises `orchestrator.errors.UsageError` if it is none."""
    try:
        return checked(text)
    except ValueError as error:
        raise UsageError(f"{field}: {error}") from error


def listed(value: object) -> object:
    """Return a single item as a list of one."""
    return (value,) if isinstance(value, str) else as_tuple(value)


Formula = Annotated[str, AfterValidator(checked)]
Condition = Annotated[str, AfterValidator(_condition)]
Quantity = Annotated[str, AfterValidator(_quantity)]
"""A formula of a trial's values, of which a statistic over trials is drawn, or ``rate(CONDITION)``, a share of the trials."""
Quantities = Annotated[tuple[Quantity, ...], BeforeValidator(listed), Field(min_length=1)]
GroupCondition = Annotated[str, AfterValidator(_criterion)]
Keys = Annotated[tuple[Formula, ...], BeforeValidator(listed)]
Pixels = Annotated[Count, Field(le=10_000)]
Range = Annotated[tuple[Finite | None, Finite | None], BeforeValidator(as_tuple)]
Grouping = Formula | Annotated[dict[str, Condition], Field(min_length=1)]
"""What tells trials apart: a formula, or a mapping from labels to conditions; trials that meet none are left out."""


class Question(Section):
    """A figure or a claim. ``where`` picks trials by a condition on the spec, the outcome and final measures."""

    example: ClassVar[str] = ""
    """How it may stand in a grid file."""
    over_trace: ClassVar[tuple[str, ...]] = ()
    """The fields whose expressions are taken at every recorded step; all others are taken once a trial."""

    numeric: ClassVar[tuple[str, ...]] = ()
    """The fields whose expressions have to be numbers."""

    kind: str
    where: Condition | None = None
    """Picks trials by a condition on the spec, the outcome and final measures."""

    def expressions(self) -> Iterator[tuple[str, str]]:
        """Every expression with the field it stands in."""
        for name in _EXPRESSIONS:
            value = getattr(self, name, None)
            if value is None or (name == "along" and value == "step"):
                continue
            texts = value.values() if isinstance(value, Mapping) else (value,) if isinstance(value, str) else value
            yield from ((name, inner) for text in texts for inner in _inner(text))

    def is_traced(self, field: str) -> bool:
        """Return whether a field's expressions are taken at every recorded step."""
        return field in self.over_trace and getattr(self, "at", None) != "end" and getattr(self, "along", "step") == "step"

    @property
    def needs_traces(self) -> bool:
        """True if an expression is over traces."""
        return any(
            self.is_traced(field) or any(name.partition("(")[0] in OVER_TRACE for name in Expression(text).names if "(" in name)
            for field, text in self.expressions()
            if self.is_traced(field) or not is_pattern(text)
        )

    def traced_columns(self, known: Collection[str]) -> Iterator[str]:
        """Yield the columns of traces, which are ``known``, whose values at other steps than the last are asked for."""
        for field, text in self.expressions():
            traced = self.is_traced(field)
            if is_pattern(text):
                yield from matching(text, known) if traced else ()
                continue
            for name in Expression(text).names:
                function, _, inner = name.partition("(")
                if function in OVER_TRACE and inner:
                    yield inner[:-1]
                elif traced and name in known:
                    yield name

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield ``(field, message)`` for what the fields' types alone cannot refuse."""
        return iter(())


_EXPRESSIONS = ("where", "when", "x", "y", "color", "shape", "facet", "curves", "that", "of", "along", "by", "group", "against")
"""The fields that hold expressions."""


def is_pattern(name: str) -> bool:
    """Return whether an item of ``y`` stands for several columns: ``sv_*``, or of some modes ``sv_*_at_0_1``."""
    return re.fullmatch(r"\w+_\*(_\w+)?", name) is not None


def matching(pattern: str, columns: Iterable[str]) -> list[str]:
    """Return the ``columns`` that a pattern stands for: those of modes only where it names them."""
    any_but_modes = re.escape(pattern).replace(r"\*", "(?:(?!_at_).)*")
    return [name for name in columns if re.fullmatch(any_but_modes, name)]


Asked = TypeVar("Asked", bound=Question)

MEANT = {"loss.kind": "spec.loss"}
"""Columns that go by another name than the key has in a grid."""

RUN_COLUMNS = ("steps", "seconds", "outcome", "sweep")
SEEDS = ("seed", "problem.seed")
"""Keys that tell apart repetitions of one setting."""


def columns_of(specs: Iterable[TrialSpec], names: Collection[str]) -> tuple[set[str], set[str], set[str], set[str]]:
    """Return the columns of the traces, those of the table of trials, and which of both are text and numbers, if one records ``names``."""
    trace, texts, seen = {"step", "loss"}, {"outcome", "sweep"}, set()
    keys: set[str] = set()
    others: set[str] = set()
    unlike: set[str] = set()
    for spec in specs:
        kind = (id(spec.problem), id(spec.factorization), id(spec.init), id(spec.optimizer), id(spec.loss), id(spec.stop))
        if kind in seen:
            continue
        seen.add(kind)
        flat = {"spec.loss" if key == "loss" else key: value for key, value in spec.flat().items()}
        keys |= flat.keys()
        texts |= {key for key, value in flat.items() if isinstance(value, str)}
        others |= {key for key, value in flat.items() if not isinstance(value, str | None)}
        unlike |= {key for key, value in flat.items() if isinstance(value, bool) or not isinstance(value, int | float | None)}
        for name in (*names, *measures.watched(spec)):
            if measures.undefined(name, spec) is None:
                trace.update(measures.column_names(name, spec))
    numbers = (trace | (others - unlike) | {"steps", "seconds"}) - texts
    return trace, keys | {*RUN_COLUMNS} | (trace - {"step"}), texts - others, numbers


def unknown_names(question: Question, trace: Collection[str], runs: Collection[str]) -> Iterator[tuple[str, str, Collection[str]]]:
    """Yield ``(field, name, what it could be)`` for every name in an expression that is no column."""
    for field, text in question.expressions():
        known = {*trace, *runs} if question.is_traced(field) else set(runs)
        if is_pattern(text):
            if not matching(text, known):
                yield field, text, known
            continue
        for name in Expression(text).names:
            function, _, inner = name.partition("(")
            if function in OVER_TRACE and inner:
                if inner[:-1] not in trace:
                    yield field, inner[:-1], trace
            elif name not in known:
                yield field, name, known


def read_questions(top: str, kinds: Mapping[str, type[Asked]], data: Mapping[str, Any], mistakes: list[Mistake]) -> dict[str, Asked]:
    """Return the figures or claims of a grid by name; mistakes go to ``mistakes``."""
    listed = data.get(top) or {}
    if not isinstance(listed, Mapping):
        mistakes.append(Mistake((top,), top, f"must be a mapping from names to {top}, not {shown(listed)}"))
        return {}
    found: dict[str, Asked] = {}
    for name, value in listed.items():
        path: Path = (top, name)
        part = f"{top}.{name}"
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w-]{0,99}", name) or len(name.encode()) > MAX_NAME:
            mistakes.append(Mistake(path, part, "must be named by at most 100 letters, digits, - and _, as files are called after it"))
        elif not isinstance(value, Mapping):
            mistakes.append(Mistake(path, part, f"must be a mapping of keys, not {shown(value)}"))
        elif "kind" not in value:
            mistakes.append(Mistake(path, f"{part}.kind", f"is missing: one of {', '.join(kinds)}"))
        elif (kind := value["kind"]) not in list(kinds):
            mistakes.append(Mistake((*path, "kind"), f"{part}.kind", f"unknown kind {shown(kind)}{nearest(kind, kinds)}"))
        else:
            placed = {f"{part}.{key}": Assignment(f"{part}.{key}", inner, (*path, key)) for key, inner in value.items()}
            others = tuple(model for model in kinds.values() if model is not kinds[kind])
            question = validate(kinds[kind], part, value, placed, mistakes, others)
            if question is not None:
                mistakes += [Mistake((*path, field), f"{part}.{field}", text) for field, text in question.own_conflicts()]
                found[name] = question
    return found


def check_names(
    asked: Mapping[str, Mapping[str, Question]],
    trace: Collection[str],
    runs: Collection[str],
    texts: Collection[str],
    numbers: Collection[str],
    mistakes: list[Mistake],
) -> None:
    """Report every name in an expression that is neither a column of the traces nor one of the table of trials, and text for numbers."""
    for top, questions in asked.items():
        for name, question in questions.items():
            for field, unknown, known in unknown_names(question, trace, runs):
                hint = f"; did you mean {MEANT[unknown]}?" if unknown in MEANT else nearest(unknown, sorted(known))
                unrecorded = ": is it recorded?" if measures.find(unknown) else hint if "did you" in hint else unquoted(unknown) + hint
                mistakes.append(Mistake((top, name, field), f"{top}.{name}.{field}", f"there is no {unknown} in the runs{unrecorded}"))
            for field, text in question.expressions():
                if field in question.numeric and text in texts:
                    mistakes.append(Mistake((top, name, field), f"{top}.{name}.{field}", f"must be a number, and {text} is text"))
                if not is_pattern(text):
                    found = mixed(text, texts, numbers)
                    mistakes += [Mistake((top, name, field), f"{top}.{name}.{field}", f"{shown(text)}: {slip}") for slip in found]
