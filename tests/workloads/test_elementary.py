"""Elementary functions of kernels, against mpmath over the whole range of their numbers, and the same in vectors and alone."""

from __future__ import annotations

from functools import cache

import mpmath
import numpy as np
import pytest

from workloads.engines.kernels.functions import definitions
from workloads.engines.kernels.launching import start_warp
from workloads.engines.kernels.source import Writer, simd_width, vector_type

TRUE = {name: getattr(mpmath, name) for name in ("exp", "log", "log1p", "tanh", "sinh", "cosh")}
BOUND = dict.fromkeys(("exp", "log", "log1p"), 1.0) | {"tanh": 3.0, "sinh": 2.0, "cosh": 2.0}
"""Units in the last place."""
INF, NAN = np.inf, np.nan
ENDS = {
    "exp": [(INF, INF), (-INF, 0.0), (1e4, INF), (-1e4, 0.0), (0.0, 1.0), (-0.0, 1.0)],
    "log": [(0.0, -INF), (-0.0, -INF), (-1.0, NAN), (-INF, NAN), (INF, INF), (1.0, 0.0)],
    "log1p": [(-1.0, -INF), (-1.5, NAN), (-INF, NAN), (INF, INF), (0.0, 0.0), (-0.0, -0.0)],
    "tanh": [(INF, 1.0), (-INF, -1.0), (1e30, 1.0), (0.0, 0.0), (-0.0, -0.0)],
    "sinh": [(INF, INF), (-INF, -INF), (-1e4, -INF), (0.0, 0.0), (-0.0, -0.0)],
    "cosh": [(INF, INF), (-INF, INF), (-1e4, INF), (0.0, 1.0), (-0.0, 1.0)],
}


@cache
def kernel(name: str, dtype: str, width: int):
    wp = start_warp()
    write = Writer()
    write(*vector_type(dtype, width), *definitions({name}, width, dtype))
    write(f"((vec*)found.data)[place] = Each::{name}_of(((vec*)given.data)[place]);")

    def one(given, found, place): ...

    def all_of_them(given, found):
        native(given, found, wp.tid())

    kind = wp.array(dtype=getattr(wp, dtype))
    all_of_them.__annotations__ = {"given": kind, "found": kind, "return": None}
    one.__annotations__ = {"given": kind, "found": kind, "place": int, "return": None}
    native = wp.func_native(write.text)(one)
    return wp.kernel(all_of_them, enable_backward=False, module="unique")


def computed(name: str, given: np.ndarray, width: int) -> np.ndarray:
    wp = start_warp()
    padded = np.resize(given, -(-len(given) // width) * width)
    found = np.empty_like(padded)
    arrays = [wp.array(a, dtype=getattr(wp, str(given.dtype)), device="cpu", copy=False) for a in (padded, found)]
    wp.launch(kernel(name, str(given.dtype), width), dim=len(padded) // width, inputs=arrays, device="cpu")
    return found[: len(given)]


def drawn(name: str, dtype: str) -> np.ndarray:
    """Numbers of all sizes, evenly over their bits, and those near where the function is one, overflows, or is subnormal."""
    rng = np.random.default_rng(0)
    double = dtype == "float64"
    bits = rng.integers(0, 2**64 if double else 2**32, 1500, dtype=np.uint64 if double else np.uint32)
    of_all_sizes = bits.view(dtype)
    largest = 710 if double else 89
    near = [rng.uniform(-1, 1, 600), rng.normal(0, 10, 600), rng.uniform(-1.06, 1.01, 900) * largest, 1 + rng.normal(0, 1e-3, 300)]
    near += [
        largest + rng.uniform(-1, 1.5, 300),
        2.0 ** rng.uniform(-70, 1, 300) - 1,
        rng.uniform(0.3, 3, 600),
        10.0 ** rng.uniform(-20, 0, 300),
    ]
    return np.concatenate([of_all_sizes[np.isfinite(of_all_sizes)], *near]).astype(dtype)


def ulps(name: str, given: np.ndarray, found: np.ndarray) -> np.ndarray:
    """By how many units in the last place each of what was ``found`` is wrong; of what is infinite or none, whether it is so."""
    kind = found.dtype.type
    out = []
    with mpmath.workprec(400):
        for a, f in zip(given, found, strict=True):
            domain = {"log": a > 0, "log1p": a > -1}.get(name, True)
            if not domain:
                out.append(0.0 if np.isnan(f) or a in (0, -1) else INF)
                continue
            # Beyond these it is infinite, or zero, in any case.
            true = TRUE[name](mpmath.mpf(float(np.clip(a, -1e4, 1e4))) if name in ("exp", "sinh", "cosh") else mpmath.mpf(float(a)))
            least = float(np.finfo(kind).smallest_subnormal)
            limit = mpmath.mpf(float(np.finfo(kind).max)) * (1 + mpmath.mpf(float(np.finfo(kind).eps)) / 4)
            if abs(true) >= limit:
                out.append(0.0 if f == (INF if true > 0 else -INF) else INF)
                continue
            unit = max(mpmath.mpf(least), mpmath.mpf(2) ** (mpmath.frexp(true)[1] - (53 if kind is np.float64 else 24))) if true else least
            out.append(float(abs(mpmath.mpf(float(f)) - true) / unit) if np.isfinite(f) else INF)
    return np.array(out)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", list(TRUE))
def test_functions_are_right_to_the_last_place_and_the_same_in_any_place_of_a_vector(name, dtype):
    given = drawn(name, dtype)
    alone = computed(name, given, 1)
    wrong = ulps(name, given, alone)
    assert wrong.max() <= BOUND[name], (given[wrong.argmax()], alone[wrong.argmax()], wrong.max())
    ends = np.array(ENDS[name], dtype=dtype)
    found = computed(name, ends[:, 0].copy(), 1)
    np.testing.assert_array_equal(found, ends[:, 1])
    np.testing.assert_array_equal(np.signbit(found[ends[:, 1] == 0]), np.signbit(ends[:, 1][ends[:, 1] == 0]))
    assert np.isnan(computed(name, np.array([NAN], dtype=dtype), 1)).all()
    width = simd_width(dtype)
    for shift in (0, 3):
        beside = computed(name, np.roll(given, shift), width)
        np.testing.assert_array_equal(np.roll(beside, -shift).view(np.uint8), alone.view(np.uint8))
