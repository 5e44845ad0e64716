"""The step of hierarchical factorizations: a table a node of the mode tree, and their gradients from the root down."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workloads.factorizations.programs.cp import Side
from workloads.mode_tree import ModeTree


class HierarchicalProgram:
    """See `workloads.factorizations.base.Program`.

    The table of a leaf is its factor [R, d, C], that of a node T = K W, with K the Khatri-Rao product of its children's tables and W its
    factor. With dT of the root's children given, dW = K^T dT and dK = dT W^T, which unfolds to the children's dT one by one. The root's own
    K, as large as the tensor times a width, is never made: two halves of its children are multiplied as matrices.
    """

    def __init__(self, tree: ModeTree, params: Sequence[Tensor], grads: Sequence[Tensor], outer: Tensor) -> None:
        tables, slopes = ([part[mode] for mode in tree.leaves] for part in (params, grads))
        self.nodes: list[_Node] = []
        for level, nodes in enumerate(tree.levels[1:-1], 1):
            made = []
            for node in range(len(nodes)):
                below = slice(node * tree.arity, (node + 1) * tree.arity)
                own, slope = tree.own(params, level, node), tree.own(grads, level, node)
                made.append(_Node(tables[below], slopes[below], own, slope))
            self.nodes += made
            tables, slopes = [node.table for node in made], [node.slope for node in made]
        shape = [len(outer), *(params[mode].shape[1] for mode in range(len(tree.leaves)))]
        self.outer = outer.view(shape).permute(0, *(1 + mode for mode in tree.leaves))
        ordered = tree.leaves == tuple(sorted(tree.leaves))
        # Where modes are not joined in their order, the root's matrix has them in another than dL/dW.
        self.turned = None if ordered else outer.new_empty(self.outer.shape)
        self.root = _Root(tables, slopes, params[-1], grads[-1], outer if self.turned is None else self.turned)
        self.whole = self.root.grid.view(self.outer.shape).permute(0, *(1 + place for place in tree.places))
        self.product = self.root.grid.view(len(outer), -1) if ordered else torch.empty_like(outer)

    def forward(self) -> None:
        for node in self.nodes:
            node.forward()
        self.root.forward()
        if self.turned is not None:
            self.product.view(self.whole.shape).copy_(self.whole)

    def backward(self) -> None:
        if self.turned is not None:
            self.turned.copy_(self.outer)
        self.root.backward()
        for node in reversed(self.nodes):
            node.backward()


class _Node:
    """A node between leaves and root: its ``table`` [R, d_1 ... d_k, C], and the gradient of that, ``slope``."""

    def __init__(self, tables: Sequence[Tensor], slopes: Sequence[Tensor], own: Tensor, grad: Tensor) -> None:
        self.side = Side(tables, slopes)
        rows = self.side.whole
        self.table = rows.new_empty(*rows.shape[:2], own.shape[2])
        self.slope = torch.empty_like(self.table)
        self.up = (rows, own, self.table)
        self.down = [(rows.mT, self.slope, grad), (self.slope, own.mT, self.side.gradient)]

    def forward(self) -> None:
        self.side.forward()
        left, right, out = self.up
        torch.bmm(left, right, out=out)

    def backward(self) -> None:
        for left, right, out in self.down:
            torch.bmm(left, right, out=out)
        self.side.backward()


class _Root:
    """The root: ``grid`` [R, d_left, d_right] is K_left diag(w) K_right^T."""

    def __init__(self, tables: Sequence[Tensor], slopes: Sequence[Tensor], own: Tensor, grad: Tensor, outer: Tensor) -> None:
        middle = len(tables) // 2
        self.left, self.right = Side(tables[:middle], slopes[:middle]), Side(tables[middle:], slopes[middle:])
        self.weights, self.grad = own.mT, grad.squeeze(2)
        self.weighted = torch.empty_like(self.left.whole)
        self.grid = outer.new_empty(len(outer), self.left.whole.shape[1], self.right.whole.shape[1])
        self.transposed = self.right.whole.mT
        slope = outer.view(self.grid.shape)
        self.down = [(slope.mT, self.weighted, self.right.gradient), (slope, self.right.whole, self.left.gradient)]

    def forward(self) -> None:
        self.left.forward()
        self.right.forward()
        torch.mul(self.left.whole, self.weights, out=self.weighted)
        torch.bmm(self.weighted, self.transposed, out=self.grid)

    def backward(self) -> None:
        for left, right, out in self.down:
            torch.bmm(left, right, out=out)
        torch.sum(torch.mul(self.left.gradient, self.left.whole, out=self.weighted), 1, out=self.grad)
        self.left.gradient.mul_(self.weights)
        self.left.backward()
        self.right.backward()
