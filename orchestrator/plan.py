"""Planning: which trials are trained together, by which engine, and what that will cost. A plan is a value that can be printed.

Imports neither torch nor Ray nor MLflow.
"""

from __future__ import annotations

import heapq
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError
from workloads.engines.choice import choose, why_not_fused
from workloads.engines.costs import engine_seconds
from workloads.recording import Recording
from workloads.shapes import lane_cost, lane_key, measurement_bytes, parameter_shapes
from workloads.spec import Trial, TrialSpec

PACK_BYTES = 1 << 30
"""Memory that one pack may take; more lanes than fit wait for a place in it."""
SHARED_MEASUREMENTS = 1 << 20
"""Sensing problems with measurement arrays from this size on are not mixed in one pack, so that the arrays are held once."""
PACK_TRIALS = 10_000
SPLITS_PER_WORKER = 4


@dataclass(frozen=True)
class Pack:
    """Trials of equal shape, trained as one batched program by one worker.

    ``width`` is how many are lanes at once; ``bytes`` the memory they take; ``seconds`` the estimated time if every trial takes all its
    steps (``None`` where only a time budget is given).
    """

    name: str
    engine: str
    trials: tuple[Trial, ...]
    width: int
    bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What will run. ``packs`` are in the order in which they start, the longest first."""

    packs: tuple[Pack, ...]
    trials: int
    reused: int
    workers: int

    @property
    def seconds(self) -> float | None:
        """Estimated time until the last worker is done, if every trial takes all its steps."""
        times = [p.seconds for p in self.packs]
        return None if None in times else _makespan([t for t in times if t is not None], self.workers)

    @property
    def peak_bytes(self) -> int:
        """Estimated memory of the packs that run at once."""
        return sum(sorted((p.bytes for p in self.packs), reverse=True)[: self.workers])

    def as_json(self) -> dict[str, Any]:
        """The plan as plain data: the packs with their trials' ids."""
        return {
            "trials": self.trials,
            "reused": self.reused,
            "workers": self.workers,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "packs": [
                {
                    "name": p.name,
                    "engine": p.engine,
                    "trials": len(p.trials),
                    "width": p.width,
                    "bytes": p.bytes,
                    "seconds": p.seconds,
                    "shape": list(p.trials[0].spec.shape),
                    "factorization": p.trials[0].spec.factorization.kind,
                    "parameters": [list(s) for s in parameter_shapes(p.trials[0].spec)],
                    "trial_ids": [t.trial_id for t in p.trials],
                }
                for p in self.packs
            ],
        }


def default_workers(cpus: float) -> int:
    """Packs that this machine runs at once if each takes ``cpus`` cores."""
    return max(1, int((os.cpu_count() or 1) / cpus))


def make_plan(trials: Sequence[Trial], recording: Recording, engine: str, workers: int, *, reused: int = 0) -> Plan:
    """Group ``trials`` into packs for ``workers`` workers; ``reused`` is how many more are taken from earlier sweeps.

    ``engine`` is an engine's name, or ``auto`` for the fastest of each pack.

    Trials whose programs have the same shape and that record the same measures share a pack, up to `PACK_TRIALS`. Packs are split
    for as long as that lets the last worker finish noticeably earlier.
    """
    groups: dict[tuple[object, ...], list[Trial]] = defaultdict(list)
    for trial in trials:
        groups[_pack_key(trial.spec, recording)].append(trial)
    drafts = [
        _Draft(_engine(engine, [t.spec for t in group]), group[i : i + PACK_TRIALS])
        for group in groups.values()
        for i in range(0, len(group), PACK_TRIALS)
    ]
    drafts = sorted(_split(drafts, workers), key=lambda d: -d.seconds)
    packs = tuple(_pack(f"pack-{place:04d}", draft) for place, draft in enumerate(drafts))
    return Plan(packs, len(trials) + reused, reused, workers)


def _pack_key(spec: TrialSpec, recording: Recording) -> tuple[object, ...]:
    large = measurement_bytes(spec) >= SHARED_MEASUREMENTS
    return (*lane_key(spec), recording.names(spec), spec.problem.canonical if large else None)


def _engine(asked: str, specs: Sequence[TrialSpec]) -> str:
    if asked == "auto":
        return choose(specs)
    reason = next(filter(None, map(why_not_fused, specs)), None) if asked == "fused" else None
    if reason:
        raise UsageError(f"resources.engine: fused cannot train every trial of this grid: {reason}; use auto")
    return asked


class _Draft:
    """Trials that may become a pack, with the estimated seconds that one worker takes for them if none stops early."""

    def __init__(self, engine: str, trials: list[Trial]) -> None:
        self.engine, self.trials = engine, trials
        self.seconds = engine_seconds(engine, [t.spec for t in trials])

    def halves(self) -> list[_Draft]:
        """Every other trial: neighbours in a grid are alike, so both halves take about as long."""
        return [_Draft(self.engine, self.trials[n::2]) for n in range(2)]


def _pack(name: str, draft: _Draft) -> Pack:
    trials = draft.trials
    measured = max(measurement_bytes(t.spec) for t in trials)
    shared = measured if measured >= SHARED_MEASUREMENTS else 0
    lane = lane_cost(trials[0].spec).bytes + (measured if not shared else 0)
    width = max(1, min(len(trials), (PACK_BYTES - shared) // max(lane, 1)))
    known = all(t.spec.stop.steps is not None for t in trials)
    return Pack(name, draft.engine, tuple(trials), width, shared + width * lane, draft.seconds if known else None)


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
