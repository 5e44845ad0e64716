"""Noise on what is observed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from workloads.section import LARGEST, Finite, Section, Seed


class Noise(Section):
    """Independent normal noise on each observation."""

    std: Annotated[Finite, Field(ge=0, le=LARGEST)]
    """Its standard deviation; with 0 there is none."""
    seed: Seed | None = None
    """What it is drawn by instead of `problem.seed`."""
