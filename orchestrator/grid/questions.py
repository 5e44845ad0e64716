"""What a grid asks of its runs: the figures to draw and the claims to check. Kinds are models in a table, as in `workloads.kinds`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from orchestrator.files import MAX_NAME
from orchestrator.grid.axes import Assignment, nearest, shown
from orchestrator.grid.expressions import OVER_TRACE, Expression, ExpressionError
from orchestrator.grid.sections import validate
from orchestrator.grid.source import Mistake, Path
from workloads import measures
from workloads.section import Count, Finite, Section, as_tuple
from workloads.trial import TrialSpec


def _expression(text: str) -> str:
    try:
        Expression(text)
    except ExpressionError as error:
        raise ValueError(f"{shown(text)} {error}") from error
    return text


def _condition(text: str) -> str:
    if not Expression(_expression(text)).is_condition:
        raise ValueError(f"{shown(text)} is a number, not a condition: compare it with something, such as {text[:60]} > 0")
    return text


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else as_tuple(value)


Formula = Annotated[str, AfterValidator(_expression)]
Condition = Annotated[str, AfterValidator(_condition)]
Formulas = Annotated[tuple[Formula, ...], BeforeValidator(_listed), Field(min_length=1)]
Keys = Annotated[tuple[Formula, ...], BeforeValidator(_listed)]
Pixels = Annotated[Count, Field(le=10_000)]
Range = Annotated[tuple[Finite | None, Finite | None], BeforeValidator(as_tuple)]
Grouping = Formula | Annotated[dict[str, Condition], Field(min_length=1)]
"""What tells trials apart: a formula, or a mapping from labels to conditions; trials that meet none are left out."""


class Question(Section):
    """A figure or a claim. ``where`` picks trials by a condition on the spec, the outcome and final measures."""

    over_trace: ClassVar[tuple[str, ...]] = ()
    """The fields whose expressions are taken at every recorded step; all others are taken once a trial."""

    kind: str
    where: Condition | None = None

    def expressions(self) -> Iterator[tuple[str, str]]:
        """Every expression with the field it stands in."""
        for name in _EXPRESSIONS:
            value = getattr(self, name, None)
            if value is None or (name == "along" and value == "step"):
                continue
            if isinstance(value, Mapping):
                yield from ((name, inner) for inner in value.values())
            else:
                yield from ((name, inner) for inner in ((value,) if isinstance(value, str) else value))

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield ``(field, message)`` for what the fields' types alone cannot refuse."""
        return iter(())


# ---------------------------------------------------------------------------------------------------------------- figures


class Figure(Question):
    """A picture: a panel for each value of ``facet``; ``log`` lists what has a logarithmic scale: x, y, color."""

    title: str | None = None
    facet: Grouping | None = None
    log: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    x_range: Range | None = None
    y_range: Range | None = None
    reverse: Annotated[tuple[Literal["x", "y"], ...], BeforeValidator(_listed)] = ()
    width: Pixels = 320
    height: Pixels = 260

    @property
    def panels(self) -> tuple[str, ...]:
        """The items of ``y`` that have a panel each, and can be named in ``log``."""
        return ()

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        known = ("x", "y", "color", *self.panels)
        for name in self.log:
            if name not in known:
                yield "log", f"must be of {', '.join(known)}, not {name}"
        for name in self.labels:
            if name not in (*known, "shape"):
                yield "labels", f"are for {', '.join((*known, 'shape'))}, not for {name}"
            elif name not in self.panels and getattr(self, name, None) is None:
                yield "labels", f"has no effect for {name}, which is not drawn"


class Trajectories(Figure):
    """Traces: a curve a trial, ``y`` over ``x`` at every recorded step.

    Coloured by a key of the spec, by ``step`` or another measure along the curve, or, where ``y`` is a list (``sv_*`` stands for all
    such columns), by its items. ``curves`` are formulas in ``x``, drawn dashed; ``shape`` tells trials apart by the shape of points;
    ``when`` picks recorded steps.
    """

    over_trace: ClassVar[tuple[str, ...]] = ("x", "y", "color", "curves", "when")

    kind: Literal["trajectories"] = "trajectories"
    x: Formula = "step"
    y: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
    color: Grouping | None = None
    shape: Grouping | None = None
    when: Condition | None = None
    curves: dict[str, Formula] = Field(default_factory=dict)
    mark: Literal["auto", "line", "point"] = "auto"

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().own_conflicts()
        for formula in self.y:
            try:
                Expression(formula.replace("*", "")) if is_pattern(formula) else Expression(formula)
            except ExpressionError as error:
                yield "y", f"{shown(formula)} {error}"
        if self.color is not None and (len(self.y) > 1 or is_pattern(self.y[0])):
            yield "color", "has no effect: the items of y are told apart by colour"
        for name, formula in self.curves.items():
            others = [n for n in Expression(formula).names if n != self.x]
            if others or Expression(self.x).names != (self.x,):
                yield "curves", f"{shown(name)} must be a formula in x alone, and x a single column"


class Medians(Figure):
    """Final values over an axis: the median over all trials with the same ``x``, ``color`` and ``facet``, with bars.

    ``bars`` are the interquartile range, or the whole range. ``y`` a list makes a panel for each item, which ``log`` can name;
    ``lines`` are dashed horizontal ones: ``{cp_rank: {truth: 1}}``.
    """

    kind: Literal["medians"] = "medians"
    x: Formula
    y: Formulas
    color: Grouping | None = None
    bars: Literal["iqr", "range", "none"] = "iqr"
    lines: dict[str, dict[str, Finite]] = Field(default_factory=dict)

    @property
    def panels(self) -> tuple[str, ...]:
        return self.y

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().own_conflicts()
        for name in self.lines:
            if name not in self.y:
                yield "lines", f"belong to an item of y, not to {name}"


class Heatmap(Figure):
    """The median of ``color`` over all trials with the same ``x`` and ``y``, as a map of rectangles."""

    kind: Literal["heatmap"] = "heatmap"
    x: Formula
    y: Formula
    color: Formula


class Points(Figure):
    """A point a trial: final values against each other or against keys of the spec."""

    kind: Literal["points"] = "points"
    x: Formula
    y: Formula
    color: Grouping | None = None


# ----------------------------------------------------------------------------------------------------------------- claims


class Claim(Question):
    """A statement about the runs that holds or does not.

    ``says`` puts it in words, ``source`` names who made it. One that is not ``required`` is reported without a bearing on the exit code.
    """

    says: str | None = None
    source: str | None = None
    required: bool = True


Share = Annotated[Finite, Field(gt=0, le=1)]


class Bound(Claim):
    """``that`` holds in every trial: at every recorded step at which ``when`` holds, or with ``at: end`` at the end.

    ``share`` is the least part of the trials that it has to hold for.
    """

    over_trace: ClassVar[tuple[str, ...]] = ("that", "when")

    kind: Literal["bound"] = "bound"
    that: Condition
    when: Condition | None = None
    at: Literal["every_step", "end"] = "every_step"
    share: Share = 1.0

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        if self.at == "end" and self.when is not None:
            yield "when", "picks recorded steps; with at: end use where, which picks trials"


class KeepsSign(Claim):
    """The sign of ``of`` is the same, and not zero, at every recorded step of a trial at which ``when`` holds."""

    over_trace: ClassVar[tuple[str, ...]] = ("of", "when")

    kind: Literal["keeps_sign"] = "keeps_sign"
    of: Formula
    when: Condition | None = None
    share: Share = 1.0


Statistic = Literal["median", "mean", "min", "max"]


class Monotone(Claim):
    """``of`` only rises, or only falls, along the steps of each trial or, as a statistic over trials, along a key of the spec.

    ``tolerance`` is how far a value may go back, relative to the size of the one reached before. Along a key, trials are grouped ``by``
    other keys, by default all that vary but seeds.
    """

    over_trace: ClassVar[tuple[str, ...]] = ("of", "when")

    kind: Literal["monotone"] = "monotone"
    of: Formula
    along: Formula = "step"
    direction: Literal["rising", "falling"]
    tolerance: Annotated[Finite, Field(ge=0)] = 0.0
    when: Condition | None = None
    statistic: Statistic | None = None
    by: Keys | None = None
    share: Share | None = None

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        for name in ("statistic", "by") if self.along == "step" else ("when", "share"):
            if name in self.model_fields_set:
                yield name, f"has no effect with along: {self.along}"


class Within(Claim):
    """A statistic over trials (their median unless told otherwise) lies in ``range``, in every group ``by`` keys of the spec.

    A bound of ``null`` is open. Groups are by default all that vary but seeds.
    """

    kind: Literal["within"] = "within"
    of: Formula
    range: Range
    statistic: Statistic = "median"
    by: Keys | None = None

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        low, high = self.range
        if low is None and high is None:
            yield "range", "is open at both ends: give at least one bound"
        if low is not None and high is not None and low > high:
            yield "range", f"is empty: {low:g} is above {high:g}"


class Contrast(Claim):
    """``of`` is lower (or higher) in one group of trials than in another: in every part ``by`` keys that both have.

    The difference of the statistic, and its bootstrap interval at ``confidence``, has to lie on that side of zero. With ``interval: false``
    the difference alone has to, which suits groups of very few trials.
    """

    kind: Literal["contrast"] = "contrast"
    of: Formula
    group: Condition
    against: Condition
    direction: Literal["lower", "higher"]
    statistic: Literal["median", "mean"] = "median"
    confidence: Annotated[Finite, Field(gt=0, lt=1)] = 0.95
    interval: bool = True
    by: Keys = ()


FIGURES: dict[str, type[Figure]] = {"trajectories": Trajectories, "medians": Medians, "heatmap": Heatmap, "points": Points}
CLAIMS: dict[str, type[Claim]] = {
    "bound": Bound,
    "keeps_sign": KeepsSign,
    "monotone": Monotone,
    "within": Within,
    "contrast": Contrast,
}

_EXPRESSIONS = ("where", "when", "x", "y", "color", "shape", "facet", "curves", "that", "of", "along", "by", "group", "against")
"""The fields that hold expressions."""


def is_pattern(name: str) -> bool:
    """Whether an item of ``y`` stands for several columns: ``sv_*``."""
    return name.endswith("_*")


Asked = TypeVar("Asked", bound=Question)

RUN_COLUMNS = ("steps", "seconds", "outcome", "sweep")
SEEDS = ("seed", "problem.seed")
"""Keys that tell apart repetitions of one setting."""


def columns_of(specs: Iterable[TrialSpec], names: Collection[str]) -> tuple[set[str], set[str]]:
    """The columns of the traces, and those of the table of trials, of a sweep that records the measures ``names``."""
    trace, seen, keys = {"step", "loss"}, set(), set()
    for spec in specs:
        kind = (id(spec.problem), id(spec.factorization), id(spec.init), id(spec.optimizer), id(spec.stop))
        if kind in seen:
            continue
        seen.add(kind)
        keys |= {"spec.loss" if key == "loss" else key for key in spec.flat()}
        for name in names:
            if measures.undefined(name, spec) is None:
                trace.update(measures.column_names(name, spec))
    return trace, keys | {*RUN_COLUMNS} | (trace - {"step"})


def unknown_names(question: Question, trace: Collection[str], runs: Collection[str]) -> Iterator[tuple[str, str, Collection[str]]]:
    """Yield ``(field, name, what it could be)`` for every name in an expression that is no column."""
    for field, text in question.expressions():
        over = field in question.over_trace and getattr(question, "at", None) != "end" and getattr(question, "along", "step") == "step"
        known = {*trace, *runs} if over else set(runs)
        if is_pattern(text):
            if not any(name.startswith(text[:-1]) for name in known):
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
    """The figures or claims of a grid by name; mistakes go to ``mistakes``."""
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
    asked: Mapping[str, Mapping[str, Question]], trace: Collection[str], runs: Collection[str], mistakes: list[Mistake]
) -> None:
    """Report every name in an expression that is neither a column of the traces nor one of the table of trials."""
    for top, questions in asked.items():
        for name, question in questions.items():
            for field, unknown, known in unknown_names(question, trace, runs):
                hint = nearest(unknown, sorted(known))
                unrecorded = ": is it recorded?" if measures.find(unknown) else hint
                mistakes.append(Mistake((top, name, field), f"{top}.{name}.{field}", f"there is no {unknown} in the runs{unrecorded}"))
