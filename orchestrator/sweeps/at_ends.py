"""Trials that have ended with less recorded than is asked for now: what is new is computed at their ends, from their final factors.

In all rows before the last it is missing. Where a figure or claim of the grid is of the whole trace, or what is new is known in training
only, trials are run again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.grid.traced import Traced
from orchestrator.tracking import layout
from orchestrator.tracking.read.factors import load_factors
from orchestrator.tracking.read.queries import SweepSummary, list_sweeps, own_trials
from orchestrator.tracking.read.results import finished, not_whole
from orchestrator.tracking.read.tables import load_history
from orchestrator.tracking.store import translated
from workloads import measures
from workloads.training.recording import Recording
from workloads.training.trial_state import Outcome, Paused, Trace

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from orchestrator.tracking.store import Store
    from workloads.trial import Trial, TrialSpec

_AT = " at "


@dataclass(frozen=True)
class EndedWithLess:
    """A trial that has ended: in which sweep and how, and the measures that are ``missing``."""

    sweep: SweepSummary
    outcome: Outcome
    steps: int
    seconds: float
    missing: tuple[str, ...]


def ended_with_less(
    store: Store, experiments: Iterable[str], trials: Collection[Trial], recording: Recording, traced: Traced
) -> dict[str, EndedWithLess]:
    """Return those of ``trials`` that have ended without measures that are wanted at their ends only, by id: with the fewest missing.

    Raises `orchestrator.errors.TrackingUnavailable`.
    """
    asked = layout.recording_tag(recording.as_json())
    lacking: list[tuple[SweepSummary, list[str]]] = []
    for sweep in (sweep for name in dict.fromkeys(experiments) for sweep in list_sweeps(store, name, count=False)) if trials else ():
        missing = layout.unrecorded(sweep.tags.get(layout.RECORD, layout.NOTHING), asked)
        if missing:
            lacking.append((sweep, missing))
    found: dict[str, EndedWithLess] = {}
    specs = {trial.trial_id: trial.spec for trial in trials}
    for sweep, missing in sorted(lacking, key=lambda pair: len(pair[1])):
        rows = _ended(store, sweep, {key for key in specs.keys() - found.keys() if traced.of(missing, key) is None}, traced)
        for key, outcome, steps, seconds in zip(rows.index, rows["outcome"], rows["steps"], rows["seconds"], strict=True):
            # The loss is recorded even where it is not asked for.
            defined = tuple(name for name in missing if name != "loss" and measures.undefined(name, specs[key]) is None)
            if not any(map(measures.is_state, defined)):
                found[key] = EndedWithLess(sweep, Outcome(outcome), int(steps), float(seconds), defined)
    return found


def _ended(store: Store, sweep: SweepSummary, wanted: Collection[str], traced: Traced) -> pd.DataFrame:
    """Return the rows of trials that a sweep has run to their ends, with all that it recorded of them."""
    ended = finished(own_trials(store, sweep)) if wanted else None
    if ended is None or not len(ended := ended[ended.index.isin(wanted) & ended["trace"].notna()]):
        import pandas as pd

        return pd.DataFrame(columns=["outcome", "steps", "seconds"])
    if not traced.columns.isdisjoint(layout.at_ends(sweep.tags)):
        with translated(store.display):
            parent = store.client.get_run(sweep.parent_run_id)
            ended = ended.drop(index=list(not_whole(store, parent, ended, traced)))
    return ended


def columns_at_ends(found: Mapping[str, EndedWithLess], trials: Mapping[str, Trial]) -> list[str]:
    """Return the columns that trials have at their ends only, once they have been measured."""
    columns: dict[str, None] = {}
    for key, one in found.items():
        before = layout.at_ends(one.sweep.tags)
        columns |= dict.fromkeys((*sorted(before), *_columns(_measured_here(one), trials[key].spec)))
    return list(columns)


def measured(
    store: Store, found: Mapping[str, EndedWithLess], trials: Mapping[str, Trial], recording: Recording, files: Mapping[str, bytes]
) -> dict[str, Paused]:
    """Return trials that have ended, by id, with what was missing at their ends: all of ``found`` whose factors and traces are there.

    What is computed at the end of a trial anyway is left to whoever hands on the trial. Raises
    `orchestrator.errors.TrackingUnavailable`.
    """
    from workloads.training.afterwards import measure_kept

    if len(json.dumps(columns_at_ends(found, trials))) > layout.TAG_LENGTH:
        # A sweep could not say of so many columns that they are not whole.
        return {}
    states: dict[str, Paused] = {}
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for key, one in found.items():
        groups[one.sweep.sweep_id, _measured_here(one)].append(key)
    for (_, names), keys in groups.items():
        sweep = found[keys[0]].sweep
        history = {str(key): rows for key, rows in load_history(store, sweep, keys).groupby("trial_id", sort=False)}
        specs = {key: trials[key].spec for key in keys if key in history}
        kept = dict(_whole(load_factors(store, sweep, list(specs)), specs)) if specs else {}
        finals = {key: {name: factors[name] for name in specs[key].factor_shapes} for key, factors in kept.items()}
        for key, values in measure_kept(names, finals.items(), specs, files, recording.references):
            state = _state(trials[key], found[key], history[key], kept[key], values, recording)
            states |= {} if state is None else {key: state}
    return states


def _whole(
    kept: Iterable[tuple[str, dict[str, NDArray[Any]]]], specs: Mapping[str, TrialSpec]
) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    return ((key, factors) for key, factors in kept if set(specs[key].factor_shapes) <= set(factors))


def _measured_here(one: EndedWithLess) -> tuple[str, ...]:
    return tuple(name for name in one.missing if not measures.is_final(name))


def _columns(names: Sequence[str], spec: TrialSpec) -> tuple[str, ...]:
    return tuple(column for name in names for column in measures.column_names(name, spec))


def _state(
    trial: Trial,
    one: EndedWithLess,
    rows: pd.DataFrame,
    factors: Mapping[str, NDArray[Any]],
    values: Mapping[str, float],
    recording: Recording,
) -> Paused | None:
    spec, steps = trial.spec, rows["step"].to_numpy(np.int64)
    columns = recording.columns(spec)
    known = [column for column in columns if column not in values and column in rows]
    later = _columns([name for name in one.missing if measures.is_final(name)], spec)
    if not {*columns} <= {*known, *values, *later} or steps[-1] != one.steps:
        return None
    trace = np.full((len(steps), len(columns)), np.nan)
    for place, column in enumerate(columns):
        if column in known:
            trace[:, place] = rows[column]
        elif column in values:
            trace[-1, place] = values[column]
    checkpoints: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for kept in dict.fromkeys(name.partition(_AT)[2] for name in factors if _AT in name):
        checkpoints[kept] = [np.array(factors[f"{name}{_AT}{kept}"]) for name in spec.factor_shapes]
    tensors = [np.array(factors[name]) for name in spec.factor_shapes]
    made = Trace(columns, steps, trace)
    loss = float(trace[0, 0])
    return Paused(trial.trial_id, spec, one.steps, 0, 0, one.seconds, loss, tensors, made, one.outcome, dict(checkpoints))
