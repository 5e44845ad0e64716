"""The sweep that is disturbed: trials of every outcome, long and short, of several shapes and optimizers."""

from __future__ import annotations

import re
from dataclasses import dataclass

GRID = """
name: chaos
fixed:
  stop: {loss: 1e-9, steps: 1}
cases:
  - problem: {kind: matrix_completion, shape: [6, 6], target: {rank: 1, frobenius: 4}, observed: 20}
    factorization: {kind: deep_matrix, depth: 3}
    init: {kind: gaussian, scale: 0.1}
    optimizer: {kind: gd, lr: 1e-5}
    stop.steps: 2000000
  - problem: {kind: matrix_completion, shape: [6, 6], target: {rank: 2, frobenius: 4}, observed: 20}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: gaussian, scale: 0.1}
    optimizer: {kind: adam, lr: 1e-6}
    stop.steps: 1000000
  - problem: {kind: tensor_completion, shape: [4, 4, 4], target: {rank: 1, frobenius: 2}, observed: 30}
    factorization: {kind: cp, components: 6}
    loss: mse
    init: {kind: gaussian, scale: 0.2}
    optimizer: {kind: group_rmsprop, lr: 1e-6}
    stop.steps: 150000
  - problem: {kind: matrix_completion, shape: [5, 5], target: {rank: 1, frobenius: 4}, observed: 15}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: gaussian, scale: 0.3}
    optimizer: {kind: momentum, lr: 1e-2}
    stop.steps: 100000
  - problem: {kind: matrix_completion, shape: [6, 6], target: {rank: 1, frobenius: 4}, observed: 20}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: gaussian, scale: 0.3}
    optimizer: {kind: gd, lr: 1e3}
    stop.steps: 1000
seeds: 40
record: {points: 30, measures: [error, nuclear, effective_rank, cp_rank, components]}
"""
QUESTIONS = """
figures:
  errors: {kind: trajectories, x: step, y: error, when: step > 0, log: [x, y]}
claims:
  diverging: {kind: within, of: steps, range: [null, 1000], where: optimizer.lr > 1}
"""
FAILING = """\
  - problem: {kind: matrix_completion, shape: [4, 4], target: {rank: 1, frobenius: 2}, observed: 10}
    factorization: {kind: deep_matrix, depth: 2}
    init: {kind: file, file: singular.npz, det_sign: positive}
    optimizer: {kind: gd, lr: 1e-3}
    stop.steps: %d
"""
"""A case that fails, whatever happens: the determinant of its start is zero. It draws nothing, and is one trial for all seeds."""


@dataclass(frozen=True)
class Size:
    """How much there is to disturb: trials of each of the five cases and that fail, how many times as many steps the long ones take, and figures or none."""

    seeds: int = 40
    longer: float = 1
    drawn: bool = False

    @property
    def finished(self) -> int:
        """How many trials have a finished run in the end."""
        return 5 * self.seeds

    def grid(self) -> str:
        """Return the grid file."""
        failing = "".join(FAILING % (1000 + n) for n in range(self.seeds))
        text = GRID.replace("seeds: 40", f"{failing}seeds: {self.seeds}")
        return re.sub(r"(?<=steps: )\d{6,}", lambda match: str(int(int(match[0]) * self.longer)), text) + (QUESTIONS if self.drawn else "")
