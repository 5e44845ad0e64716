"""The claims that a grid makes: kinds are models in a table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from orchestrator.grid.questions import Condition, Formula, Keys, Question, Range
from workloads.section import Finite


class Claim(Question):
    """A statement about the runs that holds or does not.

    ``says`` puts it in words, ``source`` names who made it. One that is not ``required`` is reported without a bearing on the exit code.
    """

    says: str | None = None
    """The claim in words, for reports."""
    source: str | None = None
    """Who made it: a paper and its equation or figure."""
    required: bool = True
    """Whether `verify` fails where it does not hold."""

    @property
    def sides(self) -> tuple[str, ...]:
        """Conditions of which a trial that the claim is about meets one; empty if it is about all trials."""
        return ()

    @abstractmethod
    def words(self) -> str:
        """Return the claim in words, where its author gave none."""


Share = Annotated[Finite, Field(gt=0, le=1)]


class Bound(Claim):
    """``that`` holds in every trial: at every recorded step at which ``when`` holds, or with ``at: end`` at the end.

    ``share`` is the least part of the trials that it has to hold for.
    """

    over_trace: ClassVar[tuple[str, ...]] = ("that", "when")

    example: ClassVar[str] = "{kind: bound, that: nuclear > 10, when: loss < 1e-3, share: 0.9}"

    kind: Literal["bound"] = "bound"
    that: Condition
    """What has to hold."""
    when: Condition | None = None
    """At which recorded steps; by default at all."""
    at: Literal["every_step", "end"] = "every_step"
    """At every recorded step, or at the end alone."""
    share: Share = 1.0
    """Least part of the trials that it has to hold for."""

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        if self.at == "end" and self.when is not None:
            yield "when", "picks recorded steps; with at: end use where, which picks trials"

    def words(self) -> str:
        return self.that if self.at == "every_step" else f"{self.that} at the end"


class KeepsSign(Claim):
    """The sign of ``of`` is the same, and not zero, at every recorded step of a trial at which ``when`` holds."""

    over_trace: ClassVar[tuple[str, ...]] = ("of", "when")

    numeric: ClassVar[tuple[str, ...]] = ("of",)

    example: ClassVar[str] = "{kind: keeps_sign, of: det}"

    kind: Literal["keeps_sign"] = "keeps_sign"
    of: Formula
    """Whose sign."""
    when: Condition | None = None
    """At which recorded steps; by default at all."""
    share: Share = 1.0
    """Least part of the trials that it has to hold for."""

    def words(self) -> str:
        return f"{self.of} keeps its sign"


Statistic = Literal["median", "mean", "min", "max"]


class Monotone(Claim):
    """``of`` only rises, or only falls, along the steps of each trial or, as a statistic over trials, along a key of the spec.

    ``tolerance`` is how far a value may go back, relative to the size of the one reached before. Along a key, trials are grouped ``by``
    other keys, by default all that vary but seeds.
    """

    over_trace: ClassVar[tuple[str, ...]] = ("of", "when")

    numeric: ClassVar[tuple[str, ...]] = ("of", "along")

    example: ClassVar[str] = "{kind: monotone, of: effective_rank, along: factorization.depth, direction: falling}"

    kind: Literal["monotone"] = "monotone"
    of: Formula
    """What rises or falls."""
    along: Formula = "step"
    """Along the steps of each trial, or along a key of the spec."""
    direction: Literal["rising", "falling"]
    """Which way."""
    tolerance: Annotated[Finite, Field(ge=0)] = 0.0
    """How far a value may go back, relative to the size of the one before."""
    when: Condition | None = None
    """At which recorded steps; by default at all."""
    statistic: Statistic | None = None
    """Along a key: of the trials at each of its values; the median by default."""
    by: Keys | None = None
    """Along a key: the groups of trials that are looked at one by one; all that vary but seeds by default."""
    share: Share | None = None
    """Least part of the trials that it has to hold for; all by default."""

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        for name in ("statistic", "by") if self.along == "step" else ("when", "share"):
            if name in self.model_fields_set:
                yield name, f"has no effect with along: {self.along}"

    def words(self) -> str:
        return f"{self.of} is {self.direction} along {self.along}"


class Within(Claim):
    """A statistic over trials (their median unless told otherwise) lies in ``range``, in every group ``by`` keys of the spec.

    A bound of ``null`` is open. Groups are by default all that vary but seeds.
    """

    numeric: ClassVar[tuple[str, ...]] = ("of",)

    example: ClassVar[str] = "{kind: within, of: error, range: [null, 1e-3], where: init.scale < 1e-2}"

    kind: Literal["within"] = "within"
    of: Formula
    """What is looked at, at the end."""
    range: Range
    """Its least and its largest value; null is open."""
    statistic: Statistic = "median"
    """Over the trials of a group."""
    by: Keys | None = None
    """The groups of trials that are looked at one by one; all that vary but seeds by default."""

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        low, high = self.range
        if low is None and high is None:
            yield "range", "is open at both ends: give at least one bound"
        if low is not None and high is not None and low > high:
            yield "range", f"is empty: {low:g} is above {high:g}"

    def words(self) -> str:
        low, high = self.range
        bounds = " and ".join(f"{word} {end:g}" for word, end in (("at least", low), ("at most", high)) if end is not None)
        return f"the {self.statistic} of {self.of} is {bounds}"


class Contrast(Claim):
    """``of`` is lower (or higher) in one group of trials than in another: in every part ``by`` keys that both have.

    The difference of the statistic, and its bootstrap interval at ``confidence``, has to lie on that side of zero. With ``interval: false``
    the difference alone has to, which suits groups of very few trials.
    """

    numeric: ClassVar[tuple[str, ...]] = ("of",)

    example: ClassVar[str] = "{kind: contrast, of: error, group: init.scale == 1e-3, against: init.scale == 1e-2, direction: lower}"

    kind: Literal["contrast"] = "contrast"
    of: Formula
    """What is compared, at the end."""
    group: Condition
    """Which trials."""
    against: Condition
    """Which trials they are compared to."""
    direction: Literal["lower", "higher"]
    """Whether `of` is lower or higher in the group."""
    statistic: Literal["median", "mean"] = "median"
    """Over the trials of each group."""
    confidence: Annotated[Finite, Field(gt=0, lt=1)] = 0.95
    """Of the bootstrap interval of the difference."""
    interval: bool = True
    """Whether the whole interval has to lie on that side of zero, or the difference alone."""
    by: Keys = ()
    """The parts of the sweep in which the two are compared, one by one."""

    @property
    def sides(self) -> tuple[str, ...]:
        return self.group, self.against

    def words(self) -> str:
        return f"{self.of} is {self.direction} where {self.group} than where {self.against}"


CLAIMS: dict[str, type[Claim]] = {
    "bound": Bound,
    "keeps_sign": KeepsSign,
    "monotone": Monotone,
    "within": Within,
    "contrast": Contrast,
}
