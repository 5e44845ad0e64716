"""Least nuclear norm against an independent convex-optimization package: cvxpy with SCS, on the same problem in the same process.

    python -m benchmarks.nuclear_norm [--observations 2000 5000] [-o nuclear_norm.json]

Completion of a 100x100 matrix of rank five on one core. cvxpy's time includes what it does to the problem before it solves; SCS is asked
for the accuracy to which the objectives are compared. Medians of three, taken in turn.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import time
from pathlib import Path

import cvxpy
import numpy as np
import torch

from benchmarks.report import report
from workloads.engines.base import create
from workloads.training.loop import train
from workloads.training.preparing import Preparer
from workloads.training.recording import Recording
from workloads.training.results import Finished
from workloads.trial import Trial, TrialSpec

REPEATS = 3
ACCURACY = 1e-6


def problem(observations: int) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "problem": {
                "kind": "matrix_completion",
                "shape": [100, 100],
                "target": {"rank": 5, "frobenius": 100.0},
                "observed": observations,
            },
            "factorization": {"kind": "nuclear_norm", "tolerance": ACCURACY},
            "stop": {"steps": 20_000},
        }
    )


def ours(spec: TrialSpec) -> tuple[float, float, int]:
    """Seconds, objective, and steps."""
    began = time.perf_counter()
    events = train([Trial("t", spec)], Recording(("nuclear",), points=0), create("convex"))
    (result,) = [r for event in events if isinstance(event, Finished) for r in event.results]
    return time.perf_counter() - began, result.trace.final()["nuclear"], result.steps


def theirs(spec: TrialSpec) -> tuple[float, float]:
    """Seconds and objective."""
    data = Preparer({}).problem(spec)
    assert data.mask is not None
    assert data.target is not None
    began = time.perf_counter()
    w = cvxpy.Variable(data.shape)
    where = np.unravel_index(np.flatnonzero(data.mask), data.shape)
    task = cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(w)), [w[where] == data.target[data.mask]])
    objective = task.solve(solver=cvxpy.SCS, eps_abs=ACCURACY, eps_rel=ACCURACY, max_iters=100_000)
    return time.perf_counter() - began, float(objective)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--observations", type=int, nargs="*", default=[2000, 5000])
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for count in options.observations:
        spec = problem(count)
        mine, rival = [], []
        for _ in range(REPEATS):
            mine.append(ours(spec))
            rival.append(theirs(spec))
        seconds, other = (statistics.median(run[0] for run in runs) for runs in (mine, rival))
        rows.append(
            {
                "observations": count,
                "seconds": seconds,
                "steps": mine[0][2],
                "nuclear norm": f"{mine[0][1]:.6f}",
                "cvxpy seconds": other,
                "cvxpy nuclear norm": f"{rival[0][1]:.6f}",
                "relative difference": abs(mine[0][1] - rival[0][1]) / rival[0][1],
                "times faster": other / seconds,
            }
        )
    report("nuclear_norm", rows, options.output)


if __name__ == "__main__":
    main()
