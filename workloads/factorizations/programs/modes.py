"""How the modes of a tensor are parted. No torch here: planning asks."""

from __future__ import annotations

import math


def split_modes(shape: tuple[int, ...]) -> int:
    """Return how many leading modes make the left side of a product: the split whose sides are nearest in size."""
    return min(range(1, len(shape)), key=lambda k: max(math.prod(shape[:k]), math.prod(shape[k:])))
