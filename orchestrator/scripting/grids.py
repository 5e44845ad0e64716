"""Grids as scripts give them: a file, its data, or a grid that is loaded already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.extensions import use
from orchestrator.grid import Grid, load_grid
from orchestrator.grid.plain import plain_grid, written

Given = str | Path | Mapping[str, Any] | Grid
"""A grid file's path, what such a file has in it, or a grid."""
Modules = str | Path | Sequence[str | Path]
"""Files or modules with kinds and measures of users' own: one, or several."""
Overrides = Mapping[str, Any] | Sequence[str]
"""Keys and their values, or texts as ``--set`` takes them."""


def grid_from(given: Given, overrides: Overrides = (), modules: Modules = ()) -> Grid:
    """Return the grid that is meant, of kinds and measures that are built in or from ``modules``.

    Raises `orchestrator.errors.GridError` with everything that is wrong with it, and `orchestrator.errors.CodeError` for code.
    """
    if isinstance(given, Grid):
        return given
    use(texts(modules))
    settings = [f"{key}={written(value)}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else list(overrides)
    return plain_grid(given, settings) if isinstance(given, Mapping) else load_grid(given, settings)


def texts(modules: Modules) -> list[str]:
    """Return the names of modules as the command line has them."""
    return [str(one) for one in ([modules] if isinstance(modules, str | Path) else modules)]
