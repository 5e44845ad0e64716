"""Sweeps under fire: a few schedules with ``-m slow``, many with ``-m chaos`` (or ``python -m tests.chaos``, which says what it does)."""

from __future__ import annotations

import pytest

from tests.chaos.arena import KINDS
from tests.chaos.comparison import undisturbed
from tests.chaos.schedule import run_schedule
from tests.chaos.sweep import Size

SMALL = Size(seeds=6, longer=0.25)
KINDS_TRIED = ("embedded, server", "small disk")


@pytest.fixture(scope="module")
def expected(tmp_path_factory, template, cluster_address):
    return undisturbed(tmp_path_factory.mktemp("undisturbed") / "arena", SMALL, template, cluster_address)


@pytest.mark.ray
@pytest.mark.server
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS_TRIED)
def test_a_few_kills_change_nothing(kind, tmp_path, expected, template):
    seed = [one.name for one in KINDS].index(kind)
    report = run_schedule(seed, tmp_path / "arena", expected, SMALL, 2, template)
    assert report.violations == [], "\n".join(report.log)
    assert report.kills.total() == 2


@pytest.mark.ray
@pytest.mark.server
@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(60))
def test_many_kills_change_nothing(seed, tmp_path, expected):
    report = run_schedule(seed, tmp_path / "arena", expected, SMALL, 10)
    assert report.violations == [], "\n".join(report.log)
