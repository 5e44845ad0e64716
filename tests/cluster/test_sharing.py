"""Drivers that each keep to their share of a cluster come to one that is fair, uses all of it, and stays."""

from __future__ import annotations

import random

import pytest

from orchestrator.cluster.sharing import Change, Staff, WorkerName, changes
from orchestrator.cluster.sizing import Allotment

CORE = Allotment(1.0, 0.0)


class Simulated:
    """A cluster of one kind of worker: who waits longest gets what is free, as Ray does it."""

    def __init__(self, capacity, kind=CORE):
        self.capacity, self.kind = capacity, kind
        self.wanted, self.up, self.queue, self.packs, self.idle = {}, {}, [], {}, {}

    def join(self, driver, wanted, packs=10**6):
        self.wanted[driver], self.up[driver], self.packs[driver], self.idle[driver] = wanted, 0, packs, 0
        self.queue += [driver] * wanted

    def leave(self, driver):
        del self.wanted[driver]
        self.queue = [d for d in self.queue if d != driver]
        self.up.pop(driver)

    def schedule(self):
        while self.queue and sum(self.up.values()) < self.capacity:
            self.up[self.queue.pop(0)] += 1

    def turn(self, driver):
        others = [WorkerName(d, self.kind, n) for d in self.wanted if d != driver for n in range(self.up[d] + self.queue.count(d))]
        staff = Staff(self.wanted[driver], self.up[driver], self.queue.count(driver), self.idle[driver])
        waiting = max(0, self.packs[driver] - self.up[driver])
        room = self.capacity * self.kind.cpus, self.capacity * self.kind.gpus
        change = changes(driver, {self.kind: staff}, others, *room, waiting).get(self.kind, Change())
        for _ in range(change.drop_coming):
            self.queue.remove(driver)
        self.up[driver] -= change.drop_up
        self.idle[driver] = max(0, self.idle[driver] - change.drop_up)
        self.queue += [driver] * change.start
        return change

    def settle(self, rng, rounds=200):
        """Let all take turns until nothing changes any more. Returns how many workers were let go of that were up."""
        dropped = quiet = 0
        for _ in range(rounds):
            self.schedule()
            order = list(self.wanted)
            rng.shuffle(order)
            done = [self.turn(driver) for driver in order]
            dropped += sum(change.drop_up for change in done)
            quiet = quiet + 1 if done == [Change()] * len(done) else 0
            if quiet == 3:
                return dropped
        raise AssertionError(f"it goes on and on: {self.up} {self.queue}")


@pytest.fixture
def rng():
    return random.Random(7)


def test_a_second_sweep_gets_half_and_the_first_gets_it_back(rng):
    cluster = Simulated(8)
    cluster.join("01", 8)
    cluster.schedule()
    assert cluster.up == {"01": 8}
    cluster.join("02", 8)
    assert cluster.settle(rng) == 4, "no more than need be"
    assert cluster.up == {"01": 4, "02": 4}
    cluster.leave("02")
    cluster.settle(rng) if len(cluster.wanted) > 1 else cluster.schedule()
    assert cluster.up["01"] + cluster.queue.count("01") >= 5, "the one that waited has its turn"


def test_a_small_sweep_gets_all_it_wants(rng):
    cluster = Simulated(8)
    cluster.join("01", 8)
    cluster.schedule()
    cluster.join("02", 1, packs=1)
    assert cluster.settle(rng) == 1
    assert cluster.up == {"01": 7, "02": 1}


def test_whom_nobody_has_room_for_waits_and_comes_next(rng):
    cluster = Simulated(2)
    for driver in ("01", "02", "03"):
        cluster.join(driver, 2)
    cluster.settle(rng)
    assert cluster.up == {"01": 1, "02": 1, "03": 0}
    assert cluster.queue.count("03") == 1
    cluster.leave("01")
    cluster.settle(rng)
    assert cluster.up == {"02": 1, "03": 1}


def test_workers_without_work_go_to_who_has_some(rng):
    cluster = Simulated(6)
    cluster.join("01", 6)
    cluster.schedule()
    cluster.packs["01"], cluster.idle["01"] = 1, 5
    cluster.join("02", 6)
    cluster.settle(rng)
    assert cluster.up == {"01": 1, "02": 5}


def test_workers_without_work_are_nobodys_harm_where_there_is_room():
    assert changes("01", {CORE: Staff(4, 4, 0, 3)}, [WorkerName("02", CORE, 0)], 8, 0, 0) == {}


@pytest.mark.parametrize("seed", range(300))
def test_any_drivers_come_to_a_fair_share(seed):
    rng = random.Random(seed)
    kind = rng.choice([CORE, Allotment(2.0, 0.0), Allotment(1.0, 0.25)])
    cluster = Simulated(rng.randint(1, 40), kind)
    for number in range(rng.randint(2, 6)):
        wanted = rng.randint(1, cluster.capacity)
        cluster.join(f"{number:02}", wanted, rng.choice([10**6, wanted]))
        if rng.random() < 0.5:
            cluster.schedule()
    cluster.settle(rng)
    check_fair(cluster)
    cluster.leave(rng.choice(sorted(cluster.wanted)))
    if len(cluster.wanted) > 1:
        cluster.settle(rng)
        check_fair(cluster)


def check_fair(cluster):
    assert sum(cluster.up.values()) == min(cluster.capacity, sum(cluster.wanted.values()))
    for driver, up in cluster.up.items():
        # Who has less than they want has no less than anybody else, but for what cannot be divided.
        assert up == cluster.wanted[driver] or up >= max(cluster.up.values()) - 1, (cluster.up, cluster.wanted)


def test_gpus_are_shared_first_and_then_the_cores_that_they_leave():
    gpu = Allotment(1.0, 0.25)
    others = [WorkerName("02", gpu, n) for n in range(4)] + [WorkerName("02", CORE, n) for n in range(4)]
    found = changes("01", {gpu: Staff(4, 4, 0), CORE: Staff(4, 4, 0)}, others, 8, 1, 5)
    assert found[gpu].drop_up == 2
    # Eight cores, four of them for GPUs: two for each driver.
    assert found[CORE].drop_up == 2


@pytest.mark.parametrize("name", ["", "x", "01 1 0", "01 one 0 3", "01 1 0 3 4"])
def test_names_of_another_make_are_not_ours(name):
    assert WorkerName.parse(name) is None


def test_a_name_says_it_all():
    claim = WorkerName("0a000000", Allotment(2.0, 0.25), 17)
    assert WorkerName.parse(claim.name) == claim
