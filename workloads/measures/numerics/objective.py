"""The training loss of R lanes as a function of their parameters: gradients, and what its Hessians do to directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from workloads.factorizations import Factorization
from workloads.losses import Loss
from workloads.measures.work import ITERATIONS, NUMBERS, of_inputs
from workloads.problems.data.realized import ProblemData, unique
from workloads.rng import Stream, generator
from workloads.trial import TrialSpec

PRECISE = 1e-10
"""Residual, relative to the eigenvalue, at which it has converged; the eigenvalue's own error is of the order of its square."""


class Objective:
    """The losses of lanes with ``params`` [R, ...], whose specs and problems are one each. No lane's depends on another's parameters.

    Of a function of inputs they are those of all inputs, whatever a step sees, some of these at once.
    """

    def __init__(
        self, factorization: Factorization, specs: Sequence[TrialSpec], problems: Sequence[ProblemData], params: Sequence[Tensor]
    ) -> None:
        self._params = [p.detach().clone().requires_grad_() for p in params]
        like = params[0]
        made = _of_functions if factorization.maps else _of_products
        self._parts = made(factorization, specs, problems, like)
        scales = [spec.loss.factor(problem.count) for spec, problem in zip(specs, problems, strict=True)]
        self._scales = torch.tensor(scales, dtype=like.dtype, device=like.device)
        self._gradients: list[Tensor] | None = None

    def losses(self) -> Tensor:
        """Return the losses [R]."""
        first, *others = (part(self._params) * self._scales for part in self._parts)
        return sum(others, first)

    def gradients(self) -> list[Tensor]:
        """Return the gradients [R, ...]."""
        total: list[Tensor] = []
        for found in self._by_part():
            # Of one part after another: each has what leads to it.
            detached = [g.detach() for g in found]
            total = [t + g for t, g in zip(total, detached, strict=True)] if total else detached
        return total

    @torch.enable_grad()
    def _by_part(self) -> Iterator[list[Tensor]]:
        """Yield the gradients [R, ...] of each part, which can be differentiated once more. Of several none is kept."""
        if self._gradients is not None:
            yield self._gradients
            return
        for part in self._parts:
            loss = (part(self._params) * self._scales).sum()
            found = list(torch.autograd.grad(loss, self._params, create_graph=True))
            if len(self._parts) == 1:
                self._gradients = found
            yield found

    def curved(self, directions: Tensor) -> Tensor:
        """Return the Hessians times ``directions`` [R, P], over all P parameters of a lane."""
        sizes = [p[0].numel() for p in self._params]
        along = [d.view_as(p) for d, p in zip(torch.split(directions, sizes, 1), self._params, strict=True)]
        kept = len(self._parts) == 1
        total: Tensor | None = None
        for gradients in self._by_part():
            # Where nothing depends on a parameter any more, its row of the Hessian is zero.
            found = torch.autograd.grad(gradients, self._params, along, retain_graph=kept, allow_unused=True, materialize_grads=True)
            product = torch.cat([f.flatten(1) for f in found], 1)
            total = product if total is None else total.add_(product)
        assert total is not None, "there is something to be observed"
        return total


Part = Callable[[Sequence[Tensor]], Tensor]
"""From parameters [R, ...] to the losses [R] of some of what is observed, but for their scale."""


def _of_products(factorization: Factorization, specs: Sequence[TrialSpec], problems: Sequence[ProblemData], like: Tensor) -> list[Part]:
    problem, own = specs[0].problem, [spec.loss for spec in specs]
    observations = problem.observe(problems, like.dtype, like.device)
    values, masks = observations.tables()
    operators = masks.view(len(masks), -1, math.prod(problems[0].shape)) if problem.sensing else None

    def losses(params: Sequence[Tensor]) -> Tensor:
        product = factorization.products(params).flatten(1)
        if operators is not None:
            product = torch.einsum("rnd,rd->rn", operators.expand(len(product), -1, -1), product)
        return _each(own, product, values.expand_as(product), observations.seen).sum(1)

    return [losses]


def _each(losses: Sequence[Loss], predictions: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """Return the losses [R, N] of observations, each lane by its own, but for their scale; zero where a lane has none."""
    if losses[0].squares is not None:
        return (predictions - values).masked_fill(~seen, 0.0).square()
    # Of what is not observed not even a derivative is taken, which might be no number.
    seen, found = seen.expand_as(predictions), torch.zeros_like(predictions)
    for loss in dict.fromkeys(losses):
        mine = torch.tensor([other == loss for other in losses], device=seen.device).unsqueeze(1) & seen
        found = found.masked_scatter(mine, loss.pointwise(predictions[mine], values[mine]))
    return found


def _of_functions(factorization: Factorization, specs: Sequence[TrialSpec], problems: Sequence[ProblemData], like: Tensor) -> list[Part]:
    """Return a part for some inputs at a time of each distinct problem: what a function makes of all may not fit into memory."""
    parts: list[Part] = []
    distinct, which = unique(problems)
    for place, problem in enumerate(distinct):
        assert problem.inputs is not None, "a function is of inputs"
        mine = [lane for lane, own in enumerate(which) if own == place]
        lanes, losses = torch.tensor(mine, device=like.device), [specs[lane].loss for lane in mine]
        inputs = torch.from_numpy(problem.inputs).to(like.device, like.dtype)
        at_once = max(1, NUMBERS // (len(lanes) * of_inputs(specs[0])))
        parts += [partial(_values, factorization, losses, lanes, some) for some in torch.split(inputs, at_once)]
    return parts


def _values(factorization: Factorization, losses: Sequence[Loss], lanes: Tensor, inputs: Tensor, params: Sequence[Tensor]) -> Tensor:
    factors = params if len(lanes) == len(params[0]) else [p.index_select(0, lanes) for p in params]
    values = factorization.decoded(factors, factorization.encoded(factors, inputs.unsqueeze(0))).flatten(1)
    each = _each(losses, values, inputs.flatten().expand_as(values), torch.ones(1, 1, dtype=torch.bool, device=inputs.device)).sum(1)
    return each if factors is params else params[0].new_zeros(len(params[0])).index_add(0, lanes, each)


def largest_eigenvalue(times: Callable[[Tensor], Tensor], lanes: int, size: int, like: Tensor) -> Tensor:
    """Return the largest eigenvalues [R] of symmetric matrices [R, P, P] that ``times`` applies to vectors [R, P].

    NaN where those, or their squares, are not finite. By Lanczos' method with full reorthogonalization, from one vector for all lanes,
    until the residual is below `PRECISE` (Paige 1971).
    """
    most = min(size, ITERATIONS)
    start = torch.from_numpy(generator(0, Stream.LANCZOS).standard_normal(size)).to(like.device, like.dtype)
    vector = (start / start.norm()).expand(lanes, -1)
    basis = like.new_zeros(lanes, most, size)
    matrix = like.new_zeros(lanes, most, most)
    value = like.new_full((lanes,), float("nan"))
    done, lost = torch.zeros(lanes, dtype=torch.bool, device=like.device), torch.zeros(lanes, dtype=torch.bool, device=like.device)
    for n in range(most):
        basis[:, n] = vector
        image = times(vector)
        # A lane that is about to diverge: its square would not be finite either, and LAPACK refuses that for all.
        lost |= ~(image.square().sum(1) < torch.inf)
        image = image.masked_fill(lost.unsqueeze(1), 0.0)
        matrix[:, n, n] = (image * vector).sum(1)
        known = basis[:, : n + 1]
        for _ in range(2):  # which is enough (Giraud, Langou and Rozloznik 2005)
            image = image - (known.mT @ (known @ image.unsqueeze(2))).squeeze(2)
        length = image.square().sum(1).sqrt()
        if n < 8 or n % 4 == 0 or n == most - 1:
            values, vectors = torch.linalg.eigh(matrix[:, : n + 1, : n + 1])
            value = torch.where(done, value, values[:, -1])
            done |= length * vectors[:, -1, -1].abs() <= PRECISE * values.abs().amax(1)
            done |= lost
            if done.all():
                break
        if n + 1 < most:
            matrix[:, n, n + 1] = matrix[:, n + 1, n] = length
        vector = image / length.clamp_min(torch.finfo(like.dtype).tiny).unsqueeze(1)
    return value.masked_fill(lost, float("nan"))
