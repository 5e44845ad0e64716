"""Connecting to a Ray cluster, or starting one on this machine, and what there is room for on it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from orchestrator.cluster.access import check_access
from orchestrator.errors import RayUnavailable
from orchestrator.scratch import scratch_folder

SMALL_GPU_SHARE = 0.25
"""Share of a GPU for a worker when the grid says ``gpus: auto``: small packs leave most of it idle, so four run side by side."""
LARGE_PACK_BYTES = 4 << 30
"""With ``gpus: auto``, packs that could take this much get a GPU of their own."""
SCALED_WORKERS = 8
"""Workers that a cluster which scales is asked for, unless told otherwise."""
STARTS = 4
"""How often an embedded Ray is started that takes too long to."""
SLOW_START = "timed out during startup"
"""What Ray says then."""
SOCKET_BYTES = 107 - len("/orchestrate-12345678/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store_1")
"""How long the path of a folder may be in which an embedded Ray makes its sockets: the kernel takes names of 107 bytes."""


@dataclass(frozen=True, order=True)
class Allotment:
    """What one worker asks of the cluster."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: its cores and GPUs."""

    cpus: float
    gpus: float


class Cluster:
    """A Ray cluster this process is connected to. Use as a context manager: leaving it disconnects, and ends an embedded one."""

    def __init__(self, address: str, nodes: Sequence[Node], scales: bool = False, stack: ExitStack | None = None) -> None:
        self.address, self.nodes, self.scales = address, tuple(nodes), scales
        self._stack = stack or ExitStack()

    @property
    def cpus(self) -> float:
        """Cores of all nodes."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all nodes."""
        return sum(node.gpus for node in self.nodes)

    @classmethod
    def connect(cls, address: str | None = None, *, cpus: int | None = None, gpus: int | None = None) -> Self:
        """Join the cluster at ``address`` (``host:port``, ``auto``, or ``local`` for an embedded one, the default).

        ``RAY_ADDRESS`` stands in for a missing address. ``cpus`` and ``gpus`` set what an embedded cluster offers, by default what the
        machine has. Raises `RayUnavailable` within seconds when nobody answers, `UsageError` for an address of another form.
        """
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Whatever the log says, a driver writes what raylets say of dead workers and nodes to its standard output, which is ours.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
        # A worker that asks for no GPU must see none.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        if address == "local":
            # Ray's own default, said aloud: a process of another user must not be able to talk to an embedded cluster.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        else:
            check_access(address)
        import ray

        if address == "local":
            # Ray has read its settings when it was imported, which somebody else may have done before.
            ray._raylet.Config.initialize("")

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            options |= {"include_dashboard": False, "num_cpus": cpus or os.cpu_count(), "_node_ip_address": "127.0.0.1"}
            if gpus is not None:
                options["num_gpus"] = gpus
        with ExitStack() as stack:
            try:
                if address == "local":
                    folder = stack.enter_context(scratch_folder(_socket_base()))
                    # Ray's session and all that its processes leave behind is in there, and goes with it.
                    options["_temp_dir"] = str(folder)
                    stack.callback(ray.shutdown)
                    with _environment("TMPDIR", str(folder)), _own_signals():
                        _start(options)
                else:
                    stack.callback(ray.shutdown)
                    with _own_signals():
                        ray.init(address=address, **options)
                there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            except (OSError, RuntimeError, ValueError) as error:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise RayUnavailable(f"Ray at {address!r} cannot be used: {first}") from error
            nodes = [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in there]
            return cls(address, nodes, address != "local" and _scales(), stack.pop_all())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def crews(
        self,
        cpus: float,
        gpus: float | str,
        trials: int,
        large: bool = False,
        *,
        workers: int | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> list[tuple[Allotment, int]]:
        """Which workers to start for a sweep of ``trials``, and how many of each kind; workers with a GPU come first.

        ``cpus`` is what each gets. With ``gpus`` ``auto`` there are workers for all GPUs, each with a share of one, or with all of it for
        ``large`` packs, and workers without for the cores that are left; with a number all workers get as much. ``workers`` bounds how
        many there are of a kind. Raises `RayUnavailable` for more than the cluster has: Ray itself would wait for ever. A cluster that
        scales is asked for ``workers``, by default `SCALED_WORKERS` or what it has room for now, whether they are there or not.
        """
        most = min(max(trials, 1), workers or trials or 1)
        share = (1.0 if large else SMALL_GPU_SHARE) if gpus == "auto" and self.gpus else 0.0 if gpus == "auto" else float(gpus)
        for name, wanted, there in (("cpus", float(cpus), self.cpus), ("gpus", share, self.gpus)):
            if wanted > there and not self.scales:
                raise RayUnavailable(
                    f"resources.{name} asks for {wanted:g} a pack, but the cluster at {self.address!r} has {there:g} in all: "
                    "lower it, or use another cluster"
                )
        with_gpu, without = 0, 0
        for node in self.nodes:
            room = int(node.cpus / cpus)
            here = min(room, int(node.gpus / share)) if share else 0
            with_gpu += here
            without += room - here
        if share and gpus != "auto":
            without = 0
        found = [(Allotment(float(cpus), share), with_gpu)] if share else []
        found.append((Allotment(float(cpus), 0.0), without))
        if self.scales:
            asked = min(most, workers or SCALED_WORKERS)
            if sum(count for _, count in found) < asked:
                tell(f"the cluster scales: asking it for {asked} workers, which come up one by one")
                found[0] = (found[0][0], max(found[0][1], asked))
        found = [(allotment, min(count, most)) for allotment, count in found if count]
        if not found:
            raise RayUnavailable(
                f"resources ask for {cpus:g} cores and {share:g} GPUs a pack, which no single node of the cluster at {self.address!r} has: "
                "lower them, or use another cluster"
            )
        return found


def _scales() -> bool:
    """Whether the cluster that we are connected to starts nodes when they are needed. Ray has no public word on it."""
    import ray

    try:
        from ray.autoscaler.v2.utils import is_autoscaler_v2

        client = ray._private.worker.global_worker.gcs_client
        status = json.loads(client.internal_kv_get(b"__autoscaling_status", None) or b"{}")
        # Without a configuration there are nodes there, and no types.
        types = status.get("autoscaler_report", {}).get("node_type_mapping") or {}
        return any(not str(name).startswith("node_") for name in types.values()) or bool(is_autoscaler_v2())
    except Exception:  # private: whatever it may be in another version, a cluster that does not scale is what it then is
        return False


def _start(options: dict[str, Any]) -> None:
    """Start an embedded Ray. On a machine that is busy it may take longer than the half minute that Ray gives itself: then once more.

    Raises `RuntimeError` if it does not start.
    """
    import ray

    for attempt in range(STARTS):
        try:
            ray.init(address="local", **options)
        except Exception as error:
            # Ray raises no class of its own for it.
            if SLOW_START not in str(error):
                raise
            ray.shutdown()
            if attempt == STARTS - 1:
                raise RuntimeError(f"it did not start in {STARTS} times half a minute: is the machine too busy?") from error
        else:
            return


def _socket_base() -> Path | None:
    """Where an embedded Ray's folder is made: `None` for the usual place for temporary files, unless its path is too long for sockets."""
    return Path("/tmp") if len(os.fsencode(tempfile.gettempdir())) > SOCKET_BYTES else None  # noqa: S108


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Let the processes that are started meanwhile have an environment variable."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray would put a handler of its own in the place of ours, which on SIGTERM ends the process with an exit code of its own."""
    from ray._private import utils

    install = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = install
