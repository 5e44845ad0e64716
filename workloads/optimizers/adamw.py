"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterator

from workloads.optimizers.adam import Adam
from workloads.section import Conflict


class AdamW(Adam):
    """Adam with decoupled weight decay: w <- (1 - lr * weight_decay) w before each step (Loshchilov and Hutter 2019)."""

    kind = "adamw"
    example = "{kind: adamw, lr: 1e-3, weight_decay: 1e-2}"
    decoupled = True

    def conflicts(self, observations: int | None) -> Iterator[Conflict]:
        """See `Optimizer.conflicts`."""
        yield from super().conflicts(observations)
        if self.weight_decay is None:
            yield "optimizer.weight_decay", "is missing: without it adamw is adam"
