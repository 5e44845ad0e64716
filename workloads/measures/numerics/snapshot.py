"""The factors of R lanes at some step of theirs, with what measures need computed once and shared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads import measures
from workloads.factorizations import Factorization
from workloads.measures.numerics.coding import Reconstruction
from workloads.measures.numerics.objective import Objective, largest_eigenvalue
from workloads.measures.numerics.solutions import solutions
from workloads.measures.work import Rows, side_by_side
from workloads.problems.data.fitting import orthonormal_rows
from workloads.problems.data.realized import ProblemData, unique
from workloads.trial import TrialSpec


class Snapshot:
    """R lanes, in float64 whatever they train in.

    ``loss`` [R] is the training loss; ``params`` are [R, ...]; ``problems`` one per lane; ``epsilon`` the machine epsilon of the dtype the
    lanes train in; ``specs`` one per lane, and ``start`` returns where a trial of such a spec began; ``times`` [R] are those of gradient
    flow, NaN where they are not known; ``references`` are the arrays that lanes are measured against, by their names.
    """

    def __init__(
        self,
        factorization: Factorization,
        params: Sequence[Tensor],
        loss: Tensor,
        problems: Sequence[ProblemData],
        epsilon: float,
        specs: Sequence[TrialSpec] = (),
        start: Callable[[TrialSpec], Sequence[NDArray[Any]]] | None = None,
        times: Tensor | None = None,
        references: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        self.factorization, self.shape = factorization, problems[0].shape
        self.params = [p.double() for p in params]
        self.loss = loss.double()
        self.problems = problems
        self.epsilon = epsilon
        self._matricizations: dict[tuple[int, ...], Tensor] = {}
        self.specs, self._start = specs, start
        self.times = torch.full_like(self.loss, float("nan")) if times is None else times
        self._references = references or {}

    @cached_property
    def product(self) -> Tensor:
        """The end-to-end matrix or tensor [R, *shape]."""
        return self.factorization.products(self.params)

    @cached_property
    def reconstruction(self) -> Reconstruction:
        """What a function makes of the inputs that are held out."""
        return Reconstruction.of(self.factorization, self.params, self.problems)

    @cached_property
    def code_singular_values(self) -> Tensor:
        """Singular values [R, K] of the covariances of codes, in falling order; NaN for a lane that is not finite."""
        return singular_values(self.reconstruction.covariance)

    @cached_property
    def singular_values(self) -> Tensor:
        """Singular values [R, min(shape)] in falling order; NaN for a lane that is not finite."""
        return singular_values(self.product)

    @cached_property
    def component_norms(self) -> Tensor:
        """Frobenius norms [R, C] of the CP components, largest first."""
        return self.factorization.component_norms(self.params).sort(dim=1, descending=True)[0]

    @cached_property
    def gradient_norms(self) -> Tensor:
        """Norms [R] of the loss's gradients by all parameters."""
        found = []
        for some in self._some(side_by_side(self._rows)):
            squares = [g.flatten(1).square().sum(1) for g in self._objective(some).gradients()]
            found.append(torch.stack(squares).sum(0).sqrt())
        return torch.cat(found)

    @cached_property
    def sharpness(self) -> Tensor:
        """Largest eigenvalues [R] of the loss's Hessians by all parameters; NaN for a lane that is not finite."""
        size = sum(p[0].numel() for p in self.params)
        finite = torch.stack([p.flatten(1).isfinite().all(1) for p in self.params]).all(0)
        found = []
        for some in self._some(side_by_side(self._rows, vectors=True)):
            objective = self._objective(some, finite[some])
            found.append(largest_eigenvalue(objective.curved, len(self.loss[some]), size, self.loss))
        return torch.cat(found).masked_fill(~finite, float("nan"))

    @property
    def _rows(self) -> Rows:
        return Rows(self.specs[0], len(self.loss), len(unique(self.problems)[0]))

    def _some(self, at_once: int) -> Iterator[slice]:
        """Yield lanes that are measured side by side: so many ``at_once``."""
        return (slice(first, first + at_once) for first in range(0, len(self.loss), at_once))

    def _objective(self, some: slice, kept: Tensor | None = None) -> Objective:
        """Return the losses of some of the lanes as functions of parameters, which are zero for lanes that are not ``kept``."""
        params = [p[some] for p in self.params]
        if kept is not None:
            params = [p.where(kept.view(-1, *(1,) * (p.dim() - 1)), 0.0) for p in params]
        return Objective(self.factorization, self.specs[some], self.problems[some], params)

    @cached_property
    def start_distances(self) -> Tensor:
        """Distances [R] of all parameters from those at step 0."""
        assert self._start is not None, "measures of where trials began need to know where that was"
        known: dict[int, Sequence[NDArray[Any]]] = {}
        for spec in self.specs:
            if id(spec) not in known:
                known[id(spec)] = self._start(spec)
        squares = torch.zeros_like(self.loss)
        for n, p in enumerate(self.params):
            # As the lanes had it, which may hold fewer digits.
            began = torch.from_numpy(np.stack([known[id(spec)][n].astype(spec.dtype).astype(float) for spec in self.specs])).to(p.device)
            squares += (p - began).flatten(1).square().sum(1)
        return squares.sqrt()

    def unfolding_ranks(self, rank: Callable[[Tensor], Tensor]) -> Tensor:
        """``rank`` (from singular values [R, k] to [R]) of every mode-n unfolding [R, N]."""
        modes = range(1, self.product.dim())
        return torch.stack([rank(singular_values(self.product.movedim(n, 1).flatten(2))) for n in modes], dim=1)

    def matricization(self, modes: Sequence[int]) -> Tensor:
        """Singular values [R, k] of the matrix whose rows are ``modes`` and whose columns are the others, in falling order."""
        known = self._matricizations.get(tuple(modes))
        if known is None:
            rows = math.prod(self.shape[mode] for mode in modes)
            others = (mode for mode in range(len(self.shape)) if mode not in modes)
            matrices = self.product.permute(0, *(1 + mode for mode in (*modes, *others))).reshape(len(self.product), rows, -1)
            known = self._matricizations[tuple(modes)] = singular_values(matrices)
        return known

    @cached_property
    def truth(self) -> Tensor:
        """The ground truth [R, *shape]; NaN where it is not known."""
        shape = self.shape
        return self._per_lane([np.full(shape, np.nan) if p.truth is None else p.truth.reshape(shape) for p in unique(self.problems)[0]])

    def solution(self, kind: str) -> Tensor:
        """Return what a solved factorization of a ``kind`` comes to with the lanes' observations [R, *shape]; NaN if to nothing."""
        return solutions(kind, self.specs, self.problems).to(self.loss.device)

    def reference(self, name: str) -> Tensor | None:
        """Return the array [*shape] of a name; ``None`` for one of another shape than the lanes'."""
        array = self._references[name]
        return torch.from_numpy(array).to(self.loss.device) if array.shape == self.shape else None

    @cached_property
    def observed(self) -> Tensor:
        """Which entries are observed [R, *shape] bool."""
        masks = [p.mask for p in unique(self.problems)[0]]
        return self._per_lane([m.reshape(self.shape) for m in masks if m is not None])

    @cached_property
    def target(self) -> Tensor:
        """The values of observed entries [R, *shape], zero elsewhere."""
        targets = [p.target for p in unique(self.problems)[0]]
        return self._per_lane([t.reshape(self.shape) for t in targets if t is not None])

    @cached_property
    def held_out(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is held out: errors [R, H] and values [R, H], zero where a lane has fewer than H, and how many there are [R]."""
        if self.problems[0].held_out_measurements is not None:
            return self._held_out_measurements()
        masks, values = [], []
        for problem in unique(self.problems)[0]:
            mask, value = np.zeros(math.prod(self.shape), dtype=np.bool_), np.zeros(math.prod(self.shape))
            if problem.held_out is not None:
                where, found = problem.held_out
                mask[where], value[where] = True, found
            elif problem.truth is not None and problem.mask is not None:
                mask = ~problem.mask
                value[mask] = problem.truth[mask]
            masks.append(mask.reshape(self.shape))
            values.append(value.reshape(self.shape))
        held, known = self._per_lane(masks), self._per_lane(values)
        return ((self.product - known) * held).flatten(1), known.flatten(1), held.flatten(1).sum(1)

    def _held_out_measurements(self) -> tuple[Tensor, Tensor, Tensor]:
        pairs = [p.held_out_measurements for p in self.problems if p.held_out_measurements is not None]
        counts = torch.tensor([len(values) for _, values in pairs], device=self.loss.device)
        known, errors = self.loss.new_zeros(2, len(pairs), int(counts.max()))
        for lane, (rows, values) in enumerate(pairs):
            known[lane, : len(values)] = torch.from_numpy(values)
            errors[lane, : len(values)] = torch.from_numpy(rows).to(self.loss.device) @ self.product[lane].flatten()
        return errors - known, known, counts

    @cached_property
    def unseen_norms(self) -> Tensor:
        """Frobenius norms [R] of the parts of the products that no observation sees."""
        if self.problems[0].mask is not None:
            return (self.product * ~self.observed).flatten(1).square().sum(1).sqrt()
        distinct, which = unique(self.problems)
        spans = []
        for problem in distinct:
            assert problem.measurements is not None, "what is no completion has measurements"
            rows = torch.from_numpy(problem.measurements).to(self.loss.device)
            spans.append(orthonormal_rows(rows, rows[:, 0])[0])
        products = zip(self.product.flatten(1), which, strict=True)
        return torch.stack([(w - spans[place].mT @ (spans[place] @ w)).norm() for w, place in products])

    def _per_lane(self, arrays: list[NDArray[Any]]) -> Tensor:
        stacked = torch.from_numpy(np.stack(arrays)).to(self.loss.device)
        if len(arrays) == 1:
            return stacked.expand(len(self.problems), *self.shape)
        return stacked[torch.tensor(unique(self.problems)[1], device=self.loss.device)]


def singular_values(matrices: Tensor) -> Tensor:
    """Batched singular values [R, k]; LAPACK refuses NaN for the whole batch, so such lanes are left out and answered with NaN."""
    finite = matrices.flatten(1).isfinite().all(1)
    # LAPACK takes twice to four times as long for a wide matrix, such as an unfolding, as for the same one on its side.
    tall = matrices.mT if matrices.shape[1] < matrices.shape[2] else matrices
    values: Tensor = torch.linalg.svdvals(tall.where(finite.view(-1, 1, 1), 0.0))
    return values.masked_fill(~finite.unsqueeze(1), float("nan"))


def evaluate(names: Sequence[str], snapshot: Snapshot) -> NDArray[np.float64]:
    """Return the columns of measures ``names`` for a snapshot of R lanes [R, C], in the order of `Recording.columns`."""
    columns = []
    for name in names:
        found = measures.find(name)
        assert found is not None, f"unknown measure {name} got past validation"
        measure, arguments = found
        value = measure.compute(snapshot, *arguments)
        columns.append(value.reshape(len(value), -1).numpy(force=True))
    return np.concatenate(columns, axis=1)
