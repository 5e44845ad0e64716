"""What planning wants to know of a graph, without PyTorch: found by tracing once, and kept in a file.

What is kept may be old, if a product uses functions of other files that have changed: plans are estimates. Whoever trains traces anew.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import math
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workloads import caches
from workloads.caches import read_cache, write_cache
from workloads.factorizations.graphs.graph import Graph, Map, Move, Product
from workloads.factorizations.graphs.known import Traceable, graph_of, model_of
from workloads.factorizations.graphs.opened import Opened, numbers_in
from workloads.losses import Loss
from workloads.section import MADE

VERSION = 5
"""Raised whenever tracing finds something else."""
MOST_KEPT = 1000
LINE = 8
"""Numbers in which buffers are measured out."""


@dataclass(frozen=True)
class Facts:
    """``why`` there is no graph, if there is none; else the operations of a step, the numbers held and PyTorch's calls for a lane.

    ``products`` of them are matrix products, ``functions`` those of single numbers; ``unknown`` are operations that no kernel has,
    ``finite`` whether its constants are, ``elementwise`` whether all its steps are functions of numbers in one place, ``in_rows`` is as
    `workloads.factorizations.graphs.graph.Graph.in_rows`.
    """

    why: str = ""
    flops: int = 0
    numbers: int = 0
    steps: int = 0
    products: int = 0
    functions: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    finite: bool = True
    elementwise: bool = True
    in_rows: bool = False

    @classmethod
    def of(cls, graph: Graph | str) -> Facts:
        """Return the facts of a graph, or of there being none."""
        if isinstance(graph, str):
            return cls(why=graph)
        copied = [view.size for step in graph.steps for view in step.operands if any(len(axis) > 1 for axis in view.axes)]
        maps = [step for step in graph.steps if isinstance(step, Map)]
        numbers = [value for values in graph.constants for value in values]
        numbers += [value for step in maps for value in step.inputs if isinstance(value, float)]
        moved = [step.numbers for step in graph.steps if isinstance(step, Move)]
        held = [*map(math.prod, graph.parameters), *graph.sizes[graph.outer + 1 :], *copied, *moved]
        return cls(
            flops=graph.flops,
            numbers=sum(-(-size // LINE) * LINE for size in held),
            steps=len(graph.steps) + len(copied),
            products=sum(isinstance(step, Product) for step in graph.steps),
            functions=tuple(sorted({step.name for step in maps})),
            unknown=graph.calls,
            finite=all(map(math.isfinite, numbers)),
            elementwise=len(maps) == len(graph.steps),
            in_rows=graph.in_rows,
        )


_KNOWN: dict[tuple[object, ...], Facts] = {}


def facts_of(factorization: Traceable, shape: tuple[int, ...], dtype: str = "float64") -> Facts:
    """Return the facts of a factorization of ``shape`` with factors of ``dtype``."""
    shapes = [tuple(s) for s in factorization.shapes(shape).values()]
    key = (model_of(factorization), factorization.canonical, shape, dtype)
    if key not in _KNOWN:
        name = _name(factorization, shape, dtype)
        kept = None if name is None or "torch" in sys.modules else read_cache(cache_file()).get(name)
        _KNOWN[key] = _facts(kept) or _traced(factorization, shape, shapes, dtype, name)
    return _KNOWN[key]


def opened(loss: Loss, dtype: str = "float64") -> Opened | Loss:
    """Return a ``loss`` with those of its numbers as inputs in which lanes of one program may differ, or as it is where there are none."""
    known: dict[str, tuple[str, ...]] = vars(loss).setdefault(MADE, {})
    if dtype not in known:
        known[dtype] = _open_numbers(loss, dtype)
    return Opened(loss, known[dtype]) if known[dtype] else loss


def _open_numbers(loss: Loss, dtype: str) -> tuple[str, ...]:
    """Return all numbers of a ``loss`` or, if the trace cannot have them all, those that it can: of others each value is a program."""
    names = () if loss.squares is not None else numbers_in(loss)
    if not names or not why_closed(loss, names, dtype):
        return names
    some = tuple(name for name in names if len(names) > 1 and not why_closed(loss, (name,), dtype))
    return some if some and not why_closed(loss, some, dtype) else ()


def closed(loss: Loss, dtype: str = "float64") -> tuple[str, ...]:
    """Return the numbers of a ``loss`` that are constants of its programs."""
    one = opened(loss, dtype)
    known = one.numbers if isinstance(one, Opened) else ()
    return () if loss.squares is not None else tuple(name for name in numbers_in(loss) if name not in known)


def why_closed(loss: Loss, names: tuple[str, ...], dtype: str = "float64") -> str:
    """Return why lanes of one program cannot differ in these numbers of a ``loss``; empty where they can."""
    facts = facts_of(Opened(loss, names), (1,), dtype)
    return facts.why or ("" if facts.elementwise else "it has steps that are no functions of single numbers")


def cache_file() -> Path:
    """Where facts are kept."""
    return caches.cache_file("graphs.json")


def _traced(factorization: Traceable, shape: tuple[int, ...], shapes: list[tuple[int, ...]], dtype: str, name: str | None) -> Facts:
    import torch

    graph = graph_of(factorization, shapes, getattr(torch, dtype))
    if isinstance(graph, Graph) and graph.shape != shape:
        graph = f"its product has shape {list(graph.shape)}, not {list(shape)}"
    facts = Facts.of(graph)
    if name is not None:
        # A home that cannot be written to costs a trace each time.
        with suppress(OSError):
            _keep(name, facts)
    return facts


def _name(factorization: Traceable, shape: tuple[int, ...], dtype: str) -> str | None:
    """Return what facts are kept by: the class's source, its keys, the shape; ``None`` where nobody knows the source."""
    digest = hashlib.sha256()
    try:
        for kind in model_of(factorization).__mro__[:-1]:
            if kind.__module__.partition(".")[0] not in ("pydantic", "builtins", "typing", "abc"):
                digest.update(Path(inspect.getfile(kind)).read_bytes())
        torch_version = importlib.metadata.version("torch")
    except (OSError, TypeError, importlib.metadata.PackageNotFoundError):
        return None
    kind = model_of(factorization)
    code = getattr(kind, "code", "")
    said = (VERSION, torch_version, code, kind.__module__, kind.__qualname__, factorization.canonical, shape, dtype)
    digest.update(repr(said).encode())
    return digest.hexdigest()


def _facts(kept: Any) -> Facts | None:
    try:
        return Facts(**{**kept, "unknown": tuple(kept["unknown"]), "functions": tuple(kept["functions"])})
    except (KeyError, TypeError):
        # Nothing, or something that another version has written.
        return None


def _keep(name: str, facts: Facts) -> None:
    known = read_cache(cache_file())
    if known.get(name) == json.loads(json.dumps(asdict(facts))):
        return
    write_cache(cache_file(), dict([*known.items(), (name, asdict(facts))][-MOST_KEPT:]))
