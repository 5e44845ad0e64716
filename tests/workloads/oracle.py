"""The independent truth: one trial as a researcher would write it, with autograd, torch.optim and einsum.

Shares nothing with the package but the spec, the realized problem and the initial factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workloads.trial import TrialSpec


@dataclass
class Run:
    """Losses before each step and after the last [steps + 1], the end-to-end product and the parameters at the end."""

    losses: np.ndarray
    product: np.ndarray
    params: list[np.ndarray]


class GroupRmsprop(torch.optim.Optimizer):
    """The published optimizer, written from its formula: lr / (sqrt(v / (1 - beta^t)) + eps), v over the whole gradient."""

    def __init__(self, params, lr, beta, eps):
        super().__init__(params, {"lr": lr, "beta": beta, "eps": eps})
        self.v, self.t = 0.0, 0

    def step(self):
        group = self.param_groups[0]
        self.t += 1
        squared = sum(float((p.grad**2).sum()) for p in group["params"])
        self.v = group["beta"] * self.v + (1 - group["beta"]) * squared
        rate = group["lr"] / (np.sqrt(self.v / (1 - group["beta"] ** self.t)) + group["eps"])
        with torch.no_grad():
            for p in group["params"]:
                p -= rate * p.grad


def product(spec: TrialSpec, params: list[Tensor]) -> Tensor:
    if spec.factorization.kind == "deep_matrix":
        return torch.linalg.multi_dot(list(reversed(params))) if len(params) > 1 else params[0]
    if spec.factorization.kind == "cp":
        letters = "ijklm"[: len(params)]
        return torch.einsum(",".join(f"{x}r" for x in letters) + "->" + letters, *params)
    return params[0]


def optimizer(spec: TrialSpec, params: list[Tensor]):
    o = spec.optimizer
    match o.kind:
        case "gd":
            return torch.optim.SGD(params, lr=o.lr)
        case "momentum":
            return torch.optim.SGD(params, lr=o.lr, momentum=o.momentum)
        case "nesterov":
            return torch.optim.SGD(params, lr=o.lr, momentum=o.momentum, nesterov=True)
        case "adam":
            return torch.optim.Adam(params, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps)
    return GroupRmsprop(params, o.lr, o.beta, o.eps)


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
    step = optimizer(spec, params)
    losses = []

    if spec.problem.sensing:
        operators, values = torch.tensor(np.asarray(problem.measurements), dtype=dtype), torch.tensor(problem.values, dtype=dtype)
    else:
        seen = torch.from_numpy(np.flatnonzero(problem.mask))
        values = torch.tensor(problem.target[problem.mask], dtype=dtype)

    def loss() -> Tensor:
        w = product(spec, params).reshape(-1)
        errors = (operators @ w if spec.problem.sensing else w[seen]) - values
        return 0.5 * (errors**2).sum() if spec.loss.kind == "half_sse" else (errors**2).mean()

    for _ in range(steps):
        value = loss()
        losses.append(value.item())
        for parameter, gradient in zip(params, torch.autograd.grad(value, params), strict=True):
            parameter.grad = gradient
        step.step()
    with torch.no_grad():
        losses.append(loss().item())
        return Run(np.array(losses), product(spec, params).numpy(), [p.detach().numpy().copy() for p in params])
