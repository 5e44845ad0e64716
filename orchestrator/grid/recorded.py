"""What a grid records, held to its trials: measures that are known, defined and not there twice, and steps that are taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from orchestrator.grid.model import Record
from orchestrator.grid.own_code import try_measures
from orchestrator.grid.quoting import nearest, shown
from orchestrator.grid.references import undeclared
from orchestrator.grid.source import Mistake
from workloads import measures
from workloads.trial import Trial, TrialSpec


def check_measures(record: Record, trials: Sequence[Trial], mistakes: list[Mistake]) -> None:
    """Report measures that are unknown, defined for no trial, or of which nothing is recorded that is not without them."""
    kinds = {t.spec.sections: t.spec for t in trials}
    try_measures(record.measures or (), kinds.values())
    columns: dict[str, frozenset[tuple[int, str]]] = {}
    for place, name in enumerate(record.measures or ()):
        path = ("record", "measures", place)
        if measures.find(name) is None:
            mistakes.append(
                Mistake(path, "record.measures", f"unknown measure {shown(name)}{nearest(name, [m.shown for m in measures.MEASURES])}")
            )
            continue
        if name in columns:
            mistakes.append(Mistake(path, "record.measures", f"{name} is listed twice"))
            continue
        reasons = [measures.undefined(name, spec) for spec in kinds.values()]
        defined = [spec for spec, reason in zip(kinds.values(), reasons, strict=True) if not reason]
        columns[name] = frozenset((id(spec), column) for spec in defined for column in measures.column_names(name, spec))
        if not defined:
            mistakes.append(Mistake(path, "record.measures", f"{name} {reasons[0]}"))
        elif (most := _most(name, defined)) is not None:
            mend = f"{name.rpartition('_')[0]}_{most}"
            mistakes.append(Mistake(path, "record.measures", f"{name} asks for more than there are: {mend} has them all"))
        elif missing := undeclared(name, record.references):
            mistakes.append(Mistake(path, "record.measures", missing))
    mistakes += _covered(record.measures or (), columns)


def _covered(names: Sequence[str], columns: Mapping[str, frozenset[tuple[int, str]]]) -> Iterator[Mistake]:
    """Yield the measures all of whose ``columns`` another one of ``names`` has, too; of two that are the same, the later."""
    for place, name in enumerate(names):
        mine = columns.get(name, frozenset())
        for other, theirs in columns.items() if mine else ():
            if mine < theirs or (mine == theirs and other in names[:place] and other != name):
                message = f"{name} has no effect beside {other}, which has all of its columns"
                yield Mistake(("record", "measures", place), "record.measures", message)
                break


def _most(name: str, specs: Iterable[TrialSpec]) -> int | None:
    """Return how many columns a measure has at most, where it asks for more of them in all trials."""
    there = [measures.beyond(name, spec) for spec in specs]
    return None if None in there else max(count or 0 for count in there)


def check_steps(record: Record, trials: Sequence[Trial], mistakes: list[Mistake]) -> None:
    """Report lists of steps none of which any trial comes to."""
    most = [trial.spec.stop.steps for trial in trials]
    last = 0 if None in most else max(steps or 0 for steps in most)
    for key in ("steps", "checkpoint_steps"):
        listed = getattr(record, key)
        if listed and last and min(listed) > last:
            message = f"has no effect: the first of them is step {min(listed):,}, and no trial takes more than {last:,}"
            mistakes.append(Mistake(("record", key), f"record.{key}", message))
