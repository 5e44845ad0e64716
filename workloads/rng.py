"""Random numbers that depend on a seed and a purpose, and on nothing else."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a generator is for. Streams of one seed are independent, so that drawing more of one thing changes no other."""

    TRUTH = 0
    OBSERVED = 1
    MEASUREMENTS = 2
    INIT = 3
    DECOMPOSITION = 4
    NOISE = 5
    LANCZOS = 6
    OUTLIERS = 7


def generator(seed: int, stream: Stream, *parts: int) -> np.random.Generator:
    """Return a counter-based generator (Philox; Salmon et al. 2011) on the CPU, whatever device the trial trains on.

    ``parts`` tell apart what one stream is drawn from several times.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(int(stream), *parts))))
