"""Which engine suits which trials. No torch here: planning asks."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from workloads.engines.costs import engine_seconds
from workloads.engines.kernels import kernel_of, losses
from workloads.engines.rates import CORE, Rates
from workloads.factorizations.graphs.facts import closed, facts_of, why_closed
from workloads.losses import Loss
from workloads.trial import TrialSpec


def why_not_fused(spec: TrialSpec, *, cuda: bool = False) -> str | None:
    """Return why the fused engine cannot train ``spec`` well, or ``None`` where it can."""
    kernel, optimizer = kernel_of(spec), spec.optimizer
    if kernel is None:
        return f"it has no kernels for {spec.problem.kind} with factorization {spec.factorization.kind}"
    if optimizer is None or optimizer.kernel is None:
        return f"it has no kernels for optimizer {spec.method.kind}"
    if reason := kernel.why_not(spec, cuda=cuda) or losses.why_not(spec):
        return reason
    if not _has_warp():
        return "Warp is not installed (pip install warp-lang)"
    return None


def remark(spec: TrialSpec, engine: str) -> str:
    """Return why trials of ``spec`` are slower by ``engine`` than others would be; empty where they are not."""
    if engine != "batched":
        return ""
    if why := losses.why_not(spec):
        slow = "runs lane by lane, at some thousand steps a second" if losses.facts(spec).why else "has no fused kernel"
        return f"loss {spec.loss.kind} {slow}: {why}"
    if not spec.factorization.differentiated:
        return ""
    if why := facts_of(spec.factorization, spec.shape, spec.dtype).why:
        return f"factorization {spec.factorization.kind} runs lane by lane, at some thousand steps a second: {why}"
    reason = why_not_fused(spec)
    return f"factorization {spec.factorization.kind} has no fused kernel: {reason}" if reason else ""


def remarks(packs: Sequence[tuple[TrialSpec, str]]) -> list[str]:
    """Return why packs, of each a spec and the engine, are slower or more than they might be; each reason once."""
    slower = (remark(spec, engine) for spec, engine in packs)
    return [*filter(None, dict.fromkeys([*slower, *numbers_apart(spec for spec, _ in packs)]))]


def numbers_apart(specs: Iterable[TrialSpec]) -> Iterator[str]:
    """Yield which losses of ``specs`` have several values of a number that is a constant of their programs, and why it is."""
    values: dict[tuple[type[Loss], str], dict[float, TrialSpec]] = {}
    for spec in specs:
        for name in closed(spec.loss, spec.dtype):
            values.setdefault((type(spec.loss), name), {})[getattr(spec.loss, name)] = spec
    for (kind, name), (spec, *others) in ((key, found.values()) for key, found in values.items()):
        if others:
            yield f"loss {kind.kind} has a program of its own for each value of {name}: {why_closed(spec.loss, (name,), spec.dtype)}"


@cache
def _has_warp() -> bool:
    return importlib.util.find_spec("warp") is not None


def distinct(specs: Iterable[TrialSpec]) -> Iterable[TrialSpec]:
    """Return those of ``specs`` that an engine could think differently of: a pack of ten thousand has few."""
    return {spec.sections: spec for spec in specs}.values()


def chosen(asked: str, specs: Sequence[TrialSpec], rates: Rates = CORE, *, cuda: bool = False) -> str:
    """Return the engine for a pack if ``asked`` is its name, or ``auto`` for the fastest. What is solved has an engine of its own."""
    if specs[0].factorization.solved:
        return "convex"
    return choose(specs, rates, cuda=cuda) if asked == "auto" else asked


def choose(specs: Sequence[TrialSpec], rates: Rates = CORE, *, cuda: bool = False) -> str:
    """Return the fastest engine for a pack of ``specs``, which share a lane key, on a core or, with ``cuda``, on a GPU."""
    if any(why_not_fused(spec, cuda=cuda) for spec in distinct(specs)):
        return "batched"
    return min(("fused", "batched"), key=lambda engine: engine_seconds(engine, specs, rates) - (rates.compile if engine == "fused" else 0))


def on_device(engine: str, spec: TrialSpec, *, cuda: bool) -> str:
    """Return ``engine`` or, where it has nothing for the device that a pack has come to, the one that has."""
    return "batched" if engine == "fused" and why_not_fused(spec, cuda=cuda) else engine
