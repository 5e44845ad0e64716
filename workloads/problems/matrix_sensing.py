"""Matrix sensing (Recht, Fazel and Parrilo 2010)."""

from __future__ import annotations

from workloads.problems.sensing import ProductSensing


class MatrixSensing(ProductSensing):
    """Inner products of a matrix with Gaussian (or given) measurement matrices are observed."""

    kind = "matrix_sensing"
    example = "{kind: matrix_sensing, shape: [30, 30], target: {rank: 1}, observed: 400, seed: 7}"
