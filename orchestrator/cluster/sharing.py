"""How several sweeps share a cluster. Ray would let the second wait until the first is through with all of its packs.

Every driver looks at the names of all sweeps' workers, those that wait for their cores included, and keeps to its share by itself; all
see the same and come to the same. Shares are max-min fair: nobody gets more than they ask for, and what one leaves is shared by the
others. A driver that wants more than it has keeps one worker waiting, which is how the others know.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cluster.sizing import Allotment
from orchestrator.planning.pack import fitting

NAMESPACE = "orchestrate"
"""Ray's namespace for the names of workers."""


@dataclass(frozen=True)
class WorkerName:
    """A worker of a sweep, up or waiting for its cores, as its name in the cluster tells. ``driver`` is the Ray job of its driver."""

    driver: str
    allotment: Allotment
    number: int

    @property
    def name(self) -> str:
        """The name by which other drivers see it."""
        return f"{self.driver} {self.allotment.cpus:g} {self.allotment.gpus:g} {self.number}"

    @classmethod
    def parse(cls, name: str) -> WorkerName | None:
        """Return what a name says; ``None`` if it is of another form, as another version may write it."""
        try:
            driver, cpus, gpus, number = name.split()
            return cls(driver, Allotment(float(cpus), float(gpus)), int(number))
        except ValueError:
            return None


@dataclass(frozen=True)
class Staff:
    """A driver's workers of one kind: how many it would have on a cluster of its own, how many are up, wait, and are of no use now."""

    wanted: int
    up: int
    coming: int
    idle: int = 0


@dataclass(frozen=True)
class Change:
    """How many workers of a kind to start, and how many to let go of those that are coming and of those that are up."""

    start: int = 0
    drop_coming: int = 0
    drop_up: int = 0


def changes(
    driver: str, staff: Mapping[Allotment, Staff], others: Sequence[WorkerName], cpus: float, gpus: float, waiting: int
) -> dict[Allotment, Change]:
    """Return what a driver is to do about its workers, with so many packs ``waiting``, on a cluster of so many ``cpus`` and ``gpus``."""
    own = Counter({kind: s.up - s.idle + (s.coming if waiting else 0) for kind, s in staff.items()})
    allowed, free = _fair(driver, own, others, cpus, gpus)
    claimed = [*(claim.allotment for claim in others), *(kind for kind, s in staff.items() for _ in range(s.up + s.coming))]
    crowded = sum(kind.cpus for kind in claimed) > cpus or sum(kind.gpus for kind in claimed) > gpus
    result = {}
    for kind, s in staff.items():
        more = bool(waiting) and s.up < s.wanted and not s.idle
        if crowded:
            # The last one stays, whoever else is there: it is its turn next.
            keep_coming = max(1, allowed[kind] - s.up) if more else 0
            result[kind] = Change(int(more and not s.coming), max(0, s.coming - keep_coming), max(0, s.up - allowed[kind]))
        elif more and not s.coming:
            result[kind] = Change(min(s.wanted - s.up, waiting, max(1, free[kind])))
    return result


_Claimant = tuple[str, Allotment]
"""The workers of one kind of a driver."""


def _fair(
    driver: str, own: Mapping[Allotment, int], others: Sequence[WorkerName], cpus: float, gpus: float
) -> tuple[dict[Allotment, int], dict[Allotment, int]]:
    """How many workers of each kind a driver may have, and its part of what is free. GPUs first, then the cores that they leave."""
    counts: dict[_Claimant, int] = dict(Counter((claim.driver, claim.allotment) for claim in others))
    counts |= {(driver, kind): count for kind, count in own.items()}
    allowed, free = {}, {}
    for by_gpu in (True, False):
        wanted = {claimant: n for claimant, n in counts.items() if bool(claimant[1].gpus) == by_gpu}
        size = {claimant: claimant[1].gpus if by_gpu else claimant[1].cpus for claimant in wanted}
        room = gpus if by_gpu else cpus
        given = _max_min(wanted, size, room)
        left = room - sum(n * size[claimant] for claimant, n in wanted.items())
        for claimant, count in given.items():
            if by_gpu:
                cpus -= count * claimant[1].cpus
            if claimant[0] == driver:
                allowed[claimant[1]] = count
                free[claimant[1]] = fitting(left, size[claimant]) // len({name for name, _ in wanted})
    return allowed, free


def _max_min(wanted: Mapping[_Claimant, int], size: Mapping[_Claimant, float], room: float) -> dict[_Claimant, int]:
    """Give workers one by one to whoever has least, as long as there is room. Ties go to the driver that came first."""
    given = dict.fromkeys(wanted, 0)
    heap = [(0.0, claimant) for claimant in wanted]
    heapq.heapify(heap)
    while heap:
        has, claimant = heapq.heappop(heap)
        if given[claimant] < wanted[claimant] and size[claimant] <= room + 1e-9:
            given[claimant] += 1
            room -= size[claimant]
            heapq.heappush(heap, (has + size[claimant], claimant))
    return given
