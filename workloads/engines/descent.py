"""From a gradient to a step: clipping, weight decay and the schedule of step sizes around what the optimizer itself does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from workloads.optimizers import Optimizer
from workloads.optimizers.base import over


class Descent:
    """Takes steps of R lanes, in place, with the gradients ``grads`` [R, ...] of ``params`` [R, ...].

    ``state`` and ``hyper`` are as `Optimizer.bind` has them, ``hyper`` with the numbers of the options that are used. Without any of those
    a step is the optimizer's alone. ``gradient`` fills ``grads`` for the present parameters, for steps that look elsewhere, too.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        state: Mapping[str, list[Tensor]],
        hyper: Mapping[str, Tensor],
        gradient: Callable[[], None],
    ) -> None:
        self._lr = hyper["lr"]
        self._rate = self._lr.clone() if optimizer.schedule is not None else self._lr
        self._clipping = _Clipping(hyper["clip"], grads) if optimizer.clip is not None else None
        decay = hyper.get("weight_decay")
        self._added = list(zip(grads, params, over(decay, params), strict=True)) if decay is not None and not optimizer.decoupled else []
        self._kept = torch.empty_like(decay) if decay is not None and optimizer.decoupled else None
        self._decay = decay
        self._shrunk = [] if self._kept is None else list(zip(params, over(self._kept, params), strict=True))
        given = {**hyper, "lr": self._rate}
        if optimizer.evaluations == 1:
            self._update = optimizer.bind(params, grads, state, given)
        else:
            self._update = optimizer.integrate(params, grads, state, given, gradient)

    def step(self, factors: Tensor | None = None) -> None:
        """Take a step of ``factors`` [R] times the step size."""
        if self._clipping is not None:
            self._clipping.apply()
        for g, w, decay in self._added:
            g.addcmul_(w, decay)
        if factors is not None:
            torch.mul(self._lr, factors, out=self._rate)
        if self._kept is not None and self._decay is not None:
            torch.mul(self._rate, self._decay, out=self._kept).neg_().add_(1)
            for w, kept in self._shrunk:
                w.mul_(kept)
        self._update()


class _Clipping:
    """Shortens the gradients of R lanes whose norm is more than ``most`` [R]."""

    def __init__(self, most: Tensor, grads: Sequence[Tensor]) -> None:
        lanes = len(most)
        # Batched dot products: unlike sums over an axis they give a lane the same bits whatever the number of lanes. A lone lane has a
        # double: of a single product PyTorch may make another one than of several.
        rows = max(2, lanes)
        self._twins = [(g.view(1, -1), g.new_zeros(2, g.numel())) for g in grads] if lanes == 1 else []
        flat = [twin for _, twin in self._twins] or [g.view(lanes, -1) for g in grads]
        self._norms = [most.new_empty(rows) for _ in grads]
        self._dots = [(g.unsqueeze(1), g.unsqueeze(2), n.view(rows, 1, 1)) for g, n in zip(flat, self._norms, strict=True)]
        self._most, self._scale = most, torch.empty_like(most)
        self._rows = list(zip(grads, over(self._scale, grads), strict=True))

    def apply(self) -> None:
        for g, twin in self._twins:
            twin[:1].copy_(g)
        for left, right, out in self._dots:
            torch.bmm(left, right, out=out)
        self._scale.copy_(self._norms[0][: len(self._scale)])
        for more in self._norms[1:]:
            self._scale.add_(more[: len(self._scale)])
        torch.div(self._most, self._scale.sqrt_(), out=self._scale).clamp_(max=1.0)
        for g, scale in self._rows:
            g.mul_(scale)
