"""Keys of a grid that make no difference to any of its trials, though they might."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.grid.source import Mistake
from orchestrator.grid.written import Indices, Written
from workloads.trial import TrialSpec


class Effects:
    """What was ``written``, and whether it makes a difference where it may make none (`workloads.trial.TrialSpec.ineffective`).

    A value of an axis need not, as the control of its others: a key is judged by all that is said of it at one place, fixed or an axis. Nor
    need what is meant for more steps than the command line has ``overridden`` them by, to try a grid.
    """

    def __init__(self, written: Written, overridden: Sequence[str]) -> None:
        self._written = written
        self._shortened = not {"stop", "stop.steps"}.isdisjoint(overridden)
        self._keys: set[str] = set()
        self._mend = "leave it out, by --set {}=null" if overridden else "leave it out"

    def _ineffective(self, spec: TrialSpec) -> dict[str, str]:
        return dict(spec.ineffective(None if self._shortened else spec.stop.steps))

    def note(self, spec: TrialSpec) -> None:
        """Take note of which keys may have no effect; of specs that differ in nothing that matters to them, one will do."""
        self._keys |= self._ineffective(spec).keys()

    def mistakes(self, points: Iterable[tuple[Indices, TrialSpec]]) -> list[Mistake]:
        """Return each key that is written and has an effect in none of the trials, ``points`` of the axes with their specs."""
        keys = self._keys - self._written.named
        found: dict[tuple[str, str | int], Mistake | None] = {}
        for indices, spec in points if keys else ():
            without = self._ineffective(spec)
            for key in keys:
                path = self._written.path(key, indices)
                if path is None:
                    continue
                # All that is said of it under `cases`, say, is one axis.
                place = (key, path[0])
                if key not in without:
                    found[place] = None
                else:
                    found.setdefault(place, Mistake(path, key, f"{without[key]}; {self._mend.format(key)}"))
        return [mistake for mistake in found.values() if mistake is not None]
