"""The independent truth: one trial as a researcher would write it, with autograd, torch.optim and einsum.

Shares nothing with the package but the spec, the realized problem and the initial factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tests.contract.references import FACTORIZATIONS, OPTIMIZERS, loss_of
from workloads.trial import TrialSpec


@dataclass
class Run:
    """Losses before each step and after the last [steps + 1], the end-to-end product and the parameters at the end.

    In place of a product a function has all its parameters in a row.
    """

    losses: np.ndarray
    product: np.ndarray
    params: list[np.ndarray]


_runs: dict[tuple[str, int], Run] = {}


def train(spec: TrialSpec, steps: int, files=None) -> Run:
    """``steps`` steps of plain autograd in the spec's dtype. What several engines are compared with is computed once."""
    if files:
        return _train(spec, steps, files)
    key = (spec.model_dump_json(), steps)
    if key not in _runs:
        _runs[key] = _train(spec, steps, {})
    return _runs[key]


def _train(spec: TrialSpec, steps: int, files) -> Run:
    dtype = getattr(torch, spec.dtype)
    problem = spec.problem.realize(files)
    params = [torch.tensor(f, dtype=dtype, requires_grad=True) for f in spec.initial_factors(files)]
    step = OPTIMIZERS[spec.optimizer.kind].made(params, spec.optimizer)
    product = FACTORIZATIONS[spec.factorization.kind].product
    losses = []

    of_product = loss_of(spec, problem, dtype)

    def loss() -> Tensor:
        return of_product(product(*params))

    def gradient() -> float:
        value = loss()
        for parameter, slope in zip(params, torch.autograd.grad(value, params), strict=True):
            parameter.grad = slope
        return value.item()

    for _ in range(steps):
        losses.append(gradient())
        step.step(*([gradient] if getattr(step, "looks_elsewhere", False) else []))
    with torch.no_grad():
        losses.append(loss().item())
        whole = product(*params)
        ends = [p.detach().numpy().copy() for p in params]
        found = whole.detach().numpy() if isinstance(whole, Tensor) else np.concatenate([p.ravel() for p in ends])
        return Run(np.array(losses), found, ends)


def by_hand(spec: TrialSpec, steps: int) -> tuple[float, np.ndarray]:
    """The loss and the product after ``steps``: as `train`, with gradients written out in numpy, which is ten times as fast.

    For completion by deep matrices and CP, by ``gd`` and ``group_rmsprop``.
    """
    problem, optimizer = spec.problem.realize({}), spec.optimizer
    shape, factors = problem.shape, spec.initial_factors({})
    mask, target = problem.mask.reshape(shape).astype(float), problem.target.reshape(shape)
    gradients = {"deep_matrix": _deep_gradients, "cp": _cp_gradients}[spec.factorization.kind]
    scale = {"half_sse": 1.0, "mse": 2.0 / problem.count}[spec.loss.kind]
    average = 0.0
    for done in range(steps):
        _, slopes = gradients(factors, lambda w: (w - target) * mask * scale)
        rate = optimizer.lr
        if optimizer.kind == "group_rmsprop":
            average = optimizer.beta * average + (1 - optimizer.beta) * sum(float((g * g).sum()) for g in slopes)
            rate /= np.sqrt(average / (1 - optimizer.beta ** (done + 1))) + optimizer.eps
        for factor, slope in zip(factors, slopes, strict=True):
            factor -= rate * slope
    product, _ = gradients(factors, lambda w: w)
    squared = float((((product - target) * mask) ** 2).sum())
    return squared * scale / 2, product


def _deep_gradients(factors, slope):
    below = [factors[0]]
    for factor in factors[1:]:
        below.append(factor @ below[-1])
    upper, slopes = slope(below[-1]), []
    for layer in range(len(factors) - 1, 0, -1):
        slopes.append(upper @ below[layer - 1].T)
        upper = factors[layer].T @ upper
    return below[-1], [upper, *reversed(slopes)]


def _cp_gradients(factors, slope):
    rows = [factors[0]]
    for factor in factors[1:-1]:
        rows.append((rows[-1][:, None, :] * factor[None]).reshape(-1, factor.shape[1]))
    whole = rows[-1] @ factors[-1].T
    product = whole.reshape([len(f) for f in factors])
    outer = slope(product).reshape(whole.shape)
    slopes, upper = [outer.T @ rows[-1]], outer @ factors[-1]
    for mode in range(len(factors) - 2, 0, -1):
        split = upper.reshape(len(rows[mode - 1]), len(factors[mode]), -1)
        slopes.append((split * rows[mode - 1][:, None, :]).sum(0))
        upper = (split * factors[mode][None]).sum(1)
    return product, [upper, *reversed(slopes)]
