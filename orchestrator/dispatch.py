"""Ray: the one module that knows it. Connects to a cluster, or starts one on this machine, and runs packs on it."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from orchestrator.errors import RayUnavailable, UsageError
from orchestrator.plan import Pack
from workloads.recording import Recording
from workloads.results import Event, Finished, TrialResult
from workloads.spec import Trial

PROBE_SECONDS = 5.0
SMALL_PACK_GPU = 0.25
"""Share of a GPU for a pack when the grid says ``gpus: auto``: small packs leave most of it idle, so four run side by side."""
SMALL_PACK_BYTES = 1 << 30


@dataclass(frozen=True)
class PackDone:
    """The last message of a pack."""


@dataclass(frozen=True)
class Allotment:
    """What one pack asks of the cluster."""

    cpus: float
    gpus: float


class Cluster:
    """A Ray cluster this process is connected to. Use as a context manager: leaving it disconnects, and ends an embedded one."""

    def __init__(self, address: str, cpus: float, gpus: float, nodes: int) -> None:
        self.address, self.cpus, self.gpus, self.nodes = address, cpus, gpus, nodes

    @classmethod
    def connect(cls, address: str | None = None, *, cpus: int | None = None, gpus: int | None = None) -> Self:
        """Join the cluster at ``address`` (``host:port``, ``auto``, or ``local`` for an embedded one, the default).

        ``RAY_ADDRESS`` stands in for a missing address. ``cpus`` and ``gpus`` set what an embedded cluster offers, by default what the
        machine has. Raises `RayUnavailable` within seconds when nobody answers, `UsageError` for an address of another form.
        """
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        if address not in ("local", "auto"):
            _probe(address)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # A worker that asks for no GPU must see none.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        if address == "local":
            # Ray's own default, said aloud: a process of another user must not be able to talk to an embedded cluster.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        import ray

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            options |= {"include_dashboard": False, "num_cpus": cpus or os.cpu_count(), "_node_ip_address": "127.0.0.1"}
            if gpus is not None:
                options["num_gpus"] = gpus
        try:
            ray.init(address=address, **options)
            total = ray.cluster_resources()
            nodes = sum(1 for node in ray.nodes() if node["Alive"])
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            ray.shutdown()
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RayUnavailable(f"Ray at {address!r} cannot be used: {first}") from error
        return cls(address, total.get("CPU", 0.0), total.get("GPU", 0.0), nodes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def allot(self, cpus: float, gpus: float | str, pack_bytes: int) -> Allotment:
        """What a pack gets: the cores asked for and, with ``auto``, a GPU or a share of one wherever the cluster has any.

        Raises `RayUnavailable` for more than the cluster has: Ray itself would wait for ever.
        """
        if gpus == "auto":
            gpus = 0.0 if not self.gpus else SMALL_PACK_GPU if pack_bytes < SMALL_PACK_BYTES else 1.0
        allotment = Allotment(float(cpus), float(gpus))
        for name, wanted, there in (("cpus", allotment.cpus, self.cpus), ("gpus", allotment.gpus, self.gpus)):
            if wanted > there:
                raise RayUnavailable(
                    f"resources.{name} asks for {wanted:g} a pack, but the cluster at {self.address!r} has {there:g} in all: "
                    "lower it, or use another cluster"
                )
        return allotment

    def workers(self, allotment: Allotment) -> int:
        """How many packs run at once."""
        by_gpu = self.gpus / allotment.gpus if allotment.gpus else math.inf
        by_cpu = self.cpus / allotment.cpus if allotment.cpus else math.inf
        return max(1, int(min(by_cpu, by_gpu)))

    def run(
        self, packs: Sequence[tuple[Pack, Allotment]], recording: Recording, files: Mapping[str, bytes], poll: float = 0.2
    ) -> Iterator[tuple[str, Event | PackDone | None]]:
        """Run packs and yield ``(pack name, event)`` as events come.

        A `PackDone` follows a pack's last event; ``("", None)`` says that none came for ``poll`` seconds. A worker that dies fails the
        trials of its pack that had not been handed on.
        """
        import ray

        shared = ray.put(dict(files))
        streams = {}
        for pack, allotment in packs:
            # Not retried by Ray, which would replay the stream from its first event.
            remote = ray.remote(_remote_pack).options(
                num_returns="streaming", num_cpus=allotment.cpus, num_gpus=allotment.gpus, max_retries=0, name=pack.name
            )
            threads = max(1, int(allotment.cpus))
            streams[remote.remote(pack, recording, shared, threads, allotment.gpus > 0)] = _Running(pack, time.time())
        while streams:
            ready, _ = ray.wait(list(streams), num_returns=1, timeout=poll, fetch_local=False)
            if not ready:
                yield "", None
            for stream in ready:
                running = streams[stream]
                try:
                    event: Event | PackDone = ray.get(next(stream))
                except StopIteration:
                    del streams[stream]
                    event = PackDone()
                except ray.exceptions.RayError as error:
                    del streams[stream]
                    yield running.pack.name, running.fail(f"{type(error).__name__}: {error}")
                    event = PackDone()
                running.see(event)
                yield running.pack.name, event


class _Running:
    """A pack on a worker, and which of its trials have been handed on."""

    def __init__(self, pack: Pack, began: float) -> None:
        self.pack, self.began = pack, began
        self._left: dict[str, Trial] = {trial.trial_id: trial for trial in pack.trials}

    def see(self, event: Event | PackDone) -> None:
        if isinstance(event, Finished):
            for result in event.results:
                self._left.pop(result.trial_id, None)

    def fail(self, error: str) -> Finished:
        now = time.time()
        return Finished(tuple(TrialResult.failure(trial_id, error, self.began, now) for trial_id in self._left))


def _remote_pack(pack: Pack, recording: Recording, files: Mapping[str, bytes], threads: int, cuda: bool) -> Iterator[Event]:
    # Here and not above: the driver does without torch.
    from orchestrator.worker import run_pack

    yield from run_pack(pack, recording, files, threads=threads, cuda=cuda)


def _probe(address: str) -> None:
    """Knock at ``host:port`` before Ray does, which would keep trying for a minute."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or "/" in host:
        raise UsageError(f"a Ray address is host:port, auto or local, not {address!r}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS):
            return
    except OSError as error:
        raise RayUnavailable(
            f"no Ray cluster answers at {address}: {error.strerror or error}; is its head node up, and the port right?"
        ) from error
