"""How often the training loop looks up, and how much it does at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from workloads.engines.costs import splits_well
from workloads.engines.rates import Rates
from workloads.measures.work import rows_at_once
from workloads.trial import TrialSpec, factor_bytes

Splits = Callable[[str, Sequence[TrialSpec], Sequence[int], Rates], bool]


@dataclass(frozen=True)
class Policy:
    """What makes no difference to any number, only to when and where it is computed.

    ``call_seconds`` is about how long one call of the engine may take: time budgets and requests are looked at in between; with ``steps``
    each call takes so many instead. Progress is told every ``progress_seconds``. Recorded lanes are measured once they are ``pending_rows``
    or ``pending_bytes``, or as many as are measured at once. Measures that are computed at the end only are computed for ``final_numbers``
    numbers at once: in between, some may go to another worker. Finished trials are handed on every ``report_seconds``. Places of finished
    lanes are closed or filled once they are one in ``gaps`` of a device: on a GPU they cost less than making its graphs anew. ``splits``
    tells whether two workers would end trials sooner that have so many steps left.
    """

    call_seconds: float = 0.2
    progress_seconds: float = 0.2
    steps: int | None = None
    pending_rows: int = 1024
    pending_bytes: int = 64 << 20
    final_numbers: int = 1 << 15
    report_seconds: float = 10.0
    gaps: Mapping[str, int] = field(default_factory=lambda: {"cpu": 8, "cuda": 2})
    splits: Splits = splits_well

    def due(self, spec: TrialSpec) -> int:
        """Return from how many on recorded lanes of trials like ``spec`` are measured."""
        return max(1, min(self.pending_rows, self.pending_bytes // max(1, factor_bytes(spec)), rows_at_once(spec)))
