"""Solutions of convex problems that trials are measured against: those of what lanes observe, found once for each problem."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from workloads.engines.convex import ConvexEngine
from workloads.engines.lanes import Lanes, Prepared
from workloads.factorizations import FACTORIZATIONS
from workloads.problems.data.realized import ProblemData, unique
from workloads.trial import DEFAULT_LOSS, TrialSpec

AT_ONCE = 256
"""Problems that are solved side by side."""
STEPS = 50_000
TOLERANCES = {"nuclear_norm": 1e-9}
"""At which what comes near to its solution is taken to be solved: closer than trials have to be, since they are measured by it."""
_known: WeakKeyDictionary[ProblemData, dict[str, Tensor]] = WeakKeyDictionary()


def solutions(kind: str, specs: Sequence[TrialSpec], problems: Sequence[ProblemData]) -> Tensor:
    """Return what a solved factorization of a ``kind`` comes to for R lanes' problems [R, *shape]; NaN where it comes to nothing."""
    distinct, which = unique(problems)
    missing = [n for n, problem in enumerate(distinct) if kind not in _known.get(problem, {})]
    for first in range(0, len(missing), AT_ONCE):
        some = missing[first : first + AT_ONCE]
        found = _solved(kind, specs[0], [distinct[n] for n in some])
        for n, solution in zip(some, found, strict=True):
            _known.setdefault(distinct[n], {})[kind] = solution
    return torch.stack([_known[problem][kind] for problem in distinct])[which]


def _solved(kind: str, spec: TrialSpec, problems: Sequence[ProblemData]) -> Tensor:
    keys = {"tolerance": TOLERANCES[kind]} if kind in TOLERANCES else {}
    changes = {"factorization": FACTORIZATIONS[kind].model_validate(keys), "init": None, "optimizer": None, "loss": DEFAULT_LOSS}
    one = spec.model_copy(update={**changes, "dtype": "float64"})
    lanes = Lanes([Prepared(one, p, [np.zeros(shape) for shape in one.factor_shapes.values()]) for p in problems], torch.device("cpu"))
    engine, last = ConvexEngine(), np.full(len(lanes), STEPS)
    while lanes.active.any():
        arrived = engine.advance(lanes, last, np.full(len(lanes), -np.inf), STEPS)
        lanes.active &= ~arrived
    unsolved = torch.from_numpy(~lanes.solved).view(-1, *(1 for _ in one.shape))
    product: Tensor = one.factorization.products(lanes.params)
    return product.masked_fill(unsolved, float("nan"))
