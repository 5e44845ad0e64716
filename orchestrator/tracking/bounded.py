"""MLflow's client with an end to each of its calls. MLflow itself gives a server so much time for every piece of an answer."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, cast

from orchestrator.deadline import within

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TIMEOUT, RETRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
"""MLflow's settings for one request: the seconds that it waits for a piece of the answer, and how often it asks again."""
DEFAULTS = {TIMEOUT: "60", RETRIES: "2"}
"""A store that is down is waited for by whoever writes to it, who has more patience, and meanwhile other things to do."""
SLACK = 20.0
"""Seconds for what MLflow waits between its requests."""
SLOWEST = 64 << 10
"""Bytes a second that at least come or go."""
TRANSFER_SECONDS = 3600.0
"""For files of which nobody knows how large they are."""


def call_seconds(size: int = 0) -> float:
    """Return how long a call may take that transfers ``size`` bytes."""
    timeout, retries = (float(os.environ.get(name) or default) for name, default in DEFAULTS.items())
    return timeout * (retries + 1) + SLACK + size / SLOWEST


class BoundedClient:
    """`MlflowClient` whose methods raise `TimeoutError` after `call_seconds`, or ``seconds`` if given. Signals are heard meanwhile."""

    def __init__(self, client: MlflowClient, seconds: float | None = None) -> None:
        self._client, self._seconds = client, seconds

    def __getattr__(self, name: str) -> Any:
        return functools.partial(within, self._seconds or call_seconds(), getattr(self._client, name))


def bounded(client: MlflowClient) -> MlflowClient:
    """Return the client with an end to each of its calls."""
    return cast("MlflowClient", BoundedClient(client))
