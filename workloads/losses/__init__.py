"""What is minimized: a file a kind of loss."""

from workloads.kinds import discover
from workloads.losses.base import LOSSES, Loss

__all__ = ["LOSSES", "Loss"]

discover(__name__, __path__)
