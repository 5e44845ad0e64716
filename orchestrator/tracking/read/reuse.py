"""Why trials that a grid asks for are run although the store has something of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.tracking import layout
from orchestrator.tracking.read.queries import SweepSummary, find_finished, list_sweeps, own_trials
from orchestrator.tracking.read.results import FINISHED

if TYPE_CHECKING:
    from orchestrator.tracking.store import Store
    from workloads.training.recording import Recording

SWEEPS = 10
"""Sweeps that are looked into, newest first: what older ones lack nobody remembers."""


@dataclass(frozen=True)
class Reuse:
    """Of how many ``trials`` how many are ``reused``, and for what reasons others are run again, how many for each."""

    trials: int
    reused: int
    reasons: Counter[str]

    def as_json(self) -> dict[str, Any]:
        """Return this as plain data."""
        return {"reused": self.reused, "run_again": dict(self.reasons)}

    def lines(self) -> Iterator[str]:
        """Yield in words what is reused and why the rest is not."""
        if self.reused:
            yield f"{self.reused} of {self.trials} trials are in MLflow already and are reused"
        for reason, count in self.reasons.most_common():
            yield f"{count} {'is' if count == 1 else 'are'} run again: {reason}"


def look_up(store: Store, experiments: Iterable[str], trial_ids: Collection[str], recording: Recording) -> Reuse:
    """Return what a grid's trials would reuse. Raises `orchestrator.errors.TrackingUnavailable`."""
    record = recording.as_json()
    names = list(dict.fromkeys(experiments))
    reused = {key for name in names for key in find_finished(store, name, trial_ids, record)}
    left = set(trial_ids) - reused
    return Reuse(len(trial_ids), len(reused), why_again(store, names, left, layout.recording_tag(record)))


def why_again(store: Store, experiments: Iterable[str], trial_ids: Collection[str], record: str) -> Counter[str]:
    """Return for what reasons trials that sweeps have run, and that record what the tag ``record`` asks for, are run once more."""
    reasons: Counter[str] = Counter()
    left = set(trial_ids)
    sweeps = [sweep for name in experiments for sweep in list_sweeps(store, name, count=False)] if left else []
    for sweep in sorted(sweeps, key=lambda sweep: -sweep.started)[:SWEEPS]:
        ended = own_trials(store, sweep)
        some = ended[ended.index.isin(left)]
        for trial_id, outcome, gone in zip(some.index, some["outcome"], some["gone"], strict=True):
            reasons[_reason(sweep, record, str(outcome), gone=bool(gone))] += 1
            left.discard(trial_id)
        if not left:
            break
    return reasons


def _reason(sweep: SweepSummary, record: str, outcome: str, *, gone: bool) -> str:
    if gone:
        return "deleted in MLflow"
    if outcome not in FINISHED:
        return outcome
    return layout.lacking(sweep.tags.get(layout.RECORD, layout.NOTHING), record) or "its sweep was deleted"
