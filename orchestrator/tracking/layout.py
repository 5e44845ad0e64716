"""Every name under which something is kept in MLflow: tags, artifacts, metrics. Nothing else spells them out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from workloads.results import Outcome

KIND = "orchestrate.kind"
"""Tag: `SWEEP` on a parent run, `TRIAL` on a child run."""
SWEEP = "sweep"
TRIAL = "trial"

SWEEP_ID = "orchestrate.sweep_id"
TRIAL_ID = "orchestrate.trial_id"
OUTCOME = "orchestrate.outcome"
"""Tag of a child run. It counts once the run's status is terminal: tags are written first, the status last."""
STEPS = "orchestrate.steps"
SECONDS = "orchestrate.seconds"
RECORD = "orchestrate.record"
"""Tag: JSON of what was recorded and when (`record_tag`)."""
ENGINE = "orchestrate.engine"
DEVICE = "orchestrate.device"
"""Tags of a child run: the engine that trained it, and the name of the processor or GPU."""
TRACE = "orchestrate.trace"
"""Tag of a child run: path of the parquet, among its parent's artifacts, that holds its trace."""
ERROR = "orchestrate.error"
"""Tag of a failed child run: the last line of its traceback."""
TRIALS = "orchestrate.trials"
REUSED = "orchestrate.reused"
VERSION = "orchestrate.version"

PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
RUN_NAME = "mlflow.runName"
USER = "mlflow.user"
SOURCE_NAME = "mlflow.source.name"

GRID_FILE = "grid.yaml"
PLAN_FILE = "plan.json"
TRIALS_FILE = "trials.parquet"
TRACES_FOLDER = "traces"
FACTORS_FILE = "factors.safetensors"
ERROR_FILE = "error.txt"
FIGURES_FOLDER = "figures"
CLAIMS_FILE = "claims.json"

TERMINAL = frozenset({"FINISHED", "FAILED", "KILLED"})
"""Statuses of a run that nobody writes to any more."""

STATUS = {
    Outcome.CONVERGED: "FINISHED",
    Outcome.EXHAUSTED: "FINISHED",
    Outcome.DIVERGED: "FINISHED",
    Outcome.FAILED: "FAILED",
    Outcome.CANCELLED: "KILLED",
}

PARAM_LENGTH = 6000
"""Longest value of a param that MLflow takes."""
TAG_LENGTH = 8000
"""Longest value of a tag that MLflow takes."""
_SCHEDULE_LENGTH = 2000


EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's page show runs and charts rather than what it has for language models."""


def record_tag(record: Mapping[str, Any]) -> str:
    """What was recorded, as JSON with sorted keys; an explicit list of steps too long for a tag is kept as its digest."""
    kept = {key: record.get(key) for key in ("points", "steps", "measures")}
    steps = json.dumps(kept["steps"])
    if len(steps) > _SCHEDULE_LENGTH:
        kept["steps"] = digest(steps)
    return json.dumps(kept, sort_keys=True)


def covers(recorded: str, asked: str) -> bool:
    """Whether a run with the tag ``recorded`` holds everything that the tag ``asked`` wants, at the same steps."""
    have, want = json.loads(recorded), json.loads(asked)
    same_schedule = all(have[key] == want[key] for key in ("points", "steps"))
    return same_schedule and set(want["measures"] or ()) <= set(have["measures"] or ())


def trace_path(pack: str, part: int) -> str:
    """Artifact path of the traces of a pack's ``part``-th batch of finished trials, counted from 0."""
    return f"{TRACES_FOLDER}/{pack}.parquet" if part == 0 else f"{TRACES_FOLDER}/{pack}-{part}.parquet"


def version() -> str:
    """The program's version, for the `VERSION` tag."""
    try:
        return metadata.version("orchestrate")
    except metadata.PackageNotFoundError:
        # Run from a checkout that was never installed.
        return "unknown"


def digest(text: str) -> str:
    """A short, stable name for a text that is too long to keep."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
