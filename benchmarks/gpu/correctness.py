"""Every kind and engine on a device against the plain loop, or the same solver, on the CPU.

The cases are those of the contract tests (`tests.contract.references`), so that a kind that is added is looked at here as well.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.gpu.cases import Case, Finding, Section
from benchmarks.gpu.training import TOLERANCE, advance, difference, lanes_of, products
from tests.contract.references import TRAINED, beside, pairs, spec
from tests.workloads import oracle
from workloads.engines.base import create
from workloads.engines.choice import chosen, why_not_fused
from workloads.measures import MEASURES, is_final, reference_of
from workloads.training.loop import train
from workloads.training.recording import Recording
from workloads.training.references import Reference
from workloads.training.results import Finished
from workloads.training.trial_state import Trace
from workloads.trial import Trial, TrialSpec

STEPS = 60
"""Enough for blocks of several lengths to be replayed as graphs."""
COARSE = 1e-4
"""How far float32 may be from float64: a product of numbers that were cut to fewer bits is further off."""
CPU = torch.device("cpu")


def cases(device: torch.device) -> Sequence[Case]:
    """What is trained, what is solved, and what is measured."""
    return [*_trained(device), *_coarse(device), *_solved(device), *_measured(device)]


def _trained(device: torch.device) -> Iterator[Case]:
    for kinds in TRAINED:
        yield Case(" ".join(kinds), partial(_engines, spec(*kinds), device, TOLERANCE))


def _coarse(device: torch.device) -> Iterator[Case]:
    for kinds in pairs(trained=True):
        yield Case(" ".join((*kinds, "float32")), partial(_engines, spec(*kinds, dtype="float32"), device, COARSE))


def _engines(one: TrialSpec, device: torch.device, tolerance: float) -> Finding:
    """How far each engine is from the plain loop, in float64 on the CPU, in the loss and the product of a lane and of the one beside it."""
    specs = [one, beside(one)]
    truths = [oracle.train(s.model_copy(update={"dtype": "float64"}), STEPS) for s in specs]
    found: dict[str, float] = {}
    for engine in ("autograd", "batched", "fused"):
        if engine == "fused" and why_not_fused(one, cuda=device.type == "cuda"):
            continue
        lanes = advance(create(engine), lanes_of(specs, device), STEPS)
        losses = [difference(loss, truth.losses[-1]) for loss, truth in zip(lanes.loss, truths, strict=True)]
        found[engine] = max(*losses, *(difference(w, truth.product) for w, truth in zip(products(lanes), truths, strict=True)))
    return Finding(found, _wrong(found, tolerance))


def _solved(device: torch.device) -> Iterator[Case]:
    for kinds in pairs():
        if spec(*kinds).factorization.solved:
            yield Case(" ".join(kinds), partial(_solvers, spec(*kinds), device))


def _solvers(one: TrialSpec, device: torch.device) -> Finding:
    """How far a solver is from itself on the CPU after as many steps."""
    specs = [one, one.model_copy(update={"problem": one.problem.model_copy(update={"seed": 9})})]
    theirs, mine = (lanes_of(specs, where) for where in (CPU, device))
    for lanes in (theirs, mine):
        machine = create("convex")
        while (lanes.active & ~lanes.solved & (lanes.step < STEPS)).any():
            lanes.active &= ~machine.advance(lanes, np.full(len(lanes), STEPS), np.full(len(lanes), -np.inf), STEPS)
    found = {"convex": difference(products(mine), products(theirs))}
    if not np.array_equal(mine.step, theirs.step):
        return Finding(found, f"solved after {mine.step.tolist()} steps, on the CPU after {theirs.step.tolist()}")
    return Finding(found, _wrong(found, TOLERANCE))


def _measured(device: torch.device) -> Iterator[Case]:
    for kinds in pairs():
        yield Case(" ".join((*kinds, "measures")), partial(_measures, spec(*kinds), device))


def _measures(one: TrialSpec, device: torch.device) -> Finding:
    """How far every measure that is defined, over a whole run of the training loop, is from the same on the CPU."""
    names = tuple(measure.shown for measure in MEASURES if not is_final(measure.shown))
    theirs, mine = (_trace(one, names, where) for where in (CPU, device))
    if not np.array_equal(mine.steps, theirs.steps):
        return Finding(wrong=f"recorded at {mine.steps.tolist()}, on the CPU at {theirs.steps.tolist()}")
    undefined = np.isnan(theirs.values)
    if not np.array_equal(np.isnan(mine.values), undefined):
        return Finding(wrong="not defined where it is on the CPU, or the other way round")
    values, truth = (np.where(undefined, 0.0, trace.values) for trace in (mine, theirs))
    apart = {column: difference(values[:, n], truth[:, n]) for n, column in enumerate(mine.columns)}
    worst = max(apart, key=lambda column: apart[column])
    found = {"measures": apart[worst], "worst of them": worst}
    return Finding(found, _wrong({worst: apart[worst]}, TOLERANCE))


def _trace(one: TrialSpec, names: tuple[str, ...], device: torch.device) -> Trace:
    file = io.BytesIO()
    np.savez(file, W=np.linspace(-1.0, 1.0, math.prod(one.shape)).reshape(one.shape))
    content = file.getvalue()
    array = Reference.model_validate("reference.npz:W").read(content, "reference")
    recording = Recording(names, steps=(0, 1, 10, STEPS), references=dict.fromkeys(filter(None, map(reference_of, names)), array))
    pack = [Trial("t", one.model_copy(update={"stop": one.stop.model_copy(update={"steps": STEPS})}))]
    events = train(pack, recording, create(chosen("batched", [one])), files={"reference": content}, device=device)
    (result,) = [r for event in events if isinstance(event, Finished) for r in event.results]
    return result.trace


def _wrong(found: dict[str, float], tolerance: float) -> str:
    off = [f"{name} is off by {apart:.1g}" for name, apart in found.items() if not apart <= tolerance]
    return "; ".join(off)


SECTION = Section(
    "correctness",
    "The largest difference from the CPU, relative to the largest number: of the plain loop's loss and product for each engine, in float64 "
    f"whatever the trial's precision; of the same solver; of every measure. At most {TOLERANCE:g}, and {COARSE:g} for float32. An empty "
    "`fused` has no kernel for that on this device.",
    cases,
)
