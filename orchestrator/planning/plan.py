"""Planning: which trials are trained together, by which engine, and what that will cost. A plan is a value that can be printed.

Imports neither torch nor Ray nor MLflow.
"""

from __future__ import annotations

import heapq
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.planning.pack import Crew, Pack, fitting, has_ended, steps_left
from workloads import measures
from workloads.amounts import amount
from workloads.engines.choice import chosen, distinct, why_not_fused
from workloads.engines.costs import engine_seconds
from workloads.measures.work import Rows, rows_at_once
from workloads.training.policy import Policy
from workloads.training.recording import Recording
from workloads.trial import Trial, factor_bytes, lane_cost, measurement_bytes

SHARED_MEASUREMENTS = 1 << 20
"""Sensing problems with measurement arrays from this size on are not mixed in one pack, so that the arrays are held once."""
PACK_TRIALS = {"cpu": 2048, "cuda": 10_000}
"""Trials of one pack at most, by its device. More lanes are no faster on a CPU, and results come the earlier the smaller a pack is:
MLflow's tables are written beside training then, and rows of runs that were trained one after the other, whose times follow, lie beside
each other in their indexes. A GPU wants as many lanes as it has threads.
"""
SPLITS_PER_WORKER = 4


@dataclass(frozen=True, repr=False)
class Plan:
    """What will run. ``packs`` are in the order in which they start, the longest first; ``crews`` is who is to run them."""

    packs: tuple[Pack, ...]
    trials: int
    reused: int
    crews: tuple[Crew, ...]

    def __repr__(self) -> str:
        time = "not known" if self.seconds is None else f"at most {self.seconds:.0f} s"
        memory = f"{self.peak_bytes / (1 << 20):.0f} MiB"
        size = f"{amount(self.trials, 'trial')} in {amount(len(self.packs), 'pack')}"
        return f"<plan of {size}, {self.workers} at once: memory {memory}, time {time}>"

    @property
    def workers(self) -> int:
        """How many packs run at once."""
        return sum(crew.workers for crew in self.crews)

    @property
    def ended(self) -> int:
        """How many trials of the packs have ended already: they are handed on, and take no step."""
        return sum(has_ended(trial) for pack in self.packs for trial in pack.trials)

    @property
    def seconds(self) -> float | None:
        """Estimated time until the last worker is done, if every trial takes all its steps."""
        if any(p.seconds is None for p in self.packs):
            return None
        return max(_makespan([p.seconds or 0.0 for p in self.packs if p.device == c.device], c.workers) for c in self.crews)

    @property
    def peak_bytes(self) -> int:
        """Estimated memory of the packs that run at once."""
        return sum(sorted((p.bytes for p in self.packs), reverse=True)[: self.workers])

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain data: the packs with their trials' ids."""
        return {
            "trials": self.trials,
            "reused": self.reused,
            "workers": self.workers,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "rates": {crew.device: asdict(crew.rates) for crew in self.crews},
            "packs": [
                {
                    "name": p.name,
                    "engine": p.engine,
                    "device": p.device,
                    "trials": len(p.trials),
                    "width": p.width,
                    "bytes": p.bytes,
                    "seconds": p.seconds,
                    "shape": list(p.trials[0].spec.shape),
                    "factorization": p.trials[0].spec.factorization.kind,
                    "parameters": [list(s) for s in p.trials[0].spec.factor_shapes.values()],
                    "trial_ids": [t.trial_id for t in p.trials],
                }
                for p in self.packs
            ],
        }


def default_workers(cpus: float) -> int:
    """Packs that this machine runs at once if each takes ``cpus`` cores."""
    return max(1, fitting(os.cpu_count() or 1, cpus))


def make_plan(trials: Sequence[Trial], recording: Recording, engine: str, crews: Sequence[Crew], *, reused: int = 0) -> Plan:
    """Group ``trials`` into packs for ``crews``, at most one of each device; ``reused`` is how many more come from earlier sweeps.

    ``engine`` is an engine's name, or ``auto`` for the fastest of each pack. Raises `UsageError` for one that cannot train the trials.

    Trials whose programs have the same shape and that record the same measures share a pack, and go to the device that is through with
    them first, in packs of up to `PACK_TRIALS`. Packs are split for as long as that lets the last worker finish noticeably earlier.
    """
    most = max(PACK_TRIALS[crew.device] for crew in crews)
    parts = [group[i : i + most] for group in _groups(trials, recording) for i in range(0, len(group), most)]
    drafts = [min((_draft(engine, part, crew) for crew in crews), key=lambda d: d.seconds / d.crew.workers) for part in parts]
    drafts = [part for draft in drafts for part in draft.parts(PACK_TRIALS[draft.crew.device])]
    split = [d for crew in crews for d in _split([d for d in drafts if d.crew is crew], crew.workers)]
    packs = tuple(_pack(f"pack-{place:04d}", draft, recording) for place, draft in enumerate(sorted(split, key=lambda d: -d.seconds)))
    return Plan(packs, len(trials) + reused, reused, tuple(crews))


def _groups(trials: Sequence[Trial], recording: Recording) -> Iterable[list[Trial]]:
    """Return trials that may be in one pack. Those of a grid share their sections, and so the work to tell which those are."""
    groups: dict[tuple[object, ...], list[Trial]] = defaultdict(list)
    keys: dict[tuple[object, ...], tuple[tuple[object, ...], bool]] = {}
    for trial in trials:
        spec = trial.spec
        if spec.sections not in keys:
            keys[spec.sections] = ((*spec.lane_key, recording.names(spec)), measurement_bytes(spec) >= SHARED_MEASUREMENTS)
        key, large = keys[spec.sections]
        groups[(key, spec.problem.canonical if large else None)].append(trial)
    return groups.values()


def _draft(asked: str, trials: list[Trial], crew: Crew) -> _Draft:
    specs = [t.spec for t in trials]
    cuda = crew.device == "cuda"
    engine = chosen(asked, specs, crew.rates, cuda=cuda)
    reason = next(filter(None, (why_not_fused(spec, cuda=cuda) for spec in distinct(specs))), None) if asked == engine == "fused" else None
    if reason:
        raise UsageError(f"resources.engine: fused cannot train every trial of this grid: {reason}; use auto")
    return _Draft(engine, trials, crew)


class _Draft:
    """Trials that may become a pack, with the estimated seconds that one worker takes for them if none stops early."""

    def __init__(self, engine: str, trials: list[Trial], crew: Crew) -> None:
        self.engine, self.trials, self.crew = engine, trials, crew
        self.seconds = engine_seconds(engine, [t.spec for t in trials], crew.rates, [steps_left(t) or 0 for t in trials])

    def parts(self, most: int) -> list[_Draft]:
        """Return the same trials in drafts of up to ``most``, in the order of the grid."""
        if len(self.trials) <= most:
            return [self]
        return [_Draft(self.engine, self.trials[start : start + most], self.crew) for start in range(0, len(self.trials), most)]

    def halves(self) -> list[_Draft]:
        """Every other trial: neighbours in a grid are alike, so both halves take about as long."""
        return [_Draft(self.engine, self.trials[n::2], self.crew) for n in range(2)]


def _pack(name: str, draft: _Draft, recording: Recording) -> Pack:
    trials = draft.trials
    measured = max(measurement_bytes(t.spec) for t in trials)
    shared = measured if measured >= SHARED_MEASUREMENTS else 0
    lane = lane_cost(trials[0].spec).bytes + (measured if not shared else 0)
    known = all(steps_left(t) is not None for t in trials)
    pack = Pack(name, draft.engine, draft.crew.device, tuple(trials), 1, lane, shared, draft.seconds if known else None)
    pack = replace(pack, width=pack.lanes_in(draft.crew.memory))
    pack = replace(pack, shared_bytes=shared + _measuring(pack, recording))
    return replace(pack, width=pack.lanes_in(draft.crew.memory))


def _measuring(pack: Pack, recording: Recording) -> int:
    """Return the bytes of what has been recorded of a pack's lanes until it is measured, and of what measures hold meanwhile."""
    spec = pack.trials[0].spec
    names = [name for name in recording.names(spec) if not measures.is_final(name)]
    if all(map(measures.is_state, names)):
        return 0
    recorded = min(Policy().due(spec) + pack.width, len(pack.trials) * recording.rows(spec))
    together = min(recorded, rows_at_once(spec))
    # Copies as the lanes have them; those that are measured lie beside each other, in float64.
    copies = factor_bytes(spec) * (recorded + together * (1 if spec.dtype == "float64" else 3))
    return copies + measures.held_meanwhile(names, Rows(spec, together, len({trial.spec.problem.canonical for trial in pack.trials})))


def _split(drafts: list[_Draft], workers: int) -> list[_Draft]:
    """Halve the longest draft while that shortens the whole by more than 2 %, up to `SPLITS_PER_WORKER` drafts a worker."""
    most = max(len(drafts), SPLITS_PER_WORKER * workers)
    best, before, misses = drafts, _makespan([d.seconds for d in drafts], workers), 0
    while drafts and len(drafts) < most and misses < workers:
        longest = max(drafts, key=lambda d: d.seconds)
        if len(longest.trials) < 2:
            break
        drafts = [d for d in drafts if d is not longest] + longest.halves()
        after = _makespan([d.seconds for d in drafts], workers)
        if after < 0.98 * before:
            best, before, misses = drafts, after, 0
        else:
            misses += 1
    return best


def _makespan(times: Sequence[float], workers: int) -> float:
    """When the last of ``workers`` is done if each takes the longest waiting pack."""
    loads = [0.0] * min(workers, max(len(times), 1))
    for seconds in sorted(times, reverse=True):
        heapq.heapreplace(loads, loads[0] + seconds)
    return max(loads)
