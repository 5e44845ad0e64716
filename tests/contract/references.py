"""The references: for each kind its keys in a small trial, and the same thing from elsewhere. A new kind gets a row here.

Measures have theirs in `tests/workloads/test_measures.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workloads.trial import TrialSpec

SHAPES = {1: (6,), 2: (3, 4), 3: (2, 3, 4)}
"""The shapes of the small trials, by order."""
FUNCTION = 0
"""What stands for the order where a function is looked for, rather than a vector, matrix or tensor."""
IMAGE = (4, 4, 3)
"""The shape of its inputs."""
LARGER = {FUNCTION: (12, 12, 3), 1: (60,), 2: (40, 30), 3: (12, 9, 11), 4: (6, 5, 7, 6)}
"""Those of trials whose memory is held to what is planned."""


@dataclass(frozen=True)
class Problem:
    """``keys`` besides the shape, and, for a problem's data, the predictions [N] that a matrix or tensor W [*shape], or a function, makes,
    and the observations [N]."""

    order: int
    keys: Mapping[str, Any]
    seen: Callable[[Any, torch.dtype], tuple[Callable[[Tensor], Tensor], Tensor]]


def entries(data: Any, dtype: torch.dtype) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    where = torch.from_numpy(np.flatnonzero(data.mask))
    return lambda w: w.reshape(-1)[where], torch.from_numpy(data.target[data.mask]).to(dtype)


def inner_products(data: Any, dtype: torch.dtype) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    operators = torch.from_numpy(np.asarray(data.measurements)).to(dtype)
    return lambda w: operators @ w.reshape(-1), torch.from_numpy(data.values).to(dtype)


def reconstructed(data: Any, dtype: torch.dtype) -> tuple[Callable[[Callable[[Tensor], Tensor]], Tensor], Tensor]:
    images = torch.from_numpy(data.inputs).to(dtype)
    return lambda f: f(images).flatten(), images.flatten()


def loss_of(one: TrialSpec, data: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The loss of a matrix or tensor W [*shape], or of a function, by the rows of this file."""
    predict, observed = PROBLEMS[one.problem.kind].seen(data, dtype)
    return lambda w: LOSSES[one.loss.kind].of(predict(w), observed, one.loss)


PROBLEMS = {
    "matrix_completion": Problem(2, {"target": {"rank": 2, "frobenius": 2.0}, "observed": 8}, entries),
    "matrix_sensing": Problem(2, {"target": {"rank": 2, "frobenius": 2.0}, "observed": 7}, inner_products),
    "tensor_completion": Problem(3, {"target": {"rank": 2, "frobenius": 2.0}, "observed": 15}, entries),
    "tensor_sensing": Problem(3, {"target": {"rank": 2, "frobenius": 2.0}, "observed": 9}, inner_products),
    "vector_sensing": Problem(1, {"target": {"sparsity": 2, "frobenius": 2.0}, "observed": 4}, inner_products),
    "regression": Problem(1, {"target": {"frobenius": 2.0}, "observed": 4, "correlation": 0.5, "noise": {"std": 0.1}}, inner_products),
    "reconstruction": Problem(FUNCTION, {"observed": 6, "held_out": 3}, reconstructed),
}


@dataclass(frozen=True)
class Factorization:
    """``keys`` by the order of the shape, for the orders that there are, and the product of one run's factors, or the function.

    What is solved has none: it names the test that holds it to a reference. ``square``: for square matrices only.
    """

    keys: Mapping[int, Mapping[str, Any]]
    product: Callable[..., Tensor] | None = None
    tested_by: str = ""
    square: bool = False

    def shape(self, order: int, shapes: Mapping[int, tuple[int, ...]] = SHAPES) -> tuple[int, ...]:
        """The shape of a trial, of those by order."""
        return (shapes[order][0],) * order if self.square else shapes.get(order, IMAGE)


def outer_products(*factors: Tensor) -> Tensor:
    letters = "ijklm"[: len(factors)]
    return torch.einsum(",".join(f"{x}r" for x in letters) + "->" + letters, *factors)


TREES = {3: (2, 1), 4: (3, 1), 7: (2, 2), 13: (3, 2), 15: (2, 3)}
"""By the number of factors of a tree, how many nodes are joined in one and on how many levels."""


def network(*factors: Tensor) -> Tensor:
    """The tensor of a tree that joins neighbours, as one sum over an index for each node: that of a node's rows is its children's columns."""
    arity, levels = TREES[len(factors)]
    modes, inner, counts = "abcdefghi", iter("ABCDEFGHIJKLMNOP"), [arity ** (levels - level) for level in range(levels + 1)]
    rows = [modes[: counts[0]], *("".join(next(inner) for _ in range(count)) for count in counts[1:])]
    parts = [(rows[level][n] + rows[level + 1][n // arity], level, n) for level in range(levels) for n in range(counts[level])]
    # Each node after those below it, in which order the sum takes least time.
    order = sorted(range(len(parts)), key=lambda k: ((parts[k][2] + 1) * arity ** parts[k][1], parts[k][1]))
    terms = ",".join([*(parts[k][0] for k in order), rows[-1]])
    return torch.einsum(f"{terms}->{rows[0]}", *(factors[k] for k in order), factors[-1][:, 0])


def spectrum(filters: tuple[Tensor, ...]) -> Tensor:
    """The product of the unitary discrete Fourier transforms of filters."""
    return torch.stack([torch.fft.fft(w, norm="ortho") for w in filters]).prod(0)


def autoencoder(*factors: Tensor) -> Callable[[Tensor], Tensor]:
    """One with a hidden layer and a linear one: 48 - 5 (ReLU) - 3 - 3 - 5 (ReLU) - 48 (tanh). Others: tests/workloads/test_autoencoder.py."""
    w1, b1, w2, b2, w3, w4, b4, w5, b5 = factors
    return lambda x: torch.tanh(torch.relu((torch.relu(x @ w1.T + b1) @ w2.T + b2) @ w3.T @ w4.T + b4) @ w5.T + b5)


FACTORIZATIONS = {
    "deep_matrix": Factorization({2: {"depth": 3, "widths": [4, 2]}}, lambda *w: torch.linalg.multi_dot(w[::-1]) if len(w) > 1 else w[0]),
    "cp": Factorization({2: {"components": 3}, 3: {"components": 5}}, outer_products),
    "linear": Factorization({1: {}, 2: {}, 3: {}}, lambda w: w),
    "diagonal": Factorization({1: {"depth": 3}}, lambda u, *v: u * u * u - sum(w * w * w for w in v)),
    "convolutional": Factorization({1: {"depth": 3}}, lambda *w: torch.fft.ifft(spectrum(w)).real * len(w[0]) ** 0.5),
    # Of more levels: tests/workloads/test_hierarchical.py.
    "hierarchical": Factorization({2: {"arity": 2, "widths": [3]}, 3: {"arity": 3, "widths": [5]}}, network),
    "tucker": Factorization({3: {"ranks": [2, 2, 3]}}, lambda core, a, b, c: torch.einsum("abc,ia,jb,kc->ijk", core, a, b, c)),
    "tensor_train": Factorization({3: {"ranks": [2, 3]}}, lambda a, b, c: torch.einsum("ia,ajb,bk->ijk", a, b, c)),
    "symmetric": Factorization({2: {"width": 2, "signed": True}}, lambda u, v: torch.einsum("ia,ja->ij", u, u) - v @ v.T, square=True),
    "autoencoder": Factorization({FUNCTION: {"hidden": [5], "code_size": 3, "linear_layers": 1}}, autoencoder),
    "min_frobenius": Factorization(
        {1: {}, 2: {}, 3: {}}, tested_by="tests.workloads.test_convex.test_least_frobenius_norm_is_the_pseudo_inverse"
    ),
    "l1_norm": Factorization({1: {}}, tested_by="tests.workloads.test_vectors.test_least_l1_norm_is_that_of_a_linear_program"),
    "nuclear_norm": Factorization(
        {2: {}}, tested_by="tests.workloads.test_convex.test_least_nuclear_norm_is_that_of_an_independent_solver"
    ),
}


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


class Flow(torch.optim.Optimizer):
    """An attempt at a step of gradient flow, from the tableau and the rules of SciPy's RK45, on all parameters in a row."""

    looks_elsewhere = True

    def __init__(self, params, first, rtol, atol):
        super().__init__(params, {})
        self.size, self.rtol, self.atol, self.refused = first, rtol, atol, False

    def step(self, gradient):
        from scipy.integrate import RK45

        parts = self.param_groups[0]["params"]

        def slope(row):
            torch.nn.utils.vector_to_parameters(torch.from_numpy(row), parts)
            gradient()
            return -torch.cat([p.grad.flatten() for p in parts]).numpy()

        begin = torch.cat([p.detach().flatten() for p in parts]).numpy()
        slopes = [slope(begin)]
        for weights in RK45.A[1:]:
            slopes.append(slope(begin + self.size * np.dot(weights[: len(slopes)], slopes)))
        end = begin + self.size * np.dot(RK45.B, slopes)
        slopes.append(slope(end))
        allowed = self.atol + self.rtol * np.maximum(abs(begin), abs(end))
        norm = np.sqrt(np.mean((self.size * np.dot(RK45.E, slopes) / allowed) ** 2))
        factor = np.clip(0.9 * norm ** (-1 / 5), 0.2, 1.0 if self.refused or norm >= 1 else 10.0)
        self.refused, self.size = norm >= 1, self.size * factor
        torch.nn.utils.vector_to_parameters(torch.from_numpy(begin if self.refused else end), parts)


@dataclass(frozen=True)
class Optimizer:
    """``keys``, and an optimizer in the manner of `torch.optim` for parameters and the same keys, as a model.

    With these keys it converges quietly on small problems: what is chaotic agrees with nothing for a thousand steps.
    """

    keys: Mapping[str, Any]
    made: Callable[[list[Tensor], Any], torch.optim.Optimizer]


OPTIMIZERS = {
    "gd": Optimizer({"lr": 0.05}, lambda params, o: torch.optim.SGD(params, lr=o.lr)),
    "momentum": Optimizer({"lr": 0.01, "momentum": 0.8}, lambda params, o: torch.optim.SGD(params, lr=o.lr, momentum=o.momentum)),
    "nesterov": Optimizer(
        {"lr": 0.01, "momentum": 0.8}, lambda params, o: torch.optim.SGD(params, lr=o.lr, momentum=o.momentum, nesterov=True)
    ),
    "group_rmsprop": Optimizer({"lr": 0.001}, lambda params, o: GroupRmsprop(params, o.lr, o.beta, o.eps)),
    "adamw": Optimizer(
        {"lr": 0.005, "weight_decay": 0.02},
        lambda params, o: torch.optim.AdamW(params, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps, weight_decay=o.weight_decay),
    ),
    "gradient_flow": Optimizer({"lr": 0.02, "rtol": 1e-3}, lambda params, o: Flow(params, o.lr, o.rtol, o.atol)),
    "adam": Optimizer({"lr": 0.005}, lambda params, o: torch.optim.Adam(params, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps)),
}


@dataclass(frozen=True)
class Loss:
    """The loss ``of`` predictions [N], observations [N] and the same ``keys``, as a model; ``problem`` has keys that it needs."""

    of: Callable[[Tensor, Tensor, Any], Tensor]
    keys: Mapping[str, Any] = field(default_factory=dict)
    problem: Mapping[str, Any] = field(default_factory=dict)


LOSSES = {
    "half_sse": Loss(lambda p, y, _: 0.5 * ((p - y) ** 2).sum()),
    "mse": Loss(lambda p, y, _: torch.nn.functional.mse_loss(p, y)),
    "huber": Loss(lambda p, y, o: torch.nn.functional.huber_loss(p, y, reduction="sum", delta=o.delta), {"delta": 0.4}),
    "absolute": Loss(lambda p, y, _: torch.nn.functional.l1_loss(p, y, reduction="sum")),
    # Labels are 0 and 1 there.
    "logistic": Loss(
        lambda p, y, _: torch.nn.functional.binary_cross_entropy_with_logits(p, (y + 1) / 2), problem={"signs": True, "noise": {"std": 0.5}}
    ),
}


@dataclass(frozen=True)
class Init:
    """``keys``, and what has to hold of the factors that are drawn with them."""

    keys: Mapping[str, Any]
    holds: Callable[[np.ndarray], bool]
    matrices_only: bool = False
    data: Mapping[str, np.ndarray] = field(default_factory=dict)


def orthonormal(factor: np.ndarray) -> bool:
    """Whether the rows or the columns, whichever are fewer, are orthonormal but for a scale of 0.5."""
    small = factor if factor.shape[0] <= factor.shape[1] else factor.T
    return np.allclose(small @ small.T, 0.25 * np.eye(len(small)))


def diagonal(factor: np.ndarray) -> bool:
    """Whether entries with equal indices are 0.5, and all others zero."""
    equal = (np.stack(np.indices(factor.shape)) == np.indices(factor.shape)[0]).all(0)
    return np.array_equal(factor, np.where(equal, 0.5, 0.0))


INITS = {
    # A sum of squares of n standard normal numbers is n, give or take a few times the root of 2n.
    "gaussian": Init({"scale": 0.5}, lambda f: abs((f**2).sum() / 0.25 - f.size) < 6 * np.sqrt(2 * f.size) and f.std() > 0),
    "identity": Init({"scale": 0.5}, diagonal),
    "constant": Init({"scale": 0.5}, lambda f: (f == 0.5).all()),
    "orthogonal": Init({"scale": 0.5}, orthonormal, matrices_only=True),
    # Against PyTorch's own layers: tests/workloads/test_autoencoder.py.
    "uniform": Init({"scale": 0.5}, lambda f: 0 < np.abs(f).max() < 0.5),
    "file": Init({"file": "start.npz"}, lambda f: np.array_equal(f, np.arange(f.size).reshape(f.shape) / 7)),
}


def spec(problem: str, factorization: str, optimizer: str = "gd", loss: str = "half_sse", /, keys: Any = None, **fields: Any) -> TrialSpec:
    """A small trial of these kinds; ``keys`` are other ones of the factorization."""
    row, held = PROBLEMS[problem], FACTORIZATIONS[factorization]
    solved = held.product is None
    # Measurements have the norm of their size.
    lr = OPTIMIZERS[optimizer].keys["lr"] / (2 if "completion" in problem else 10)
    parts: dict[str, Any] = {
        "problem": {"kind": problem, "shape": list(held.shape(row.order)), **row.keys, **LOSSES[loss].problem},
        "factorization": {"kind": factorization, **(keys or FACTORIZATIONS[factorization].keys[row.order])},
        "init": None if solved or factorization == "linear" else {"kind": "gaussian", "scale": 0.6},
        "optimizer": None if solved else {"kind": optimizer, **OPTIMIZERS[optimizer].keys, "lr": lr},
        "loss": {"kind": loss, **LOSSES[loss].keys},
        "stop": {"steps": 100},
    }
    return TrialSpec.model_validate({key: value for key, value in (parts | fields).items() if value is not None})


def pairs(*, trained: bool = False, functions: bool = True) -> list[tuple[str, str]]:
    """The problems and factorizations that go together, also those of ``functions`` unless they are not wanted."""
    return [
        (problem, factorization)
        for problem, row in PROBLEMS.items()
        for factorization, held in FACTORIZATIONS.items()
        if row.order in held.keys and not (trained and held.product is None) and (functions or row.order != FUNCTION)
    ]


SQUARES = ("half_sse", "mse")
"""Losses that are multiples of the sum of squares."""
TRAINED = [(*pair, optimizer, loss) for pair in pairs(trained=True) for optimizer in OPTIMIZERS for loss in SQUARES] + [
    # Of what is between product and gradient no optimizer knows, and each way to make a kernel is one of these. What a function is shown
    # are no signs.
    (*pair, "gd", loss)
    for pair in pairs(trained=True)
    for loss, row in LOSSES.items()
    if loss not in SQUARES and (pair[1] in ("deep_matrix", "cp", "tucker") or (pair[1] == "autoencoder" and not row.problem))
]
"""Problems, factorizations, optimizers and losses that go together: what each engine has to train as the plain loop does."""


def beside(one: TrialSpec) -> TrialSpec:
    """The trial of another lane, whose problem, start and step size differ."""
    assert one.optimizer is not None
    slower = one.optimizer.model_copy(update={"lr": one.optimizer.lr / 2})
    return one.model_copy(update={"problem": one.problem.model_copy(update={"seed": 9}), "seed": 3, "optimizer": slower})
