"""Hierarchical tensor factorization (arXiv 2201.11729, section 4): a factor ``W0_1`` ... a node of a tree of modes, and a vector ``w``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from workloads.amounts import amount
from workloads.factorizations.base import Cost, Factorization, Program
from workloads.mode_tree import ONE_NODE, Modes, ModeTree, Pattern
from workloads.section import MAX_ORDER, Conflict, Count, Counts

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.factorizations.base import Matrix

Arity = Annotated[Count, Field(ge=2, le=MAX_ORDER)]
MOST_SWEEPS, BALANCED = 10_000, 1e-14


class Hierarchical(Factorization):
    """A tree joins ``arity`` modes, then as many of these nodes, up to the root: T = K W, K the Khatri-Rao product of the tables T below.

    ``widths`` are those of each level, from the leaves: W0_1 [d_1, widths_1], ..., W1_1 [widths_1, widths_2], ..., w [widths_L, 1].
    """

    kind = "hierarchical"
    example = "{kind: hierarchical, arity: 2, widths: [512, 512], pattern: adjacent}"
    derived = ("widths",)

    arity: Arity = 2
    """How many nodes are joined in one: the number of modes is a power of it."""
    widths: Counts | Count | None = None
    """Width of each level, or one for all: by default the product of all dimensions but the largest."""
    pattern: Pattern = "adjacent"
    """Whether neighbouring modes are joined, or those that lie half (of an arity of three, a third) of the modes apart."""

    def tree(self, order: int) -> ModeTree:
        """Return the tree of so many modes. Raises `ValueError` where there is none."""
        return ModeTree.joining(order, self.arity, self.pattern)

    def all_widths(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the width of each level, the product of all dimensions but the largest unless given."""
        if isinstance(self.widths, tuple):
            return self.widths
        levels = len(self.tree(len(shape)).levels) - 1
        return (math.prod(shape) // max(shape) if self.widths is None else self.widths,) * levels

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        tree = self.tree(len(shape))
        names = [f"W{level}_{node}" for level, nodes in enumerate(tree.levels[:-1]) for node in range(1, len(nodes) + 1)]
        return dict(zip([*names, "w"], tree.shapes(shape, self.all_widths(shape)), strict=True))

    def conflicts(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        try:
            levels = len(self.tree(len(shape)).levels) - 1
        except ValueError:
            yield (
                "factorization.kind",
                f"hierarchical with arity {self.arity} needs an order that is a power of it, not shape {list(shape)}",
            )
            return
        if isinstance(self.widths, tuple) and len(self.widths) != levels:
            yield "factorization.widths", f"needs one for each of {amount(levels, 'level')}, not {len(self.widths)}"
            return
        yield from super().conflicts(shape)

    def ineffective(self, shape: tuple[int, ...]) -> Iterator[Conflict]:
        if self.pattern != "adjacent" and self.arity == len(shape):
            yield "factorization.pattern", ONE_NODE

    def resolved(self, shape: tuple[int, ...]) -> dict[str, Any]:
        return {"widths": list(self.all_widths(shape))}

    def program_key(self, shape: tuple[int, ...]) -> object:
        return (self.kind, self.arity, self.pattern)

    def product(self, *factors: Tensor) -> Tensor:
        return self.products([f.unsqueeze(0) for f in factors])[0]

    def products(self, factors: Sequence[Tensor]) -> Tensor:
        tree = self._tree_of(factors)
        rows = [factors[mode].shape[1] for mode in tree.leaves]
        out: Tensor = tree.product(factors).view(-1, *rows).permute(0, *(1 + place for place in tree.places))
        return out

    def program(self, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> Program:
        from workloads.factorizations.programs.hierarchical import HierarchicalProgram

        return HierarchicalProgram(self._tree_of(params), params, grads, outer)

    def cost(self, shape: tuple[int, ...]) -> Cost:
        tree, widths, size = self.tree(len(shape)), self.all_widths(shape), math.prod(shape)
        rows = [[math.prod(shape[mode] for mode in node) for node in nodes] for nodes in tree.levels]
        flops, buffers = 6 * size * widths[-1], size if self.pattern == "adjacent" else 3 * size
        for level in range(1, len(tree.levels)):
            width = widths[level - 1]
            for node, mine in enumerate(rows[level]):
                below = rows[level - 1][node * self.arity : (node + 1) * self.arity]
                if level < len(widths):
                    buffers += _side(below, width) + 2 * mine * widths[level]
                    flops += mine * width * (6 * widths[level] + 5)
                else:
                    middle = self.arity // 2
                    left = math.prod(below[:middle])
                    buffers += _side(below[:middle], width) + _side(below[middle:], width) + left * width
                    flops += 5 * (left + math.prod(below[middle:])) * width
        inner = sum(len(nodes) for nodes in tree.levels[1:-1])
        return Cost(flops, buffers, 3 * (self.arity - 1) * (2 * inner + 1) + 3)

    def _tree_of(self, factors: Sequence[Any]) -> ModeTree:
        """Return the tree that so many factors belong to."""
        order, count = self.arity, self.arity + 1
        while count < len(factors):
            order *= self.arity
            count += order
        return self.tree(order)

    # Local components: the r-th of a node is what the r-th row of its factor adds, with the r-th columns of its children's.

    def nodes(self, order: int) -> tuple[Modes, ...]:
        return tuple(tuple(sorted(node)) for nodes in self.tree(order).levels[1:] for node in nodes)

    def node_terms(self, shape: tuple[int, ...], modes: Modes) -> int:
        return self.all_widths(shape)[self.tree(len(shape)).place(modes)[0] - 1]

    def node_component_norms(self, factors: Sequence[Tensor], modes: Modes) -> Tensor:
        return self._squares(factors, *self._tree_of(factors).place(modes)).sqrt().prod(1)

    def _squares(self, factors: Sequence[Tensor], level: int, node: int) -> Tensor:
        """Return the squared norms [R, K, C] of the vectors of each component of a node: its children's columns, and its own row."""
        import torch

        tree = self._tree_of(factors)
        columns = [f.square().sum(1) for f in tree.children(factors, level, node)]
        return torch.stack([*columns, tree.own(factors, level, node).square().sum(2)], 1)

    def unbalancedness(self, factors: Sequence[Tensor]) -> Tensor:
        """See `Factorization.unbalancedness`: of the squared norms of the vectors of each node's components (2201.11729, definition 5)."""
        import torch

        levels = enumerate(self._tree_of(factors).levels)
        squares = [self._squares(factors, level, node) for level, nodes in levels if level for node in range(len(nodes))]
        return torch.cat([s.amax(1) - s.amin(1) for s in squares], 1).amax(1)

    def balanced(self, factors: list[Matrix]) -> list[Matrix]:
        """Return factors of the same tensor whose components have vectors of equal norms, at each node.

        A vector belongs to components of two nodes. Each node is balanced by itself, again and again until none changes.
        """
        tree, out = self._tree_of(factors), [f.copy() for f in factors]
        for _ in range(MOST_SWEEPS):
            moved = max(_balance(tree, out, level, node) for level, nodes in enumerate(tree.levels) if level for node in range(len(nodes)))
            if moved < BALANCED:
                break
        return out


def _balance(tree: ModeTree, factors: list[Matrix], level: int, node: int) -> float:
    """Give the vectors of a node's components the geometric means of their norms, in place. Returns the largest change, as a logarithm."""
    import numpy as np

    children, own = tree.children(factors, level, node), tree.own(factors, level, node)
    norms = np.stack([*(np.linalg.norm(f, axis=0) for f in children), np.linalg.norm(own, axis=1)])
    alive = (norms > 0).all(0)
    logarithms = np.log(norms, where=alive, out=np.zeros_like(norms))
    change = logarithms.mean(0) - logarithms
    # A component with a vector of zeros is none, whatever its others are.
    scale = np.where(alive, np.exp(change), 0.0)
    for child, each in zip(children, scale[:-1], strict=True):
        child *= each
    own *= scale[-1][:, None]
    return float(np.abs(change).max())


def _side(rows: Sequence[int], width: int) -> int:
    """Return the numbers that a Khatri-Rao product, its gradient and what takes that apart hold."""
    chain = [math.prod(rows[: n + 1]) for n in range(1, len(rows))]
    return width * (2 * sum(chain) + chain[-1]) if chain else 0
