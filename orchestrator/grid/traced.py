"""Which measures a grid needs at all recorded steps, and not only at the ends of its trials, and of which trials."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from orchestrator.grid.questions import MEANT, Question
from orchestrator.grid.written import spec_keys
from workloads import measures
from workloads.expressions import Expression
from workloads.trial import Trial, TrialSpec

_LOSS = MEANT["loss.kind"]


@dataclass(frozen=True)
class Need:
    """A figure or claim, by its name, that is of the whole traces of some ``measures``, with all ``columns`` of these, and of the trials
    that meet ``where``."""

    question: str
    measures: frozenset[str]
    columns: frozenset[str]
    where: str | None = None


class Traced:
    """The ``needs`` of a grid whose trials have these ``specs``, by their ids."""

    def __init__(self, needs: Iterable[Need] = (), specs: Mapping[str, TrialSpec] | None = None) -> None:
        self.needs = tuple(needs)
        self.specs = specs or {}
        self._may: dict[tuple[str, str], bool] = {}

    @cached_property
    def measures(self) -> frozenset[str]:
        """The measures whose whole traces are needed of some trials."""
        return frozenset().union(*(need.measures for need in self.needs))

    @cached_property
    def columns(self) -> frozenset[str]:
        """All columns of these."""
        return frozenset().union(*(need.columns for need in self.needs))

    def of(self, names: Collection[str], trial_id: str) -> str | None:
        """Return the first figure or claim that is of the whole traces of some measures or columns, ``names``, of a trial; ``None`` if
        none is, or the trial is no one of the grid's."""
        return next((need.question for need in self._of(names) if self._may_meet(need, trial_id)), None)

    def _of(self, names: Collection[str]) -> Iterator[Need]:
        return (need for need in self.needs if any(name in need.measures or name in need.columns for name in names))

    def _may_meet(self, need: Need, trial_id: str) -> bool:
        """Return whether a trial may meet a condition, of which its spec alone is known."""
        spec = self.specs.get(trial_id)
        if need.where is None or spec is None:
            return spec is not None
        key = (need.where, trial_id)
        if key not in self._may:
            import numpy as np

            known = {*spec_keys(), _LOSS} - {"loss"}
            flat = {_LOSS if name == "loss" else name: value for name, value in spec.flat().items()}
            condition = Expression(need.where)
            values = {name: flat.get(name) for name in condition.names if name in known}
            columns = {name: np.array([json.dumps(v) if isinstance(v, list) else v], dtype=object) for name, v in values.items()}
            self._may[key] = bool(np.any(condition.may_hold(columns, known)))
        return self._may[key]


NOTHING_TRACED = Traced()


def traced(asked: Mapping[str, Mapping[str, Question]], trials: Collection[Trial], names: Collection[str]) -> Traced:
    """Return which of the measures ``names`` of ``trials`` are needed at all recorded steps, and what needs them of which."""
    distinct = list({trial.spec.sections: trial.spec for trial in trials}.values())
    columns: dict[str, set[str]] = {}
    for name in (name for name in names if not measures.is_final(name)):
        defined = [spec for spec in distinct if measures.undefined(name, spec) is None]
        columns[name] = {column for spec in defined for column in measures.column_names(name, spec)}
    known = {column for some in columns.values() for column in some}
    needs = []
    for top, questions in asked.items():
        for label, question in questions.items():
            needed = set(question.traced_columns(known))
            of = frozenset(name for name, some in columns.items() if needed & some)
            if of:
                needs.append(Need(f"{top}.{label}", of, frozenset().union(*(columns[name] for name in of)), question.where))
    return Traced(needs, {trial.trial_id: trial.spec for trial in trials} if needs else {})
