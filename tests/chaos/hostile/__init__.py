"""Malformed grids and data files: each made by a seeded source of choices, so that a seed alone brings one back."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.chaos.hostile.data import with_data
from tests.chaos.hostile.grids import changed, damaged, no_file, overridden
from tests.chaos.hostile.values import EXPRESSIONS, SPECIAL
from tests.chaos.hostile.written import Malformed

__all__ = ["EXPRESSIONS", "SPECIAL", "Malformed", "malformed"]


def malformed(choice: Random, folder: Path) -> Malformed:
    """Write one malformed grid, or one that names a malformed data file, into an empty ``folder``."""
    kind = choice.choices(["tree", "text", "data", "override", "special"], [45, 20, 25, 7, 3])[0]
    return {"tree": changed, "text": damaged, "data": with_data, "override": overridden, "special": no_file}[kind](choice, folder)
