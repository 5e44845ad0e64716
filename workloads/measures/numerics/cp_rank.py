"""CP rank by alternating least squares, for many tensors at once.

The least number of components with which a CP decomposition comes as near to the tensor as is asked for. Each number is tried from
several random starts, all tensors and starts side by side as lanes of one batched program, every lane with a number of its own:
what it has less than the widest lane is filled with components that are zero and stay so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from workloads.mode_tree import khatri_rao
from workloads.rng import Stream, generator

RESTARTS = (10, 3)
"""Random starts, for up to as many components as the largest dimension, and for more: then nearly every start does about as well."""
SWEEPS = 400
"""Passes over all modes that a start is given."""
LOOK = 10
"""Passes between two looks at which lanes are through."""
STALLED = 3e-3
"""A lane whose excess error fell by a smaller part since the last look, and is far above what is asked for, is given up."""
RIDGE = 1e-10
"""What is added to the normal equations, relative to their diagonal: starts may be nearly collinear."""
LANES = 96
"""Lanes that are worked on at once."""


def cp_rank(tensors: Tensor, tolerance: float = 1e-6, *, sweeps: int = SWEEPS, seed: int = 0) -> Tensor:
    """Return the CP rank [R] of tensors [R, d_1, ..., d_N], in float64: NaN where an entry is not finite, 0 for what is zero already.

    The least r whose rank-r decomposition by alternating least squares has a mean squared error of less than ``tolerance``, as
    in the experiments of arXiv 2102.09972. The search starts from a lower bound (the tails of the unfoldings' singular values), goes
    up in growing strides until a number suffices, and halves the gap from there. An upper bound of the true least number: alternating
    least squares may miss a decomposition that exists. ``seed`` sets the random starts, which no other random numbers depend on. Equal
    tensors, such as what a deterministic baseline gives for every seed, are searched for once.
    """
    tensors = tensors.detach().double().cpu()
    distinct, which = torch.unique(tensors.flatten(1), dim=0, return_inverse=True)
    return _search(distinct.view(-1, *tensors.shape[1:]), tolerance, sweeps, seed)[which]


def _search(tensors: Tensor, tolerance: float, sweeps: int, seed: int) -> Tensor:
    count, shape = len(tensors), tuple(tensors.shape[1:])
    finite = tensors.flatten(1).isfinite().all(1).numpy()
    tensors = tensors.where(torch.from_numpy(finite).view(-1, *(1,) * len(shape)), 0.0)
    most = math.prod(shape) // max(shape)
    # Of each tensor: the largest number known not to suffice, and the least known to (or believed, at the start).
    least = np.minimum(_lower_bound(tensors, tolerance), most)
    fails, suffices = least - 1, np.where(least == 0, 0, most)
    stride = np.ones(count, dtype=np.int64)
    open_end = np.ones(count, dtype=np.bool_)
    while True:
        left = np.flatnonzero((suffices - fails > 1) & (suffices > 0))
        if not len(left):
            break
        middle = (fails + suffices) // 2
        tried = np.where(open_end, np.minimum(fails + stride, suffices - 1), middle)[left]
        reached = _decomposable(tensors[torch.from_numpy(left)], tried, tolerance, sweeps, seed)
        for lane, number, good in zip(left, tried, reached, strict=True):
            if good:
                suffices[lane], open_end[lane] = number, False
            else:
                fails[lane] = number
                stride[lane] *= 2
    return torch.from_numpy(np.where(finite, np.maximum(suffices, 0), np.nan))


def _lower_bound(tensors: Tensor, tolerance: float) -> np.ndarray:
    """Return the least rank [R] that the unfoldings allow: no rank-r tensor is nearer than the tail of any unfolding's singular values."""
    shape = tensors.shape[1:]
    allowed = tolerance * math.prod(shape)
    modes = range(len(shape))
    best = torch.zeros(len(tensors), dtype=torch.int64)
    splits = [(n,) for n in modes] + [(0, n) for n in modes if n and len(shape) > 3]
    for rows in splits:
        columns = [n for n in modes if n not in rows]
        unfolded = tensors.permute(0, *(n + 1 for n in (*rows, *columns))).reshape(len(tensors), math.prod(shape[n] for n in rows), -1)
        squared = torch.linalg.svdvals(unfolded).square()
        # tails[r]: what is left after the r largest.
        tails = torch.cat([squared.flip(1).cumsum(1).flip(1), squared.new_zeros(len(tensors), 1)], 1)
        best = torch.maximum(best, (tails >= allowed).sum(1))
    return best.numpy()


def _decomposable(tensors: Tensor, ranks: np.ndarray, tolerance: float, sweeps: int, seed: int) -> np.ndarray:
    """Return whether each of the tensors [R, ...] has a decomposition of its number of components [R]."""
    reached = np.zeros(len(tensors), dtype=np.bool_)
    # Lanes of like width together: padding costs as much as components do.
    order = np.argsort(ranks, kind="stable")
    few = ranks[order] <= max(tensors.shape[1:])
    for group, restarts in zip((order[few], order[~few]), RESTARTS, strict=True):
        step = max(1, LANES // restarts)
        for some in (group[start : start + step] for start in range(0, len(group), step)):
            lanes = np.repeat(some, restarts)
            found = _alternate(tensors[torch.from_numpy(lanes)], ranks[lanes], restarts, tolerance, sweeps, seed)
            reached[some] = found.reshape(-1, restarts).any(1)
    return reached


def _alternate(tensors: Tensor, ranks: np.ndarray, restarts: int, tolerance: float, sweeps: int, seed: int) -> np.ndarray:
    """Alternating least squares on R lanes, ``restarts`` neighbours of each tensor; whether each came near enough [R]."""
    shape, widest = tensors.shape[1:], int(ranks.max())
    allowed = tolerance * math.prod(shape)
    total = tensors.flatten(1).square().sum(1)
    used = (torch.arange(widest) < torch.from_numpy(ranks).unsqueeze(1)).double()
    unfolded = [tensors.movedim(n + 1, 1).flatten(2).contiguous() for n in range(len(shape))]
    factors = [f * used.unsqueeze(1) for f in _starts(unfolded, ranks, restarts, seed)]
    reached = np.zeros(len(tensors), dtype=np.bool_)
    place = np.arange(len(tensors))
    before = torch.full((len(tensors),), math.inf, dtype=torch.float64)
    for done in range(LOOK, sweeps + LOOK, LOOK):
        for _ in range(LOOK):
            residual = _sweep(unfolded, factors, used, total)
        near = residual < allowed
        excess = residual - allowed
        stalled = (excess > STALLED * before.abs()) & (before - excess < STALLED * before) & (excess > allowed)
        reached[place[near.numpy()]] = True
        # The other starts of a tensor need not go on.
        decided = np.repeat(reached.reshape(-1, restarts).any(1), restarts)[place]
        going = torch.from_numpy(~decided) & ~stalled & residual.isfinite()
        if done >= sweeps or not going.any():
            break
        before = excess[going]
        if not going.all():
            place, used, total = place[going.numpy()], used[going], total[going]
            unfolded, factors = [u[going] for u in unfolded], [f[going] for f in factors]
    return reached


def _starts(unfolded: Sequence[Tensor], ranks: np.ndarray, restarts: int, seed: int) -> list[Tensor]:
    """Return standard normal factors [R, d_n, C]; a lane's depend on its number of components and its place among the restarts alone.

    The first of each tensor's restarts begins with the leading singular vectors of the unfoldings ``unfolded`` [R, d_n, ...] instead, as
    far as there are any (De Lathauwer, De Moor and Vandewalle 2000): from random starts small components beside large ones are missed.
    """
    widest = int(ranks.max())
    shape = [u.shape[1] for u in unfolded]
    out = [torch.zeros(len(ranks), n, widest, dtype=torch.float64) for n in shape]
    known: dict[tuple[int, int], list[Tensor]] = {}
    for lane, rank in enumerate(ranks):
        key = (int(rank), lane % restarts)
        if key not in known:
            rng = generator(seed, Stream.DECOMPOSITION, *key)
            known[key] = [torch.from_numpy(rng.standard_normal((n, rank))) for n in shape]
        for mine, drawn in zip(out, known[key], strict=True):
            mine[lane, :, :rank] = drawn
    first = torch.arange(0, len(ranks), restarts)
    for mine, matrices in zip(out, unfolded, strict=True):
        # Relative to the largest entry, whose square may be too large for a number.
        some = matrices[first] / matrices[first].abs().amax((1, 2), keepdim=True).clamp_min(1e-300)
        leading = torch.linalg.eigh(some @ some.mT)[1].flip(2)
        count = min(widest, leading.shape[2])
        mine[first, :, :count] = leading[:, :, :count]
    return out


def _sweep(unfolded: Sequence[Tensor], factors: list[Tensor], used: Tensor, total: Tensor) -> Tensor:
    """One pass over all modes, in place; the squared error [R] after it."""
    grams = [f.mT @ f for f in factors]
    unused = torch.diag_embed(1 - used)
    residual = total
    for mode in range(len(factors)):
        others = [f for n, f in enumerate(factors) if n != mode]
        projected = torch.bmm(unfolded[mode], khatri_rao(others))
        gram = math.prod((g for n, g in enumerate(grams) if n != mode), start=used.new_ones(()))
        ridge = RIDGE * torch.diagonal(gram, dim1=1, dim2=2).sum(1).view(-1, 1, 1) * torch.eye(gram.shape[1], dtype=gram.dtype)
        # Not checked for being singular: a lane that is comes out as not a number and is given up.
        solved = torch.linalg.solve_ex(gram + ridge + unused, projected.mT)[0].mT
        if mode == len(factors) - 1:
            residual = total - 2 * (projected * solved).sum((1, 2)) + (gram * (solved.mT @ solved)).sum((1, 2))
        # Lengths stay comparable: only the last mode keeps its own.
        else:
            solved = solved / solved.norm(dim=1, keepdim=True).clamp_min(1e-300)
        factors[mode] = solved
        grams[mode] = solved.mT @ solved
    return residual
