"""Factorization workloads: problems, factorizations, optimizers, measures, engines, and the training loop.

Knows nothing of Ray, MLflow, YAML or Click. What is named here is for users' own kinds and measures (docs/extending.md).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads.factorizations import Factorization
    from workloads.inits import Init
    from workloads.losses import Loss
    from workloads.measures.single import Run, measure
    from workloads.optimizers import Optimizer
    from workloads.problems import Problem
    from workloads.problems.data.realized import ProblemData
    from workloads.stepping import Stepping

__all__ = ["Factorization", "Init", "Loss", "Optimizer", "Problem", "ProblemData", "Run", "Stepping", "measure"]

_HOMES = {
    "Factorization": "workloads.factorizations",
    "Init": "workloads.inits",
    "Loss": "workloads.losses",
    "Optimizer": "workloads.optimizers",
    "Problem": "workloads.problems",
    "ProblemData": "workloads.problems.data.realized",
    "Run": "workloads.measures.single",
    "Stepping": "workloads.stepping",
    "measure": "workloads.measures.single",
}


def __getattr__(name: str) -> Any:
    # When it is asked for: whoever imports a part of this package need not wait for all of it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
