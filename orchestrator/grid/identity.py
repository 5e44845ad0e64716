"""Trial ids: a hash of what determines a trial's numbers."""

from __future__ import annotations

import hashlib

from workloads import measures
from workloads.extensions import active
from workloads.trial import SPEC_VERSION, TrialSpec


def trial_id(spec: TrialSpec) -> str:
    """16 hexadecimal digits that two trials share exactly when they must give the same numbers.

    Covers the whole spec, with defaults filled in and data files by their content, users' own code that it is of, and
    `workloads.trial.SPEC_VERSION`.
    """
    return hashlib.sha256(f"{SPEC_VERSION}:{spec.canonical()}{_watched(spec)}".encode()).hexdigest()[:16]


def _watched(spec: TrialSpec) -> str:
    """Return the code of users' own measures by which a trial may end; nothing where it is by built-in ones."""
    code = {measures.code_of(name) for name in measures.watched(spec)} if active() and spec.stop.conditions else set()
    return "".join(f":{digest}" for digest in sorted(code) if digest)
