"""Noise on what is observed."""

from __future__ import annotations

from workloads.section import Magnitude, Section, Seed


class Noise(Section):
    """Independent normal noise on each observation."""

    std: Magnitude
    """Its standard deviation."""
    seed: Seed | None = None
    """What it is drawn by instead of `problem.seed`."""
