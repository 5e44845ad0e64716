"""The shipped grid of the first figure, against the plain loop on a shortened run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.grid import load_grid
from orchestrator.sweeps.submit import recording_of
from tests.workloads import oracle
from workloads.engines.base import create
from workloads.engines.choice import choose
from workloads.training.loop import train
from workloads.training.results import Finished
from workloads.trial import Trial

FIGURE1 = Path(__file__).parents[2] / "configs" / "figure1.yaml"
STEPS = 1500


def test_every_run_of_the_figure_goes_the_way_of_the_plain_loop():
    grid = load_grid(FIGURE1, (f"stop.steps={STEPS}", "seeds=1"))
    packs: dict[object, list[Trial]] = {}
    for trial in grid.trials:
        # Larger starts than the figure's, with which the losses would not have moved yet.
        init = trial.spec.init.model_copy(update={"product_scale": 0.05})
        packs.setdefault(trial.spec.lane_key, []).append(Trial(trial.trial_id, trial.spec.model_copy(update={"init": init})))
    results = {}
    for pack in packs.values():
        engine = create(choose([t.spec for t in pack]))
        assert engine.name == "fused"
        for event in train(pack, recording_of(grid), engine):
            if isinstance(event, Finished):
                results |= {r.trial_id: r for r in event.results}
    assert len(results) == len(grid.trials) == 12
    for trial in (trial for pack in packs.values() for trial in pack):
        result = results[trial.trial_id]
        truth, final = oracle.train(trial.spec, result.steps), result.trace.final()
        assert result.steps == STEPS or truth.losses[-1] <= 1e-4 < truth.losses[-2]
        assert final["loss"] == pytest.approx(truth.losses[-1], rel=1e-9)
        assert truth.losses[-1] < 0.99 * truth.losses[0], "nothing has happened yet"
        assert final["entry_0_0"] == pytest.approx(truth.product[0, 0], rel=1e-9, abs=1e-12)
        assert final["nuclear"] == pytest.approx(np.linalg.norm(truth.product, "nuc"), rel=1e-9)
