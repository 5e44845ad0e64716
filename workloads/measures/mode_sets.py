"""What belongs to some modes of a tensor: the matrix with these as rows, and the node of a tree that joins them.

A set of modes, counted from 0, is written ``_at_0_1``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from workloads.factorizations import FACTORIZATIONS, Factorization
from workloads.measures.base import MOST_COLUMNS, indices, measure, tensor
from workloads.measures.ranks import entropy_rank
from workloads.trial import TrialSpec

if TYPE_CHECKING:
    from torch import Tensor

    from workloads.measures.numerics.snapshot import Snapshot

AT = r"_at((?:_\d+)+)"


def _named(column: str, name: str) -> Callable[[str], str | None]:
    """Return what tells the measure ``name_at_0_1`` by a column such as ``column_0_at_0_1``."""

    def by_column(text: str) -> str | None:
        found = re.fullmatch(rf"{column}_\d+({AT})", text, re.ASCII)
        return found and f"{name}{found[1]}"

    return by_column


def _some(spec: TrialSpec, text: str) -> str | None:
    if reason := tensor(spec):
        return reason
    modes, order = indices(text), len(spec.shape)
    if [*modes] != sorted({*modes}) or not 0 < len(modes) < order or modes[-1] >= order:
        return f"needs some, but not all, of the modes 0 to {order - 1} in rising order"
    return None


def _sv_columns(spec: TrialSpec, text: str) -> list[str]:
    rows = math.prod(spec.shape[mode] for mode in indices(text))
    return [f"sv_{k}_at{text}" for k in range(min(rows, math.prod(spec.shape) // rows, MOST_COLUMNS))]


@measure(
    "the ten largest singular values of the matrix whose rows are modes 0 and 1, or any others, and whose columns the rest: sv_0_at_0_1, …",
    rf"singular_values{AT}",
    shown="singular_values_at_0_1",
    needs=_some,
    columns=_sv_columns,
    by_column=_named("sv", "singular_values"),
)
def singular_values_at(x: Snapshot, text: str) -> Tensor:
    """Return the largest singular values of a matricization [R, k], in falling order."""
    return x.matricization(indices(text))[:, :MOST_COLUMNS]


@measure("effective rank of that matrix", rf"effective_rank{AT}", shown="effective_rank_at_0_1", needs=_some)
def effective_rank_at(x: Snapshot, text: str) -> Tensor:
    """Return the effective rank (Roy and Vetterli 2007) of a matricization [R]."""
    return entropy_rank(x.matricization(indices(text)))


@measure("numerical rank of that matrix", rf"rank{AT}", shown="rank_at_0_1", needs=_some)
def rank_at(x: Snapshot, text: str) -> Tensor:
    """Return the numerical rank of a matricization [R]: singular values above max(m, n) * machine epsilon * the largest."""
    s, rows = x.matricization(indices(text)), math.prod(x.shape[mode] for mode in indices(text))
    longest = max(rows, math.prod(x.shape) // rows)
    count: Tensor = (s > s[:, :1] * (longest * x.epsilon)).to(s.dtype).sum(1)
    return count.where(s.isfinite().all(1), s.new_full((), float("nan")))


def _node(spec: TrialSpec, text: str) -> str | None:
    nodes = spec.factorization.nodes(len(spec.shape))
    if not nodes:
        kinds = [kind for kind, model in FACTORIZATIONS.items() if model.nodes is not Factorization.nodes]
        return f"is defined for factorization.kind {' or '.join(kinds)} only"
    if indices(text) not in nodes:
        return f"needs the modes of a node: {', '.join('components_at_' + '_'.join(map(str, modes)) for modes in nodes)}"
    return None


def _component_columns(spec: TrialSpec, text: str) -> list[str]:
    count = spec.factorization.node_terms(spec.shape, indices(text))
    return [f"component_{k}_at{text}" for k in range(min(count, MOST_COLUMNS))]


@measure(
    "norms of the components at the node of a hierarchical factorization that joins these modes, largest first: component_0_at_0_1, …",
    rf"components{AT}",
    shown="components_at_0_1",
    needs=_node,
    columns=_component_columns,
    by_column=_named("component", "components"),
)
def components_at(x: Snapshot, text: str) -> Tensor:
    """Return the norms of a node's components [R, k], the largest first (at most ten): the products of their vectors' norms."""
    return x.factorization.node_component_norms(x.params, indices(text)).sort(dim=1, descending=True)[0][:, :MOST_COLUMNS]
