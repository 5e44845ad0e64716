"""Solutions of convex problems that trials are measured against: those of what lanes observe, found once for each problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from workloads.engines.convex import ConvexEngine
from workloads.engines.lanes import Lanes, Prepared
from workloads.factorizations import FACTORIZATIONS
from workloads.measures.work import SOLVED
from workloads.problems.data.realized import ProblemData, unique
from workloads.trial import DEFAULT_LOSS, TrialSpec

STAGES = ((1e-9, 2_000), (1e-6, 10_000), (1e-4, 10_010))
"""Relative duality gaps at which a problem is taken to be solved, each until so many steps have been taken: closer than trials have to be
where that is quick, as they have to be by default where it is slow, and in the end by a last certificate of what has been reached."""
_known: WeakKeyDictionary[ProblemData, dict[str, Tensor]] = WeakKeyDictionary()


def solutions(kind: str, specs: Sequence[TrialSpec], problems: Sequence[ProblemData]) -> Tensor:
    """Return what a solved factorization of a ``kind`` comes to for R lanes' problems [R, *shape]; NaN where it comes to nothing."""
    distinct, which = unique(problems)
    missing = [n for n, problem in enumerate(distinct) if kind not in _known.get(problem, {})]
    for first in range(0, len(missing), SOLVED):
        some = missing[first : first + SOLVED]
        found = _solved(kind, specs[0], [distinct[n] for n in some])
        for n, solution in zip(some, found, strict=True):
            _known.setdefault(distinct[n], {})[kind] = solution
    return torch.stack([_known[problem][kind] for problem in distinct])[which]


def _solved(kind: str, spec: TrialSpec, problems: Sequence[ProblemData]) -> Tensor:
    """Return the solutions [R, *shape] of R problems; NaN where the last of `STAGES` ends without one."""
    aimed = [(FACTORIZATIONS[kind].model_validate(keys), steps) for keys, steps in _stages(kind)]
    one = spec.model_copy(update={"factorization": aimed[0][0], "init": None, "optimizer": None, "loss": DEFAULT_LOSS, "dtype": "float64"})
    found = torch.full((len(problems), *one.shape), float("nan"), dtype=torch.float64)
    lanes = Lanes([Prepared(one, p, [np.zeros(shape) for shape in one.factor_shapes.values()]) for p in problems], torch.device("cpu"))
    which = np.arange(len(lanes))
    for factorization, steps in aimed:
        lanes.prepared = [replace(p, spec=one.model_copy(update={"factorization": factorization})) for p in lanes.prepared]
        engine, lanes.active = ConvexEngine(), ~lanes.solved
        while lanes.active.any():
            lanes.active &= ~engine.advance(lanes, np.full(len(lanes), steps), np.full(len(lanes), -np.inf), steps)
            solved = np.flatnonzero(lanes.solved)
            found[which[solved]] = factorization.products(lanes.params)[solved]
            # Those that are solved are computed along with the others until they are half.
            if 0 < 2 * np.count_nonzero(~lanes.solved) <= len(lanes):
                which = which[~lanes.solved]
                lanes.select(~lanes.solved)
    return found


def _stages(kind: str) -> list[tuple[dict[str, float], int]]:
    """Return the keys of each stage's factorization, and the step that it ends at; one is enough of what is solved exactly."""
    known = "tolerance" in FACTORIZATIONS[kind].model_fields
    return [({"tolerance": gap}, steps) for gap, steps in STAGES] if known else [({}, STAGES[-1][1])]
