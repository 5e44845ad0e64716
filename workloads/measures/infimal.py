"""Infima of other measures over all completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.measures.base import measure
from workloads.problems import Problem
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot


def _known(spec: TrialSpec, name: str) -> str | None:
    problem = spec.problem
    if problem.sensing or spec.shape != (2, 2) or problem.observations() != 3:
        return "is defined for completions of a 2x2 matrix with three observed entries only"
    if problem.noisily:
        return "is known for what is observed without noise only"
    power = _power_of(name)
    if power in (None, 1.0, 2.0):
        return None
    if power <= 0:
        return "needs a power above 0"
    corner = _corner(problem)
    return None if corner is not None and corner[2] == 0 else "is known for powers 1 and 2, and where the entry across is given as 0"


def _power_of(name: str) -> float | None:
    return float(name.removeprefix("schatten_")) if name.startswith("schatten_") else None


def _corner(problem: Problem) -> tuple[float, float, float] | None:
    """Of a 2x2 matrix with three given entries: the two beside the unobserved one, and the one across."""
    seen = problem.listed
    if not seen:
        return None
    ((i, j),) = {(i, j) for i in range(2) for j in range(2)} - seen.keys()
    return seen[i, 1 - j], seen[1 - i, j], seen[1 - i, 1 - j]


@measure(
    "infimum of a measure over all completions of a 2x2 matrix with three observed entries, which never changes",
    r"infimal_(nuclear|frobenius|spectral|schatten_\d+(?:\.\d+)?|effective_rank|stable_rank|rank|rank_distance_1)",
    shown="infimal_nuclear",
    needs=_known,
)
def infimal(x: Snapshot, name: str) -> Tensor:
    """Infimum [R] of a measure over all completions of a 2x2 matrix with three observed entries."""
    from workloads.measures.numerics import infima as closed

    free = (~x.observed.flatten(1)).to(x.loss.dtype).argmax(1, keepdim=True)
    entries = x.target.flatten(1)
    # Entries are numbered 0 to 3: across from n is 3 - n, beside it are n with either index changed.
    beside, below, across = (entries.gather(1, place)[:, 0] for place in (free + 1 - 2 * (free % 2), (free + 2) % 4, 3 - free))
    power = _power_of(name)
    return closed.schatten(beside, below, across, power) if power is not None else closed.INFIMA[name](beside, below, across)
