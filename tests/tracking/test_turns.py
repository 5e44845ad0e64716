"""One process at a time writes to an experiment: on one machine and on several, whoever is killed or falls asleep."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import liveness
from orchestrator.errors import BusyError, LeaseLost
from orchestrator.tracking import layout
from orchestrator.tracking.lease import Entry, Lease, Terms, Watch
from orchestrator.tracking.store import Store
from orchestrator.tracking.turns import experiment_turn
from tests.processes import PATIENCE, communicate, eventually, popen

QUICK = Terms(beat=0.05, length=0.5, look=0.01)
"""With clocks that are set by hand, so that only those fall silent who are to."""
HOLD = """
import sys
from orchestrator import liveness
liveness.machine = lambda machine=liveness.machine(): machine + sys.argv[2]
from orchestrator.tracking.store import open_store
from orchestrator.tracking.turns import experiment_turn
with experiment_turn(open_store(sys.argv[1]), 'grid', lambda host: print('waiting', flush=True)):
    print('held', flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.server)])
def uri(request: pytest.FixtureRequest, local: Store) -> str:
    """Of a store of either kind of turns."""
    return local.uri if request.param == "file" else str(request.getfixturevalue("server"))


class Clock:
    """A clock that is set by hand, and goes on by ``tick`` seconds whenever it is looked at."""

    def __init__(self, tick: float = 0.0) -> None:
        self.time, self._tick = 100.0, tick

    def __call__(self) -> float:
        self.time += self._tick
        return self.time


# ------------------------------------------------------------------------------------------------------------------- processes


def test_processes_take_turns(uri: str, experiment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from orchestrator.tracking.store import open_store

    # Another user: nothing that is this user's own may be what keeps them apart.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other user"))
    code = HOLD.replace("'grid'", repr(experiment))
    first = popen([sys.executable, "-c", code, uri, ""], stdin=-1, stdout=-1, stderr=-1)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    # By another name of the same place.
    store = open_store(uri.replace("127.0.0.1", "localhost").replace("/mlflow.db", "/../" + Path(uri).parent.name + "/mlflow.db"))
    with experiment_turn(store, f"another {experiment}"):
        pass
    with pytest.raises(BusyError), experiment_turn(store, experiment, patient=False):
        pass
    events: queue.Queue[str] = queue.Queue()

    def wait() -> None:
        with experiment_turn(store, experiment, lambda _: events.put("waits")):
            events.put("has it")

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    assert events.get(timeout=PATIENCE) == "waits"
    assert waiting.is_alive()
    # Killed, not ended: a turn must not outlive whoever has it.
    first.kill()
    communicate(first)
    assert events.get(timeout=PATIENCE) == "has it"
    waiting.join(PATIENCE)
    assert events.empty()


def test_whoever_takes_a_lease_has_it_alone(local: Store, experiment: str) -> None:
    words: list[str] = []
    experiment_id = local.experiment(experiment)

    def work(machine: str) -> None:
        for _ in range(8):
            lease = Lease(local, experiment_id, Terms(beat=1, length=600, look=0.001))
            lease._entry = lease._entry.model_copy(update={"machine": machine})
            lease.acquire()
            words.append(f"+{machine}")
            # Time for another to come in.
            for _ in range(3):
                local.client.get_experiment(experiment_id)
            words.append(f"-{machine}")
            lease.release()

    threads = [threading.Thread(target=work, args=(machine,), daemon=True) for machine in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(words) == 2 * 4 * 8
    assert all(enter[0] == "+" and leave == f"-{enter[1:]}" for enter, leave in zip(words[::2], words[1::2], strict=True)), words
    assert not [tag for tag in local.client.get_experiment(experiment_id).tags if tag.startswith(layout.LEASE)]


class Client:
    """A store's client that calls ``after`` with what it has read of an experiment, before anybody hears of it."""

    def __init__(self, store: Store, after: Callable[[], object]) -> None:
        self._client, self._after = store.client, after

    def __getattr__(self, name: str) -> object:
        return getattr(self._client, name)

    def get_experiment(self, experiment_id: str) -> object:
        found = self._client.get_experiment(experiment_id)
        self._after()
        return found


def test_two_that_take_the_same_ticket_do_not_both_come_in(local: Store, experiment: str) -> None:
    experiment_id, long = local.experiment(experiment), Terms(beat=60, length=600, look=0.001)
    words: queue.Queue[str] = queue.Queue()
    looks = threading.Semaphore(0)
    second = Lease(replace(local, client=Client(local, looks.release)), experiment_id, long)

    def work() -> None:
        second.acquire()
        words.put("second")

    thread = threading.Thread(target=work, daemon=True)

    def overtake() -> None:
        if thread.ident is None:
            # The first has read that there is nobody, and not said yet which ticket it takes.
            thread.start()
            eventually(lambda: not words.empty() or sum(looks.acquire(timeout=1) for _ in range(20)) == 20)

    first = Lease(replace(local, client=Client(local, overtake)), experiment_id, long)
    for lease, key in ((first, "a"), (second, "b")):
        lease._key = f"{layout.LEASE}{key}"
        lease._entry = lease._entry.model_copy(update={"machine": key})
    first.acquire()
    words.put("first")
    first.release()
    thread.join(PATIENCE)
    assert [words.get(timeout=PATIENCE) for _ in range(2)] == ["first", "second"]


# -------------------------------------------------------------------------------------------------------- silence and its end


def entry(ticket: int, beat: int = 0) -> Entry:
    return Entry.of_this_process().model_copy(update={"ticket": ticket, "beat": beat, "machine": "another"})


def test_who_lives_is_told_by_what_they_say_and_not_by_clocks() -> None:
    clock = Clock()
    watch = Watch(Terms(beat=10, length=60, look=1), clock)
    far = entry(1)
    assert watch.living({"far": far})
    for _ in range(29):
        clock.time += 2
        assert watch.living({"far": far})
    assert not watch.heard
    # An hour in which the store could not be read says nothing of anybody.
    clock.time += 3600
    assert not watch.living({"far": far})
    assert watch.living({"far": entry(1, beat=1)})
    assert watch.heard == {"far"}


def test_an_hour_without_the_store_is_no_silence() -> None:
    clock = Clock()
    watch = Watch(Terms(beat=10, length=60, look=1), clock)
    assert watch.living({"far": entry(0)})
    clock.time += 3600
    assert watch.living({"far": entry(0)})


def test_processes_of_this_machine_are_asked_for() -> None:
    watch = Watch(Terms(), Clock())
    here = Entry.of_this_process()
    gone = here.model_copy(update={"process": f"{liveness.process()}1"})
    assert watch.living({"here": here, "gone": gone}) == {"here": here}
    assert watch.heard == {"here"}


def leases(store: Store, experiment: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lease]:
    """Leases of machines that cannot see each other's processes."""
    monkeypatch.setattr(liveness, "is_there", lambda _: pytest.fail("there are no processes to be seen"))

    def make(machine: str, clock: Callable[[], float]) -> Lease:
        lease = Lease(store, store.experiment(experiment), QUICK, clock)
        lease._entry = lease._entry.model_copy(update={"machine": machine, "host": machine})
        return lease

    return make


def test_one_that_takes_its_place_back_just_before_it_is_taken_is_no_trouble(
    local: Store, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = leases(local, experiment, monkeypatch)
    silent, other = make("a", Clock()), make("b", Clock(tick=0.02))
    silent.acquire()
    delete = other._delete

    def too_late(key: str) -> None:
        silent.release()
        delete(key)

    monkeypatch.setattr(other, "_delete", too_late)
    other.acquire()
    assert other.check() == 0


def test_one_that_was_not_heard_of_goes_on_if_nobody_has_taken_over(local: Store, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    lease = leases(local, experiment, monkeypatch)("a", clock)
    lease.acquire()
    assert lease.check() == 0
    clock.time += 3600
    assert lease.check() == 0, "it is there still, as it was"
    # The store came back as it had been before.
    lease.release()
    clock.time += 3600
    assert lease.check() == 1
    assert lease.check() == 1


def test_one_that_slept_too_long_has_lost_and_keeps_nobody_waiting(local: Store, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, clock = leases(local, experiment, monkeypatch), Clock()
    sleeper = make("a", clock)
    sleeper.acquire()
    other = make("b", Clock(tick=0.02))
    other.acquire()
    clock.time += 3600
    with other.kept():
        with pytest.raises(LeaseLost, match="on b, has taken over"):
            sleeper.check()
        with pytest.raises(LeaseLost):
            sleeper.check()
    assert not [tag for tag in local.client.get_experiment(local.experiment(experiment)).tags if tag.startswith(layout.LEASE)]


def test_what_strangers_write_there_keeps_nobody_waiting(local: Store, experiment: str) -> None:
    for number, value in enumerate(
        ("", "[]", "{}", '{"ticket": 0}', '{"ticket": "0", "beat": 0, "machine": "x", "process": "x", "host": "x"}')
    ):
        local.client.set_experiment_tag(local.experiment(experiment), f"{layout.LEASE}{number}", value)
    lease = Lease(local, local.experiment(experiment), QUICK)
    lease.acquire(patient=False)
