"""Factorizations as graphs: the product of one run and its gradient, traced once per shape.

`torch.func.vjp` differentiates the product, `make_fx` writes down what that calls, and `lowering` makes steps of it. Of what cannot be
traced, such as a product that looks at numbers to decide what to do, `traced` returns why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from workloads.factorizations.graphs.builder import Builder, Untraceable
from workloads.factorizations.graphs.graph import Call, Graph, Map, Move, Product, Reduce, Step
from workloads.factorizations.graphs.lowering import lowered
from workloads.factorizations.graphs.views import View

LONGEST = 20_000
"""Operations that a trace may have: a product that loops for longer is run as it is."""
DECOMPOSED: tuple[str, ...] = (
    "tanh_backward",
    "sigmoid_backward",
    "threshold_backward",
    "softplus",
    "softplus_backward",
    "silu",
    "silu_backward",
    "gelu",
)
DECOMPOSED = (
    *DECOMPOSED,
    "gelu_backward",
    "_softmax",
    "_softmax_backward_data",
    "elu",
    "elu_backward",
    "leaky_relu",
    "leaky_relu_backward",
)
DECOMPOSED = (*DECOMPOSED, "linalg_vector_norm", "addmm", "baddbmm", "addmv", "addcmul", "addcdiv", "lerp", "hardtanh", "hardtanh_backward")
DECOMPOSED = (*DECOMPOSED, "select_backward", "slice_backward", "diagonal_backward", "index_add", "new_zeros", "zeros_like", "ones_like")


def traced(product: Callable[..., Tensor], shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Graph | str:
    """Return the graph of a ``product`` of factors of ``shapes``, or why there is none."""
    generator = torch.Generator().manual_seed(0)
    # No entry is like another, or zero: what divides by one, or by a difference, is traced as well.
    factors = [torch.rand(s, generator=generator, dtype=torch.float64).to(dtype) + 0.5 for s in shapes]
    try:
        module, shape = _written_down(product, factors)
        return _lowered(module, [tuple(s) for s in shapes], shape, dtype)
    except Untraceable as error:
        return str(error)
    except Exception as error:
        # Operations have arguments that no row has thought of: such a product is run as it is.
        return _reason(error)


def _written_down(product: Callable[..., Tensor], factors: list[Tensor]) -> tuple[torch.fx.GraphModule, tuple[int, ...]]:
    """Return the trace of product and gradient, and the product's shape."""
    from torch._decomp import get_decompositions
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    def run(*factors: Tensor) -> Tensor:
        # A method with named arguments would be asked for one more, itself.
        return product(*factors)

    def both(factors: list[Tensor], outer: Tensor) -> tuple[Tensor, ...]:
        whole, back = torch.func.vjp(pure, *factors)  # type: ignore[misc]
        return whole, *back(outer)

    # Without one that they share, PyTorch makes such a mode for each operation, for no more than a shape: a third of the time.
    context = TracingContext(FakeTensorMode(allow_fallback_kernels=True))
    try:
        # The order of an einsum's products must not depend on what else is installed.
        with tracing(context), torch.backends.opt_einsum.flags(enabled=False):
            pure = _pure(make_fx(torch.func.functionalize(run))(*factors))
            whole = pure(*factors).detach()
            table: Any = get_decompositions([getattr(torch.ops.aten, name) for name in DECOMPOSED])
            return make_fx(torch.func.functionalize(both), decomposition_table=table)(factors, torch.ones_like(whole)), tuple(whole.shape)
    except Exception as error:
        raise Untraceable(_reason(error)) from error


def _pure(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Return a product that changes no tensor, differentiable: a copy into a tensor, which is not, is what is copied."""
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.copy.default:
            into, given = node.args[:2]
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.call_function(torch.ops.aten.expand.default, (given, list(_shape_of(into)))))
            module.graph.erase_node(node)
    module.recompile()
    return module


def _shape_of(node: torch.fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape)


def _reason(error: Exception) -> str:
    text = str(error)
    if "_local_scalar_dense" in text or "data-dependent" in text or "get value out of a tracing tensor" in text:
        return "what it does depends on the numbers in its factors"
    return f"it cannot be traced: {type(error).__name__}: {(text.splitlines() or [''])[0]}"


def _lowered(module: torch.fx.GraphModule, shapes: list[tuple[int, ...]], shape: tuple[int, ...], dtype: torch.dtype) -> Graph:
    given = [*shapes, shape]
    build = Builder([*map(math.prod, given)], dtype)
    module.graph.eliminate_dead_code()
    if len(module.graph.nodes) > LONGEST:
        raise Untraceable(f"it takes more than {LONGEST:,} operations")
    inputs = iter([View.whole(n, s) for n, s in enumerate(given)])
    known: dict[torch.fx.Node, Any] = {}
    for node in module.graph.nodes:
        match node.op:
            case "placeholder":
                known[node] = next(inputs)
            case "get_attr":
                known[node] = getattr(module, str(node.target))
            case "call_function":
                arguments = torch.fx.map_arg(node.args, lambda n: known[n])
                keywords = torch.fx.map_arg(node.kwargs, lambda n: known[n])
                known[node] = _value(build, node, arguments, keywords)
            case "output":
                ends = torch.fx.map_arg(node.args[0], lambda n: known[n])
    product, *gradients = (build.view(end) for end in ends)
    return _ordered(build, shapes, shape, product, gradients)


def _value(build: Builder, node: torch.fx.Node, arguments: Any, keywords: Any) -> Any:
    operation: Any = node.target
    views: list[View] = []
    torch.fx.node.map_aggregate((arguments, keywords), lambda a: views.append(a) if isinstance(a, View) else None)
    if not isinstance(operation, torch._ops.OpOverload):
        return operation(*arguments, **keywords)
    if torch.Tag.nondeterministic_seeded in operation.tags:
        raise Untraceable("it draws random numbers")
    if not views:
        return operation(*arguments, **keywords)
    try:
        return lowered(build, operation, arguments, dict(keywords))
    except (NotImplementedError, TypeError, KeyError):
        made = node.meta.get("tensor_meta") or node.meta.get("val")
        if made is None or not hasattr(made, "shape"):
            raise Untraceable(f"it uses {operation}, which returns no single tensor") from None
        if made.dtype is not build.dtype:
            raise Untraceable(f"it uses {operation}, which makes {str(made.dtype).removeprefix('torch.')}") from None
        return build.add(
            Call(
                operation, _frozen(arguments), tuple(sorted((k, _frozen(v)) for k, v in keywords.items())), tuple(views), tuple(made.shape)
            )
        )


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _ordered(build: Builder, shapes: list[tuple[int, ...]], shape: tuple[int, ...], product: View, gradients: list[View]) -> Graph:
    """Return the graph: steps that nobody needs left out, those that make the product first, constants and steps numbered."""

    def needed(ends: Sequence[View]) -> set[int]:
        found: set[int] = set()
        waiting = [end.array for end in ends]
        while waiting:
            array = waiting.pop()
            if array >= build.given and array not in found:
                found.add(array)
                waiting += [view.array for view in build.steps[array - build.given].operands]
        return found

    first = needed([product])
    rest = needed(gradients) - first
    order = [*sorted(first), *sorted(rest)]
    made = build.given + len(build.constants)
    number = {array: made + place for place, array in enumerate(order)}

    def renumbered(value: Any) -> Any:
        if isinstance(value, View):
            array = value.array
            return replace(value, array=number.get(array, array) if array >= 0 else build.given - 1 - array)
        return tuple(map(renumbered, value)) if isinstance(value, tuple) else value

    def renamed(step: Step) -> Step:
        match step:
            case Product():
                return Product(renumbered(step.left), renumbered(step.right))
            case Map():
                return Map(step.name, renumbered(step.inputs))
            case Reduce():
                return replace(step, view=renumbered(step.view))
            case Move():
                return replace(step, sources=renumbered(step.sources))
            case Call():
                return replace(
                    step, arguments=renumbered(step.arguments), keywords=renumbered(step.keywords), operands=renumbered(step.operands)
                )

    steps = tuple(renamed(build.steps[array - build.given]) for array in order)
    return Graph(tuple(shapes), shape, tuple(build.constants), steps, len(first), renumbered(product), renumbered(tuple(gradients)))
