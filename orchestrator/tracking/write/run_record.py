"""From a trial's result to what MLflow keeps of it. Pure functions: no MLflow, no files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.tracking import layout
from orchestrator.tracking.uris import redact
from orchestrator.tracking.write.naming import run_name, varying_first
from workloads.training.results import TrialResult
from workloads.training.trial_state import Outcome, Trace

MetricPoint = tuple[str, float, int, int]
"""One value of one measure: its name, the value, milliseconds since the epoch, and the step. There are hundreds a run."""


@dataclass(frozen=True)
class RunRecord:
    """A child run, complete: times in milliseconds since the epoch, ``files`` by artifact path, ``run_id`` if it can be chosen."""

    run_id: str
    name: str
    status: str
    started: int
    ended: int
    tags: dict[str, str]
    params: dict[str, str]
    metrics: list[MetricPoint]
    files: dict[str, bytes]


def run_record(
    run_id: str, result: TrialResult, spec: Mapping[str, Any], tags: Mapping[str, str], points: int, varying: Sequence[str] = ()
) -> RunRecord:
    """Return the child run of a result. ``spec`` has dotted keys, of which some are ``varying``; ``tags`` are what the sweep adds to each.

    Factors are its artifacts unless a tag says that they are in a file of the sweep's.
    """
    own = {
        layout.KIND: layout.TRIAL,
        layout.TRIAL_ID: result.trial_id,
        layout.OUTCOME: result.outcome.value,
        layout.STEPS: str(result.steps),
        layout.SECONDS: repr(result.seconds),
    }
    if result.outcome is Outcome.DIVERGED:
        # MLflow ticks it green, since nothing went wrong but the training.
        own[layout.NOTE] = f"**diverged** at step {result.steps:,}: its loss was not finite any more"
    elif result.outcome is Outcome.ABORTED:
        own[layout.NOTE] = f"**aborted** at step {result.steps:,}: {spec.get('stop.abort')}"
    ill = result.outcome in (Outcome.DIVERGED, Outcome.ABORTED)
    files = {}
    if result.error is not None:
        error = redact(result.error)
        own[layout.ERROR] = (error.strip().splitlines() or [""])[-1][:500]
        own[layout.NOTE] = f"```\n{error[-(layout.TAG_LENGTH - 100) :]}\n```"
        files[layout.ERROR_FILE] = error.encode()
    if layout.FACTORS not in tags:
        if result.factors and result.outcome is not Outcome.FAILED:
            files[layout.FACTORS_FILE] = _safetensors(result.factors)
        for name, factors in result.checkpoints.items():
            files[layout.checkpoint_path(name)] = _safetensors(factors)
    return RunRecord(
        run_id=run_id,
        name=run_name(result.trial_id, spec, varying, result.outcome.value if ill else ""),
        status=layout.STATUS[result.outcome],
        started=_milliseconds(result.started),
        ended=_milliseconds(result.ended),
        tags={**tags, **own},
        params={key: _param(value) for key, value in varying_first(spec, varying).items()},
        metrics=list(history(result.trace, _milliseconds(result.started), result.seconds, points)),
        files=files,
    )


def thinned(rows: int, points: int) -> NDArray[np.int64]:
    """About ``points`` of ``rows`` row numbers, evenly spread, with the first and the last.

    Rows are already log-spaced in step, so even in rows is even on the axes that are drawn.
    """
    return np.unique(np.linspace(0, rows - 1, min(rows, max(points, 2))).round().astype(np.int64))


def history(trace: Trace, started: int, seconds: float, points: int) -> Iterator[MetricPoint]:
    """Yield about ``points`` values of each measure of a trial that ``started``, in milliseconds since the epoch, and took ``seconds``."""
    if not len(trace.steps):
        return
    chosen = thinned(len(trace.steps), points)
    steps = trace.steps[chosen].tolist()
    # Timestamps follow from the step, so that writing a trial again writes the same rows.
    span, last = 1000 * seconds, max(steps[-1], 1)
    times = [started + round(span * step / last) for step in steps]
    values = trace.values[chosen]
    undefined = np.isnan(values)
    kept = ~undefined
    # An undefined value is left out, unless an earlier one would then pass for the final one.
    kept[-1] |= kept[:-1].any(0)
    # A loss that is not a number is what a diverged trial has to tell.
    kept[:, [key == "loss" for key in trace.columns]] = True
    whole = np.all(kept, axis=0)
    for n, (key, column) in enumerate(zip(trace.columns, values.T.tolist(), strict=True)):
        rows = zip(repeat(key), column, times, steps)
        yield from rows if whole[n] else compress(rows, kept[:, n].tolist())


def _param(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, list | tuple | dict) else str(value)
    if len(text) <= layout.PARAM_LENGTH:
        return text
    tail = f"... ({len(text)} characters, {layout.digest(text)})"
    return text[: layout.PARAM_LENGTH - len(tail)] + tail


def _safetensors(factors: Mapping[str, NDArray[Any]]) -> bytes:
    from safetensors.numpy import save

    # A view of a batch would be written with its neighbours' bytes.
    saved: bytes = save({name: np.ascontiguousarray(factor) for name, factor in factors.items()})
    return saved


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
