"""A factorization and a measure of one's own: each is written for one run, and runs as lanes (docs/extending.md)."""

import torch

from workloads import Factorization, measure


class MyTucker(Factorization):
    """A core multiplied by a matrix in each mode, for tensors of order three."""

    kind = "my_tucker"
    ranks: list[int]
    """Dimensions of the core."""

    def shapes(self, shape):
        return {"core": tuple(self.ranks)} | {f"A{n + 1}": (d, r) for n, (d, r) in enumerate(zip(shape, self.ranks))}

    def product(self, core, A1, A2, A3):
        return torch.einsum("abc,ia,jb,kc->ijk", core, A1, A2, A3)


@measure("gap")
def gap(x):
    """By how much the largest entry stands out from the median one."""
    return x.product.abs().max() - x.product.abs().median()
