"""What functions of inputs make of those that are held out: codes on the way, and values in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from workloads.factorizations import Factorization
from workloads.problems.data.realized import ProblemData


@dataclass(frozen=True)
class Reconstruction:
    """Of R lanes: ``covariance`` [R, K, K] of the codes, ``squares`` [R] and ``total`` [R], the sums of squared errors and of squared
    inputs, and ``count`` [R], how many numbers those are."""

    covariance: Tensor
    squares: Tensor
    total: Tensor
    count: Tensor

    @classmethod
    def of(cls, factorization: Factorization, params: Sequence[Tensor], problems: Sequence[ProblemData]) -> Self:
        """Return what ``factorization`` makes of the held-out inputs of ``problems``, with parameters [R, ...].

        Lane by lane: the values of one may take more memory than the parameters of many. The covariance is over all H inputs, divided by H.
        """
        device = params[0].device
        known: dict[int, Tensor] = {}
        rows = []
        for lane, problem in enumerate(problems):
            assert problem.held_out_inputs is not None
            if id(problem) not in known:
                known[id(problem)] = torch.from_numpy(problem.held_out_inputs).to(device)
            inputs = known[id(problem)]
            factors = [p[lane : lane + 1] for p in params]
            codes = factorization.encoded(factors, inputs.unsqueeze(0))
            squares = (factorization.decoded(factors, codes)[0] - inputs).square_().sum()
            apart = codes[0] - codes[0].mean(0)
            rows.append((apart.mT @ apart / len(inputs), squares, inputs.square().sum(), inputs.new_tensor(float(inputs.numel()))))
        covariances, squares, totals, counts = (torch.stack(column) for column in zip(*rows, strict=True))
        return cls(covariances, squares, totals, counts)
