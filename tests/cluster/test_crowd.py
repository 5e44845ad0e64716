"""Five sweeps at once, on one cluster, into one MLflow server with passwords on PostgreSQL."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import orchestrator
from tests.forked import Forked
from tests.processes import communicate
from tests.servers import no_postgresql

ROOT = Path(__file__).parents[2]
GRID = """
name: {name}
fixed:
  problem: {{kind: matrix_completion, shape: [5, 5], target: {{rank: 1, frobenius: 4}}, observed: 15}}
  factorization: {{kind: deep_matrix, depth: 2}}
  init: {{kind: gaussian, scale: 0.3}}
  optimizer: {{kind: gd, lr: 1e-4}}
grid:
  stop.steps: [100, 1000, 5000]
seeds: 4
record: {{points: 20, measures: [nuclear, error]}}
resources: {{engine: batched}}
"""
NAMES = ("one", "two", "three", "both", "both")


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.server
@pytest.mark.skipif(bool(no_postgresql()), reason=no_postgresql() or "can run")
def test_five_sweeps_at_once(tmp_path, monkeypatch, secured, cluster_address):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path / "state"), "OMP_NUM_THREADS": "1"}
    for name, value in secured.environment.items():
        monkeypatch.setenv(name, value)
    environment |= secured.environment | {"MLFLOW_TRACKING_URI": secured.uri, "RAY_ADDRESS": cluster_address}

    def orchestrate(*arguments):
        return Forked(arguments, cwd=tmp_path, env=environment)

    for name in NAMES:
        (tmp_path / f"{name}.yaml").write_text(GRID.format(name=name))
    sweeps = [orchestrate("submit", f"{name}.yaml", "--json", "--workers", "1") for name in NAMES]
    told = [communicate(sweep) for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0] * 5, [errors for _, errors in told]
    summaries = [json.loads(out.splitlines()[-1]) for out, _ in told]
    assert [summary["exhausted"] + summary["reused"] for summary in summaries] == [12] * 5
    assert sorted(summary["reused"] for summary in summaries) == [0] * 4 + [12], "of two of the same grid, one trains"
    losses = [sorted(orchestrator.load_runs(summary["sweep_id"], tracking_uri=secured.uri).loss) for summary in summaries]
    assert len(losses[0]) == 12
    # Packs of other sizes round otherwise.
    assert losses == [pytest.approx(losses[0], rel=1e-9)] * 5, "of the same trials, whoever was beside them"

    # Nobody saw the password.
    password = secured.environment["MLFLOW_TRACKING_PASSWORD"]
    assert not any(password in text for pair in told for text in pair)
