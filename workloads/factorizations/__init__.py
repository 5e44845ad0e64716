"""How a matrix or tensor is written by parameters that are trained, or found by a solver: a file a kind of factorization."""

from workloads.factorizations.base import FACTORIZATIONS, Factorization
from workloads.kinds import discover

__all__ = ["FACTORIZATIONS", "Factorization"]

discover(__name__, __path__)
