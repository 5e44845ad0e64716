"""The batched engine: all lanes in one program, closed-form gradients, buffers allocated once.

On a CPU the lanes are cut into parts that stay in a core's own cache, each advanced many steps before the next; on a GPU they are one
part, whose blocks of steps are captured as graphs and replayed, so that nothing waits for the host inside a block.

The stop check is exact to the step yet costs little. Lanes are advanced in blocks of several steps; every step's losses are kept, and
looked at once a block. If some lane arrived in the middle, all lanes of its part are put back to the start of the block and advanced to
just that step, which gives the same bits again.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workloads.engines.chance import Chance
from workloads.engines.descent import Descent
from workloads.engines.feed import Feed
from workloads.engines.fits import fit
from workloads.engines.lanes import Lanes
from workloads.factorizations import Factorization
from workloads.factorizations.base import Program
from workloads.factorizations.programs.room import room
from workloads.problems.data.observations import Observations
from workloads.trial import ITEM_BYTES, lane_cost

LONGEST_BLOCK = 64
PART_BYTES = 1 << 21
"""What a part of the lanes may take on a CPU. A step touches half of it, which fits a core's own cache today."""
PART_FLOPS = 500_000
"""What a part has to compute in a step at least, so that its calls into PyTorch do not matter: about a dozen microseconds."""


class BatchedEngine:
    """Trains R lanes side by side (`workloads.engines.base.Engine`). ``graphs``: on a GPU blocks of steps are replayed as graphs."""

    name = "batched"

    def __init__(self, *, graphs: bool = True) -> None:
        self._graphs = graphs
        self._parts: list[_Part] = []
        self._params: list[Tensor] | None = None

    @torch.no_grad()
    def advance(self, lanes: Lanes, until_step: NDArray[np.int64], until_loss: NDArray[np.float64], limit: int) -> NDArray[np.bool_]:
        """See `workloads.engines.base.Engine.advance`. Each part goes on until one of its lanes has arrived."""
        if self._params is not lanes.params:
            self.release()
            self._parts = [_Part(lanes, slice(start, stop), self._graphs) for start, stop in pairwise(_cuts(lanes))]
            self._params = lanes.params
        reached = np.zeros(len(lanes), dtype=np.bool_)
        for part in self._parts:
            if lanes.active[part.where].any():
                reached[part.where] = part.advance(until_step[part.where], until_loss[part.where], limit)
        return reached

    def release(self) -> None:
        """See `workloads.engines.base.Engine.release`."""
        self._parts, self._params = [], None


def _cuts(lanes: Lanes) -> list[int]:
    """Where parts begin and end: as many lanes as stay in cache, but enough to be worth a call; all of them on a GPU."""
    count = len(lanes)
    if lanes.device.type == "cuda":
        return [0, count]
    spec = lanes.spec
    cost = lane_cost(spec, lanes.observations.width)
    cached = PART_BYTES // max(1, cost.touched * ITEM_BYTES[spec.dtype])
    worthwhile = -(-PART_FLOPS // max(1, cost.flops))
    # Parts of equal size: a last one of a single lane would take as many calls as the others.
    parts = max(1, count // max(1, cached, worthwhile))
    return [count * n // parts for n in range(parts + 1)]


class _Steps:
    """The arithmetic of some neighbouring lanes, with every buffer and view made once."""

    def __init__(self, lanes: Lanes, where: slice) -> None:
        self.params = [p[where] for p in lanes.params]
        self.observations = lanes.observations.part(where)
        grads = [room(len(p), p.shape[1:], p) for p in self.params]
        self.fit = fit(lanes.spec.open_loss, self.observations, lanes.loss_scale[where], lanes.loss_numbers[where], self.params[0])
        # dL/dW is the slope itself where entries are observed and nothing scales it.
        same = self.observations.in_place and self.fit.factor is None
        self.outer = self.fit.slope if same else room(len(self.params[0]), (self.observations.size,), self.params[0])
        self.program = _program(lanes.factorization, self.observations.inputs, self.params, grads, self.outer)
        state = {name: [t[where] for t in tensors] for name, tensors in lanes.state.items()}
        optimizer = lanes.spec.optimizer
        assert optimizer is not None, "what is solved has an engine of its own"
        hyper = {name: t[where] for name, t in lanes.hyper.items()}
        self.descent = Descent(optimizer, self.params, grads, state, hyper, self._gradient)
        self._aside = self.params[0].new_empty(len(self.params[0]), 1, 1)
        self.feed = Feed([p.spec for p in lanes.prepared[where]], LONGEST_BLOCK, lanes.dtype, lanes.device)
        chance = _chance(lanes, where, self.observations, hyper) if optimizer.draws else None
        shows = self.observations.inputs is not None
        self.chance = None if shows else chance
        self.chosen = partial(chance.chosen, size=lanes.spec.shown) if shows and chance is not None else None

    @property
    def replayed(self) -> bool:
        """True if a graph of a GPU can replay a step."""
        return self.fit.replayed and getattr(self.program, "replayed", True)

    def forward(self, total: Tensor, place: int) -> None:
        """Bring the slope of the present parameters up to date, and their losses [R, 1, 1], but for their scale: those of the inputs of a
        step, of which `Feed` has the row ``place``, where mini-batches of them are shown."""
        if self.chosen is not None and self.feed.steps is not None:
            self.observations.show(self.chosen(self.feed.steps[place]))
        self._evaluate(total)

    def _evaluate(self, total: Tensor) -> None:
        self.program.forward()
        self.fit.forward(self.program.product, total)

    def step(self, total: Tensor, place: int) -> None:
        """Take a step of training, of which `Feed` has the row ``place``, and go `forward` from where it led."""
        factors, steps = self.feed.row(place)
        if self.chance is not None and steps is not None:
            # Of the slope only the gradient is yet to be made.
            if (noise := self.chance.noise(steps)) is not None:
                self.fit.disturb(noise)
            if (weights := self.chance.weights(steps)) is not None:
                self.fit.slope.mul_(weights)
        self._backward()
        self.descent.step(factors)
        self.forward(total, place + 1)

    def _backward(self) -> None:
        outer = self.observations.adjoint(self.fit.slope, self.outer)
        if self.fit.factor is not None:
            torch.mul(outer, self.fit.factor, out=self.outer)
        self.program.backward()

    def _gradient(self) -> None:
        """Make the gradients those of the present parameters, whose losses nobody wants to know."""
        self._evaluate(self._aside)
        self._backward()


def _program(
    factorization: Factorization, inputs: Tensor | None, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor
) -> Program:
    return factorization.program(params, grads, outer) if inputs is None else factorization.mapped(params, grads, inputs, outer)


def _chance(lanes: Lanes, where: slice, observations: Observations, hyper: Mapping[str, Tensor]) -> Chance:
    prepared = lanes.prepared[where]
    seen = observations.drawn
    index = torch.arange(seen.shape[1], device=lanes.device)
    counts = torch.tensor([p.problem.count for p in prepared], dtype=lanes.dtype, device=lanes.device)
    return Chance([p.spec for p in prepared], hyper, index, seen, counts)


class _Part:
    """Some neighbouring lanes, advanced many steps before the next ones."""

    def __init__(self, lanes: Lanes, where: slice, graphs: bool) -> None:
        self.lanes, self.where = lanes, where
        self.steps = _Steps(lanes, where)
        self.tensors = [t[where] for t in lanes.tensors]
        self.backup = [torch.empty_like(t) for t in self.tensors]
        self.scale = lanes.loss_scale[where].clone()
        count, new = len(self.scale), lanes.params[0].new_empty
        self.losses = new(LONGEST_BLOCK + 1, count)
        self.rows = [row.view(-1, 1, 1) for row in self.losses]
        self.present = new(count, 1, 1)
        """Losses of the present parameters, but for their scale, once ``fresh``."""
        self.fresh = False
        self.block = 1
        replayed = graphs and lanes.device.type == "cuda" and self.steps.replayed
        self.graphs: dict[int, torch.cuda.CUDAGraph | None] | None = {} if replayed else None

    def advance(self, until_step: NDArray[np.int64], until_loss: NDArray[np.float64], limit: int) -> NDArray[np.bool_]:
        """`BatchedEngine.advance` for these lanes."""
        lanes, where = self.lanes, self.where
        active = lanes.active[where]
        lowest = torch.from_numpy(np.where(active, until_loss, -np.inf)).to(lanes.device)
        parked = torch.from_numpy(~active).to(lanes.device) if not active.all() else None
        remaining = min(int((until_step - lanes.step[where])[active].min()), limit)
        while True:
            block = max(0, min(self.block, remaining))
            if self.graphs is not None and block:
                # Graphs have lengths that are powers of two.
                block = 1 << (block.bit_length() - 1)
            self.steps.feed.fill(lanes.step[where], block)
            losses = self._run(block)
            going = (losses > lowest) & (losses < torch.inf)
            if parked is not None:
                going |= parked
            arrived = np.flatnonzero(~going.all(1).numpy(force=True))
            if len(arrived):
                done = int(arrived[0])
                if done < block:
                    self._back_up(done)
                self.block = max(1, self.block // 2)
            else:
                done = block
                self.block = min(LONGEST_BLOCK, 2 * self.block)
            # Every block: should the next one run out of memory, steps and parameters belong together.
            lanes.step[where] = np.where(active, lanes.step[where] + done, lanes.step[where])
            remaining -= done
            if len(arrived) or remaining <= 0:
                break
        lanes.loss[where] = np.where(active, losses[done].numpy(force=True), lanes.loss[where])
        reached: NDArray[np.bool_] = active & (~going[done].numpy(force=True) | (lanes.step[where] >= until_step))
        return reached

    def _run(self, steps: int) -> Tensor:
        """Take ``steps`` steps; the losses before each of them and after the last [steps + 1, R], in float64."""
        if not self.fresh:
            self.steps.forward(self.present, 0)
            self.fresh = True
        if steps and self.graphs is not None:
            self._replay(steps)
        else:
            self._take(steps)
        return (self.losses[: steps + 1] * self.scale).double()

    def _take(self, steps: int) -> None:
        if steps:
            for kept, tensor in zip(self.backup, self.tensors, strict=True):
                kept.copy_(tensor)
        self.rows[0].copy_(self.present)
        for place, row in enumerate(self.rows[1 : steps + 1]):
            self.steps.step(row, place)
        self.present.copy_(self.rows[steps])

    def _replay(self, steps: int) -> None:
        """`_take` on a GPU: the second time, and from then on, as a graph."""
        assert self.graphs is not None
        graph = self.graphs.get(steps)
        if graph is None and steps in self.graphs:
            try:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self._take(steps)
            except RuntimeError as error:
                warnings.warn(f"steps cannot be captured as a graph and run one by one: {error}", stacklevel=2)
                self.graphs = None
                self._take(steps)
                return
            self.graphs[steps] = graph
        if graph is None:
            # The first time libraries allocate what they need, which no graph may contain.
            self.graphs[steps] = None
            self._take(steps)
        else:
            graph.replay()

    def _back_up(self, steps: int) -> None:
        """Undo the last block and take only ``steps`` steps of it."""
        for kept, tensor in zip(self.backup, self.tensors, strict=True):
            tensor.copy_(kept)
        self.steps.forward(self.present, 0)
        for place in range(steps):
            self.steps.step(self.present, place)
