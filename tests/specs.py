"""Specs that tests start from."""

from __future__ import annotations

from typing import Any

from tests.contract.references import OPTIMIZERS as ROWS
from workloads.losses import LOSSES, Loss
from workloads.optimizers import OPTIMIZERS as KINDS
from workloads.trial import Trial, TrialSpec

OPTIMIZERS: dict[str, dict[str, Any]] = {kind: {"kind": kind, **row.keys} for kind, row in ROWS.items()}
"""Each kind of optimizer with the keys of its reference."""
FUSED_OPTIMIZERS = [kind for kind in OPTIMIZERS if KINDS[kind].kernel is not None]
"""Those that fused kernels take the steps of."""


def spec(**changes: Any) -> TrialSpec:
    """A small matrix completion, with sections replaced or, by dotted keys written with two underscores, single fields."""
    fields: dict[str, Any] = {
        "problem": {"kind": "matrix_completion", "shape": [4, 4], "target": {"rank": 1, "frobenius": 2.0}, "observed": 9},
        "factorization": {"kind": "deep_matrix", "depth": 2},
        "init": {"kind": "gaussian", "scale": 0.3},
        "optimizer": {"kind": "gd", "lr": 0.05},
        "stop": {"steps": 100},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            fields[section] = {**fields[section], name: value}
        elif value is None:
            fields.pop(section)
        else:
            fields[section] = value
    return TrialSpec.model_validate(fields)


def two_by_two(depth: int = 3, **changes: Any) -> TrialSpec:
    """The 2x2 problem of arXiv 2005.06398 with one unobserved entry."""
    return spec(
        **{
            "problem": {"kind": "matrix_completion", "shape": [2, 2], "entries": [[0, 1, 1.0], [1, 0, 1.0], [1, 1, 0.0]]},
            "factorization": {"kind": "deep_matrix", "depth": depth},
            "init": {"kind": "gaussian", "product_scale": 1e-2, "det_sign": "positive"},
            **changes,
        }
    )


def loss(kind: str) -> Loss:
    """A loss by the name of its kind."""
    return LOSSES[kind]()


def trials(specs: list[TrialSpec]) -> list[Trial]:
    """Trials called t0, t1, ..."""
    return [Trial(f"t{n}", s) for n, s in enumerate(specs)]
