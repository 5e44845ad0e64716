"""Measures: numbers computed from the end-to-end matrix or tensor, for all lanes at once.

A measure is a function from a `Snapshot` (R lanes at some step of theirs) to a tensor [R] or [R, k], and a row of `MEASURES` that
says where it is defined and what its columns are called. Names may carry arguments after an underscore: ``schatten_0.5``,
``entry_0_0``, ``singular_values_25``.

torch is reached only through the tensors passed in, so that planning can read the table without importing it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workloads.spec import Cp, MatrixCompletion, TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.snapshot import Snapshot

MAX_NAME = 100
"""Characters: an index of thousands of digits is none."""
DEFAULT_SINGULAR_VALUES = 10
"""``singular_values`` records the largest ten; ``singular_values_K`` the largest K."""


def _always(spec: TrialSpec, *_: str) -> str | None:  # noqa: ARG001
    return None


@dataclass(frozen=True)
class Measure:
    """One row of the table.

    ``pattern`` is a regular expression for the name, with a group per argument. ``needs`` returns why the measure is not defined for a
    trial, or ``None`` where it is. ``columns`` gives the names of the k columns. ``compute`` maps a snapshot and the arguments to
    [R] or [R, k]. ``final`` says that it is computed at the end of a trial only, because it costs more than training does.
    """

    pattern: str
    shown: str
    compute: Callable[..., Tensor]
    summary: str
    needs: Callable[..., str | None] = _always
    columns: Callable[..., Sequence[str]] | None = None
    final: bool = False

    def match(self, name: str) -> tuple[str, ...] | None:
        found = re.fullmatch(self.pattern, name, re.ASCII) if len(name) <= MAX_NAME else None
        return found.groups() if found else None


# ------------------------------------------------------------------------------------------------------ where it is defined


def _matrix(spec: TrialSpec, *_: str) -> str | None:
    return None if len(spec.shape) == 2 else "is defined for matrices only"


def _tensor(spec: TrialSpec, *_: str) -> str | None:
    return None if len(spec.shape) > 2 else "is defined for tensors of order three or more"


def _square(spec: TrialSpec, *_: str) -> str | None:
    return None if len(spec.shape) == 2 and len(set(spec.shape)) == 1 else "is defined for square matrices only"


def _cp(spec: TrialSpec, *_: str) -> str | None:
    return None if isinstance(spec.factorization, Cp) else "is defined for factorization.kind cp only"


def _truth(spec: TrialSpec, *_: str) -> str | None:
    problem = spec.problem
    if isinstance(problem, MatrixCompletion) and problem.entries is not None and len(problem.entries) < problem.size:
        return "needs the whole ground truth, but problem.entries gives only the observed entries"
    return None


def _unobserved(spec: TrialSpec, *_: str) -> str | None:
    if not isinstance(spec.problem, MatrixCompletion):
        return "is defined for completion problems only"
    if spec.problem.observations() == spec.problem.size:
        return "needs an unobserved entry, but all are observed"
    return None


def _seen_index(spec: TrialSpec, text: str) -> str | None:
    return _index(spec, text) or (None if isinstance(spec.problem, MatrixCompletion) else "is defined for completion problems only")


def _infimal(spec: TrialSpec, name: str) -> str | None:
    problem = spec.problem
    if not isinstance(problem, MatrixCompletion) or spec.shape != (2, 2) or problem.observations() != 3:
        return "is defined for completions of a 2x2 matrix with three observed entries only"
    power = _power_of(name)
    if power in (None, 1.0, 2.0):
        return None
    if power <= 0:
        return "needs a power above 0"
    corner = _corner(problem)
    return None if corner is not None and corner[2] == 0 else "is known for powers 1 and 2, and where the entry across is given as 0"


def _power_of(name: str) -> float | None:
    return float(name.removeprefix("schatten_")) if name.startswith("schatten_") else None


def _corner(problem: MatrixCompletion) -> tuple[float, float, float] | None:
    """Of a 2x2 matrix with three given entries: the two beside the unobserved one, and the one across."""
    if problem.entries is None:
        return None
    seen = {(int(i), int(j)): float(value) for i, j, value in problem.entries}
    ((i, j),) = {(i, j) for i in range(2) for j in range(2)} - seen.keys()
    return seen[i, 1 - j], seen[1 - i, j], seen[1 - i, 1 - j]


def _positive_power(spec: TrialSpec, power: str) -> str | None:
    return _matrix(spec) or (None if float(power) > 0 else "needs a power above 0")


def _index(spec: TrialSpec, text: str) -> str | None:
    index = _indices(text)
    if len(index) != len(spec.shape) or any(i >= n for i, n in zip(index, spec.shape, strict=True)):
        return f"needs an index inside shape {list(spec.shape)} (counting from 0)"
    return None


def _indices(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip("_").split("_"))


def _leading(spec: TrialSpec, count: str | None) -> str | None:
    return _matrix(spec) or (None if count is None or int(count) >= 1 else "needs a count of at least 1")


def _rank_of_matrix(spec: TrialSpec, rank: str) -> str | None:
    return _matrix(spec) or (None if int(rank) <= min(spec.shape) else f"needs a rank of at most {min(spec.shape)}")


# ------------------------------------------------------------------------------------------------------------------ columns


def _sv_columns(spec: TrialSpec, count: str | None) -> list[str]:
    return [f"sv_{k}" for k in range(min(*spec.shape, int(count or DEFAULT_SINGULAR_VALUES)))]


def _component_columns(spec: TrialSpec) -> list[str]:
    assert isinstance(spec.factorization, Cp)
    return [f"component_{k}" for k in range(min(spec.factorization.terms(spec.shape), DEFAULT_SINGULAR_VALUES))]


def _multilinear_columns(spec: TrialSpec) -> list[str]:
    return [f"multilinear_rank_{k}" for k in range(len(spec.shape))]


def _unfolding_columns(spec: TrialSpec) -> list[str]:
    return [f"unfolding_effective_rank_{k}" for k in range(len(spec.shape))]


# ----------------------------------------------------------------------------------------------------------------- measures


def loss(x: Snapshot) -> Tensor:
    """The training loss [R]."""
    return x.loss


def _norm(tensors: Tensor) -> Tensor:
    """Frobenius norms [R] of [R, ...]."""
    return tensors.flatten(1).square().sum(1).sqrt()


def error(x: Snapshot) -> Tensor:
    """Relative reconstruction error ||W - W*||_F / ||W*||_F [R]."""
    truth = x.truth
    return _norm(x.product - truth) / _norm(truth)


def frobenius(x: Snapshot) -> Tensor:
    """Frobenius norm [R] of a matrix or tensor."""
    return _norm(x.product)


def nuclear(x: Snapshot) -> Tensor:
    """Nuclear norm [R]: the sum of the singular values."""
    return x.singular_values.sum(1)


def spectral(x: Snapshot) -> Tensor:
    """Spectral norm [R]: the largest singular value."""
    return x.singular_values[:, 0]


def schatten(x: Snapshot, power: str) -> Tensor:
    """Schatten-p (quasi-)norm [R]: (sum of sigma^p)^(1/p), a quasi-norm for p < 1.

    Taken relative to the largest singular value, so that small p neither overflows nor underflows.
    """
    p = float(power)
    top = x.singular_values[:, :1]
    scaled = (x.singular_values / top.where(top > 0, top.new_ones(()))).pow(p).sum(1).pow(1 / p)
    return scaled * top[:, 0]


def entropy_rank(singular_values: Tensor) -> Tensor:
    """exp of the entropy of the singular values [R, k] divided by their sum (Roy and Vetterli 2007); 0 for the zero matrix."""
    total = singular_values.sum(1, keepdim=True)
    share = singular_values / total.where(total > 0, total.new_ones(()))
    return (-share.xlogy(share).sum(1)).exp().where(total[:, 0] != 0, total.new_zeros(()))


def effective_rank(x: Snapshot) -> Tensor:
    """Effective rank [R] (Roy and Vetterli 2007)."""
    return entropy_rank(x.singular_values)


def stable_rank(x: Snapshot) -> Tensor:
    """Stable rank [R]: ||W||_F^2 / ||W||_2^2; 0 for the zero matrix."""
    top = x.singular_values[:, :1]
    return (x.singular_values / top.where(top > 0, top.new_ones(()))).square().sum(1)


def rank(x: Snapshot) -> Tensor:
    """Numerical rank [R]: singular values above max(m, n) * machine epsilon (of the trial's dtype) * the largest."""
    s = x.singular_values
    count = (s > s[:, :1] * (max(x.product.shape[1:]) * x.epsilon)).to(s.dtype).sum(1)
    return count.where(s.isfinite().all(1), s.new_full((), float("nan")))


def det(x: Snapshot) -> Tensor:
    """Determinant [R]."""
    return x.product.det()


def entry(x: Snapshot, text: str) -> Tensor:
    """One entry of the product [R], for example ``entry_0_0``."""
    out = x.product
    for index in _indices(text):
        out = out[:, index]
    return out


def observed(x: Snapshot, text: str) -> Tensor:
    """The observed value of one entry [R], for example ``observed_0_1``; NaN where it is not observed. It does not change."""
    index = _indices(text)
    seen, values = x.observed, x.target
    for i in index:
        seen, values = seen[:, i], values[:, i]
    return values.where(seen, values.new_full((), float("nan")))


def infimal(x: Snapshot, name: str) -> Tensor:
    """The infimum [R] of a measure over all completions of a 2x2 matrix with three observed entries (`workloads.infimal`)."""
    from workloads import infimal as closed

    free = (~x.observed.flatten(1)).to(x.loss.dtype).argmax(1, keepdim=True)
    entries = x.target.flatten(1)
    # Entries are numbered 0 to 3: across from n is 3 - n, beside it are n with either index changed.
    beside, below, across = (entries.gather(1, place)[:, 0] for place in (free + 1 - 2 * (free % 2), (free + 2) % 4, 3 - free))
    power = _power_of(name)
    return closed.schatten(beside, below, across, power) if power is not None else closed.INFIMA[name](beside, below, across)


def unobserved_max(x: Snapshot) -> Tensor:
    """Largest absolute value among the unobserved entries [R]; NaN where all are observed."""
    size = x.product.flatten(1).abs().masked_fill(x.observed.flatten(1), -1.0).amax(1)
    return size.where(size != -1.0, size.new_full((), float("nan")))


def singular_values(x: Snapshot, count: str | None) -> Tensor:
    """The largest singular values [R, k], in falling order."""
    return x.singular_values[:, : int(count or DEFAULT_SINGULAR_VALUES)]


def components(x: Snapshot) -> Tensor:
    """Frobenius norms of the CP components [R, k], the largest first (at most ten): the product of the vectors' norms."""
    return x.component_norms[:, :DEFAULT_SINGULAR_VALUES]


def unfolding_effective_rank(x: Snapshot) -> Tensor:
    """Effective rank of every mode-n unfolding [R, N]."""
    return x.unfolding_ranks(entropy_rank)


def multilinear_rank(x: Snapshot) -> Tensor:
    """Numerical rank of every mode-n unfolding [R, N]: singular values above max(m, n) * machine epsilon * the largest."""
    shape = x.product.shape[1:]
    size = max(math.prod(shape) // n for n in shape)

    def count(s: Tensor) -> Tensor:
        found: Tensor = (s > s[:, :1] * (max(size, *shape) * x.epsilon)).to(s.dtype).sum(1)
        return found.where(s.isfinite().all(1), s.new_full((), float("nan")))

    return x.unfolding_ranks(count)


def rank_distance(x: Snapshot, text: str) -> Tensor:
    """Frobenius distance [R] to the nearest matrix of rank ``text`` or less: the tail of the singular values (Eckart and Young 1936)."""
    return x.singular_values[:, int(text) :].square().sum(1).sqrt()


def cp_rank(x: Snapshot) -> Tensor:
    """CP rank [R]: the least r whose rank-r decomposition by alternating least squares has a mean squared error under 1e-6.

    As in the experiments of arXiv 2102.09972 (`workloads.cp_rank`).
    """
    from workloads.cp_rank import cp_rank as search

    return search(x.product)


MEASURES: tuple[Measure, ...] = (
    Measure(r"loss", "loss", loss, "the training loss (always recorded)"),
    Measure(r"error", "error", error, "‖W − W*‖_F / ‖W*‖_F", _truth),
    Measure(r"frobenius", "frobenius", frobenius, "Frobenius norm"),
    Measure(r"nuclear", "nuclear", nuclear, "nuclear norm", _matrix),
    Measure(r"spectral", "spectral", spectral, "spectral norm", _matrix),
    Measure(r"schatten_(\d+(?:\.\d+)?)", "schatten_0.5", schatten, "Schatten-p (quasi-)norm, any p > 0", _positive_power),
    Measure(r"effective_rank", "effective_rank", effective_rank, "effective rank (Roy & Vetterli 2007)", _matrix),
    Measure(r"stable_rank", "stable_rank", stable_rank, "‖W‖_F² / ‖W‖₂²", _matrix),
    Measure(r"rank", "rank", rank, "numerical rank", _matrix),
    Measure(r"det", "det", det, "determinant", _square),
    Measure(r"entry((?:_\d+)+)", "entry_0_0", entry, "one entry of the product", _index),
    Measure(r"observed((?:_\d+)+)", "observed_0_1", observed, "observed value of one entry, which never changes", _seen_index),
    Measure(r"unobserved_max", "unobserved_max", unobserved_max, "largest |unobserved entry|", _unobserved),
    Measure(
        r"singular_values(?:_(\d+))?",
        "singular_values",
        singular_values,
        "the ten largest singular values, or the K largest with singular_values_K: columns sv_0, sv_1, …",
        _leading,
        _sv_columns,
    ),
    Measure(
        r"components",
        "components",
        components,
        "norms of the CP components, largest first: columns component_0, …",
        _cp,
        _component_columns,
    ),
    Measure(
        r"unfolding_effective_rank",
        "unfolding_effective_rank",
        unfolding_effective_rank,
        "effective ranks of the unfoldings: columns unfolding_effective_rank_0, …",
        _tensor,
        _unfolding_columns,
    ),
    Measure(
        r"multilinear_rank",
        "multilinear_rank",
        multilinear_rank,
        "numerical ranks of the unfoldings: columns multilinear_rank_0, …",
        _tensor,
        _multilinear_columns,
    ),
    Measure(
        r"rank_distance_(\d+)", "rank_distance_1", rank_distance, "Frobenius distance to the matrices of rank r, any r", _rank_of_matrix
    ),
    Measure(
        r"infimal_(nuclear|frobenius|spectral|schatten_\d+(?:\.\d+)?|effective_rank|stable_rank|rank|rank_distance_1)",
        "infimal_nuclear",
        infimal,
        "infimum of a measure over all completions of a 2x2 matrix with three observed entries, which never changes",
        _infimal,
    ),
    Measure(
        r"cp_rank",
        "cp_rank",
        cp_rank,
        "least number of components of a CP decomposition with a mean squared error under 1e-6; at the end of a trial only",
        _tensor,
        final=True,
    ),
)


def find(name: str) -> tuple[Measure, tuple[str, ...]] | None:
    """The measure called ``name`` and the arguments in its name, or ``None`` where there is none."""
    for measure in MEASURES:
        if (arguments := measure.match(name)) is not None:
            return measure, arguments
    return None


def is_final(name: str) -> bool:
    """Whether measure ``name`` is computed at the end of a trial only. Raises `KeyError` for an unknown name."""
    found = find(name)
    if found is None:
        raise KeyError(name)
    return found[0].final


def undefined(name: str, spec: TrialSpec) -> str | None:
    """Why ``name`` is not defined for trials of this spec, or ``None`` where it is. Raises `KeyError` for an unknown name."""
    found = find(name)
    if found is None:
        raise KeyError(name)
    measure, arguments = found
    return measure.needs(spec, *arguments)


def column_names(name: str, spec: TrialSpec) -> tuple[str, ...]:
    """The columns that measure ``name`` fills for trials of this spec. Raises `KeyError` for an unknown name."""
    found = find(name)
    if found is None:
        raise KeyError(name)
    measure, arguments = found
    return tuple(measure.columns(spec, *arguments)) if measure.columns else (name,)
