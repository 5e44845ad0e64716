"""The figures that a grid asks for: kinds are models in a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from orchestrator.grid.questions import (
    Condition,
    Formula,
    GroupCondition,
    Grouping,
    Pixels,
    Quantities,
    Quantity,
    Question,
    Range,
    checked,
    is_pattern,
    listed,
)
from orchestrator.grid.quoting import shown
from orchestrator.grid.summaries import rate_in
from workloads.expressions import Expression
from workloads.measures import find
from workloads.section import Finite

Statistic = Literal["median", "mean"]
OF_MEANS = ("std", "sem")
OF_RATES = ("wilson", "bootstrap", "none")


class Figure(Question):
    """A picture: a panel for each value of ``facet``; ``log`` lists what has a logarithmic scale: x, y, color."""

    axes: ClassVar[tuple[str, ...]] = ()
    """What has an axis without a field of its name."""

    title: str | None = None
    """What stands above it all."""
    facet: Grouping | None = None
    """What has a panel for each value."""
    log: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    """What has a logarithmic scale: x, y, color."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Titles of axes and legends: ``{x: entries seen}``."""
    x_range: Range | None = None
    """The ends of the axis; ``null`` for one that follows from the data."""
    y_range: Range | None = None
    """The ends of the axis; ``null`` for one that follows from the data."""
    reverse: Annotated[tuple[Literal["x", "y"], ...], BeforeValidator(listed)] = ()
    """Axes that run the other way."""
    width: Pixels = 320
    """Of a panel, in pixels."""
    height: Pixels = 260
    """Of a panel, in pixels."""

    @property
    def panels(self) -> tuple[str, ...]:
        """The items of ``y`` that have a panel each, and can be named in ``log``."""
        return ()

    @property
    def shares_axes(self) -> bool:
        """True if all panels have the same axes, and not one each for an item of ``y``."""
        return len(self.panels) <= 1

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        known = ("x", "y", "color", *self.panels)
        for name in self.log:
            if name not in known:
                yield "log", f"must be of {', '.join(known)}, not {name}"
        for name in self.labels:
            if name not in (*known, "shape"):
                yield "labels", f"are for {', '.join((*known, 'shape'))}, not for {name}"
            elif name not in (*self.panels, *self.axes) and getattr(self, name, None) is None:
                yield "labels", f"has no effect for {name}, which is not drawn"
        for channel, span, logged in (
            ("x", self.x_range, "x" in self.log),
            ("y", self.y_range, any(name in self.log for name in ("y", *self.panels))),
        ):
            ends = [end for end in span or () if end is not None]
            if ends != sorted(set(ends)):
                yield f"{channel}_range", f"must go from the lower end to the higher one; reverse: {channel} turns the axis round"
            elif logged and ends and ends[0] <= 0:
                yield f"{channel}_range", f"must be above 0, as log has {channel}: {ends[0]:g} has no place on such a scale"


class Trajectories(Figure):
    """Traces: a curve a trial, ``y`` over ``x`` at every recorded step; with a ``band`` or ``statistic``, a curve over seeds.

    Coloured by a key of the spec, by ``step`` or another measure along the curve, or, where ``y`` is a list (``sv_*`` stands for all
    such columns), by its items. ``curves`` are formulas in ``x``, drawn dashed; ``shape`` tells trials apart by the shape of points;
    ``when`` picks recorded steps.

    The ``statistic`` is that of all trials that differ in their seeds alone, at the same ``x``; ``std`` and ``sem`` go with a mean. Between
    two recorded steps a trial goes straight, on the axes as they are. Over steps, one that has ended keeps its last value, and
    counts as infinite if it has diverged. Over a measure, a trial has a value as far as it got, that of when it first got there, and there
    is a curve where half of the trials have one.
    """

    over_trace: ClassVar[tuple[str, ...]] = ("x", "y", "color", "curves", "when")

    example: ClassVar[str] = "{kind: trajectories, x: loss, y: nuclear, color: optimizer.lr, log: [x, y], reverse: x}"

    kind: Literal["trajectories"] = "trajectories"
    x: Formula = "step"
    """The axis, at every recorded step."""
    y: Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1)]
    """What is drawn; ``sv_*`` stands for all such columns, ``sv_*_at_0_1`` for those of some modes."""
    color: Grouping | None = None
    """A key of the spec, ``step`` or a measure along the curve, or labels with conditions."""
    shape: Grouping | None = None
    """What tells trials apart by the shape of points."""
    when: Condition | None = None
    """Which recorded steps are drawn."""
    curves: dict[str, Formula] = Field(default_factory=dict)
    """Formulas in x, drawn dashed, by their names."""
    mark: Literal["auto", "line", "point"] = "auto"
    """Lines, unless a colour changes along them or there are shapes."""
    statistic: Statistic | None = None
    """Draw one curve, of this, for trials that differ in their seeds alone; the median if there is a band."""
    band: Literal["iqr", "range", "std", "sem", "none"] | None = None
    """Around the statistic: the interquartile or whole range, or of a mean the standard deviation or error."""

    @property
    def over_seeds(self) -> bool:
        """True if there is a curve for trials that differ in their seeds alone, rather than one for each."""
        return self.statistic is not None or self.band is not None

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().own_conflicts()
        for formula in self.y:
            try:
                checked(formula.replace("*", "") if is_pattern(formula) else formula)
            except ValueError as error:
                yield "y", str(error)
        if self.color is not None and (len(self.y) > 1 or is_pattern(self.y[0])):
            yield "color", "has no effect: the items of y are told apart by colour"
        if self.over_seeds:
            yield from self._conflicts_over_seeds()
        for name, formula in self.curves.items():
            others = [n for n in Expression(formula).names if n != self.x]
            if others or Expression(self.x).names != (self.x,):
                yield "curves", f"{shown(name)} must be a formula in x alone, and x a single column"

    def _conflicts_over_seeds(self) -> Iterator[tuple[str, str]]:
        if self.band in OF_MEANS and self.statistic != "mean":
            yield "band", f"{self.band} goes with statistic: mean"
        if isinstance(self.color, str) and any(name in ("step", "loss") or find(name) for name in Expression(self.color).names):
            yield "color", f"{self.color} changes along a curve: beside band or statistic it must be a key of the spec"
        if self.shape is not None:
            yield "shape", "has no effect beside band or statistic: there are no points of trials"
        if self.mark == "point":
            yield "mark", "has no effect beside band or statistic, which are lines"


class Medians(Figure):
    """Final values over an axis: a statistic over all trials with the same ``x``, ``color`` and ``facet``, with bars.

    Of ``rate(error < 1e-2)`` it is the share of trials for which the condition holds. ``std`` and ``sem`` go with ``statistic: mean``. An
    interval is ``bootstrap`` (percentiles), or ``wilson`` for rates, which have no other bars. ``y`` a list makes a panel for each item,
    which ``log`` can name.
    """

    numeric: ClassVar[tuple[str, ...]] = ("y",)

    example: ClassVar[str] = "{kind: medians, x: problem.observed, y: [error, rate(error < 1e-2)], color: init.scale, log: [error]}"

    kind: Literal["medians"] = "medians"
    x: Formula
    """The axis."""
    y: Quantities
    """What is summed up, with a panel for each; or ``rate(CONDITION)``, a share of the trials."""
    color: Grouping | None = None
    """A key of the spec, or labels with conditions."""
    statistic: Statistic = "median"
    """What is drawn of the trials of a group."""
    bars: Literal["iqr", "range", "std", "sem", "bootstrap", "wilson", "none"] = "iqr"
    """The interquartile or whole range, of a mean the standard deviation or error, or a 95 % interval."""
    lines: dict[str, dict[str, Finite]] = Field(default_factory=dict)
    """Dashed horizontal ones: ``{cp_rank: {truth: 1}}``."""

    @property
    def panels(self) -> tuple[str, ...]:
        return self.y

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().own_conflicts()
        for name in self.lines:
            if name not in self.y:
                yield "lines", f"belong to an item of y, not to {name}"
        rates = [name for name in self.y if rate_in(name) is not None]
        if any(name in self.log or "y" in self.log for name in rates):
            yield "log", f"is not for {rates[0]}: a share may be zero"
        if len(rates) == len(self.y):
            if "statistic" in self.model_fields_set:
                yield "statistic", "has no effect on rates"
            if "bars" in self.model_fields_set and self.bars not in OF_RATES:
                yield "bars", f"of rates are {', '.join(OF_RATES)}, not {self.bars}"
        elif self.bars in OF_MEANS and self.statistic != "mean":
            yield "bars", f"{self.bars} goes with statistic: mean"
        if self.bars == "wilson" and not rates:
            yield "bars", "wilson is an interval of rates: y has none"


class Heatmap(Figure):
    """A statistic of ``color`` over all trials with the same ``x`` and ``y``, as a map of rectangles.

    It is the median or the mean; of ``rate(error < 1e-2)`` it is the share of trials for which the condition holds.
    """

    numeric: ClassVar[tuple[str, ...]] = ("color",)

    example: ClassVar[str] = "{kind: heatmap, x: factorization.depth, y: init.scale, color: error, log: color}"

    kind: Literal["heatmap"] = "heatmap"
    x: Formula
    """Columns of the map."""
    y: Formula
    """Rows of the map, small values at the bottom."""
    color: Quantity
    """What is summed up; or ``rate(CONDITION)``, a share of the trials."""
    statistic: Statistic = "median"
    """What is drawn of the trials of a cell."""

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().own_conflicts()
        if rate_in(self.color) is not None:
            if "color" in self.log:
                yield "log", f"is not for {self.color}: a share may be zero"
            if "statistic" in self.model_fields_set:
                yield "statistic", "has no effect on a rate"


class Points(Figure):
    """A point a trial: final values against each other or against keys of the spec."""

    numeric: ClassVar[tuple[str, ...]] = ("x", "y")

    example: ClassVar[str] = "{kind: points, x: steps, y: error, color: outcome}"

    kind: Literal["points"] = "points"
    x: Formula
    """The axis."""
    y: Formula
    """The other axis."""
    color: Grouping | None = None
    """A key of the spec, or labels with conditions."""


class Threshold(Figure):
    """From where on it works, over an axis: the smallest ``of`` from which on ``when`` holds, there and at all larger ones.

    ``when`` is a condition on all trials with the same ``of``, ``x``, ``color`` and ``facet``: on a ``rate(CONDITION)``, ``median(...)`` or
    ``mean(...)`` of them. Where it does not hold at the largest ``of`` there is an open mark at the upper edge; where it holds at all that
    were tried, one that points down. The numbers are beside the figure, as ``NAME.csv`` and, for LaTeX, as ``NAME.tex``.
    """

    axes: ClassVar[tuple[str, ...]] = ("y",)

    numeric: ClassVar[tuple[str, ...]] = ("of",)

    example: ClassVar[str] = (
        "{kind: threshold, x: factorization.depth, of: problem.observed, when: rate(error < 1e-2) >= 0.9, color: init.scale}"
    )

    kind: Literal["threshold"] = "threshold"
    x: Formula
    """The axis."""
    of: Formula
    """Whose smallest value is looked for."""
    when: GroupCondition
    """What has to hold of a group of trials: ``rate(error < 1e-2) >= 0.9``."""
    color: Grouping | None = None
    """A key of the spec, or labels with conditions."""


class Spectrum(Figure):
    """Numbered measures at the end over their numbers, counted from 1: a statistic over all trials with the same ``color`` and ``facet``.

    ``y`` stands for the columns: ``sv_*``, ``code_spectrum_*``, or ``sv_*_at_0_1`` for those of some modes.
    """

    axes: ClassVar[tuple[str, ...]] = ("x",)
    x: ClassVar[str] = "index"

    example: ClassVar[str] = "{kind: spectrum, y: sv_*, color: factorization.depth, log: y}"

    kind: Literal["spectrum"] = "spectrum"
    y: str
    """The columns: `sv_*` stands for sv_0, sv_1 and so on."""
    color: Grouping | None = None
    """A key of the spec, or labels with conditions."""
    statistic: Statistic = "median"
    """What is drawn of the trials of a group."""
    bars: Literal["iqr", "range", "std", "sem", "bootstrap", "none"] = "iqr"
    """The interquartile or whole range, of a mean the standard deviation or error, or a 95 % interval."""

    def expressions(self) -> Iterator[tuple[str, str]]:
        return ((name, text) for name, text in super().expressions() if name != "x")

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().own_conflicts()
        if not is_pattern(self.y):
            yield "y", f"must stand for numbered columns, as sv_* does, not {shown(self.y)}"
        if self.bars in OF_MEANS and self.statistic != "mean":
            yield "bars", f"{self.bars} goes with statistic: mean"


FIGURES: dict[str, type[Figure]] = {
    "trajectories": Trajectories,
    "medians": Medians,
    "heatmap": Heatmap,
    "points": Points,
    "threshold": Threshold,
    "spectrum": Spectrum,
}
