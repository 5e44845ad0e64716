"""Images: drawn ones, and those of users' files."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workloads.arrays import DataError, finite, read_npz
from workloads.section import MAX_ORDER

AT_ONCE = 2000
"""Images that are drawn at once."""
SIZES = (1 / 8, 3 / 8)
"""Smallest and largest radius of a disc, or half the side of a square, as parts of an image's side."""


def draw_shapes(count: int, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw images [``count``, ``size`` * ``size`` * 3] of one disc or square each, on black, with smooth edges.

    Colour, size and place are uniform, the shape lies within the image, and both kinds are as likely. Of more images the first are those
    of fewer. A pixel at a square's edge is as bright as the part of it that is covered; at a disc's, as if the edge were straight there.
    """
    drawn = rng.random((count, 7))
    images = np.empty((count, size * size * 3))
    for first in range(0, count, AT_ONCE):
        some = drawn[first : first + AT_ONCE]
        images[first : first + AT_ONCE] = (_coverage(some, size)[..., None] * some[:, None, None, 4:]).reshape(len(some), -1)
    return images


def _coverage(drawn: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return which part of each pixel is covered [K, size, size] by shapes of which four uniform numbers say kind, size and place."""
    radius = size * (SIZES[0] + (SIZES[1] - SIZES[0]) * drawn[:, 1])
    centre = radius[:, None] + (size - 2 * radius)[:, None] * drawn[:, 2:4]
    places = np.arange(size) + 0.5
    away = np.abs(places - centre[..., None])  # [K, 2, size]
    along = np.clip(radius[:, None, None] + 0.5 - away, 0.0, 1.0)
    squares = along[:, 0, :, None] * along[:, 1, None, :]
    discs = np.clip(radius[:, None, None] + 0.5 - np.hypot(away[:, 0, :, None], away[:, 1, None, :]), 0.0, 1.0)
    covered: NDArray[np.float64] = np.where(drawn[:, 0, None, None] < 0.5, discs, squares)
    return covered


def read_images(name: str, content: bytes, shape: Sequence[int] | None) -> NDArray[np.float64]:
    """Return the images [N, *shape] of the ``.npz`` file ``name``; ``shape`` is what the grid says, if it says.

    Raises `DataError` where there are none, they have another shape, or a number of them is not finite.
    """
    if not name.lower().endswith(".npz"):
        raise DataError(f"{name}: images come in an .npz file")
    arrays = read_npz(name, content, ("images",))
    if "images" not in arrays:
        raise DataError(f"{name}: must hold images")
    found = arrays["images"].shape
    if not (3 <= len(found) <= MAX_ORDER and math.prod(found)):
        raise DataError(f"{name}: images must have shape [N, rows, columns], or with channels after it, not {list(found)}")
    if shape is not None and found[1:] != tuple(shape):
        raise DataError(f"{name}: images have shape {list(found[1:])}, but problem.shape is {list(shape)}")
    return finite(name, "images", arrays["images"])
