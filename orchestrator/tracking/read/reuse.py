"""Why trials that a grid asks for are run although the store has something of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.tracking import layout
from orchestrator.tracking.read.queries import SweepSummary, find_finished, list_sweeps, own_trials
from orchestrator.tracking.read.results import FINISHED
from workloads.amounts import agreeing, amount

if TYPE_CHECKING:
    from orchestrator.grid.traced import Traced
    from orchestrator.tracking.store import Store
    from workloads.training.recording import Recording
    from workloads.training.trial_state import Paused

SWEEPS = 10
"""Sweeps that are looked into, newest first: what older ones lack nobody remembers."""


@dataclass(frozen=True)
class Reuse:
    """Of how many ``trials`` how many are ``reused``, and for what reasons others are run again, how many for each.

    Of those that are ``measured`` only measures are computed, by the names of these. What is ``continued``, by id, has ended under another
    budget of steps, and ``begin`` are the ids of those that are trained from step 0.
    """

    trials: int
    reused: int
    reasons: Counter[str]
    measured: Counter[tuple[str, ...]] = field(default_factory=Counter)
    continued: Mapping[str, Paused] = field(default_factory=dict)
    begin: Collection[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Return this as plain data."""
        ended = sum(state.outcome is not None for state in self.continued.values())
        continued = {"ended": ended, "going_on": len(self.continued) - ended}
        counts = {"reused": self.reused, "measured": self.measured.total(), "continued": continued, "left": self.left}
        return {**counts, "run_again": dict(self.reasons)}

    def lines(self) -> Iterator[str]:
        """Yield in words what is reused and why the rest is not."""
        if self.reused:
            yield reused_line(self.reused, self.trials)
        yield from continued_lines(self.continued.values())
        yield from measured_lines(self.measured.elements())
        for reason, count in self.reasons.most_common():
            yield f"{count:,} {agreeing(count, 'is', 'are')} run again: {reason}"

    @property
    def left(self) -> int:
        """How many trials are trained."""
        ended = sum(state.outcome is not None for state in self.continued.values())
        return self.trials - self.reused - self.measured.total() - ended


def reused_line(reused: int, trials: int) -> str:
    """Return in words how many of so many trials are reused."""
    are = agreeing(reused, "is", "are")
    return f"{reused:,} of {amount(trials, 'trial')} {are} in MLflow already and {are} reused"


def continued_lines(begun: Iterable[Paused]) -> Iterator[str]:
    """Yield in words how many trials, that had ended under another budget of steps, go on or count as they are."""
    ended = Counter(state.outcome is not None for state in begun)
    if count := ended[False]:
        go, they_were = agreeing(count, "goes", "go"), agreeing(count, "it was", "they were")
        yield f"{amount(count, 'trial')} {go} on from where {they_were} exhausted under another stop.steps"
    if count := ended[True]:
        they, are = agreeing(count, "it", "they"), agreeing(count, "is", "are")
        yield f"{amount(count, 'trial')} had ended under another stop.steps as {they} would now: {they} {are} not trained again"


def measured_lines(missing: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield in words of how many trials which measures, that were ``missing``, are only computed at their ends."""
    for names, count in Counter(missing).most_common():
        what = ", ".join(names) or "nothing of what is new"
        not_trained = f"{amount(count, 'trial')} {agreeing(count, 'is', 'are')} not trained again"
        yield f"{not_trained}: {what} {'are' if len(names) > 1 else 'is'} computed from final factors, for the ends of traces"


def look_up(
    store: Store,
    experiments: Iterable[str],
    trial_ids: Collection[str],
    recording: Recording,
    traced: Traced,
    further: Callable[[Collection[str]], Mapping[str, Paused]],
    less: Callable[[Collection[str]], Mapping[str, tuple[str, ...]]],
) -> Reuse:
    """Return what a grid's trials would reuse. Of those that are left ``further`` says which have ended under another budget of steps, and
    ``less`` of the others which have ended without which measures.

    Raises `orchestrator.errors.TrackingUnavailable`.
    """
    record = recording.as_json()
    names = list(dict.fromkeys(experiments))
    reused = {key for name in names for key in find_finished(store, name, trial_ids, record, traced)}
    continued = further(set(trial_ids) - reused)
    measured = less(set(trial_ids) - reused - continued.keys())
    left = set(trial_ids) - reused - measured.keys() - continued.keys()
    reasons = why_again(store, names, left, layout.recording_tag(record), traced)
    return Reuse(len(trial_ids), len(reused), reasons, Counter(measured.values()), continued, left)


def why_again(store: Store, experiments: Iterable[str], trial_ids: Collection[str], record: str, traced: Traced) -> Counter[str]:
    """Return for what reasons trials that sweeps have run, and that record what the tag ``record`` asks for, are run once more."""
    reasons: Counter[str] = Counter()
    left = set(trial_ids)
    sweeps = [sweep for name in experiments for sweep in list_sweeps(store, name, count=False)] if left else []
    for sweep in sorted(sweeps, key=lambda sweep: -sweep.started)[:SWEEPS]:
        ended = own_trials(store, sweep)
        some = ended[ended.index.isin(left)]
        lacking = _lacking(sweep, record, traced)
        for trial_id, outcome, gone in zip(some.index, some["outcome"], some["gone"], strict=True):
            reasons["deleted in MLflow" if gone else lacking(trial_id) if outcome in FINISHED else str(outcome)] += 1
            left.discard(trial_id)
        if not left:
            break
    return reasons


def _lacking(sweep: SweepSummary, record: str, traced: Traced) -> Callable[[str], str]:
    """Return what says of a trial that a sweep has run to its end why that is not enough."""
    recorded = sweep.tags.get(layout.RECORD, layout.NOTHING)
    lacking, unrecorded = layout.lacking(recorded, record), layout.unrecorded(recorded, record) or ()
    at_ends = sorted(traced.columns & set(layout.at_ends(sweep.tags)))

    def reason(trial_id: str) -> str:
        if lacking is not None:
            question = traced.of(unrecorded, trial_id)
            return lacking if question is None else f"{lacking}, and {question} is of whole traces"
        for column in at_ends:
            if question := traced.of([column], trial_id):
                return f"has {column} at its end only, and {question} is of whole traces"
        return "its sweep was deleted"

    return reason
