"""Blocks of steps as CUDA graphs: everything can be captured, gives the same bits as step by step, and is faster."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.gpu.cases import Case, Finding, Section
from benchmarks.gpu.training import advance, lanes_of
from tests.contract.references import OPTIMIZERS, beside, pairs, spec
from workloads.engines.batched import BatchedEngine
from workloads.engines.lanes import Lanes
from workloads.trial import TrialSpec

STEPS, TIMED = 200, 640
ARRIVAL = 45
"""The step at whose loss the first lane is to stop: in the middle of a block, which is then taken back."""


def cases(device: torch.device) -> Sequence[Case]:
    """Whatever the batched engine trains, by every optimizer."""
    kinds = [(*pair, optimizer) for pair in pairs(trained=True) for optimizer in OPTIMIZERS]
    return [Case(" ".join(names), partial(_graphs, spec(*names), device)) for names in kinds]


def _graphs(one: TrialSpec, device: torch.device) -> Finding:
    """Train with graphs and without, and stop at a loss with both."""
    specs = [one, beside(one)]
    plain, graphs = BatchedEngine(graphs=False), BatchedEngine()
    with warnings.catch_warnings():
        # What cannot be captured is trained all the same, with a warning.
        warnings.filterwarnings("error", "steps cannot be captured")
        by_step, by_graph = advance(plain, lanes_of(specs, device), STEPS), advance(graphs, lanes_of(specs, device), STEPS)
        wrong = _unlike(by_step, by_graph)
        goal = advance(BatchedEngine(graphs=False), lanes_of(specs, device), ARRIVAL).loss[0]
        stopped = [_stopped(BatchedEngine(graphs=on), lanes_of(specs, device), float(goal)) for on in (False, True)]
        wrong = wrong or _unlike(*stopped)
        seconds = [_timed(plain, by_step), _timed(graphs, by_graph)]
    values = {"step by step, µs": seconds[0] * 1e6, "graphs, µs": seconds[1] * 1e6, "times faster": seconds[0] / seconds[1]}
    return Finding(values, wrong)


def _stopped(engine: BatchedEngine, lanes: Lanes, goal: float) -> Lanes:
    """The lanes when the first one has reached the loss ``goal``."""
    goals = np.array([goal] + [-np.inf] * (len(lanes) - 1))
    while not engine.advance(lanes, np.full(len(lanes), STEPS), goals, STEPS).any():
        pass
    return lanes


def _unlike(by_step: Lanes, by_graph: Lanes) -> str:
    """Where two sets of lanes differ in a bit; empty where they do not."""
    if not np.array_equal(by_step.step, by_graph.step):
        return f"graphs stop at {by_graph.step.tolist()}, not at {by_step.step.tolist()}"
    if not np.array_equal(by_step.loss, by_graph.loss):
        return f"losses differ by {np.abs(by_step.loss - by_graph.loss).max():.1g}"
    same = all(torch.equal(mine, theirs) for mine, theirs in zip(by_step.tensors, by_graph.tensors, strict=True))
    return "" if same else "parameters differ"


def _timed(engine: BatchedEngine, lanes: Lanes) -> float:
    """Seconds a step."""
    advance(engine, lanes, TIMED)
    began = time.perf_counter()
    advance(engine, lanes, TIMED)
    return (time.perf_counter() - began) / TIMED


SECTION = Section(
    "graphs",
    "Two small lanes by the batched engine with CUDA graphs and without: the same bits after as many steps and at the same loss, "
    "and the time of a step. It fails if something cannot be captured.",
    cases,
    needs_cuda="graphs are CUDA's",
)
