"""Sweeps under fire: a few schedules always, many with ``-m chaos`` (or ``python -m tests.chaos``, which says what it does)."""

from __future__ import annotations

import pytest

from tests.chaos.harness import Size, run_schedule, undisturbed

SMALL = Size(seeds=6)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, template, cluster_address):
    return undisturbed(tmp_path_factory.mktemp("undisturbed") / "arena", SMALL, template, cluster_address)


@pytest.mark.ray
@pytest.mark.server
@pytest.mark.parametrize("first", [1, 4], ids=["server", "small-disk"])
def test_a_few_kills_change_nothing(first, tmp_path, expected, template):
    # Where the machine is so fast that a sweep ends before it is disturbed, another schedule of the kind is tried.
    for seed in range(first, 50, 5):
        report = run_schedule(seed, tmp_path / "arena", expected, SMALL, 2, template)
        assert report.violations == [], "\n".join(report.log)
        if report.kills:
            return
    pytest.fail("no sweep could be disturbed")


@pytest.mark.ray
@pytest.mark.server
@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(60))
def test_many_kills_change_nothing(seed, tmp_path, expected):
    report = run_schedule(seed, tmp_path / "arena", expected, SMALL, 10)
    assert report.violations == [], "\n".join(report.log)
