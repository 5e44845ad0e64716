"""Steps of Dormand and Prince's pair of orders five and four, of R lanes, each of a size of its own."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from workloads.optimizers.base import Hyper, Params, State, Step
from workloads.section import LARGEST, SMALLEST

STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""Dormand and Prince 1980, table 2: the last stage is where the step of order five leads."""
ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)
"""The step of order four less that of order five."""
SAFETY, LEAST, MOST = 0.9, 0.2, 10.0
"""By what a step size is multiplied: a little less than what would just meet the tolerance, and within these bounds."""
LINE = 8
"""Numbers of float64 in a line of cache, on which the rows of lanes begin: what a row comes to depends on how it lies."""


class DormandPrince:
    """An attempt at a step of dw/dt = -gradient: where its error is too large, a lane stays and its step size falls.

    Hairer, Norsett and Wanner 1993, section II.4, with the norm and the bounds of SciPy's RK45. ``params``, ``grads`` are [R, ...];
    ``state`` has ``size``, 0 before the first step, ``time`` and whether the last step was ``refused``; ``gradient`` fills ``grads``.
    At the time ``until`` [R], which a step is cut short to meet, a lane stays.
    """

    def __init__(self, params: Params, grads: Params, state: State, hyper: Hyper, gradient: Step) -> None:
        (self._size,), (self._time,), (self._refused,) = state["size"], state["time"], state["refused"]
        self._hyper, self._gradient = hyper, gradient
        self._tolerance = hyper["rtol"].unsqueeze(1), hyper["atol"].unsqueeze(1)
        ends = list(accumulate(p[0].numel() for p in params))
        count, width = len(self._size), -(-ends[-1] // LINE) * LINE
        self._start, self._end, *self._slopes = (self._size.new_zeros(count, width) for _ in range(2 + len(ERROR)))
        # What is multiplied has a double beside a lone lane: of a single product PyTorch may make another one than of several.
        self._changes = self._size.new_zeros(max(2, count), width)
        self._change = self._changes[:count]
        places = [slice(end - p[0].numel(), end) for p, end in zip(params, ends, strict=True)]
        self._parts = list(zip(params, grads, places, strict=True))

    def step(self) -> None:
        """Take a step, for which ``grads`` are those of the present parameters."""
        torch.where(self._size == 0, self._hyper["lr"], self._size, out=self._size)
        until = self._hyper["until"]
        left = (until - self._time).clamp_(min=0.0)
        last = self._size >= left
        torch.minimum(self._size, left, out=self._size)
        for w, _, place in self._parts:
            self._start[:, place].view(w.shape).copy_(w)
        self._keep(self._slopes[0])
        for slope, weights in zip(self._slopes[1:], STAGES, strict=True):
            self._combine(weights)
            torch.add(self._start, self._change, out=self._end)
            self._move(self._end)
            self._gradient()
            self._keep(slope)
        norm = self._error()
        # What is not a number is not accepted.
        accepted = norm < 1
        factor = (SAFETY * norm.pow(-0.2)).clamp_(LEAST, MOST).nan_to_num_(LEAST)
        # Just after a step that was refused the next is not longer.
        factor = torch.where(accepted & (self._refused == 0), factor, factor.clamp(max=1.0))
        self._end.copy_(torch.where(accepted.unsqueeze(1), self._end, self._start))
        self._move(self._end)
        reached = torch.where(last, torch.maximum(self._time, until), self._time + self._size)
        self._time.copy_(torch.where(accepted, reached, self._time))
        self._refused.copy_(~accepted)
        # Where gradients vanish no error ever ends the growth, and a size that is infinite would stay so.
        self._size.mul_(factor).clamp_(SMALLEST, LARGEST)

    def _keep(self, slope: Tensor) -> None:
        for _, g, place in self._parts:
            slope[:, place].view(g.shape).copy_(g)
        slope.neg_()

    def _move(self, to: Tensor) -> None:
        for w, _, place in self._parts:
            w.copy_(to[:, place].view(w.shape))

    def _combine(self, weights: tuple[float, ...]) -> None:
        """Make the change that slopes of these ``weights`` are."""
        torch.mul(self._slopes[0], weights[0], out=self._change)
        for slope, weight in zip(self._slopes[1:], weights[1:], strict=False):
            if weight:
                self._change.add_(slope, alpha=weight)
        self._change.mul_(self._size.unsqueeze(1))

    def _error(self) -> Tensor:
        """Return the root mean square [R] of the error over what is allowed."""
        self._combine(ERROR)
        relative, absolute = self._tolerance
        allowed = torch.maximum(self._start.abs(), self._end.abs()).mul_(relative).add_(absolute)
        self._change.div_(allowed)
        # A batched dot product gives a lane the same bits whatever the number of lanes.
        squared = torch.bmm(self._changes.unsqueeze(1), self._changes.unsqueeze(2))
        return squared[: len(self._change), 0, 0].div(self._parts[-1][2].stop).sqrt_()
