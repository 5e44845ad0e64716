"""Random numbers of steps: mini-batches and noise on what is observed, by trial seed, step and index alone.

A counter-based generator, SplitMix64's finalizer (Steele, Lea and Flood 2014) over counters: nothing has to be kept from step to step, and
any engine draws the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from workloads.trial import TrialSpec

GAMMA = 0x9E3779B97F4A7C15
MIXERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
BATCH, NOISE = 1, 2
"""What numbers of one seed are drawn for."""
LARGEST = (1 << 63) - 1
"""The key of what is not observed: that of nothing else but by a chance of one in as many."""


def mixed(value: int) -> int:
    """Return a whole number of 64 bits that is as good as random for each other one."""
    value &= (1 << 64) - 1
    value = ((value ^ (value >> 30)) * MIXERS[0]) & ((1 << 64) - 1)
    value = ((value ^ (value >> 27)) * MIXERS[1]) & ((1 << 64) - 1)
    return value ^ (value >> 31)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Return ``values`` moved to the right, as numbers without a sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(values: Tensor) -> Tensor:
    """`mixed` of tensors, as numbers with a sign."""
    values = (values ^ _shifted(values, 30)) * _signed(MIXERS[0])
    values = (values ^ _shifted(values, 27)) * _signed(MIXERS[1])
    return values ^ _shifted(values, 31)


def lane_seeds(specs: Sequence[TrialSpec], use: int) -> list[int]:
    """Return for each trial what its numbers for a ``use`` follow from, as a number with a sign."""
    return [_signed(mixed(mixed(spec.seed) + use * GAMMA)) for spec in specs]


class Chance:
    """What chance does to the gradients of R lanes. ``index`` [N] numbers the observations, of which a lane has those that are ``seen``
    [R or 1, N] and ``counts`` [R] in all."""

    def __init__(self, specs: Sequence[TrialSpec], hyper: Mapping[str, Tensor], index: Tensor, seen: Tensor, counts: Tensor) -> None:
        self._seeds = {use: torch.tensor(lane_seeds(specs, use), device=index.device) for use in (BATCH, NOISE)}
        self._counters = (index + 1) * _signed(GAMMA)
        self._seen = seen
        self._noise, batch = hyper.get("label_noise"), hyper.get("batch")
        self._batch = None if batch is None else batch.long()
        self._share = None if batch is None else (counts / batch).unsqueeze(1)

    def noise(self, steps: Tensor) -> Tensor | None:
        """Return the noise on what is observed in a step [R, N], zero where nothing is; ``steps`` [R] are those done before it."""
        if self._noise is None:
            return None
        bits = self._bits(NOISE, steps)
        # Box and Muller 1958.
        first = (_shifted(bits, 11) + 1).double() * 2.0**-53
        second = _shifted(_mixed(bits + _signed(GAMMA)), 11).double() * 2.0**-53
        normal = (first.log() * -2).sqrt() * (second * (2 * math.pi)).cos()
        return normal.to(self._noise.dtype) * self._noise.unsqueeze(1) * self._seen

    def weights(self, steps: Tensor) -> Tensor | None:
        """Return what the observations of a step count [R, N]: those in the mini-batch so many times as there are more, others nothing."""
        if self._batch is None or self._share is None:
            return None
        keys = self._keys(steps)
        last = keys.sort(1)[0].gather(1, (self._batch - 1).unsqueeze(1))
        return (keys <= last) * self._share

    def chosen(self, steps: Tensor, size: int) -> Tensor:
        """Return the numbers of the observations in the mini-batches of a step [R, ``size``], which are of one size in all lanes."""
        return self._keys(steps).topk(size, 1, largest=False)[1]

    def _keys(self, steps: Tensor) -> Tensor:
        """Return numbers [R, N] of which the smallest are those of the mini-batch."""
        return _shifted(self._bits(BATCH, steps), 1).masked_fill(~self._seen, LARGEST)

    def _bits(self, use: int, steps: Tensor) -> Tensor:
        """Return 64 random bits for each observation [R, N]."""
        of_step = _mixed(self._seeds[use] + (steps + 1) * _signed(GAMMA))
        return _mixed(of_step.unsqueeze(1) + self._counters)
