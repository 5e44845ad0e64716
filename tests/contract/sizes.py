"""Trials of every kind at a size that counts: those whose memory is held to what is planned."""

from __future__ import annotations

from tests.contract.references import FACTORIZATIONS, FUNCTION, LARGER, LOSSES, OPTIMIZERS, SQUARES, pairs, spec
from workloads.trial import TrialSpec

SIZES = {
    **{"-".join((*pair, loss)): spec(*pair, "gd", loss) for pair in pairs() for loss in SQUARES},
    **{
        "-".join((problem, "deep_matrix", loss)): spec(problem, "deep_matrix", "gd", loss)
        for problem in ("matrix_completion", "matrix_sensing")
        for loss in LOSSES
        if loss not in SQUARES
    },
    **{
        f"{factorization}-{optimizer}": spec(
            next(problem for problem, other in pairs() if other == factorization), factorization, optimizer
        )
        for factorization, row in FACTORIZATIONS.items()
        for optimizer in OPTIMIZERS
        if row.product is not None
    },
    "reconstruction-autoencoder-absolute": spec("reconstruction", "autoencoder", "gd", "absolute"),
    "float32": spec("matrix_completion", "deep_matrix", dtype="float32"),
    "depth1": spec("matrix_completion", "deep_matrix", loss="mse", keys={"depth": 1}),
    **{
        pattern: spec(
            "tensor_completion",
            "hierarchical",
            keys={"widths": [9, 14], "pattern": pattern},
            problem={"kind": "tensor_completion", "shape": [2, 2, 2, 2], "target": {"rank": 1}, "observed": 8},
        )
        for pattern in ("adjacent", "half")
    },
    "large": spec("tensor_completion", "cp", keys={"components": 100}),
}
"""A small trial for each way of taking memory."""


def larger(name: str, count: int) -> list[TrialSpec]:
    """Trials at a size that counts, with a data set of their own each: nothing is shared."""
    one = SIZES[name]
    shape = FACTORIZATIONS[one.factorization.kind].shape(FUNCTION if one.problem.inputs else len(one.shape), LARGER)
    problem = one.problem.model_copy(update={"shape": shape, "observed": 45})
    return [one.model_copy(update={"seed": n, "problem": problem.model_copy(update={"seed": n})}) for n in range(count)]
