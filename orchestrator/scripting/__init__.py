"""What scripts and notebooks do with grids and sweeps, behind `orchestrator`'s own functions."""
