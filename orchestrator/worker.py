"""What runs on a worker: one pack, from specs to events. Knows nothing of Ray, so that it can be tested and used without."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping

import torch

from orchestrator.plan import Pack
from workloads.engines.base import create
from workloads.engines.choice import on_device
from workloads.loop import train
from workloads.recording import Recording
from workloads.results import Event, Finished, TrialResult


def run_pack(pack: Pack, recording: Recording, files: Mapping[str, bytes], *, threads: int, cuda: bool) -> Iterator[Event]:
    """Train a pack on ``threads`` cores, or on the GPU this process was given if ``cuda`` and there is one.

    ``files`` maps SHA-256 digests to the content of data files. Yields every trial in exactly one `Finished` event; an exception makes
    all trials not yet handed on `workloads.results.Outcome.FAILED`, with its traceback.
    """
    # Threads stick to a worker process that Ray uses again, so they are set every time.
    torch.set_num_threads(threads)
    device = torch.device("cuda" if cuda and torch.cuda.is_available() else "cpu")
    left = {trial.trial_id for trial in pack.trials}
    began = time.time()
    try:
        engine = create(on_device(pack.engine, pack.trials[0].spec, cuda=device.type == "cuda"))
        for event in train(pack.trials, recording, engine, files=files, device=device, width=pack.width):
            if isinstance(event, Finished):
                left.difference_update(result.trial_id for result in event.results)
            yield event
    except Exception:
        error, now = traceback.format_exc(), time.time()
        yield Finished(tuple(TrialResult.failure(t.trial_id, error, began, now) for t in pack.trials if t.trial_id in left))
