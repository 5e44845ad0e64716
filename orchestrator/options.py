"""Where a sweep runs, and what becomes of what it finds: what commands ask for and all below them take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CHECKPOINT_SECONDS = 30.0
"""Seconds between checkpoints."""
PATIENCE = 120.0
"""Seconds that are waited for an MLflow that takes nothing, once all is computed."""


@dataclass(frozen=True)
class Options:
    """Where a sweep runs and what becomes of what it finds; ``None`` where the environment, or else a default, decides.

    ``fresh`` runs trials that MLflow has already; those of the experiments ``reuse_from`` count as the grid's own. ``every`` is the seconds
    between checkpoints, ``patience`` the seconds to wait, once all is computed, for an MLflow that takes nothing. ``workers`` is how many
    packs run at once, by default as many as there is room for. A sweep that was sent to a cluster has its ``sweep_id`` already, and the
    ``job`` in which it runs, with the cluster's address, and the tags of the ``commit`` that its grid belongs to there where it came from.
    """

    address: str | None = None
    tracking_uri: str | None = None
    storage: str | None = None
    fresh: bool = False
    reuse_from: Sequence[str] = ()
    every: float = CHECKPOINT_SECONDS
    patience: float = PATIENCE
    workers: int | None = None
    sweep_id: str | None = None
    job: str | None = None
    commit: Mapping[str, str] | None = None
