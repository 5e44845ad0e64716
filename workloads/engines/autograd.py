"""The autograd engine: one lane at a time, gradients by PyTorch's autograd. The truth the other engines are tested against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.engines.chance import Chance
from workloads.engines.descent import Descent
from workloads.engines.feed import Feed
from workloads.engines.lanes import DTYPES, Lanes
from workloads.factorizations import Factorization
from workloads.problems.data.realized import ProblemData
from workloads.trial import TrialSpec


class AutogradEngine:
    """Trains lanes one after another (`workloads.engines.base.Engine`)."""

    name = "autograd"

    def release(self) -> None:
        """Do nothing: it keeps nothing between calls."""

    def advance(self, lanes: Lanes, until_step: NDArray[np.int64], until_loss: NDArray[np.float64], limit: int) -> NDArray[np.bool_]:
        """See `workloads.engines.base.Engine.advance`. Returns when every active lane has arrived or done ``limit`` steps."""
        reached = np.zeros(len(lanes), dtype=np.bool_)
        for lane in np.flatnonzero(lanes.active):
            reached[lane] = self._advance_one(lanes, int(lane), int(until_step[lane]), float(until_loss[lane]), limit)
        return reached

    def _advance_one(self, lanes: Lanes, lane: int, until_step: int, until_loss: float, limit: int) -> bool:
        spec = lanes.prepared[lane].spec
        data = lanes.prepared[lane].problem
        problem = (_Observed if data.inputs is None else _Shown)(data, DTYPES[spec.dtype], lanes.device)
        params = [p[lane : lane + 1].clone().requires_grad_() for p in lanes.params]
        state = {name: [t[lane : lane + 1] for t in part] for name, part in lanes.state.items()}
        hyper = {name: t[lane : lane + 1] for name, t in lanes.hyper.items()}
        grads = [torch.empty_like(p) for p in params]
        assert spec.optimizer is not None, "what is solved has an engine of its own"

        def gradient() -> None:
            loss = spec.loss.value(*problem.seen(spec.factorization, params, None))
            for mine, new in zip(grads, torch.autograd.grad(loss, params), strict=True):
                mine.copy_(new)

        descent = Descent(spec.optimizer, [p.detach() for p in params], grads, state, hyper, gradient)
        feed = Feed([spec], 1, lanes.dtype, lanes.device)
        chance = problem.chance(spec, hyper) if spec.optimizer.draws else None
        for done in range(limit + 1):
            feed.fill(lanes.step[lane : lane + 1], 1)
            factors, steps = feed.row(0)
            prediction, values = problem.seen(spec.factorization, params, steps)
            loss = problem.share * spec.loss.value(prediction, values)
            lanes.loss[lane] = loss.item()
            arrived = not np.isfinite(lanes.loss[lane]) or lanes.loss[lane] <= until_loss or lanes.step[lane] >= until_step
            if arrived or done == limit:
                break
            if chance is not None and steps is not None:
                loss = _disturbed(spec, prediction, values, chance, steps)
            for mine, new in zip(grads, torch.autograd.grad(loss, params), strict=True):
                mine.copy_(new)
            descent.step(factors)
            lanes.step[lane] += 1
        with torch.no_grad():
            for whole, own in zip(lanes.params, params, strict=True):
                whole[lane] = own[0]
        return bool(arrived)


def _disturbed(spec: TrialSpec, prediction: Tensor, values: Tensor, chance: Chance, steps: Tensor) -> Tensor:
    """Return what is descended in a random step, from predictions [N] of observed ``values`` [N]."""
    if (noise := chance.noise(steps)) is not None:
        values = values + noise[0]
    weights = chance.weights(steps)
    return spec.loss.value(prediction, values, None if weights is None else weights[0])


class _Observed:
    """One problem's predictions, from indices rather than masks: another way than the batched engine's."""

    share = 1.0
    """How many times the loss counts."""

    def __init__(self, problem: ProblemData, dtype: torch.dtype, device: torch.device) -> None:
        if problem.measurements is not None and problem.values is not None:
            self.operator: Tensor | None = torch.from_numpy(problem.measurements).to(device, dtype)
            self.values = torch.from_numpy(problem.values).to(device, dtype)
            self.where = torch.arange(problem.count, device=device)
        else:
            assert problem.mask is not None
            assert problem.target is not None
            self.operator = None
            self.where = torch.from_numpy(np.flatnonzero(problem.mask)).to(device)
            self.values = torch.from_numpy(problem.target[problem.mask]).to(device, dtype)

    def chance(self, spec: TrialSpec, hyper: Mapping[str, Tensor]) -> Chance | None:
        """Return what chance does to a trial's gradients."""
        count = torch.tensor([len(self.where)], dtype=self.values.dtype, device=self.values.device)
        return Chance([spec], hyper, self.where, torch.ones(1, len(self.where), dtype=torch.bool, device=self.values.device), count)

    def seen(self, factorization: Factorization, params: Sequence[Tensor], steps: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return predictions [N] of parameters [1, ...] before a step, and the observations; ``steps`` [1] are those done, where steps are
        random."""
        product = factorization.products(params)[0].flatten()
        return product[self.where] if self.operator is None else self.operator @ product, self.values


class _Shown(_Observed):
    """The same of a function that is to return its inputs, those of a mini-batch where there is one."""

    def __init__(self, problem: ProblemData, dtype: torch.dtype, device: torch.device) -> None:
        assert problem.inputs is not None
        self.inputs = torch.from_numpy(problem.inputs).to(device, dtype)
        self._chance: Chance | None = None
        self._batch = len(self.inputs)

    def chance(self, spec: TrialSpec, hyper: Mapping[str, Tensor]) -> Chance | None:
        """Return ``None``: what chance does is to choose inputs."""
        index = torch.arange(len(self.inputs), device=self.inputs.device)
        count = torch.tensor([len(index)], device=index.device)
        self._chance, self._batch = Chance([spec], hyper, index, torch.ones_like(index, dtype=torch.bool).unsqueeze(0), count), spec.shown
        self.share = spec.loss.factor(self.inputs.numel()) * spec.share / spec.loss.factor(self._batch * self.inputs.shape[1])
        return None

    def seen(self, factorization: Factorization, params: Sequence[Tensor], steps: Tensor | None) -> tuple[Tensor, Tensor]:
        shown = self.inputs
        if self._chance is not None and steps is not None:
            shown = shown[self._chance.chosen(steps, self._batch)[0]]
        values = factorization.decoded(params, factorization.encoded(params, shown.unsqueeze(0)))[0]
        return values.flatten(), shown.flatten()
