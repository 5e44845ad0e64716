"""Grids as scripts give them: a file, its data, or a grid that is loaded already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.grid import Grid, load_grid
from orchestrator.grid.plain import plain_grid, written

Given = str | Path | Mapping[str, Any] | Grid
"""A grid file's path, what such a file has in it, or a grid."""
Overrides = Mapping[str, Any] | Sequence[str]
"""Keys and their values, or texts as ``--set`` takes them."""


def grid_from(given: Given, overrides: Overrides = ()) -> Grid:
    """Return the grid that is meant. Raises `orchestrator.errors.GridError` with everything that is wrong with it."""
    if isinstance(given, Grid):
        return given
    texts = [f"{key}={written(value)}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else list(overrides)
    return plain_grid(given, texts) if isinstance(given, Mapping) else load_grid(given, texts)
