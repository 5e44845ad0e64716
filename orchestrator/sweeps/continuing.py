"""Trials that ended under another budget of steps: what they have done counts for those that differ from them in ``stop.steps`` alone.

One that was exhausted goes on from its final factors, with the bits it would have had; one that had converged or diverged within the steps
that are given now has ended as it would have. Its trace is recorded at the steps of the earlier budget as far as that went.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.grid.identity import trial_id
from orchestrator.tracking import layout
from orchestrator.tracking.read.factors import load_factors
from orchestrator.tracking.read.queries import SweepSummary, list_sweeps, own_trials
from orchestrator.tracking.read.results import finished
from orchestrator.tracking.read.tables import listed_specs, load_history, step_budgets
from workloads import measures
from workloads.training.recording import Recording
from workloads.training.trial_state import Outcome, Paused, Trace

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from orchestrator.tracking.store import Store
    from workloads.trial import Trial, TrialSpec


@dataclass(frozen=True)
class _Earlier:
    """A trial with another budget: by what id, in which sweep, and how it ended."""

    trial_id: str
    sweep: SweepSummary
    outcome: Outcome
    steps: int
    seconds: float

    @property
    def worth(self) -> tuple[bool, int]:
        """What has ended needs no training; of others the furthest is wanted."""
        return self.outcome is not Outcome.EXHAUSTED, self.steps


def continued(store: Store, experiment: str, trials: Sequence[Trial], recording: Recording) -> dict[str, Paused]:
    """Return those of ``trials`` that need not begin at step 0, by id, as they stand. Raises `orchestrator.errors.TrackingUnavailable`.

    Left out are trials with a budget of time, or whose factors at checkpoints were asked for, and exhausted ones whose optimizer keeps a
    state, or whose stop checks in a row are not known: nothing but final factors and traces is kept.
    """
    earlier = _earlier(store, experiment, trials, recording)
    by_id = {trial.trial_id: trial for trial in trials}
    groups: dict[str, list[tuple[Trial, _Earlier]]] = defaultdict(list)
    for key, one in earlier.items():
        groups[one.sweep.sweep_id].append((by_id[key], one))
    return {state.trial_id: state for pairs in groups.values() for state in _states(store, pairs, recording)}


def foreseen(store: Store, experiment: str, trials: Sequence[Trial], recording: Recording) -> dict[str, Paused]:
    """Return what `continued` does, for planning: without the factors and traces, of which it is not known whether they are there."""
    by_id = {trial.trial_id: trial for trial in trials}
    nothing = Trace((), np.empty(0, np.int64), np.empty((0, 0)))
    return {
        key: Paused(
            *(key, by_id[key].spec, one.steps, 0, 0, one.seconds, 0.0, [], nothing),
            None if one.outcome is Outcome.EXHAUSTED else one.outcome,
        )
        for key, one in _earlier(store, experiment, trials, recording).items()
    }


def _earlier(store: Store, experiment: str, trials: Sequence[Trial], recording: Recording) -> dict[str, _Earlier]:
    """Return, by the id of each trial that there is one for, the trial to go on from."""
    wanted = [trial for trial in trials if trial.spec.stop.steps is not None and trial.spec.stop.seconds is None]
    if not wanted or recording.checkpoint_steps or recording.checkpoint_losses:
        return {}
    asked = layout.recording_tag(recording.as_json())
    best: dict[str, _Earlier] = {}
    by_rest: dict[str, list[Trial]] = defaultdict(list)
    for trial in wanted:
        by_rest[_without_budget(trial.spec.flat())[0]].append(trial)
    for sweep in list_sweeps(store, experiment, count=False):
        if not layout.covers(sweep.tags.get(layout.RECORD, layout.NOTHING), asked):
            continue
        # Sweeps of one budget are many, and their specs are long.
        if len(step_budgets(store, sweep) | {trial.spec.stop.steps for trial in wanted}) < 2:
            continue
        ended = finished(own_trials(store, sweep))
        rows = dict(zip(ended.index, zip(ended["outcome"], ended["steps"], ended["seconds"], strict=True), strict=True))
        for key, spec in listed_specs(store, sweep):
            rest, budget = _without_budget(spec)
            if key not in rows or budget is None:
                continue
            for trial in by_rest.get(rest, ()):
                outcome, steps, seconds = rows[key]
                one = _Earlier(key, sweep, Outcome(outcome), int(steps), float(seconds))
                worthy = trial.trial_id not in best or one.worth > best[trial.trial_id].worth
                if worthy and budget != trial.spec.stop.steps and _helps(trial.spec, budget, one):
                    best[trial.trial_id] = one
    return best


def _without_budget(spec: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return a text that is equal for flat specs that differ in their budget of steps alone, and that budget."""
    return json.dumps({key: value for key, value in spec.items() if key != "stop.steps"}, sort_keys=True), spec.get("stop.steps")


def _helps(spec: TrialSpec, budget: int, one: _Earlier) -> bool:
    """Return whether a trial may go on from one with another budget, which is the same one but for that: its data file has not changed."""
    assert spec.stop.steps is not None
    if one.trial_id != trial_id(spec.model_copy(update={"stop": spec.stop.model_copy(update={"steps": budget})})):
        return False
    if one.outcome is not Outcome.EXHAUSTED:
        return one.steps <= spec.stop.steps
    stepping = spec.method.stepping
    return budget < spec.stop.steps and not stepping.like_params and not stepping.per_lane


def _states(store: Store, pairs: Iterable[tuple[Trial, _Earlier]], recording: Recording) -> Iterator[Paused]:
    """Yield the trials that go on from those of one sweep."""
    pairs = list(pairs)
    sweep, ids = pairs[0][1].sweep, {one.trial_id for _, one in pairs}
    history = {str(key): rows for key, rows in load_history(store, sweep, ids).groupby("trial_id", sort=False)}
    kept = {row.trial_id for _, row in pairs} & history.keys()
    factors = dict(load_factors(store, sweep, kept)) if kept else {}
    for trial, one in pairs:
        if one.trial_id in factors and _is_whole(history[one.trial_id], layout.at_ends(sweep.tags)):
            state = _state(trial, one, history[one.trial_id], factors[one.trial_id], recording)
            if state is not None:
                yield state


def _is_whole(rows: pd.DataFrame, at_ends: Collection[str]) -> bool:
    """Return whether a trace has the columns ``at_ends`` in other rows than its last."""
    known = [column for column in at_ends if column in rows]
    return len(rows) < 2 or not rows.iloc[:-1][known].isna().all().any()


def _state(trial: Trial, one: _Earlier, rows: pd.DataFrame, factors: Mapping[str, NDArray[Any]], recording: Recording) -> Paused | None:
    spec, stop = trial.spec, trial.spec.stop
    columns = recording.columns(spec)
    names = list(spec.factor_shapes)
    if not set(columns) <= set(rows.columns) or not set(names) <= set(factors):
        return None
    trace = Trace(columns, rows["step"].to_numpy(np.int64), rows[list(columns)].to_numpy(np.float64, copy=True))
    outcome = None if one.outcome is Outcome.EXHAUSTED else one.outcome
    losses = trace.values[:, 0]
    if outcome is None:
        if trace.steps[0] != 0 or trace.steps[-1] != one.steps:
            return None
        streak_is_known = stop.consecutive == 1 or stop.loss is None or (losses[-1] > stop.loss and one.steps % stop.check_every == 0)
        if not streak_is_known:
            return None
        # What is taken at the end of a trial only is not to stand in the middle of it.
        ends = [columns.index(c) for name in recording.names(spec) if measures.is_final(name) for c in measures.column_names(name, spec)]
        trace.values[:, ends] = np.nan
    level = int((recording.loss_levels(spec, float(losses[0])) >= losses.min()).sum()) if outcome is None else 0
    tensors = [np.array(factors[name]) for name in names]
    return Paused(trial.trial_id, spec, one.steps, 0, level, one.seconds, float(losses[0]), tensors, trace, outcome)
