"""Matrix completion (Candes and Recht 2009)."""

from __future__ import annotations

from workloads.problems.completion import Completion


class MatrixCompletion(Completion):
    """Some entries of a matrix are observed."""

    kind = "matrix_completion"
    example = "{kind: matrix_completion, shape: [100, 100], target: {rank: 5, frobenius: 100}, observed: 2000}"
