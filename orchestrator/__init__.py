"""Orchestration of factorization sweeps: grids, planning, Ray, MLflow, analysis."""
