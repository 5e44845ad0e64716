"""What conditions to stop look at: columns of the trial's own measures, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.grid.quoting import nearest
from workloads import measures
from workloads.section import Conflict
from workloads.stop import columns_in
from workloads.trial import TrialSpec


def watched_conflicts(spec: TrialSpec) -> Iterator[Conflict]:
    """Yield what is wrong with the measures that a trial's conditions to stop name."""
    for key, condition in spec.stop.conditions.items():
        for column in columns_in(condition):
            if column != "step" and (wrong := _wrong(column, spec)):
                yield f"stop.{key}", wrong


def _wrong(column: str, spec: TrialSpec) -> str:
    found = measures.find(column)
    if found is not None and (reason := measures.undefined(column, spec)):
        return f"{column} {reason}"
    if measures.reference_of(column):
        return f"{column} is against an array of record.references, and what is recorded decides nothing about when a trial ends"
    name = measures.of_column(column, spec)
    if name is None:
        if found is not None:
            first, *others = measures.column_names(column, spec)
            return f"{column} is several numbers: {first} and so on" if others else f"{column} is the number {first}"
        known = [row.shown for row in measures.MEASURES if measures.undefined(row.shown, spec) is None]
        return f"there is no {column} in the trial's measures{nearest(column, known)}"
    return f"{column} is computed at the end of a trial only" if measures.is_final(name) else ""
