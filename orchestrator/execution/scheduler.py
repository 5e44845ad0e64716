"""Which worker gets which pack, and who gives up half of its work when another has none. Knows nothing of Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from orchestrator.execution.events import WorkerEvent
from orchestrator.planning.pack import Pack, steps_left
from orchestrator.storage.checkpoints import new_key
from workloads.training.recording import OPEN_END
from workloads.training.results import Finished, HandedOver
from workloads.trial import Trial

WorkerT = TypeVar("WorkerT")
ASK_AGAIN = 3.0
"""Seconds after which a worker that had nothing to give is asked again."""


@dataclass
class _Share:
    """What one worker has of a pack: steps that are ``left`` of each trial, if it takes them all."""

    pack: Pack
    began: float
    left: dict[str, Trial]
    cost: float
    asked: bool = False
    spared_until: float = field(default=0.0)

    @property
    def seconds(self) -> float:
        """Estimated seconds for the trials that have not ended, counted from where the share began."""
        return self.cost * sum(_steps(trial) for trial in self.left.values())


class Board(Generic[WorkerT]):
    """Packs that wait, and who works on what. Workers are named by anything that can be a key."""

    def __init__(self, packs: Sequence[Pack], clock: Callable[[], float]) -> None:
        self._waiting = deque((pack, 0.0) for pack in packs)
        self._running: dict[WorkerT, _Share] = {}
        self._clock = clock
        self._busy = 0.0
        self._first: float | None = None
        self._last = 0.0
        self._workers: set[WorkerT] = set()

    @property
    def done(self) -> bool:
        """True if nothing waits and nobody works."""
        return not self._waiting and not self._running

    @property
    def waiting(self) -> int:
        """How many packs wait for a worker."""
        return len(self._waiting)

    @property
    def packs(self) -> tuple[Pack, ...]:
        """The packs that wait for a worker."""
        return tuple(pack for pack, _ in self._waiting)

    @property
    def work(self) -> int:
        """How many workers could have something to do: one for each pack that waits or is in training, more where one can be halved."""
        return len(self._waiting) + sum(len(share.left) for share in self._running.values())

    @property
    def idle_share(self) -> float:
        """The part of their time that workers had nothing to do, from the first pack's start to the last one's end."""
        if self._first is None or not self._workers:
            return 0.0
        span = (self._last - self._first) * len(self._workers)
        return max(0.0, 1 - self._busy / span) if span > 0 else 0.0

    def joined(self, worker: WorkerT) -> None:
        """Let a worker be given packs from now on; its time counts from the first pack on."""
        self._workers.add(worker)

    def take(self, worker: WorkerT, device: str) -> Pack | None:
        """Return the next pack for an idle worker on ``device``: one planned for it or, for a GPU, any. The worker is busy from now on."""
        now = self._clock()
        able = [n for n, (pack, begins) in enumerate(self._waiting) if _suits(pack, device) and begins <= now]
        if not able:
            return None
        place = next((n for n in able if self._waiting[n][0].device == device), able[0])
        pack, _ = self._waiting[place]
        del self._waiting[place]
        self._first = now if self._first is None else self._first
        total = sum(_steps(trial) for trial in pack.trials)
        self._running[worker] = _Share(pack, now, {t.trial_id: t for t in pack.trials}, (pack.seconds or total) / max(total, 1))
        return pack

    def put(self, pack: Pack, wait: float = 0.0) -> None:
        """Let a pack wait for a worker, before all others, for ``wait`` seconds at least."""
        self._waiting.appendleft((pack, self._clock() + wait))

    def see(self, worker: WorkerT, event: WorkerEvent) -> Pack | None:
        """Take note of what a worker says of its pack. Returns the pack that is made of what it gives up."""
        share = self._running[worker]
        match event:
            case Finished():
                for result in event.results:
                    share.left.pop(result.trial_id, None)
            case HandedOver():
                share.asked = False
                if not event.trials:
                    share.spared_until = self._clock() + ASK_AGAIN
                    return None
                for trial in event.trials:
                    del share.left[trial.trial_id]
                # Longest first, as planned: what was in training a moment ago comes before packs that have not begun.
                given = replace(share.pack, trials=event.trials, key=new_key(), crashes=0)
                self.put(given)
                return given
            case _:
                pass
        return None

    def ended(self, worker: WorkerT) -> Mapping[str, Trial]:
        """Take note that a worker is through with its pack, or gone. Returns the trials that it had and that have not come out."""
        share = self._running.pop(worker)
        now = self._clock()
        self._busy += now - share.began
        self._last = max(self._last, now)
        return share.left

    def left(self, worker: WorkerT) -> None:
        """Take note that a worker is gone for good."""
        self._workers.discard(worker)

    def donors(self, idle: Sequence[str]) -> list[WorkerT]:
        """Return the workers to ask for half of what they have: those with most left, one for each that is idle on one of the devices."""
        now = self._clock()
        missing = len(idle) - sum(share.asked for share in self._running.values())
        able = [
            (share.seconds, worker)
            for worker, share in self._running.items()
            if not share.asked and now >= share.spared_until and len(share.left) > 1 and any(_suits(share.pack, d) for d in idle)
        ]
        chosen = [worker for _, worker in sorted(able, key=lambda pair: -pair[0])[: max(missing, 0)]]
        for worker in chosen:
            self._running[worker].asked = True
        return chosen


def _suits(pack: Pack, device: str) -> bool:
    """Return whether a worker on ``device`` may take ``pack``: a GPU takes any, a core nothing that was planned for a GPU."""
    return device in (pack.device, "cuda")


def _steps(trial: Trial) -> int:
    left = steps_left(trial)
    return OPEN_END if left is None else left
