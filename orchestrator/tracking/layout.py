"""Every name under which something is kept in MLflow: tags, artifacts, metrics. Nothing else spells them out."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.git import commit_of
from workloads.training.trial_state import Outcome

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
"""Tag: JSON of what was recorded and when (`recording_tag`)."""
ENGINE = "orchestrate.engine"
DEVICE = "orchestrate.device"
"""Tags of a child run: the engine that trained it, and the name of the processor or GPU."""
TRACE = "orchestrate.trace"
"""Tag of a child run: path of the parquet, among its parent's artifacts, that holds its trace."""
FACTORS = "orchestrate.factors"
"""Tag of a child run: path of the file, among its parent's artifacts, that holds its final factors, where they are none of its own."""
FORMAT = "orchestrate.format"
"""Tag of a parent run: how it keeps what its trials come to. From `WITH_RESULTS` on, there are tables of it."""
WITH_RESULTS = 2
VARIES = "orchestrate.varies"
"""Tag of a parent run: JSON list of the keys that its trials differ in, in the order of the grid."""
DETAIL = "orchestrate.runs"
"""Tag of a parent run: which of its trials have runs: ``all``, ``sampled`` or ``none``."""
ERROR = "orchestrate.error"
"""Tag of a failed child run: the last line of its traceback."""
ATTEMPT = "orchestrate.attempt"
"""Tag of a child run: the how-manieth run of its trial in its sweep it is, from 1; of a parent run, how often it has been taken up."""
HOST = "orchestrate.host"
MACHINE = "orchestrate.machine"
PROCESS = "orchestrate.process"
"""Tags of a parent run: where its driver runs, and which process that is (`orchestrator.liveness`)."""
OVERRIDES = "orchestrate.overrides"
"""Tag of a parent run: JSON list of what ``--set`` said."""
GRID = "orchestrate.grid"
"""Tag of a parent run: path of the grid file."""
FRESH = "orchestrate.fresh"
"""Tag of a parent run: its trials were to be run whether others had been or not."""
REUSE_FROM = "orchestrate.reuse_from"
"""Tag of a parent run: JSON list of the experiments, besides its own, whose trials it reuses."""
TRIALS_DIGEST = "orchestrate.trials_digest"
"""Tag of a parent run: digest of its trials' ids."""
STORAGE = "orchestrate.storage"
"""Tag of a parent run: where its checkpoints are."""
JOB = "orchestrate.job"
"""Tag of a parent run: the Ray job in which its driver runs, and the address where the cluster takes jobs; empty if it is no job."""
CANCEL = "orchestrate.cancel"
"""Tag of a parent run: somebody wants it to end."""
PROGRESS = "orchestrate.progress"
"""Tag of a parent run: how far its sweep is, and when it said so (`orchestrator.execution.progress.State`), while it runs."""
AT_ENDS = "orchestrate.at_ends"
"""Tag of a parent run: JSON list of columns that some of its trials have at their ends only. They had ended before these were asked for."""
RUNS_IN = "orchestrate.runs_in"
"""Tag of a parent run: JSON list of the ids of other experiments in which runs of its trials are: it has them from a sweep there."""
IMPORTING = "orchestrate.importing"
"""Tag of a parent run that is being taken in from a file, until all of it is there."""
LEASE = "orchestrate.lease."
"""Start of tags of an experiment: each is of a process that writes to it, or waits for its turn (`orchestrator.tracking.lease`)."""
COUNT = "sweep/"
"""Start of the metrics of a parent run, so that MLflow's charts have them in a section of their own, after the measures."""
WRITTEN = f"{COUNT}trials_written"
"""Metric of a parent run: how many trials its n-th attempt has written, with n as the step. One point after each batch."""
TRIALS = "orchestrate.trials"
REUSED = "orchestrate.reused"
VERSION = "orchestrate.version"
VERSIONS = "orchestrate.version."
"""Start of tags of a parent run: the versions of what else it was run with, such as ``orchestrate.version.torch``."""
VERSIONED = ("mlflow", "ray", "torch")
COMMIT = "mlflow.source.git.commit"
"""Tag of a parent run, shown by MLflow's page: the commit of the work tree in which its grid lies."""
DIRTY = "orchestrate.git_dirty"
"""Tag of a parent run: whether the grid, or something else there that Git tracks, was not as it is in that commit."""

PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"
RUN_NAME = "mlflow.runName"
USER = "mlflow.user"
SOURCE_NAME = "mlflow.source.name"

GRID_FILE = "grid.yaml"
PLAN_FILE = "plan.json"
TRIALS_FILE = "trials.parquet"
RESULTS_FOLDER = "results"
FACTORS_FOLDER = "factors"
TRACES_FOLDER = "traces"
CHECKPOINTS_FOLDER = "checkpoints"
LOGS_FOLDER = "logs"
FACTORS_FILE = "factors.safetensors"
ERROR_FILE = "error.txt"
FIGURES_FOLDER = "figures"
CLAIMS_FILE = "claims.json"
REPORT_FILE = "report.html"
CODE_FOLDER = "code"
"""The code of users' own that a sweep's kinds and measures are from (`workloads.extensions.source.packed`)."""
DATA_FOLDER = "data"
DATA_NAMES = f"{DATA_FOLDER}/names.json"
"""Of a sweep that came from a file: its grid's data files, by digest, and the digests by the names that the grid has for them."""

DATA_DIGESTS = f"{DATA_FOLDER}/digests.json"
"""Of a sweep with code of users' own, without which its grid cannot be read: the digests of its grid's data files by their names there."""

RESULT = {
    "trial_id": "object",
    "run_id": "object",
    "attempt": "int64",
    "outcome": "object",
    "steps": "int64",
    "seconds": "float64",
    "trace": "object",
    "factors": "object",
    "error": "object",
}
"""Columns of the tables of what trials have come to, with pandas' types: a trial's run, and the paths of its trace and factors among the
sweep's artifacts, are null where there is none."""
MEASURE = "measure/"
"""What comes before a measure's name in them."""

DELETED = "deleted"
"""What stands in place of its outcome for a trial whose run was deleted."""

TERMINAL = frozenset({"FINISHED", "FAILED", "KILLED"})
"""Statuses of a run that nobody writes to any more."""

STATUS = {
    Outcome.CONVERGED: "FINISHED",
    Outcome.EXHAUSTED: "FINISHED",
    Outcome.DIVERGED: "FINISHED",
    Outcome.FAILED: "FAILED",
    Outcome.CANCELLED: "KILLED",
    Outcome.ABORTED: "FINISHED",
}

MOST_KEYS = 30
"""Keys that are kept of those that trials differ in."""
KEY_LENGTH = 250
"""Longest name of a tag or a param that MLflow takes."""
NAME_LENGTH = 250
"""Longest name of a run that MLflow takes."""
PARAM_LENGTH = 6000
"""Longest value of a param that MLflow takes."""
TAG_LENGTH = 8000
"""Longest value of a tag that MLflow takes."""
_SCHEDULE_LENGTH = 2000
_CHECKPOINTS = ("checkpoint_steps", "checkpoint_losses")
_CODE = "code"
REFERENCES = "references"
"""In a `RECORD` tag: the SHA-256 of the code of each measure that is a user's own; of each that is against an array of a data file, that
of the file's content, and the array."""


NOTHING = '{"measures": [], "points": null, "steps": null}'
"""What is recorded by a run that says nothing of it."""
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's page show runs and charts rather than what it has for language models."""


def recording_tag(record: Mapping[str, Any]) -> str:
    """Return what was recorded, as JSON with sorted keys; an explicit list of steps too long for a tag is kept as its digest."""
    kept = {key: record.get(key) for key in ("points", "steps", "measures")}
    kept |= {key: record[key] for key in (*_CHECKPOINTS, _CODE, REFERENCES) if record.get(key)}
    steps = json.dumps(kept["steps"])
    if len(steps) > _SCHEDULE_LENGTH:
        kept["steps"] = digest(steps)
    return json.dumps(kept, sort_keys=True)


def covers(recorded: str, asked: str) -> bool:
    """Return whether a run with the tag ``recorded`` holds everything that the tag ``asked`` wants, at the same steps."""
    return lacking(recorded, asked) is None


def lacking(recorded: str, asked: str) -> str | None:
    """Return in words what a run with the tag ``recorded`` lacks of what the tag ``asked`` wants; ``None`` if nothing."""
    have, want = json.loads(recorded), json.loads(asked)
    if missing := _missing(have, want):
        return f"recorded without {', '.join(missing)}"
    if other := _with_other(_CODE, have, want):
        return f"recorded by other code of {', '.join(other)}"
    if other := _with_other(REFERENCES, have, want):
        return f"recorded against other arrays: {', '.join(other)}"
    if any(have.get(key) != want.get(key) for key in ("points", "steps")):
        return "recorded at other steps"
    return "recorded with other checkpoints" if any(have.get(key) != want.get(key) for key in _CHECKPOINTS) else None


def unrecorded(recorded: str, asked: str) -> list[str] | None:
    """Return the measures that a run with the tag ``recorded`` lacks of those that the tag ``asked`` wants, where all else is the same."""
    have, want = json.loads(recorded), json.loads(asked)
    if any(have.get(key) != want.get(key) for key in ("points", "steps", *_CHECKPOINTS)):
        return None
    others = (name for key in (_CODE, REFERENCES) for name in _with_other(key, have, want))
    return list(dict.fromkeys([*_missing(have, want), *others]))


def _missing(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
    return sorted(set(want["measures"] or ()) - set(have["measures"] or ()))


def _with_other(key: str, have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
    """Return the measures of which the tags have other digests under a ``key``."""
    return [name for name in want["measures"] or () if have.get(key, {}).get(name) != want.get(key, {}).get(name)]


def at_ends(tags: Mapping[str, str]) -> frozenset[str]:
    """Return the columns that some trials of a sweep with these tags have at their ends only."""
    return frozenset(json.loads(tags.get(AT_ENDS, "[]")))


def trace_path(pack: str, trial_ids: Iterable[str]) -> str:
    """Artifact path of the traces of some trials of a pack; the same for the same trials, so that writing them again leaves one file."""
    return f"{TRACES_FOLDER}/{_batch_name(pack, trial_ids)}.parquet"


def results_path(pack: str, trial_ids: Iterable[str]) -> str:
    """Artifact path of what some trials of a pack have come to; the same for the same trials."""
    return f"{RESULTS_FOLDER}/{_batch_name(pack, trial_ids)}.parquet"


def factors_path(pack: str, trial_ids: Iterable[str]) -> str:
    """Artifact path of the final factors of some trials of a pack; the same for the same trials."""
    return f"{FACTORS_FOLDER}/{_batch_name(pack, trial_ids)}.safetensors"


def _batch_name(pack: str, trial_ids: Iterable[str]) -> str:
    return f"{pack}-{hashlib.sha256(' '.join(trial_ids).encode()).hexdigest()[:8]}"


def checkpoint_path(name: str) -> str:
    """Artifact path of a trial's factors at a checkpoint: ``step-1000``, or ``loss-0.01`` where that loss was first reached."""
    return f"{CHECKPOINTS_FOLDER}/{name}.safetensors"


def log_path(attempt: int) -> str:
    """Artifact path of what a sweep said when it was taken up for the n-th time."""
    return f"{LOGS_FOLDER}/{attempt:04d}.txt"


def page(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """Return the address of a run, or one of its artifacts, in whatever MLflow page a link to it is shown on."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{f'/artifacts/{artifact}' if artifact else ''}"


def sweep_name(sweep_id: str) -> str:
    """Return what a sweep's run is called until somebody gives it a name."""
    return f"sweep-{sweep_id}"


def run_id(parent_id: str, started: int, place: int, trial_id: str, attempt: int) -> str:
    """Return the id of a trial's run, where it can be chosen: the same for the same trial, so that writing it again leaves one run.

    ``place`` is the trial's in its sweep, which ``started`` so many milliseconds after the epoch. Ids are in the order of sweeps and, in
    one, of places: ids lead the indexes of MLflow's tables, and rows that are written together are to lie together.
    """
    told = hashlib.sha256(f"{parent_id} {trial_id} {attempt}".encode()).hexdigest()
    return f"{started // 1000 % 2**32:08x}{place % 2**24:06x}{attempt % 2**8:02x}{told[:16]}"


def version() -> str:
    """Return the program's version, for the `VERSION` tag."""
    try:
        return metadata.version("orchestrate")
    except metadata.PackageNotFoundError:
        # Run from a checkout that was never installed.
        return "unknown"


def commit_tags(grid: Path) -> dict[str, str]:
    """Return which commit a grid file belongs to, as tags; none where Git does not say at once."""
    commit = commit_of(grid)
    if commit is None:
        return {}
    return {COMMIT: commit.name} | ({} if commit.dirty is None else {DIRTY: str(commit.dirty).lower()})


def versions() -> dict[str, str]:
    """Return the versions of what computes and stores a sweep, as tags; no library is imported for that."""
    found = {f"{VERSIONS}python": platform.python_version()}
    for name in VERSIONED:
        with suppress(metadata.PackageNotFoundError):
            found[f"{VERSIONS}{name}"] = metadata.version(name)
    return found


def digest(text: str) -> str:
    """Return a short, stable name for a text that is too long to keep."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
