"""The training loss of R lanes as a function of their parameters: gradients, and what its Hessians do to directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workloads.factorizations import Factorization
from workloads.problems.data.realized import ProblemData
from workloads.rng import Stream, generator
from workloads.trial import TrialSpec

ITERATIONS = 300
"""Steps of Lanczos' method at most."""
PRECISE = 1e-10
"""Residual, relative to the eigenvalue, at which it has converged; the eigenvalue's own error is of the order of its square."""
NUMBERS = 1 << 24
"""Numbers that the vectors of Lanczos' method may be at once."""


class Objective:
    """The losses of lanes with ``params`` [R, ...], whose specs and problems are one each. No lane's depends on another's parameters."""

    def __init__(
        self, factorization: Factorization, specs: Sequence[TrialSpec], problems: Sequence[ProblemData], params: Sequence[Tensor]
    ) -> None:
        self._products = factorization.products
        self._params = [p.detach().clone().requires_grad_() for p in params]
        like = params[0]
        observations = specs[0].problem.observe(problems, like.dtype, like.device)
        self._values, masks = observations.tables()
        size = math.prod(problems[0].shape)
        self._operators = masks.view(len(masks), -1, size) if specs[0].problem.sensing else None
        self._seen, self._loss = observations.seen, specs[0].loss
        scales = [spec.loss.factor(problem.count) for spec, problem in zip(specs, problems, strict=True)]
        self._scales = torch.tensor(scales, dtype=like.dtype, device=like.device)
        self._gradients: list[Tensor] | None = None

    def losses(self) -> Tensor:
        """Return the losses [R]."""
        product = self._products(self._params).flatten(1)
        if self._operators is not None:
            product = torch.einsum("rnd,rd->rn", self._operators.expand(len(product), -1, -1), product)
        return self._each(product).sum(1) * self._scales

    @torch.enable_grad()
    def gradients(self) -> list[Tensor]:
        """Return the gradients [R, ...]. They can be differentiated once more."""
        if self._gradients is None:
            self._gradients = list(torch.autograd.grad(self.losses().sum(), self._params, create_graph=True))
        return self._gradients

    def _each(self, predictions: Tensor) -> Tensor:
        """Return the losses [R, N] of observations, but for their scale; zero where a lane has none."""
        values = self._values.expand_as(predictions)
        if self._loss.squares is not None:
            return (predictions - values).masked_fill(~self._seen, 0.0).square()
        # Of what is not observed not even a derivative is taken, which might be no number.
        seen = self._seen.expand_as(predictions)
        return torch.zeros_like(predictions).masked_scatter(seen, self._loss.pointwise(predictions[seen], values[seen]))

    def curved(self, directions: Tensor) -> Tensor:
        """Return the Hessians times ``directions`` [R, P], over all P parameters of a lane."""
        sizes = [p[0].numel() for p in self._params]
        parts = [d.view_as(p) for d, p in zip(torch.split(directions, sizes, 1), self._params, strict=True)]
        # Where nothing depends on a parameter any more, its row of the Hessian is zero.
        found = torch.autograd.grad(self.gradients(), self._params, parts, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([f.flatten(1) for f in found], 1)


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
