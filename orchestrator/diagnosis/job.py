"""What runs on a cluster that is examined from elsewhere: ``python -m orchestrator.diagnosis.job`` in the job's folder."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from orchestrator.cluster.jobs import Examination
from orchestrator.diagnosis.check import Check
from orchestrator.diagnosis.cluster import check_cluster
from orchestrator.errors import OrchestratorError


def main() -> None:
    """Print what is found, as one line of JSON."""
    examination = Examination.read(Path.cwd())
    os.environ.update(examination.environment)
    checks: list[Check] = []
    try:
        checks.extend(check_cluster("auto", None, examination.storage, examination.client))
    except OrchestratorError as error:
        checks.append(Check("ray", False, str(error)))
    sys.stdout.write(json.dumps([asdict(check) for check in checks]) + "\n")


if __name__ == "__main__":
    main()
