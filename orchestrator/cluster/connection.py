"""Connecting to a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, Self

from orchestrator.cluster import private
from orchestrator.cluster.access import check_access
from orchestrator.cluster.kept import address_of, is_here
from orchestrator.cluster.scratch import scratch_folder, socket_base
from orchestrator.errors import RayUnavailable, one_line

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Those that end a process."""
STARTS = 4
"""How often an embedded Ray is started that takes too long to."""
END_SECONDS = 5.0
"""How long what one of these starts has left may take to be gone."""
SLOW_START = "timed out during startup"
"""What Ray says then."""
OTHER_VERSIONS = "Version mismatch"
"""What it says, over several lines, of a cluster of other versions."""


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

    @property
    def here(self) -> bool:
        """True if it is this machine alone."""
        return is_here(self.address)

    @classmethod
    def connect(cls, address: str | None = None, *, cpus: int | None = None, gpus: int | None = None) -> Self:
        """Join the cluster at ``address``: ``host:port``, ``auto``, or ``local`` for an embedded one.

        For a missing address stands what `orchestrator.cluster.kept.address_of` says. ``cpus`` and ``gpus`` set what an embedded
        cluster offers, by default what the machine has. Raises `RayUnavailable` within seconds when nobody answers, or where this process
        is connected already, `UsageError` for an address of another form.
        """
        address = address_of(address)
        if address == "local":
            _set_up_environment(address)
        else:
            check_reachable(address)
        import ray

        if ray.is_initialized():
            # Whose it is would end with this sweep.
            raise RayUnavailable("this process is connected to Ray already: call ray.shutdown() first, or submit from another process")
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            options |= {"include_dashboard": False, "num_cpus": cpus or os.cpu_count(), "_node_ip_address": "127.0.0.1"}
            if gpus is not None:
                options["num_gpus"] = gpus
        with ExitStack() as stack:
            try:
                if address == "local":
                    folder = stack.enter_context(scratch_folder(socket_base()))
                    # Ray's session and all that its processes leave behind is in there, and goes with it.
                    options["_temp_dir"] = str(folder)
                    stack.callback(_shut_down)
                    with _environment("TMPDIR", str(folder)), private.own_signals(), private.bare():
                        _start(options)
                else:
                    stack.callback(_shut_down)
                    with private.own_signals():
                        ray.init(address=address, **options)
                there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            except Exception as error:  # Ray raises whatever class there is where it cannot start, and none of its own
                raise RayUnavailable(f"Ray at {address!r} cannot be used: {_words(error)}") from error
            nodes = [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in there]
            return cls(address, nodes, address != "local" and private.scales(), stack.pop_all())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def check_reachable(address: str) -> None:
    """Check that a cluster answers at ``address`` and lets us in, without joining it. Raises as `Cluster.connect` does."""
    _set_up_environment(address)
    check_access(address)


def _set_up_environment(address: str) -> None:
    """Tell Ray how to behave in a process of ours that uses the cluster at ``address``."""
    if is_here(address):
        # Ray's own default, said aloud: a process of another user must not be able to talk to a cluster of ours.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Whatever the log says, a driver writes what raylets say of dead workers and nodes to its standard output, which is ours.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
    # A worker that asks for no GPU must see none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    # Imported in a notebook it asks for widgets, of which nothing here is made.
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
    if "ray" in sys.modules:
        # Ray has read its settings when it was imported, which somebody else may have done before.
        private.read_settings()


def _shut_down() -> None:
    """Disconnect, and end an embedded cluster. Interrupted in it, Ray ends the process by SIGABRT when it is asked again at the exit."""
    import ray

    # Signals are heard in the main thread alone.
    main = threading.current_thread() is threading.main_thread()
    with ExitStack() as stack:
        if main:
            stack.enter_context(_signals_later())
        ray.shutdown()


@contextmanager
def _signals_later() -> Iterator[None]:
    """Hear a signal that ends processes when this is over; a second one ends this one at once."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if heard:
            os._exit(128 + signal.SIGINT)
        heard.append(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, hear)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])


def _words(error: Exception) -> str:
    """Return what Ray says, in a line."""
    if OTHER_VERSIONS in str(error):
        return f"{one_line(' '.join(str(error).split()))}; install the same versions on both sides"
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])


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
            _end_rest(options["_temp_dir"])
            if attempt == STARTS - 1:
                raise RuntimeError(f"it did not start in {STARTS} times half a minute: is the machine too busy?") from error
        else:
            return


def _end_rest(folder: str) -> None:
    """End what a start that came to nothing has left, of a Ray in ``folder``. Ray does so at the exit of this process alone."""
    import psutil

    left = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(folder in part for part in child.cmdline()):
                child.kill()
                left.append(child)
    psutil.wait_procs(left, END_SECONDS)


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
