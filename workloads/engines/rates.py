"""How fast a machine is, in seconds: the constants of the cost model. No torch here: planning asks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """Seconds that things take on one core, or on a GPU.

    ``call``: a call into PyTorch; ``product``: a small matrix product in a batch; ``touched``: a number that the batched engine reads or
    writes; ``batched`` and ``fused``: a floating-point operation in
    float64 by either engine (float32 takes half); ``group``: a step of the smallest fused kernel; ``latency``: an operation in a lane that
    has a thread of a GPU to itself, 0 on a core; ``compile``: a fused kernel, before it is cached; ``autograd``: a step of the autograd
    engine. ``source`` says where the numbers come from.
    """

    call: float
    product: float
    touched: float
    batched: float
    fused: float
    group: float
    latency: float
    compile: float
    autograd: float
    source: str


CORE = Rates(2.2e-6, 4e-8, 1.5e-9, 4.5e-11, 2.2e-11, 1.9e-8, 0.0, 1.0, 2.5e-4, "assumed: a core of 40 GFLOP/s, none was measured here yet")
GPU = Rates(2.5e-6, 2e-10, 0.0, 2e-13, 4e-13, 0.0, 2e-9, 3.0, 6e-4, "assumed: a data-center GPU, none was measured here yet")
DEFAULTS = {"cpu": CORE, "cuda": GPU}
