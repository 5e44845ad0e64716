"""Who may write to an experiment that several machines reach: one process at a time, by a lease in the experiment's tags.

MLflow has no conditional write. Lamport's bakery (A new solution of Dijkstra's concurrent programming problem, CACM 17(8), 1974) needs
none: each process writes one tag, its own. It takes a ticket higher than all that it sees and waits for those that have a lower one. One
that says nothing for the length of the lease is passed over. Whoever waits measures that with a clock of its own: those of two machines are
never compared.
"""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel

from orchestrator import liveness
from orchestrator.errors import BusyError, LeaseLost, UnavailableError
from orchestrator.tracking import layout
from orchestrator.tracking.store import Store, translated


@dataclass(frozen=True)
class Terms:
    """Seconds between two words of who has a lease, how long it holds without one, and seconds between two looks of who waits for it."""

    beat: float = 10.0
    length: float = 60.0
    look: float = 1.0


TERMS = Terms()


class Entry(BaseModel, frozen=True, strict=True, extra="forbid"):
    """What a process says of itself: its ticket, 0 while it chooses one, how often it has spoken, and where it runs."""

    ticket: int
    beat: int
    machine: str
    process: str
    host: str

    @classmethod
    def of_this_process(cls) -> Self:
        """Return what this process has to say at first."""
        host = socket.gethostname()
        return cls(ticket=0, beat=0, machine=liveness.machine(), process=liveness.process(), host=host)


def now() -> float:
    """Return seconds that also pass while the machine sleeps."""
    # Not every system has this clock.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Watch:
    """Tells processes that live from those that have fallen silent. Time in which the store could not be read does not count."""

    def __init__(self, terms: Terms, clock: Callable[[], float]) -> None:
        self._terms, self._clock = terms, clock
        self._looked = clock()
        self._beats: dict[str, int] = {}
        self._silent: dict[str, float] = {}
        self.heard: set[str] = set()
        """Those that are known to live."""

    def living(self, entries: Mapping[str, Entry]) -> dict[str, Entry]:
        """Return which of ``entries``, as they have just been read, are to be reckoned with."""
        looked = self._clock()
        passed, self._looked = min(looked - self._looked, 2 * self._terms.look), looked
        return {key: entry for key, entry in entries.items() if self._lives(key, entry, passed)}

    def _lives(self, key: str, entry: Entry, passed: float) -> bool:
        if entry.machine == liveness.machine():
            there = liveness.is_there(entry.process)
            self.heard |= {key} if there else set()
            return there
        known = self._beats.get(key)
        if known == entry.beat:
            self._silent[key] += passed
        else:
            self._silent[key] = 0.0
            self.heard |= {key} if known is not None else set()
        self._beats[key] = entry.beat
        return self._silent[key] < self._terms.length


class Lease:
    """The right to write to an experiment, or the wish for it. Safe to use from several threads."""

    def __init__(self, store: Store, experiment_id: str, terms: Terms = TERMS, clock: Callable[[], float] = now) -> None:
        self._store, self._experiment_id, self._terms, self._clock = store, experiment_id, terms, clock
        self._key, self._entry = f"{layout.LEASE}{uuid.uuid4().hex[:12]}", Entry.of_this_process()
        self._renewed = clock()
        self._lapses = 0
        self._lost: LeaseLost | None = None
        self._turn, self._over = threading.RLock(), threading.Event()

    def acquire(self, on_wait: Callable[[str], None] = lambda _: None, *, patient: bool = True) -> None:
        """Wait for the lease; ``on_wait`` is told once for whose machine. Raises `BusyError` if another has it and we are not ``patient``.

        Raises `TrackingUnavailable` if the store does not answer.
        """
        watch, told = Watch(self._terms, self._clock), False
        self._enter()
        while True:
            entries = self._read()
            if self._key not in entries:
                # We were taken for gone.
                self._enter()
                continue
            living = watch.living({key: entry for key, entry in entries.items() if key != self._key})
            ahead = {key: entry for key, entry in living.items() if (entry.ticket, key) < (self._entry.ticket, self._key)}
            if not ahead:
                break
            if not patient and watch.heard & set(ahead):
                raise BusyError(ahead[min(watch.heard & set(ahead))].host)
            if not told and patient:
                told = True
                on_wait(next(iter(ahead.values())).host)
            time.sleep(self._terms.look)
            if self._stale():
                # We have slept: with the old ticket we might come before one who has passed us over.
                self._enter()
            elif self._clock() - self._renewed >= self._terms.beat:
                self._beat()
        for key in set(entries) - set(living) - {self._key}:
            # What one has left who is gone is in nobody's way; and one who was only silent may have taken it back by now.
            with suppress(UnavailableError):
                self._delete(key)

    def renew(self) -> None:
        """Say that we are there. Raises `LeaseLost` if we were taken for gone and another has the lease now."""
        with self._turn:
            if self._over.is_set():
                return
            if self._stale() and self._key not in self._read():
                self._lapses += 1
                try:
                    self.acquire(patient=False)
                except BusyError as error:
                    self.release()
                    self._lost = LeaseLost(error.host)
                    raise self._lost from None
            self._beat()

    def check(self) -> int:
        """See that the lease is ours before something is written; return how often another may have had it since it first was.

        Raises `LeaseLost` if another has it, `TrackingUnavailable` if the store does not answer.
        """
        with self._turn:
            if self._lost is not None:
                raise self._lost
            if self._stale():
                self.renew()
            return self._lapses

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the lease from a thread of its own, and give it back in the end."""

        def work() -> None:
            while not self._over.wait(self._terms.beat):
                # `check` says what is wrong to whoever wants to write.
                with suppress(UnavailableError):
                    self.renew()

        thread = threading.Thread(target=work, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            # A store that does not answer would keep us waiting; others will see that we are gone.
            if not self._stale() and self._turn.acquire(timeout=self._terms.beat):
                self.release()
                self._turn.release()

    def release(self) -> None:
        """Give the lease back, or the place in the queue for it."""
        with suppress(UnavailableError):
            self._delete(self._key)

    def _enter(self) -> None:
        """Take a ticket."""
        while True:
            self._put(self._entry.model_copy(update={"ticket": 0}))
            began = self._renewed
            ticket = 1 + max((entry.ticket for entry in self._read().values()), default=0)
            self._put(self._entry.model_copy(update={"ticket": ticket}))
            # One who slept in between may have been passed over, with a ticket lower than those given since.
            if self._clock() - began < self._terms.length / 2:
                return

    def _stale(self) -> bool:
        """Return whether so much time has passed since we last spoke that others may soon take us for gone."""
        return self._clock() - self._renewed > self._terms.length / 2

    def _read(self) -> dict[str, Entry]:
        with translated(self._store.display):
            tags: Mapping[str, str] = self._store.client.get_experiment(self._experiment_id).tags
        entries = {}
        for key, value in tags.items():
            # Whoever may write to the experiment may put anything there.
            with suppress(ValueError):
                if key.startswith(layout.LEASE):
                    entries[key] = Entry.model_validate_json(value)
        return entries

    def _beat(self) -> None:
        self._put(self._entry.model_copy(update={"beat": self._entry.beat + 1}))

    def _put(self, entry: Entry) -> None:
        at = self._clock()
        with translated(self._store.display):
            self._store.client.set_experiment_tag(self._experiment_id, self._key, entry.model_dump_json())
        # From before the request: it may have taken long.
        self._entry, self._renewed = entry, at

    def _delete(self, key: str) -> None:
        with translated(self._store.display):
            self._store.client.delete_experiment_tag(self._experiment_id, key)
