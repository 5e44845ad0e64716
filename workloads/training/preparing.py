"""From trials to what can take a lane."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from workloads.amounts import agreeing, amount
from workloads.engines.lanes import Prepared
from workloads.problems.data.realized import ProblemData
from workloads.training.references import Reference
from workloads.training.trial_state import Paused
from workloads.trial import Trial, TrialSpec


class Preparer:
    """Prepares trials, realizing each distinct problem once."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self._problems: dict[str, ProblemData] = {}
        self._arrays: dict[str, NDArray[np.float64]] = {}

    def prepare(self, trial: Trial) -> Prepared:
        """Return the problem and start of one trial. Raises what `Problem.realize` and `TrialSpec.initial_factors` raise.

        Raises `ValueError` if a step is to see more observations than there are, of a problem that says only now how many.
        """
        spec = trial.spec
        problem = self.problem(spec)
        batch = None if spec.optimizer is None else spec.optimizer.batch
        if batch is not None and batch > problem.count:
            raise ValueError(
                f"optimizer.batch is {batch}, but there {agreeing(problem.count, 'is', 'are')} only {amount(problem.count, 'observation')}"
            )
        if isinstance(trial, Paused):
            factors = len(spec.factor_shapes)
            return Prepared(spec, problem, trial.tensors[:factors], trial.tensors[factors:])
        return Prepared(spec, problem, self.start(spec))

    def start(self, spec: TrialSpec) -> list[NDArray[np.float64]]:
        """Return the parameters of a trial at step 0. Raises what `TrialSpec.initial_factors` raises."""
        return spec.initial_factors(self._files)

    def arrays(self, references: Mapping[str, Reference]) -> dict[str, NDArray[np.float64]]:
        """Return the arrays that trials are measured against, by their names. Raises what `Reference.numbers` raises."""
        for reference in references.values():
            if reference.content not in self._arrays:
                self._arrays[reference.content] = reference.numbers(self._files[reference.digest])
        return {name: self._arrays[reference.content] for name, reference in references.items()}

    def problem(self, spec: TrialSpec) -> ProblemData:
        """Return the problem of a trial. Raises what `Problem.realize` raises."""
        key = spec.problem.canonical
        if key not in self._problems:
            self._problems[key] = spec.problem.realize(self._files)
        return self._problems[key]
