"""A store of every kind, and trials to put into it."""

from __future__ import annotations

import shutil
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Run

from orchestrator.tracking import layout
from orchestrator.tracking.read.results import Source
from orchestrator.tracking.read.runs import search, tag_is
from orchestrator.tracking.store import Store, open_store
from orchestrator.tracking.write.parent import SweepInfo, TrialRow, new_sweep_id
from tests import unsynced  # noqa: F401, for what it does
from tests.servers import MlflowServer, no_postgresql
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome, Trace
from workloads.trial import TrialSpec

RECORD = {"points": 200, "steps": None, "measures": ["nuclear", "det"]}


@pytest.fixture
def local(template: Path, tmp_path: Path) -> Store:
    """A SQLite store of the test's own."""
    shutil.copy(template, tmp_path / "mlflow.db")
    return open_store(f"sqlite:///{tmp_path / 'mlflow.db'}")


NEEDS_POSTGRESQL = (pytest.mark.server, pytest.mark.skipif(bool(no_postgresql()), reason=no_postgresql() or "can run"))
# Nearly all that is asked of a server without passwords, on SQLite, is asked of the one with them; the rest is tried before a release.
TOLD_BY_SECURED = () if no_postgresql() else (pytest.mark.slow,)
STORES = [
    "bulk",
    "client",
    pytest.param("server", marks=(pytest.mark.server, *TOLD_BY_SECURED)),
    pytest.param("database", marks=NEEDS_POSTGRESQL),
    pytest.param("secured", marks=NEEDS_POSTGRESQL),
]

# PostgreSQL promises no order of rows: where some were deleted, new ones take their places.
IN_ORDER = pytest.mark.parametrize("store", ["bulk", "client"], indirect=True)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """Every way in which runs are written: in bulk and through the client to a file, to a database, and to servers."""
    match request.param:
        case "server":
            return open_store(request.getfixturevalue("server"))
        case "database":
            # MLflow puts artifacts of a database into the working directory.
            monkeypatch.chdir(tmp_path)
            return open_store(request.getfixturevalue("database"))
        case "secured":
            found: MlflowServer = request.getfixturevalue("secured")
            for name, value in found.environment.items():
                monkeypatch.setenv(name, value)
            return open_store(found.uri)
        case "client":
            monkeypatch.setattr("orchestrator.tracking.write.bulk.BulkRunWriter.fits", lambda _: False)
    opened: Store = request.getfixturevalue("local")
    return opened


@pytest.fixture
def experiment() -> str:
    """A name that no other test has used in a store that tests share."""
    return f"experiment {uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., TrialSpec]:
    """A valid spec; sections are replaced by keyword."""

    def make(seed: int = 0, **sections: Any) -> TrialSpec:
        spec = {
            "problem": {"kind": "matrix_completion", "shape": [2, 2], "entries": [[0, 1, 1.0], [1, 0, 1.0], [1, 1, 0.0]]},
            "factorization": {"kind": "deep_matrix", "depth": 3},
            "init": {"kind": "gaussian", "scale": 1e-3, "balanced": True},
            "optimizer": {"kind": "gd", "lr": 0.006},
            "stop": {"loss": 1e-4, "steps": 5000},
        }
        return TrialSpec.model_validate({**spec, "seed": seed, **sections})

    return make


@pytest.fixture(scope="session")
def make_result() -> Callable[..., TrialResult]:
    """A trial's result with numbers that no shortened notation would keep."""

    def make(trial_id: str, outcome: Outcome = Outcome.CONVERGED, rows: int = 100, **fields: Any) -> TrialResult:
        rng = np.random.default_rng(zlib.crc32(trial_id.encode()))
        columns = fields.pop("columns", ("loss", "nuclear", "det"))
        trace = Trace(columns, np.cumsum(rng.integers(1, 9, rows)), rng.standard_normal((rows, len(columns))) / 3)
        steps = int(trace.steps[-1]) if rows else 0
        factors = {f"W{layer}": rng.standard_normal((2, 2)) for layer in (1, 2, 3)}
        return TrialResult(trial_id, outcome, steps, 1_700_000_000.0, 1_700_000_001.5, **{"trace": trace, "factors": factors, **fields})

    return make


def sweeps_of(experiment: str, make_spec: Callable[..., TrialSpec]) -> Callable[..., SweepInfo]:
    """Makes sweeps in an experiment, of the given trials, one seed each; ``reused`` says where trials are, by id."""

    def make(trials: str, reused: Mapping[str, Source] | None = None, **fields: Any) -> SweepInfo:
        earlier = reused or {}
        rows = [TrialRow(name, make_spec(seed), None, earlier.get(name)) for seed, name in enumerate(trials.split())]
        rows = [row if row.reused else replace(row, pack="pack-0") for row in rows]
        return SweepInfo(experiment, new_sweep_id(), "name: x\n", {layout.PLAN_FILE: b'{"packs": 1}'}, rows, **{"record": RECORD, **fields})

    return make


@pytest.fixture
def make_sweep(experiment: str, make_spec: Callable[..., TrialSpec]) -> Callable[..., SweepInfo]:
    """Makes sweeps in the test's experiment."""
    return sweeps_of(experiment, make_spec)


def trial_runs(store: Store, parent_run_id: str) -> dict[str, Run]:
    """The runs of a sweep's trials that were not deleted, by trial; of several, the newest."""
    experiment = store.client.get_run(parent_run_id).info.experiment_id
    found = list(search(store, [experiment], tag_is(layout.PARENT, parent_run_id)))
    return {run.data.tags[layout.TRIAL_ID]: run for run in reversed(found)}
