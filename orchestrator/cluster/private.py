"""All use of Ray's private interfaces. `tests/cluster/test_private.py` says what broke when Ray changes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def read_settings() -> None:
    """Let Ray read its settings from the environment again: it has when it was imported, which somebody else may have done before."""
    import ray

    ray._raylet.Config.initialize("")


def running_address() -> str:
    """Return the address of the cluster that this machine belongs to, as ``auto`` finds it; empty if Ray does not say."""
    import ray

    try:
        return str(ray._private.services.canonicalize_bootstrap_address("auto") or "")
    except Exception:  # whatever it may be in another version, Ray will say itself what is wrong
        return ""


def alive_nodes(address: str) -> int:
    """Return how many nodes the head at ``address`` has, without joining its cluster; none if it does not say."""
    import ray

    try:
        return sum(node.state == 0 for node in ray._raylet.GcsClient(address).get_all_node_info().values())
    except Exception:  # Ray raises what it likes where a head is busy or gone
        return 0


def drivers() -> list[int]:
    """Return the processes, other than this one, that the cluster which we are connected to works for, wherever they are."""
    import ray

    jobs = ray._private.worker.global_worker.gcs_client.get_all_job_info()
    return [job.driver_pid for job in jobs.values() if not job.is_dead and job.driver_pid != os.getpid()]


def token_header() -> list[tuple[str, str]]:
    """Return the header by which Ray shows its token; empty where it has none, or is not to show it."""
    import ray
    from ray.exceptions import AuthenticationError

    try:
        return list(ray._raylet.AuthenticationTokenLoader.instance().get_token_for_http_header().items())
    except AuthenticationError:
        return []


def scales() -> bool:
    """Return True if the cluster that we are connected to starts nodes when they are needed. Ray has no public word on it."""
    import ray

    try:
        from ray.autoscaler.v2.utils import is_autoscaler_v2

        client = ray._private.worker.global_worker.gcs_client
        status = json.loads(client.internal_kv_get(b"__autoscaling_status", None) or b"{}")
        # Without a configuration there are nodes there, and no types.
        types = status.get("autoscaler_report", {}).get("node_type_mapping") or {}
        return any(not str(name).startswith("node_") for name in types.values()) or bool(is_autoscaler_v2())
    except Exception:  # whatever it may be in another version, a cluster that does not scale is what it then is
        return False


@contextmanager
def own_signals() -> Iterator[None]:
    """Keep our signal handlers. Ray puts two in the place of ours, of which one, on SIGTERM, ends the process with its own exit code; the
    other, of its core, says where the process was, calls ours, and aborts the process three seconds later, whatever that is saving."""
    from ray._private import utils

    install = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = install
        handler = signal.getsignal(signal.SIGTERM)
        # Of the core's Python knows nothing.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def bare() -> Iterator[None]:
    """Let a Ray that is started meanwhile have only what workers need.

    Ray itself also starts, and waits for, a dashboard (without pages, where none is wanted), and who starts further nodes or sends what
    workers print to drivers, and has its nodes' agents gather statistics: a second and several processes, for what nobody here looks at.
    """
    from ray._private import utils
    from ray._private.node import Node

    owners = {"start_api_server": Node, "start_monitor": Node, "start_log_monitor": Node, "get_dashboard_dependency_error": utils}
    before = {name: getattr(owner, name) for name, owner in owners.items() if hasattr(owner, name)}
    for name in before:
        setattr(owners[name], name, _left_out)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(owners[name], name, function)


def _left_out(*_: object, **__: object) -> str:
    return "nobody here looks at it"
