"""Factorization workloads: problems, factorizations, optimizers, measures, engines, and the training loop.

Knows nothing of Ray, MLflow, YAML or Click.
"""
