"""A cluster that is elsewhere, looked at by a job of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

from orchestrator.cluster.jobs import Examination, Jobs, sent_environment
from orchestrator.cluster.probe import versions
from orchestrator.diagnosis.check import Check
from orchestrator.errors import OrchestratorError, RayUnavailable, UsageError


def check_remote(address: str, tracking_uri: str | None, storage: str | None) -> Iterator[Check]:
    """Yield what a job finds on the cluster to which jobs are sent at ``address``. Raises `RayUnavailable` where it takes none."""
    jobs = Jobs(address)
    yield Check("jobs", True, f"{jobs.address} takes them")
    try:
        environment = sent_environment(tracking_uri)
    except UsageError as error:
        yield Check("mlflow", False, str(error))
        environment = {}
    # This package travels with the job.
    there = {name: version for name, version in versions().items() if name != "orchestrate"}
    job = jobs.examine(Examination(storage, environment, there))
    said = ""
    for line in jobs.follow(job):
        said = line
    try:
        found = [Check(**check) for check in json.loads(said)]
    except (ValueError, TypeError):
        raise RayUnavailable(f"job {job} of {jobs.address} ended without a word of its own: {jobs.message(job)}") from None
    with suppress(OrchestratorError):
        jobs.forget(job)
    yield from found
