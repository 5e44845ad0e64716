"""Which measures a grid needs at all recorded steps, and not only at the ends of its trials."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.grid.questions import Question
from workloads import measures
from workloads.trial import TrialSpec


@dataclass(frozen=True)
class Traced:
    """The measures whose whole traces figures and claims of a grid are of, and all columns of these, each with the first that is."""

    measures: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)


NOTHING_TRACED = Traced()


def traced(asked: Mapping[str, Mapping[str, Question]], specs: Iterable[TrialSpec], names: Collection[str]) -> Traced:
    """Return which of the measures ``names`` of trials with these ``specs`` are needed at all recorded steps, and what needs them."""
    distinct = list({spec.sections: spec for spec in specs}.values())
    columns: dict[str, set[str]] = {}
    for name in (name for name in names if not measures.is_final(name)):
        defined = [spec for spec in distinct if measures.undefined(name, spec) is None]
        columns[name] = {column for spec in defined for column in measures.column_names(name, spec)}
    known = {column for some in columns.values() for column in some}
    by: dict[str, str] = {}
    for top, questions in asked.items():
        for label, question in questions.items():
            needed = set(question.traced_columns(known))
            by |= {name: f"{top}.{label}" for name, some in columns.items() if name not in by and needed & some}
    return Traced(by, {column: question for name, question in by.items() for column in columns[name]})
