"""A sweep from grid to summary."""
