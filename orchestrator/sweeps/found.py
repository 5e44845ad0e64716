"""What there is already of a sweep that is about to begin, as `orchestrator.sweeps.resume` finds it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.errors import UnavailableError
from orchestrator.storage.folder import SweepFolder
from workloads.amounts import agreeing, amount
from workloads.training.trial_state import Paused

if TYPE_CHECKING:
    from orchestrator.sweeps.at_ends import EndedWithLess
    from orchestrator.tracking.read.queries import SweepSummary
    from orchestrator.tracking.read.results import Source
    from orchestrator.tracking.store import Store
    from workloads.trial import Trial


@dataclass(frozen=True)
class Found:
    """What there is already of a sweep that is about to begin.

    ``sweep`` is the one to be taken up, if one of the same trials stopped short, and ``outcomes`` counts what it had finished.
    ``finished`` are the trials that need not be run, by id, and ``reused`` says of those that other sweeps ran where they are.
    ``states`` are trials that had been begun, of which ``continued`` had ended under another budget of steps, and those ``at_ends``
    without measures that they now have at their ends only. ``attempts`` says of trials that failed in the sweep, or whose runs were
    deleted, how often they will have been run. ``folders`` are those of sweeps that stopped short, and ``unknown`` are sweeps whose
    results wait for a store that does not have them any more. With ``fresh`` nothing was looked for that sweeps have finished; else it was
    in ``experiments``, the sweep's own first.
    """

    sweep: SweepSummary | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    finished: Collection[str] = ()
    reused: Mapping[str, Source] = field(default_factory=dict)
    states: Mapping[str, Paused] = field(default_factory=dict)
    continued: Collection[str] = ()
    at_ends: Mapping[str, EndedWithLess] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    folders: Sequence[SweepFolder] = ()
    unknown: Sequence[str] = ()
    fresh: bool = False
    experiments: Sequence[str] = ()

    @property
    def others(self) -> Sequence[str]:
        """The experiments besides the sweep's own."""
        return self.experiments[1:]

    def missing(self, trials: Mapping[str, Trial]) -> list[Trial]:
        """Those of ``trials``, by id, that are to be run, from where they stand."""
        return [self.states.get(key, trial) for key, trial in trials.items() if key not in self.finished]

    def without(self, lost: Collection[str]) -> Found:
        """Return the same where some of the trials that were to be reused are there no more."""
        reused = {key: source for key, source in self.reused.items() if key not in lost}
        return replace(self, finished={key for key in self.finished if key not in lost}, reused=reused)

    def notes(self, trials: int) -> Iterator[str]:
        """Yield what a person should know of it."""
        from orchestrator.tracking.read.reuse import continued_lines, measured_lines, reused_line

        if self.sweep is not None:
            yield f"going on with sweep {self.sweep.sweep_id}, which had stopped short"
        if self.finished:
            yield reused_line(len(self.finished), trials)
        if count := len(self.states) - len(self.continued) - len(self.at_ends):
            their = agreeing(count, "goes on from its checkpoint", "go on from their checkpoints")
            yield f"{amount(count, 'trial')} {their}"
        yield from continued_lines(self.states[key] for key in self.continued)
        yield from measured_lines(one.missing for one in self.at_ends.values())
        for sweep_id in self.unknown:
            yield f"results of sweep {sweep_id} wait in the storage, and its run in MLflow is gone: restore it, then `orchestrate sync`"

    def clear(self, finished: Collection[str], store: Store, experiment: str) -> None:
        """Remove what is of no use any more: checkpoints of trials that are all ``finished``, and folders without any.

        Not the data files of a sweep that is in the ``store``: it may have other trials left, and those on disk may have changed since.
        """
        from orchestrator.tracking.read.queries import list_sweeps

        for folder in self.folders:
            with suppress(UnavailableError):
                left = folder.checkpoints("").remove_finished(lambda key: key in finished)
                if left or folder.spool.names():
                    continue
                its = folder.description() if folder.keeps_data else None
                if its is None or its.sweep_id not in {sweep.sweep_id for sweep in list_sweeps(store, experiment, count=False)}:
                    folder.remove()
