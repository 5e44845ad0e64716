"""A grid that is too large is refused by the lengths of what is written, and large ones are expanded in little memory."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from orchestrator.errors import GridError
from orchestrator.grid import parse_grid
from orchestrator.grid.sizes import too_many
from tests.grid.test_expand import FIXED

MANY = {"linspace": [0.1, 1, 1_000_000]}
LIMIT = "than the 1,000,000 that a grid may have"
MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    ("keys", "overrides", "message"),
    [
        ({"grid": {"optimizer.lr": MANY, "init.scale": MANY}}, (), f"has 1,000,000,000,000 trials, more {LIMIT}"),
        ({"zip": [{"optimizer.lr": MANY, "stop.steps": "1..1000000"}], "seeds": 2}, (), f"has 2,000,000 trials, more {LIMIT}"),
        ({"random": {"samples": 1_000_000, "optimizer.lr": {"uniform": [0.1, 1]}}, "seeds": "0..1"}, (), f"has 2,000,000 trials, more {LIMIT}"),
        ({"cases": [{"factorization.depth": n, "grid": {"optimizer.lr": MANY}} for n in (2, 3)]}, (), f"has 2,000,000 trials, more {LIMIT}"),
        (
            {"cases": [{"factorization.depth": 2}, {"grid": {"optimizer.lr": MANY, "init.scale": MANY}}]}, (),
            "cases: has 1,000,000,000,000 points, more than the 1,000,000 trials that a grid may have",
        ),
        ({"seeds": 2}, ("optimizer.lr={linspace: [0.1, 1, 1000000]}",), f"has 2,000,000 trials, more {LIMIT}"),
        ({}, [f"{key}={{linspace: [0.1, 1, 1000000]}}" for key in ("optimizer.lr", "init.scale")], f"has 1,000,000,000,000 trials, more {LIMIT}"),
    ],
)  # fmt: skip
def test_what_is_too_large_is_never_built(keys, overrides, message):
    tracemalloc.start()
    try:
        with pytest.raises(GridError) as caught:
            parse_grid(json.dumps({"name": "g", "fixed": FIXED, **keys}), overrides=overrides)
        (line,) = caught.value.mistakes
        assert line.endswith(message)
        assert tracemalloc.get_traced_memory()[1] < 5 * MEGABYTE
    finally:
        tracemalloc.stop()


def test_what_the_command_line_replaces_does_not_count():
    for keys, key in (
        ({"grid": {"optimizer.lr": MANY}, "seeds": 1000}, "optimizer.lr"),
        ({"zip": {"optimizer.lr": MANY}, "seeds": 1000}, "optimizer"),
        ({"random": {"samples": 1_000_000, "optimizer.lr": {}}, "seeds": 1000}, "optimizer.lr"),
        ({"cases": [{"optimizer.lr": 1.0, "grid": {"optimizer.beta": MANY}}], "seeds": 1000}, "optimizer"),
        ({"grid": {"optimizer.lr": "1..1000"}, "seeds": 1_000_000}, "seed"),
    ):
        assert list(too_many(keys, {})), "without it there are too many"
        assert not list(too_many(keys, {key: 3}))


def test_exclusions_take_no_memory_for_every_trial():
    def peak(**keys):
        tracemalloc.start()
        try:
            parse_grid(json.dumps({"name": "g", "fixed": FIXED, "grid": {"factorization.depth": "1..10"}, "seeds": 300, **keys}))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    conditions = [f"factorization.depth == {1 + n % 10} and seed > {200 + n}" for n in range(40)]
    partials = [{"factorization.depth": 1 + n % 10, "seed": [n, 100 + n]} for n in range(40)]
    # They were remembered trial by trial and item by item, which took 8 KiB a trial.
    assert peak(exclude=[*conditions, *partials]) < peak() + 5 * MEGABYTE
