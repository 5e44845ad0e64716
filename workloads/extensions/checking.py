"""What ``orchestrate check`` says of users' own kinds and measures: each is tried, on what a grid has of it or on what can be guessed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from workloads import measures
from workloads.amounts import amount
from workloads.engines.choice import why_not_fused
from workloads.engines.pointwise import pointwise
from workloads.extensions.loading import REGISTRIES, active, place_of, place_of_measure
from workloads.extensions.locating import ExtensionError, explained, within
from workloads.extensions.trying import (
    SLOPE,
    TRY_SECONDS,
    apart_error,
    shapes_of,
    slope_error,
    slope_of_loss_error,
    try_factorization,
    try_loss,
)
from workloads.factorizations import Factorization
from workloads.factorizations.graphs.facts import closed, why_closed
from workloads.factorizations.graphs.known import graph_of
from workloads.kinds import Kind
from workloads.measures import Measure
from workloads.measures.single import NoColumns
from workloads.trial import KINDS, TrialSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHAPES = ((5, 4), (4, 4), (5, 4, 3), (4, 4, 4), (4, 3, 3, 2), (6,))
"""Shapes that a factorization is tried on of which nothing else is known, until it takes one."""
LANES = 64
"""Lanes whose speed is measured."""
_SHAPES = {1: (6,), 2: (5, 4), 3: (4, 4, 4)}
_PROBLEMS = {1: "vector_sensing", 2: "matrix_completion", 3: "tensor_completion"}
_FACTORIZATIONS: dict[int, Mapping[str, Any]] = {
    1: {"kind": "diagonal", "depth": 2},
    2: {"kind": "deep_matrix", "depth": 2},
    3: {"kind": "cp", "components": 2},
}
"""What a kind is tried with of which nothing else is known, by order."""
NEEDS_GRID = "give a grid that has it, as --grid"


@dataclass(frozen=True)
class Finding:
    """A line on a kind or measure; ``wrong`` if it has to be mended."""

    text: str
    wrong: bool = False


def own_kinds() -> list[tuple[str, type[Kind]]]:
    """Return the kinds of users' code, each with the part of a spec that it is of."""
    return [(part, model) for part, registry in REGISTRIES.items() for model in registry.values() if model.code]


def own_measures() -> list[Measure]:
    """Return the measures of users' code."""
    return [row for row in measures.MEASURES if row.code]


def check(specs: Sequence[TrialSpec] = (), seconds: float = TRY_SECONDS) -> Iterator[Finding]:
    """Yield what there is to say of all code that is active, tried on ``specs`` where there are any; no call may take longer than
    ``seconds``."""
    for extension in active():
        parts = [f"{part} {model.kind}" for part, model in own_kinds() if model.code == extension.digest]
        parts += [f"measure {row.shown}" for row in own_measures() if row.code == extension.digest]
        yield Finding(f"{extension.name} (SHA-256 {extension.digest[:12]}): {', '.join(parts)}")
    tried: list[TrialSpec] = []
    for part, model in own_kinds():
        checks = _CHECKS[part]
        try:
            for one in _specs_of(part, model, specs, seconds):
                tried.append(one)
                yield Finding(f"{part} {model.kind} on {_sizes(one.shape)}:")
                yield from checks(one, seconds)
        except ExtensionError as error:
            yield Finding(str(error), wrong=True)
        except Exception as error:
            words = " ".join(str(error).split())
            yield Finding(explained(error) or f"{place_of(model)}: {model.kind}: {type(error).__name__}: {words}", wrong=True)
    for row in own_measures():
        yield _measure(row, list(specs) or [*tried, *(_spec(None, shape) for shape in ((5, 4), (5, 4, 3), (6,)))], seconds)


def _specs_of(part: str, model: type[Kind], specs: Sequence[TrialSpec], seconds: float) -> list[TrialSpec]:
    """Return specs to try a kind on: one of each that is given, or one with keys that are guessed. Raises `ExtensionError`."""
    given = {getattr(spec, part).canonical + str(spec.shape): spec for spec in specs if isinstance(getattr(spec, part), model)}
    if given:
        return list(given.values())
    if specs:
        raise ExtensionError(f"{place_of(model)}: the grid has no trial of {part} {model.kind}")
    if issubclass(model, Factorization):
        return [_spec(*_guessed(model, seconds))]
    order = getattr(model, "order", 2) or 3
    return [_spec(None, _SHAPES[order], **{part: _instance(model, order)})]


def _guessed(model: type[Factorization], seconds: float) -> tuple[Factorization, tuple[int, ...]]:
    """Return a factorization with small keys, and a shape that it takes. Raises `ExtensionError` if it takes none."""
    expected = len(inspect.signature(model.product).parameters) - 1
    found: list[tuple[bool, ExtensionError]] = []
    for shape in SHAPES:
        one = _instance(model, len(shape))
        try:
            if not list(one.conflicts(shape)):
                try_factorization(one, shape, seconds)
                return one, shape
        except ExtensionError as error:
            found.append((len(_shapes_or_none(one, shape)) == expected, error))
        except Exception as error:
            found.append((False, ExtensionError(explained(error) or f"{place_of(model)}: {error}")))
    if not found:
        raise ExtensionError(f"{place_of(model)}: {model.kind} takes none of the shapes {', '.join(map(_sizes, SHAPES))}: {NEEDS_GRID}")
    # What is said of a shape that it may be meant for.
    raise next((error for fits, error in found if fits), found[-1][1])


def _shapes_or_none(factorization: Factorization, shape: tuple[int, ...]) -> Any:
    try:
        return shapes_of(factorization, shape)
    except ExtensionError:
        return {}


def _instance(model: type[Any], order: int) -> Any:
    """Return a kind with small keys, by their types. Raises `ExtensionError` if that is not possible."""
    keys = {name: _guess(model, name, order) for name, field in model.model_fields.items() if field.is_required()}
    if issubclass(model, KINDS["problem"].base):
        drawn: dict[str, Any] = {"target": {"rank": 1} if order > 1 else {}, "observed": 10 if order > 1 else 3}
        keys |= {"shape": _SHAPES[order]} | ({} if model.invents else drawn)
    elif "scale" in model.model_fields and issubclass(model, KINDS["init"].base):
        keys["scale"] = 0.1
    try:
        return model.model_validate(keys)
    except ValidationError as error:
        raise ExtensionError(f"{place_of(model)}: {model.kind} takes none of {keys}: {NEEDS_GRID}") from error


def _guess(model: type[Kind], name: str, order: int) -> Any:
    annotation = str(model.model_fields[name].annotation)
    values = {"list": [2] * order, "tuple": (2,) * order, "int": 2, "float": 1e-3, "bool": True}
    found = next((value for kind, value in values.items() if kind in annotation), None)
    if found is None:
        raise ExtensionError(f"{place_of(model)}: {model.kind} cannot be tried without its {name}: {NEEDS_GRID}")
    return found


def _spec(factorization: Factorization | None, shape: tuple[int, ...], **parts: Any) -> TrialSpec:
    order = min(len(shape), 3)
    seen: dict[str, Any] = {"target": {"rank": 1}, "observed": 0.5} if order > 1 else {"target": {}, "observed": 3}
    fields: dict[str, Any] = {
        "problem": {"kind": _PROBLEMS[order], "shape": list(shape), **seen},
        "factorization": factorization or _FACTORIZATIONS[order],
        "init": {"kind": "gaussian", "scale": 0.1},
        "optimizer": {"kind": "gd", "lr": 1e-6},
        "stop": {"steps": 10},
    }
    if getattr(parts.get("loss"), "signs", False):
        fields["problem"]["signs"] = True
    return TrialSpec.model_validate({**fields, **parts})


def _factorization(spec: TrialSpec, seconds: float) -> Iterator[Finding]:
    import torch

    one, shape = spec.factorization, spec.shape
    factors = try_factorization(one, shape, seconds)
    yield Finding(f"  factors: {', '.join(f'{name} {_sizes(sizes)}' for name, sizes in one.shapes(shape).items())}")
    rng = torch.Generator().manual_seed(2)
    outer = torch.randn(len(factors[0]), *shape, generator=rng, dtype=torch.float64)
    error = within(seconds, lambda: slope_error(one, factors, outer), f"the gradient of {one.kind}")
    if not error < SLOPE:
        where = place_of(type(one).product)
        yield Finding(
            f"{where}: the gradient of {one.kind} is not that of its product: finite differences differ by {error:.0e}", wrong=True
        )
    else:
        yield Finding(f"  gradient: as finite differences have it, to {error:.0e}")
    apart = apart_error(one, factors)
    same = "the same bits alone and in a pack" if apart == 0 else f"alone and in a pack they differ by {apart:.0e} of the largest entry"
    yield Finding(f"  runs: independent of each other; {same}")
    if isinstance(reason := graph_of(one, list(one.shapes(shape).values()), torch.float64), str):
        yield Finding(f"  lanes: one after another, not side by side: {reason}")
    yield from _speed(spec, seconds)


def _speed(spec: TrialSpec, seconds: float) -> Iterator[Finding]:
    import torch

    from workloads.engines.calibration import step_timed

    cpu = torch.device("cpu")
    reason = why_not_fused(spec)
    engine = "batched" if reason else "fused"
    taken = within(2 * seconds, lambda: step_timed(engine, spec, LANES, cpu), "training")
    yield Finding(f"  speed: {LANES / taken:,.0f} trial-steps/s on {engine}, {LANES} runs side by side on a core")
    if reason:
        yield Finding(f"  engine: batched, not fused: {reason}")


def _start(spec: TrialSpec, seconds: float) -> Iterator[Finding]:
    import numpy as np

    assert spec.init is not None
    where = place_of(type(spec.init).draw)
    first, again = (_within(seconds, spec, lambda: spec.initial_factors({})) for _ in range(2))
    wanted = list(spec.factor_shapes.values())
    if [np.shape(factor) for factor in first] != wanted:
        found = ", ".join(_sizes(np.shape(factor)) for factor in first)
        raise ExtensionError(f"{where}: draw of {spec.init.kind} gives factors {found}, not {', '.join(map(_sizes, wanted))}")
    if not all(np.array_equal(one, other) for one, other in zip(first, again, strict=True)):
        raise ExtensionError(f"{where}: draw of {spec.init.kind} gives other factors each time: draw them from rng alone")
    yield Finding(f"  factors: {', '.join(map(_sizes, wanted))}, the same each time")


def _optimizer(spec: TrialSpec, seconds: float) -> Iterator[Finding]:
    import numpy as np

    assert spec.optimizer is not None
    specs = [spec.model_copy(update={"seed": seed}) for seed in range(3)]
    together = _within(seconds, spec, lambda: _trained(specs))
    for lane, one in enumerate(specs):
        alone = _within(seconds, spec, partial(_trained, [one]))
        if not all(np.allclose(a[lane], b[0], rtol=1e-9, equal_nan=True) for a, b in zip(together, alone, strict=True)):
            raise ExtensionError(f"{place_of(type(spec.optimizer).bind)}: bind of {spec.optimizer.kind} mixes runs")
    yield Finding("  runs: independent of each other")
    yield from _speed(spec, seconds)


def _trained(specs: Sequence[TrialSpec]) -> list[NDArray[np.float64]]:
    """Return the parameters [R, ...] of a few steps."""
    import numpy as np
    import torch

    from workloads.engines.base import create
    from workloads.engines.lanes import Lanes, Prepared

    lanes = Lanes([Prepared(one, one.problem.realize({}), one.initial_factors({})) for one in specs], torch.device("cpu"))
    engine, steps = create("batched"), np.full(len(specs), 10)
    while (lanes.step < steps).any():
        engine.advance(lanes, steps, np.full(len(specs), -np.inf), 10)
    return [p.numpy() for p in lanes.params]


def _problem(spec: TrialSpec, seconds: float) -> Iterator[Finding]:
    import numpy as np

    where = place_of(type(spec.problem).realize)
    first, again = (_within(seconds, spec, lambda: spec.problem.realize({})) for _ in range(2))
    arrays = [(getattr(first, name), getattr(again, name)) for name in ("truth", "mask", "target", "measurements", "values")]
    if not all(np.array_equal(one, other) if one is not None else other is None for one, other in arrays):
        raise ExtensionError(f"{where}: realize of {spec.problem.kind} gives other data each time: draw them by seed alone")
    seen = first.values if spec.problem.sensing else first.mask
    if seen is None:
        need = "measurements and values" if spec.problem.sensing else "mask and target"
        raise ExtensionError(f"{where}: realize of {spec.problem.kind} gives no {need}")
    _within(seconds, spec, lambda: _trained([spec]))
    yield Finding(f"  data: {amount(first.count, 'observation')}, the same each time")


def _loss(spec: TrialSpec, seconds: float) -> Iterator[Finding]:
    import torch

    loss, where = spec.loss, place_of(type(spec.loss).pointwise)
    prediction, observed, each = try_loss(loss, seconds)
    over = f"  loss: the {loss.reduction} over the observations"
    if loss.squares is not None:
        if not torch.allclose(each, loss.squares * (prediction - observed).square(), rtol=1e-9):
            raise ExtensionError(f"{where}: pointwise of {loss.kind} is not {loss.squares:g} times the squared residual, as squares says")
        yield Finding(f"{over} of {loss.squares:g} times the squared residuals")
    else:
        error = slope_of_loss_error(loss, prediction, observed)
        if not error < SLOPE:
            said = f"finite differences differ by {error:.0e}"
            raise ExtensionError(f"{where}: the derivative of {loss.kind} is not that of its numbers: {said}")
        yield Finding(f"{over}; its derivative is as finite differences have it, to {error:.0e}")
        if isinstance(reason := pointwise(loss, torch.float64), str):
            yield Finding(f"  lanes: one after another, not side by side: {reason}")
        for name in closed(loss) if not isinstance(reason, str) else ():
            yield Finding(f"  lanes: each value of {name} is a program of its own: {why_closed(loss, (name,))}")
    yield from _speed(spec, seconds)


def _measure(row: Measure, specs: Sequence[TrialSpec], seconds: float) -> Finding:
    """Return what a measure fills, for the first of ``specs`` that it is defined for and takes."""
    wrong: Finding | None = None
    for spec in specs:
        if measures.undefined(row.shown, spec) is not None:
            continue
        try:
            columns = within(seconds, partial(measures.column_names, row.shown, spec), f"measure {row.shown}")
        except Exception as error:
            wrong = wrong or Finding(explained(error) or f"{place_of_measure(row)}: {error}", wrong=True)
            if isinstance(error, NoColumns):
                return wrong
        else:
            return Finding(f"measure {row.shown}: column{'s' if len(columns) > 1 else ''} {', '.join(columns)}, on {_sizes(spec.shape)}")
    return wrong or Finding(f"measure {row.shown} is defined for no trial that it was tried on: {NEEDS_GRID}", wrong=True)


def _within(seconds: float, spec: TrialSpec, call: Callable[[], Any]) -> Any:
    return within(seconds, call, f"a trial of {spec.problem.kind} and {spec.factorization.kind}")


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


_CHECKS: dict[str, Callable[[TrialSpec, float], Iterator[Finding]]] = {
    "factorization": _factorization,
    "problem": _problem,
    "init": _start,
    "optimizer": _optimizer,
    "loss": _loss,
}
