"""What kernels of groups are generated for, whatever is computed in them."""

from __future__ import annotations

from typing import Protocol

from workloads.engines.kernels.updates import Update
from workloads.engines.pointwise import Pointwise


class GroupKey(Protocol):
    """What a kernel is generated for. The same for all groups.

    ``size`` of the product, number of ``measurements`` (0: completion), of ``parameters``, of optimizer ``state``, of numbers in the
    ``workspace``; ``lanes`` V in a group. ``threads`` says that each group, of one lane, has a thread of a GPU: tables are then entry by
    entry, with all groups side by side, so that neighbouring threads read neighbouring numbers. ``loss`` is ``None`` where it is a
    multiple of the sum of squares. Where measurements are ``shared``, all lanes have the same ones, which are numbers and no vectors.
    """

    @property
    def optimizer(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def lanes(self) -> int: ...
    @property
    def threads(self) -> bool: ...
    @property
    def shared(self) -> bool: ...
    @property
    def size(self) -> int: ...
    @property
    def measurements(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    @property
    def state(self) -> int: ...
    @property
    def workspace(self) -> int: ...
    @property
    def update(self) -> Update: ...
    @property
    def loss(self) -> Pointwise | None: ...
