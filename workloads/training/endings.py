"""Trials that have ended, on their way to whoever waits for their results; some measures are taken of them only now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from workloads.training.lane_pool import Ended, LanePool
from workloads.training.policy import Policy
from workloads.training.results import TrialResult
from workloads.training.trial_state import Paused, Trace
from workloads.trial import Trial


class Endings:
    """What a pool's trials have come to."""

    def __init__(self, pool: LanePool, policy: Policy) -> None:
        self.pool = pool
        numbers = math.prod(pool.trials[0].spec.shape)
        self._at_once = max(1, policy.final_numbers // numbers) if pool.recorder.final_names else None

    @property
    def waiting(self) -> bool:
        """True if there are trials to be handed on."""
        return bool(self.pool.ended or self.pool.failed)

    def results(self) -> tuple[TrialResult, ...]:
        """Return the results of trials that have ended, and of those that have failed; not of all, where measures are taken only now."""
        pool, recorder = self.pool, self.pool.recorder
        some, pool.ended = pool.ended[: self._at_once], pool.ended[self._at_once or len(pool.ended) :]
        specs = [pool.trials[row.key].spec for row in some]
        problems = [pool.preparer.problem(spec) for spec in specs] if recorder.final_names else []
        finals = recorder.finals([row.factors for row in some], problems, specs)
        results = [self._result(row, recorder.finish(row.key, final)) for row, final in zip(some, finals, strict=True)]
        failed, pool.failed = pool.failed, []
        return (*results, *failed)

    def _result(self, row: Ended, trace: Trace) -> TrialResult:
        trial, names = self.pool.trials[row.key], tuple(self.pool.trials[row.key].spec.factor_shapes)

        def named(arrays: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
            return dict(zip(names, arrays, strict=True))

        result = TrialResult(trial.trial_id, row.outcome, row.steps, row.started, row.ended, trace, named(row.factors))
        made = {name: named(arrays) for name, arrays in self.pool.checkpoints.pop(row.key, {}).items()}
        return replace(result, checkpoints=made) if made else result

    def half(self) -> tuple[Trial, ...]:
        """Take out half of the trials, for another worker to measure, if there are more than are measured at once."""
        ended = self.pool.ended
        if self._at_once is None or len(ended) <= self._at_once:
            return ()
        given, self.pool.ended = ended[1::2], ended[::2]
        return tuple(self._paused(row, self.pool.recorder.take(row.key)) for row in given)

    def standing(self) -> tuple[Paused, ...]:
        """Return the trials that have ended and have not been handed on."""
        return tuple(self._paused(row, self.pool.recorder.trace(row.key)) for row in self.pool.ended)

    def _paused(self, row: Ended, trace: Trace) -> Paused:
        """Return a trial that has ended as one that is yet to be measured."""
        trial, made = self.pool.trials[row.key], dict(self.pool.checkpoints.get(row.key, {}))
        seconds, unknown = row.ended - row.started, float("nan")
        return Paused(trial.trial_id, trial.spec, row.steps, 0, 0, seconds, unknown, list(row.factors), trace, row.outcome, made)
