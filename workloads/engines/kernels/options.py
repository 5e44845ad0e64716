"""What of the options of optimizers a kernel is generated for. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workloads.optimizers.base import Optimizer
from workloads.trial import ITEM_BYTES

WORD_BYTES = 8
DRAWN = ("batch", "label_noise")


@dataclass(frozen=True)
class Options:
    """Which options are ``given``, and what schedules have: the parts that any lane's has, and the longest list of milestones."""

    given: tuple[str, ...] = ()
    warmup: bool = False
    cosine: bool = False
    milestones: int = 0

    @classmethod
    def of(cls, optimizers: Sequence[Optimizer]) -> Options:
        """Return those of lanes' ``optimizers``, which share their structure."""
        schedules = [o.schedule for o in optimizers if o.schedule is not None]
        return cls(
            optimizers[0].given,
            any(s.warmup is not None for s in schedules),
            any(s.cosine is not None for s in schedules),
            max((len(s.milestones or ()) for s in schedules), default=0),
        )

    def __contains__(self, name: str) -> bool:
        return name in self.given

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the options that are a number a lane, in the order of `workloads.engines.lanes.Lanes.hyper`."""
        return tuple(name for name in self.given if name != "schedule")

    @property
    def draws(self) -> bool:
        """True where steps are random."""
        return any(name in self.given for name in DRAWN)

    @property
    def course(self) -> tuple[str, ...]:
        """Rows of the table of what depends on the number of steps done: words of 64 bits, whole numbers first, then real ones."""
        if not self.draws and "schedule" not in self:
            return ()
        shares = [f"{name}{n}" for name in ("milestone", "share") for n in range(self.milestones)]
        return ("begun", "batch_seed", "noise_seed", "count", "warmup", "cosine", "floor", *shares)

    def room(self, observed: int, dtype: str, *, threads: bool = False) -> int:
        """Return the entries of scratch memory for a step's random numbers: noise, and keys of 64 bits, which ``threads`` draw anew."""
        wide = WORD_BYTES // ITEM_BYTES[dtype]
        # One more, so that words of 64 bits begin where they may.
        keys = observed * wide + wide - 1 if "batch" in self and not threads else 0
        return keys + (observed if "label_noise" in self else 0)


PLAIN = Options()
