"""What becomes of trials whose worker died or failed: which are tried again, from where, with whom, and which have failed for good.

A crash may be anybody's fault: a machine that was taken away, the trials themselves, or too many of them for its memory. So a pack is
tried again as it is, from its last checkpoint; if it crashes again without having come any further, in halves, until what crashes is a
trial alone. An exception would come again: those packs are halved at once, as long as that isolates few trials.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from orchestrator.errors import StorageUnavailable
from orchestrator.execution.events import Cause, Lost, Saved
from orchestrator.execution.scheduler import Board
from orchestrator.planning.pack import Pack
from orchestrator.storage.checkpoints import Checkpoints, furthest, new_key
from workloads.amounts import agreeing, amount
from workloads.training.trial_state import Paused
from workloads.trial import Trial

ALONE = 4
"""A trial alone that has crashed so often, without coming any further, has failed."""
LOST_NODES = 20
"""As `ALONE`, where it was nodes that were lost."""
LONGEST_WAIT = 30.0
WORTH_KEEPING = 5.0
"""Seconds of training that may be lost with trials that change packs, before the next checkpoint of the one they come to."""


class Recovery:
    """Puts trials that were lost back on the ``board``, from where ``checkpoints`` have them."""

    def __init__(self, board: Board[object], checkpoints: Checkpoints) -> None:
        self.board, self.checkpoints = board, checkpoints
        self._halvings: Counter[str] = Counter()
        self._saved: set[str] = set()
        self._trouble = ""

    def saved(self, pack: Pack, event: Saved) -> str | None:
        """Take note of a checkpoint. Returns what a person should know."""
        self._saved.add(pack.key)
        return None if event.content is None else self._save(pack.key, event.content)

    def handed_over(self, pack: Pack) -> str | None:
        """Take note of a pack made of what another one gave up, whose next checkpoint will not have it any more."""
        states = [trial for trial in pack.trials if isinstance(trial, Paused)]
        return self._keep(pack.key, states) if any(state.seconds > WORTH_KEEPING for state in states) else None

    def ended(self, pack: Pack) -> None:
        """Take note that a pack has come to its end: what there is of it is durable elsewhere."""
        if pack.key in self._saved:
            self._saved.discard(pack.key)
            # One that stays is no harm: its trials are further elsewhere, or finished.
            with suppress(StorageUnavailable):
                self.checkpoints.remove(pack.key)

    def lost(self, pack: Pack, event: Lost) -> tuple[list[Trial], str]:
        """Let those trials of a pack that have not come out be tried again. Returns those that have failed for good, and a word on it."""
        trials, further = self._standing(pack, event)
        if not trials:
            return [], ""
        begun = sum(isinstance(trial, Paused) for trial in trials)
        count, they = amount(len(trials), "trial"), agreeing(begun, "it", "they")
        if event.cause is Cause.SHARED:
            self.board.put(replace(pack, trials=tuple(trials)))
            return [], f"{event.cause.value}: {count} {agreeing(len(trials), 'waits', 'wait')}, {begun} of them where {they} stood"
        crashes = 1 if further else pack.crashes + 1
        if event.cause is Cause.EXCEPTION:
            parts = self._halves(pack, trials)
        elif len(trials) > 1 and (event.cause is Cause.MEMORY or (crashes > 1 and event.cause is Cause.CRASH)):
            parts = [trials[0::2], trials[1::2]]
        else:
            parts = [trials] if crashes < (LOST_NODES if event.cause is Cause.NODE else ALONE) or len(trials) > 1 else []
        if not parts:
            return trials, ""
        wait = 0.0 if crashes == 1 or event.cause is Cause.EXCEPTION else min(LONGEST_WAIT, 2.0 ** (crashes - 2))
        trouble = self._put_back(pack, parts, crashes, wait)
        how = f"in {len(parts)} parts" if len(parts) > 1 else "again"
        where = f"{begun} of them from where {they} stood" if begun else f"from {agreeing(len(trials), 'its', 'their')} start"
        text = f"{event.cause.value}: {count} {agreeing(len(trials), 'is', 'are')} tried {how}, {where}"
        return [], f"{text}; {trouble}" if trouble else text

    def _standing(self, pack: Pack, event: Lost) -> tuple[list[Trial], bool]:
        """Return the trials that were lost as their last checkpoint has them, and whether the pack had come further than it was."""
        states = {trial.trial_id: trial for trial in event.left.values() if isinstance(trial, Paused)}
        before = {key: state.step for key, state in states.items()}
        # Of a storage that cannot be read: they begin anew, or from where they were when this pack began.
        with suppress(StorageUnavailable):
            furthest(states, self.checkpoints.load(pack.key, event.left).values())
        further = len(event.left) < len(pack.trials) or any(state.step > before.get(key, 0) for key, state in states.items())
        return [states.get(key, trial) for key, trial in event.left.items()], further

    def _halves(self, pack: Pack, trials: list[Trial]) -> list[list[Trial]]:
        """Two halves, as long as so many halvings would be enough to find a few trials among those that the pack had at first."""
        most = 2 * max(len(trials), len(pack.trials)).bit_length() + 2
        if len(trials) < 2 or self._halvings[pack.name] >= most:
            return []
        self._halvings[pack.name] += 1
        return [trials[0::2], trials[1::2]]

    def _put_back(self, pack: Pack, parts: Sequence[Sequence[Trial]], crashes: int, wait: float) -> str | None:
        if len(parts) == 1:
            self.board.put(replace(pack, trials=tuple(parts[0]), crashes=crashes), wait)
            return None
        troubles, kept = [], True
        for part in parts:
            half = replace(pack, trials=tuple(part), crashes=crashes, key=new_key(), width=max(1, min(pack.width, len(part))))
            states = [trial for trial in part if isinstance(trial, Paused)]
            troubles.append(self._keep(half.key, states))
            kept = kept and (not states or half.key in self._saved)
            self.board.put(half, wait)
        if kept:
            self.ended(pack)
        # Else nothing but its own checkpoint has them as far as they have come.
        return next((trouble for trouble in troubles if trouble), None)

    def _keep(self, key: str, states: Sequence[Paused]) -> str | None:
        return self._save(key, self.checkpoints.encoded(states)) if states else None

    def _save(self, key: str, content: bytes) -> str | None:
        try:
            self.checkpoints.save(key, content)
            self._saved.add(key)
        except StorageUnavailable as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                return f"going on without this checkpoint: {error}"
        return None
