"""Trials that are spelled out as cases, to be run once more."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.grid import parse_grid
from orchestrator.grid.plain import grid_text
from orchestrator.sweeps.rerun import _spelled
from tests.specs import spec, trials


@pytest.mark.parametrize("loss", [{"kind": "huber", "delta": 0.1}, {"kind": "huber"}, {"kind": "mse"}])
def test_a_trial_is_spelled_out_with_the_keys_of_its_loss(loss):
    (trial,) = trials([spec(loss=loss)])
    (made,) = parse_grid(grid_text({"name": "again", "cases": [_spelled(trial)]}), "again.yaml", Path(), []).trials
    assert made.spec == trial.spec
