"""What is to be recovered and what is seen of it: a file a kind of problem."""

from workloads.kinds import discover
from workloads.problems.base import PROBLEMS, Problem
from workloads.problems.target import Target

__all__ = ["PROBLEMS", "Problem", "Target"]

discover(__name__, __path__)
