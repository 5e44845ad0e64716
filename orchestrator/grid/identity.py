"""Trial ids: a hash of what determines a trial's numbers."""

from __future__ import annotations

import hashlib

from workloads.trial import SPEC_VERSION, TrialSpec


def trial_id(spec: TrialSpec) -> str:
    """16 hexadecimal digits that two trials share exactly when they must give the same numbers.

    Covers the whole spec, with defaults filled in and data files by their content, and `workloads.trial.SPEC_VERSION`.
    """
    return hashlib.sha256(f"{SPEC_VERSION}:{spec.canonical()}".encode()).hexdigest()[:16]
