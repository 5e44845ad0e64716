"""How a step is taken from a gradient: a file a kind of optimizer."""

from workloads.kinds import discover
from workloads.optimizers.base import OPTIMIZERS, Optimizer

__all__ = ["OPTIMIZERS", "Optimizer"]

discover(__name__, __path__)
