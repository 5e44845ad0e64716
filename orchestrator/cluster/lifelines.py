"""What a driver on a cluster hangs on: the head, and the raylet of its own node.

Ray does not raise anything where one of them is gone. Asked for an actor then, it waits for the head and in the end, or at once where the
raylet is gone, ends the process with exit code 1. So nothing is asked of it that they would have to do.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable

from orchestrator.errors import RayUnavailable

HEAD_SECONDS = 30.0
"""How long a head may be gone, which some clusters start again. Ray gives it twice as long."""
RAYLET_SECONDS = 2.0
"""How long a raylet may be, which nobody starts again. Ray takes it for dead after a quarter of a minute."""
EVERY = 0.1
"""Seconds between two looks. What Ray is asked for meanwhile may still be asked of somebody who has just gone."""
ANSWER_SECONDS = 2.0
"""How long a connection may take."""


class Lifeline:
    """Somebody, ``what`` says who, at ``address`` (host:port), who is given up once nobody has been there for as long as ``patience``.

    Without one who is ``vital``, nothing at all may be asked of Ray: looked for each time, and not every tenth of a second.
    """

    def __init__(self, what: str, address: str, patience: float, now: Callable[[], float] = time.monotonic, *, vital: bool = False) -> None:
        self.what, self.address, self.vital, self._patience, self._now = what, address, vital, patience, now
        self._seen, self._looked = now(), -math.inf
        self._holds = True

    def holds(self) -> bool:
        """Return whether somebody takes connections, as far as was to be seen a moment ago. Raises `RayUnavailable` if given up."""
        if self.vital or self._now() >= self._looked + EVERY:
            self._holds = self._takes_connections()
            self._looked = self._now()
            if self._holds:
                self._seen = self._looked
        if self._now() > self._seen + self._patience:
            raise RayUnavailable(f"{self.what} at {self.address} is gone; `orchestrate resume` goes on with the sweep")
        return self._holds

    def _takes_connections(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
        except OSError:
            return False
        return True


def lifelines() -> tuple[Lifeline, ...]:
    """Return those of this process, which is connected to a cluster."""
    import ray

    context = ray.get_runtime_context()
    own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return (
        Lifeline("the head of the Ray cluster", context.gcs_address, HEAD_SECONDS),
        Lifeline("Ray's raylet on this machine", f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}", RAYLET_SECONDS, vital=True),
    )
