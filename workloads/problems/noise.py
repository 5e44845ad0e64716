"""Noise on what is observed."""

from __future__ import annotations

from workloads.section import Positive, Section, Seed


class Noise(Section):
    """Independent normal noise on each observation."""

    std: Positive
    """Its standard deviation."""
    seed: Seed | None = None
    """What it is drawn by instead of `problem.seed`."""
