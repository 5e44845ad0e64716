"""Claims checked against the runs: each gets a verdict, the number of trials it rests on, and the worst offender."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.results import Results
from orchestrator.analysis.statistics import Estimate, attainable, difference, number
from orchestrator.grid.claims import Bound, Claim, Contrast, KeepsSign, Monotone, Within
from workloads.amounts import agreeing, amount

STATISTICS: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "median": lambda x: float(np.median(x)),
    "mean": lambda x: float(np.mean(x)),
    "min": lambda x: float(np.min(x)),
    "max": lambda x: float(np.max(x)),
}


@dataclass(frozen=True)
class Offender:
    """The trial that speaks most against a claim, or is nearest to doing so: what it shows, and at which step if it is one of a trace.

    ``run_id`` is ``None`` if it has no run of its own.
    """

    trial_id: str
    run_id: str | None
    shows: str
    step: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds. It rests on ``trials``; ``found`` says in words what was found.

    ``worst`` is there whether the claim holds or not. The verdict is withheld, and ``holds`` is ``None``, if trials that the claim may
    be about are ``gone``, as their runs or traces were deleted.
    """

    name: str
    holds: bool | None
    trials: int
    found: str
    worst: Offender | None
    says: str | None = None
    source: str | None = None
    required: bool = True
    gone: int = 0

    @property
    def word(self) -> str:
        """The verdict in a word."""
        return "withheld" if self.holds is None else "holds" if self.holds else "broken"

    @property
    def broken(self) -> bool:
        """True if the claim is required and does not hold."""
        return self.required and self.holds is False

    @property
    def sound(self) -> bool:
        """True unless the claim is required and cannot be said to hold."""
        return bool(self.holds) or not self.required

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as plain data."""
        return {**asdict(self), "verdict": self.word}


@dataclass(frozen=True)
class _Finding:
    holds: bool
    trials: int
    found: str
    worst: Offender | None = None


def verify(claims: Mapping[str, Claim], results: Results) -> list[Verdict]:
    """Check ``claims`` against the trials that have ended. Raises `orchestrator.errors.UsageError` for a column that is not there."""
    with np.errstate(all="ignore"):
        return [_verdict(name, claim, results) for name, claim in claims.items()]


def _verdict(name: str, claim: Claim, results: Results) -> Verdict:
    gone = len(results.gone(claim.where, claim.sides, traced=claim.needs_traces))
    if gone and not results.ended.any():
        # Without any trial there are no columns of measures either.
        finding = _Finding(False, 0, "no trial is left")
    else:
        trials = results.chosen(claim.where)
        finding = CHECKS[claim.kind](claim, results, trials) if len(trials) else _Finding(False, 0, "no trial is concerned")
    holds: bool | None = finding.holds
    found = finding.found
    if gone:
        holds, found = None, f"{gone} of the trials that it may be about were deleted; without them: {found}"
    says = claim.says or claim.words()
    return Verdict(name, holds, finding.trials, found, finding.worst, says, claim.source, claim.required, gone)


def _bound(claim: Bound, results: Results, trials: NDArray[np.intp]) -> _Finding:
    measured, traced = results.is_measured(claim.that), claim.at == "every_step"
    rows = results.rows(trials, claim.when) if traced else trials
    margins = results.margins(claim.that, traced=traced)[rows]
    shows = lambda n: f"{claim.that} by a margin of {number(margins[n], 2)}"  # noqa: E731
    if traced:
        return _each_step(claim.share, results, rows, margins, measured, shows)
    return _each(claim.share, results, trials, None, margins, results.diverged[trials] & measured, shows)


def _keeps_sign(claim: KeepsSign, results: Results, trials: NDArray[np.intp]) -> _Finding:
    rows = results.rows(trials, claim.when)
    values, owners = results.traced_numbers(claim.of)[rows], results.owners[rows]
    first = pd.Series(values).groupby(owners).transform("first").to_numpy()
    largest = pd.Series(np.abs(values)).groupby(owners).transform("max").to_numpy()
    # How far the value is on its first side, relative to the trial's largest; zero is on no side.
    side, least = values * np.sign(first), np.finfo(np.float64).tiny
    margins = np.where(side > 0, 1.0, -1.0) * np.maximum(np.abs(values) / np.where(largest > 0, largest, 1.0), least)
    shows = lambda n: f"{claim.of} = {number(values[n])} after {number(first[n])}"  # noqa: E731
    return _each_step(claim.share, results, rows, margins, results.is_measured(claim.of), shows)


def _monotone(claim: Monotone, results: Results, trials: NDArray[np.intp]) -> _Finding:
    sign = 1.0 if claim.direction == "rising" else -1.0
    if claim.along != "step":
        return _monotone_along_key(claim, sign, results, trials)
    rows = results.rows(trials, claim.when)
    values, owners = results.traced_numbers(claim.of)[rows], results.owners[rows]
    best = np.asarray(sign * pd.Series(sign * values).groupby(owners).cummax(), dtype=np.float64)
    margins = claim.tolerance - _back(sign, values, best)
    shows = lambda n: f"{claim.of} = {number(values[n], 4)} after {number(best[n], 4)}"  # noqa: E731
    return _each_step(claim.share or 1.0, results, rows, margins, results.is_measured(claim.of), shows)


def _each_step(
    share: float, results: Results, rows: NDArray[np.intp], margins: NDArray[np.float64], measured: bool, shows: Callable[[int], str]
) -> _Finding:
    """Judge a claim about each of some recorded steps, made of measures or of the spec alone."""
    steps, over = results.history["step"].to_numpy()[rows], results.divergences[rows] & measured
    return _each(share, results, results.owners[rows], steps, margins, over, shows)


def _each(
    share: float,
    results: Results,
    owners: NDArray[np.intp],
    steps: NDArray[np.int64] | None,
    margins: NDArray[np.float64],
    over: NDArray[np.bool_],
    shows: Callable[[int], str],
) -> _Finding:
    """Judge a claim about each trial by the margin with which it holds in each row.

    A diverged trial breaks it where it is ``over`` with it, and where the margin is undefined.
    """
    over = over | (np.isnan(margins) & results.diverged[owners])
    margins = np.where(over, -np.inf, margins)
    known = np.flatnonzero(~np.isnan(margins))
    if not len(known):
        return _Finding(False, 0, "no trial is concerned")
    worst = pd.Series(margins[known]).groupby(owners[known]).min()
    held, total = int((worst >= 0).sum()), len(worst)
    place = int(known[np.argmin(margins[known])])
    text = "it diverged" if over[place] else shows(place)
    offender = _offender(results, int(owners[place]), text, None if steps is None else int(steps[place]))
    wanted = "" if share == 1 else f", {100 * share:.4g}% are asked for"
    # Not `share * total`, of which rounding may make a little more than so many trials: 0.56 * 100 is above 56.
    return _Finding(held / total >= share, total, f"in {held:,} of {amount(total, 'trial')}{wanted}", offender)


def _offender(results: Results, trial: int, shows: str, step: int | None = None) -> Offender:
    row = results.runs.iloc[trial]
    return Offender(str(row["trial_id"]), row["run_id"], shows, step)


def _back(sign: float, values: NDArray[np.float64], best: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far values are back from the best before, relative to its size; ``sign`` is 1 where the higher is the better."""
    gap = sign * (best - values)
    relative = np.where(np.isinf(gap), gap, gap / np.where(best == 0, 1.0, np.abs(best)))
    return np.where(values == best, 0.0, relative)


# ------------------------------------------------------------------------------------------------------ claims about groups


@dataclass(frozen=True)
class _Group:
    """Trials that agree in some keys, their rows in the table, a value of each, and which of them have diverged."""

    label: str
    trials: NDArray[np.intp]
    values: NDArray[np.float64]
    diverged: NDArray[np.bool_]

    def pick(self, places: NDArray[Any]) -> _Group:
        """Return some of the trials as a group."""
        return _Group(self.label, self.trials[places], self.values[places], self.diverged[places])

    def nearest(self, value: float) -> int:
        """Return the trial whose value is nearest."""
        return int(self.trials[np.argmin(np.where(self.values == value, 0.0, np.abs(self.values - value)))])

    def says(self, level: float, digits: int = 3) -> str:
        """Return a statistic of the values in words, with how many diverged if any have."""
        count = int(self.diverged.sum())
        return number(level, digits) + (f" ({count} of {len(self.trials)} diverged)" if count else "")


def _groups(results: Results, trials: NDArray[np.intp], of: str, by: Sequence[str]) -> Iterator[_Group]:
    """Yield the trials by the values of some keys. What is undefined counts not at all."""
    values = results.finals(of)
    some = trials[~np.isnan(values[trials])]
    whole = _Group("", some, values[some], results.diverged[some])
    if not by:
        if len(some):
            yield whole
        return
    table = results.runs.iloc[some].reset_index(drop=True)
    missing = [key for key in by if key not in table.columns]
    if missing:
        results.values(missing[0])  # says which columns there are
    for key, places in table.groupby(list(by), dropna=False, sort=True).indices.items():
        parts = key if isinstance(key, tuple) else (key,)
        label = ", ".join(f"{name} {_short(part)}" for name, part in zip(by, parts, strict=True) if not pd.isna(part))
        yield replace(whole.pick(np.asarray(places)), label=label)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _monotone_along_key(claim: Monotone, sign: float, results: Results, trials: NDArray[np.intp]) -> _Finding:
    statistic = STATISTICS[claim.statistic or "median"]
    along = results.numbers(claim.along)
    by = claim.by if claim.by is not None else results.varying(trials, [claim.along])
    total, broken, count, worst, least = 0, 0, 0, None, np.inf
    for group in _groups(results, trials, claim.of, by):
        places = np.unique(along[group.trials][~np.isnan(along[group.trials])])
        if len(places) < 2:
            continue
        count, total = count + 1, total + len(group.trials)
        steps = [group.pick(along[group.trials] == place) for place in places]
        levels = np.array([statistic(step.values) for step in steps])
        # Of those before, so that the first, which comes after nothing, speaks neither for the claim nor against it.
        best = sign * np.maximum.accumulate(sign * levels)[:-1]
        margins = np.nan_to_num(claim.tolerance - _back(sign, levels[1:], best), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        broken += bool((margins < 0).any())
        nearest = int(np.argmin(margins))
        if worst is None or margins[nearest] < least:
            least, place = margins[nearest], nearest + 1
            text = f"{claim.of} = {steps[place].says(levels[place])} at {claim.along} {places[place]:g} after {number(best[nearest])}"
            worst = _offender(results, steps[place].nearest(levels[place]), _at(group.label, text))
    if not count:
        return _Finding(False, 0, f"no trials differ in {claim.along}")
    return _Finding(not broken, total, f"in {count - broken} of {amount(count, 'group')} of trials", worst)


def _within(claim: Within, results: Results, trials: NDArray[np.intp]) -> _Finding:
    low, high = (-np.inf if claim.range[0] is None else claim.range[0]), (np.inf if claim.range[1] is None else claim.range[1])
    statistic = STATISTICS[claim.statistic]
    by = claim.by if claim.by is not None else results.varying(trials)
    levels, groups = [], []
    for group in _groups(results, trials, claim.of, by):
        groups.append(group)
        levels.append(statistic(group.values))
    if not groups:
        return _Finding(False, 0, "no trial is concerned")
    # What is infinite lies in no range, be it open or not.
    margins = [min(level - low, high - level) if np.isfinite(level) else -np.inf for level in levels]
    place = int(np.argmin(margins))
    held, total = sum(margin >= 0 for margin in margins), sum(len(group.trials) for group in groups)
    group, level = groups[place], levels[place]
    worst = _offender(results, group.nearest(level), _at(group.label, f"{claim.statistic} of {claim.of} = {group.says(level, 4)}"))
    span = f"from {number(min(levels))} to {number(max(levels))}" if len(groups) > 1 else f"it is {group.says(level, 4)}"
    where = f"in {held} of {len(groups)} groups of trials, " if len(groups) > 1 else ""
    return _Finding(held == len(groups), total, where + span, worst)


def _contrast(claim: Contrast, results: Results, trials: NDArray[np.intp]) -> _Finding:
    one, other = (trials[results.condition(text)[trials]] for text in (claim.group, claim.against))
    sign = 1.0 if claim.direction == "higher" else -1.0
    sides = [{group.label: group for group in _groups(results, some, claim.of, claim.by)} for some in (one, other)]
    shared = [label for label in sides[0] if label in sides[1]]
    if not shared:
        return _Finding(False, 0, "there are no trials of both groups to compare")
    found: list[tuple[float, str, Estimate]] = []
    for label in shared:
        estimate = difference(sides[0][label].values, sides[1][label].values, claim.statistic, claim.confidence)
        near = (estimate.low if sign > 0 else estimate.high) if claim.interval else estimate.value
        found.append((sign * near, label, estimate))
    _, label, worst = min(found, key=lambda entry: -np.inf if np.isnan(entry[0]) else entry[0])
    held = sum(entry[0] > 0 for entry in found)
    total = sum(len(sides[side][name].trials) for side in (0, 1) for name in shared)
    levels = [STATISTICS[claim.statistic](sides[side][label].values) for side in (0, 1)]
    one_says, other_says = (sides[side][label].says(levels[side]) for side in (0, 1))
    shows = f"{claim.statistic} {one_says} against {other_says}"
    if np.isfinite(worst.value):
        shows += f", difference {worst}"
    where = f"in {held} of {len(shared)} groups of trials" if len(shared) > 1 else shows
    if apart := len(sides[0].keys() ^ sides[1].keys()):
        where += f"; {apart} more have trials on one side only"
    if both := len(np.intersect1d(one, other)):
        where += f"; {amount(both, 'trial')} {agreeing(both, 'is', 'are')} on both sides"
    where += _too_few(claim, [(len(sides[0][name].trials), len(sides[1][name].trials)) for name in shared])
    return _Finding(held == len(shared), total, where, _offender(results, sides[0][label].nearest(levels[0]), _at(label, shows)))


def _too_few(claim: Contrast, sizes: Sequence[tuple[int, int]]) -> str:
    """Return what is to be said of intervals that cannot have the confidence that the claim asks for, of groups of these sizes."""
    few = min(sizes, key=lambda pair: attainable(*pair))
    most = attainable(*few)
    if not claim.interval or most >= claim.confidence:
        return ""
    return f"; an interval of {few[0]} against {amount(few[1], 'trial')} carries {100 * most:.3g}% at most"


def _at(label: str, text: str) -> str:
    return f"{text} ({label})" if label else text


CHECKS: Mapping[str, Callable[[Any, Results, NDArray[np.intp]], _Finding]] = {
    "bound": _bound,
    "keeps_sign": _keeps_sign,
    "monotone": _monotone,
    "within": _within,
    "contrast": _contrast,
}
"""By the kind of claim."""
