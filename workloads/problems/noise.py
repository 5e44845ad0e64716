"""Noise on what is observed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from workloads.section import LARGEST, Finite, Section, Seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Noise(Section):
    """Independent noise on each observation, normal unless given, or on a share of them."""

    std: Annotated[Finite, Field(ge=0, le=LARGEST)]
    """Its standard deviation; with 0 there is none."""
    seed: Seed | None = None
    """What it is drawn by instead of `problem.seed`."""
    distribution: Literal["normal", "logistic"] | None = None
    """What it is drawn from, normal unless given; of a sign, logistic noise of std π/√3 makes odds of what loss logistic takes for them."""
    share: Annotated[Finite, Field(gt=0, lt=1)] | None = None
    """Probability that an observation has noise, as outliers have; all have it unless given."""

    def canonical_beside(self, seed: int | None) -> dict[str, Any]:
        """Return what of a problem's canonical form noise determines; ``seed`` is that of all else which is drawn, if anything is."""
        fields = self.canonical_fields
        if self.distribution == "normal":
            del fields["distribution"]
        if self.seed is None or seed not in (None, self.seed):
            return {"noise": fields}
        # It is what the noise is drawn by without it.
        del fields["seed"]
        return {"noise": fields, "seed": self.seed}

    def drawn(self, count: int, seed: int, part: tuple[int, ...] = ()) -> NDArray[np.float64]:
        """Return noise [N], drawn one after another, so that more of it begins with less; ``part`` tells apart several draws."""
        import numpy as np

        from workloads.rng import Stream, generator

        seed = seed if self.seed is None else self.seed
        rng = generator(seed, Stream.NOISE, *part)
        logistic = self.distribution == "logistic"
        values = rng.logistic(scale=math.sqrt(3) / math.pi, size=count) if logistic else rng.standard_normal(count)
        if self.share is not None:
            values = np.where(generator(seed, Stream.OUTLIERS, *part).random(count) < self.share, values, 0.0)
        return self.std * values
