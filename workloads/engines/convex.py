"""The convex engine: the baselines that gradient descent is compared with, solved rather than descended to.

How is each factorization's own matter (`workloads.factorizations.base.Solver`). What a lane holds as its parameter fits the observations
at every step from the first on. Where no matrix does, since measurements contradict each other, the ones with the least sum of squared
residuals take their place.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.engines.lanes import Lanes
from workloads.factorizations.base import Solver


class ConvexEngine:
    """Solves R lanes side by side (`workloads.engines.base.Engine`). One iteration is one step."""

    name = "convex"

    def __init__(self) -> None:
        self._params: list[Tensor] | None = None
        self._solver: Solver

    def release(self) -> None:
        """See `workloads.engines.base.Engine.release`."""
        self._params = None

    @torch.no_grad()
    def advance(self, lanes: Lanes, until_step: NDArray[np.int64], until_loss: NDArray[np.float64], limit: int) -> NDArray[np.bool_]:
        """See `workloads.engines.base.Engine.advance`. A lane also arrives when it is solved, which is noted in ``lanes.solved``."""
        if self._params is not lanes.params:
            factorizations = [prepared.spec.factorization for prepared in lanes.prepared]
            fitting, like = lanes.observations.fitting(), lanes.params[0].flatten(1)
            self._solver = factorizations[0].solver(factorizations, lanes.spec.shape, fitting, lanes.state, like)
            self._params = lanes.params
        self._evaluate(lanes, np.isnan(lanes.loss))
        for _ in range(limit + 1):
            arrived = lanes.solved | (lanes.step >= until_step) | (lanes.loss <= until_loss) | ~np.isfinite(lanes.loss)
            arrived &= lanes.active
            if arrived.any() or limit == 0:
                return arrived
            solution, solved = self._solver.step(lanes.step, lanes.active, until_step)
            lanes.step[lanes.active] += 1
            if solution is not None:
                where = torch.from_numpy(lanes.active).to(lanes.device).unsqueeze(1)
                product = lanes.params[0].flatten(1)
                product.copy_(solution.where(where, product))
                self._evaluate(lanes, lanes.active)
            lanes.solved |= solved & lanes.active
        return arrived

    def _evaluate(self, lanes: Lanes, which: NDArray[np.bool_]) -> None:
        """Bring the losses of some lanes up to date."""
        if which.any():
            product = lanes.params[0].flatten(1)
            residual = lanes.observations.residual(product, product.new_empty(len(lanes), lanes.observations.width))
            losses = (residual.square().sum(1) * lanes.loss_scale).numpy(force=True)
            lanes.loss[which] = losses[which]
