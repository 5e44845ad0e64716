"""The grid language: YAML in, trials out. Imports neither torch nor Ray nor MLflow."""

from orchestrator.grid.load import Grid, load_grid, parse_grid

__all__ = ["Grid", "load_grid", "parse_grid"]
