"""Claims checked against the runs: each gets a verdict, the number of trials it rests on, and the worst offender."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from orchestrator.analysis.results import Results
from orchestrator.analysis.statistics import Estimate, difference
from orchestrator.grid.claims import Bound, Claim, Contrast, KeepsSign, Monotone, Within

STATISTICS: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "median": lambda x: float(np.median(x)),
    "mean": lambda x: float(np.mean(x)),
    "min": lambda x: float(np.min(x)),
    "max": lambda x: float(np.max(x)),
}


@dataclass(frozen=True)
class Offender:
    """The trial that speaks most against a claim, or is nearest to doing so: what it shows, and at which step if it is one of a trace."""

    trial_id: str
    run_id: str
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
    if claim.at == "end":
        margins, owners, steps = results.margins(claim.that, traced=False)[trials], trials, None
    else:
        rows = results.rows(trials, claim.when)
        margins, owners = results.margins(claim.that, traced=True)[rows], results.owners[rows]
        steps = results.history["step"].to_numpy()[rows]
    return _each(claim.share, results, owners, steps, margins, lambda n: f"{claim.that} by a margin of {margins[n]:.2g}")


def _keeps_sign(claim: KeepsSign, results: Results, trials: NDArray[np.intp]) -> _Finding:
    rows = results.rows(trials, claim.when)
    values, owners = np.asarray(results.traced(claim.of)[rows], dtype=np.float64), results.owners[rows]
    steps = results.history["step"].to_numpy()[rows]
    first = pd.Series(values).groupby(owners).transform("first").to_numpy()
    largest = pd.Series(np.abs(values)).groupby(owners).transform("max").to_numpy()
    # How far the value is on its first side, relative to the trial's largest; zero is on no side.
    margins = np.where(values == 0, -np.finfo(np.float64).tiny, values * np.sign(first) / np.where(largest > 0, largest, 1.0))
    return _each(claim.share, results, owners, steps, margins, lambda n: f"{claim.of} = {values[n]:.3g} after {first[n]:.3g}")


def _monotone(claim: Monotone, results: Results, trials: NDArray[np.intp]) -> _Finding:
    sign = 1.0 if claim.direction == "rising" else -1.0
    if claim.along != "step":
        return _monotone_along_key(claim, sign, results, trials)
    rows = results.rows(trials, claim.when)
    values, owners = np.asarray(results.traced(claim.of)[rows], dtype=np.float64), results.owners[rows]
    steps = results.history["step"].to_numpy()[rows]
    best = sign * pd.Series(sign * values).groupby(owners).cummax().to_numpy()
    margins = claim.tolerance - _relative(sign * (best - values), best)
    shows = lambda n: f"{claim.of} = {values[n]:.4g} after {best[n]:.4g}"  # noqa: E731
    return _each(claim.share or 1.0, results, owners, steps, margins, shows)


def _each(
    share: float,
    results: Results,
    owners: NDArray[np.intp],
    steps: NDArray[np.int64] | None,
    margins: NDArray[np.float64],
    shows: Callable[[int], str],
) -> _Finding:
    """Judge a claim about each trial by the margin with which it holds in each row. Where that is undefined, a diverged trial breaks it."""
    diverged = (results.runs["outcome"] == "diverged").to_numpy()[owners]
    undefined = np.isnan(margins)
    margins = np.where(undefined & diverged, -np.inf, margins)
    known = np.flatnonzero(~np.isnan(margins))
    if not len(known):
        return _Finding(False, 0, "no trial is concerned")
    worst = pd.Series(margins[known]).groupby(owners[known]).min()
    held, total = int((worst >= 0).sum()), len(worst)
    place = int(known[np.argmin(margins[known])])
    offender = _offender(results, int(owners[place]), shows(place), None if steps is None else int(steps[place]))
    wanted = "" if share == 1 else f", {share:.0%} are asked for"
    return _Finding(held >= share * total, total, f"in {held} of {total} trials{wanted}", offender)


def _offender(results: Results, trial: int, shows: str, step: int | None = None) -> Offender:
    row = results.runs.iloc[trial]
    return Offender(str(row["trial_id"]), str(row["run_id"]), shows, step)


def _relative(gap: NDArray[Any], size: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(gap == 0, 0.0, gap / np.where(size == 0, 1.0, np.abs(size)))


# ------------------------------------------------------------------------------------------------------ claims about groups


@dataclass(frozen=True)
class _Group:
    """Trials that agree in some keys, their rows in the table, and a value of each."""

    label: str
    trials: NDArray[np.intp]
    values: NDArray[np.float64]

    def nearest(self, value: float) -> int:
        """Return the trial whose value is nearest."""
        return int(self.trials[np.argmin(np.abs(self.values - value))])


def _groups(results: Results, trials: NDArray[np.intp], of: str, by: Sequence[str]) -> Iterator[_Group]:
    """Yield the trials by the values of some keys. An undefined value counts as infinite for trials that diverged, else not at all."""
    values = np.asarray(results.values(of), dtype=np.float64)
    diverged = (results.runs["outcome"] == "diverged").to_numpy()
    values = np.where(np.isnan(values) & diverged, np.inf, values)
    some = trials[~np.isnan(values[trials])]
    if not by:
        if len(some):
            yield _Group("", some, values[some])
        return
    table = results.runs.iloc[some].reset_index(drop=True)
    missing = [key for key in by if key not in table.columns]
    if missing:
        results.values(missing[0])  # says which columns there are
    for key, places in table.groupby(list(by), dropna=False, sort=True).indices.items():
        parts = key if isinstance(key, tuple) else (key,)
        label = ", ".join(f"{name} {_short(part)}" for name, part in zip(by, parts, strict=True) if not pd.isna(part))
        yield _Group(label, some[places], values[some[places]])


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _monotone_along_key(claim: Monotone, sign: float, results: Results, trials: NDArray[np.intp]) -> _Finding:
    statistic = STATISTICS[claim.statistic or "median"]
    along = np.asarray(results.values(claim.along), dtype=np.float64)
    by = claim.by if claim.by is not None else results.varying(trials, [claim.along])
    total, broken, count, worst, least = 0, 0, 0, None, np.inf
    for group in _groups(results, trials, claim.of, by):
        places = np.unique(along[group.trials][~np.isnan(along[group.trials])])
        if len(places) < 2:
            continue
        count, total = count + 1, total + len(group.trials)
        steps = [group.values[along[group.trials] == place] for place in places]
        levels = np.array([statistic(values) for values in steps])
        best = sign * np.maximum.accumulate(sign * levels)
        margins = claim.tolerance - _relative(sign * (best - levels), best)
        broken += bool((margins < 0).any())
        place = int(np.argmin(margins))
        if margins[place] < least:
            least = margins[place]
            here = _Group(group.label, group.trials[along[group.trials] == places[place]], steps[place])
            text = f"{claim.of} = {levels[place]:.3g} at {claim.along} {places[place]:g} after {best[place]:.3g}"
            worst = _offender(results, here.nearest(levels[place]), _at(group.label, text))
    if not count:
        return _Finding(False, 0, f"no trials differ in {claim.along}")
    return _Finding(not broken, total, f"in {count - broken} of {count} groups of trials", worst)


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
    margins = [min(level - low, high - level) for level in levels]
    place = int(np.argmin(margins))
    held, total = sum(margin >= 0 for margin in margins), sum(len(group.trials) for group in groups)
    group, level = groups[place], levels[place]
    worst = _offender(results, group.nearest(level), _at(group.label, f"{claim.statistic} of {claim.of} = {level:.4g}"))
    span = f"from {min(levels):.3g} to {max(levels):.3g}" if len(groups) > 1 else f"it is {level:.4g}"
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
    _, label, worst = min(found, key=lambda entry: entry[0])
    held = sum(entry[0] > 0 for entry in found)
    total = sum(len(sides[side][name].trials) for side in (0, 1) for name in shared)
    levels = [STATISTICS[claim.statistic](sides[side][label].values) for side in (0, 1)]
    shows = f"{claim.statistic} {levels[0]:.3g} against {levels[1]:.3g}, difference {worst}"
    where = f"in {held} of {len(shared)} groups of trials" if len(shared) > 1 else f"{shows}"
    return _Finding(held == len(shared), total, where, _offender(results, sides[0][label].nearest(levels[0]), _at(label, shows)))


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
