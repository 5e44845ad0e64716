"""The final factors of trials, from files of their sweeps or from their runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray

from orchestrator.errors import UsageError
from orchestrator.tracking import layout
from orchestrator.tracking.factors import decode_factors
from orchestrator.tracking.read.queries import SweepSummary
from orchestrator.tracking.read.tables import find_trials, match_trials
from orchestrator.tracking.store import Store, translated
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


def load_factors(
    store: Store, sweep: SweepSummary, trials: str | Collection[str] | None = None
) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Yield the trials of a sweep that have ended, or those of ``trials``, each with its final factors by name.

    Those at a checkpoint that was asked for are there, too: ``W1 at step-1000``. Unless all are asked for, raises `UsageError` for a
    trial that has none (it has not ended, has failed, or was deleted), and what `match_trials` raises. One file is in memory at a time.
    """
    with translated(store.display):
        found = find_trials(store, sweep, measures=False)
        rows = found.ended.assign(trial_id=found.trials["trial_id"])
        there = rows[rows["outcome"].notna() & ~rows["outcome"].isin([layout.DELETED, Outcome.FAILED.value])]
        if trials is not None:
            wanted = match_trials(list(rows["trial_id"]), trials)
            missing = sorted(set(wanted) - set(there["trial_id"]))
            if missing:
                raise UsageError(f"sweep {sweep.sweep_id} has no factors of {', '.join(missing[:5])}: `orchestrate runs` says why")
            there = there[there["trial_id"].isin(wanted)]
        packed = there["factors"].notna()
        for (parent, path), ids in there[packed].groupby(["parent", "factors"], sort=False)["trial_id"]:
            content = found.artifacts(store, str(parent)).read(str(path))
            if content is not None:
                yield from _readable(lambda: list(decode_factors(content, set(ids)))) or ()  # noqa: B023
        yield from _of_runs(store, there[~packed & there["run_id"].notna()])


def _of_runs(store: Store, trials: pd.DataFrame) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Yield the factors of trials whose runs have them."""
    from safetensors.numpy import load

    for trial_id, run_id in zip(trials["trial_id"], trials["run_id"], strict=True):
        artifacts = store.artifacts_of(run_id)
        content = artifacts.read(layout.FACTORS_FILE)
        factors: dict[str, NDArray[Any]] = (None if content is None else _readable(lambda: load(content))) or {}  # noqa: B023
        for path in artifacts.names(layout.CHECKPOINTS_FOLDER):
            content, checkpoint = artifacts.read(path) or b"", PurePosixPath(path).stem
            kept = _readable(lambda: load(content)) or {}  # noqa: B023
            factors |= {f"{name} at {checkpoint}": factor for name, factor in kept.items()}
        if factors:
            yield trial_id, factors


def _readable(decoded: Callable[[], T]) -> T | None:
    """Return what a file holds; ``None`` where it is damaged: whoever wrote it did not come to its end."""
    from safetensors import SafetensorError

    try:
        return decoded()
    except (ValueError, LookupError, SafetensorError):
        return None
