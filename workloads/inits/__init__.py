"""Where factors start: a file a kind of start."""

from workloads.inits.base import INITS, Init
from workloads.kinds import discover

__all__ = ["INITS", "Init"]

discover(__name__, __path__)
