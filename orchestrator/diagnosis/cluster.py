"""What a sweep needs of every node of a cluster: versions, GPUs, storage, MLflow, clocks."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from orchestrator.cluster.connection import Cluster
from orchestrator.cluster.jobs import SECRETS
from orchestrator.cluster.kept import kept
from orchestrator.cluster.nodes import NodeReport, ask_nodes
from orchestrator.cluster.probe import versions
from orchestrator.diagnosis.check import Check
from orchestrator.diagnosis.machine import gpu_names
from orchestrator.errors import OrchestratorError, StorageUnavailable, one_line
from orchestrator.storage.base import open_storage
from orchestrator.tracking.scratch import scratch_run
from orchestrator.tracking.uris import redact, resolve, sqlite_path
from workloads.amounts import agreeing, amount

SKEW_SECONDS = 10.0
"""How far a clock may be from ours: object stores and certificates stop working at minutes, and times in MLflow mislead before."""
EXPERIMENT = "orchestrate-doctor"
"""Where runs are made, and deleted, to which nodes add a file."""
SHOWN = 8
"""Nodes named for each thing that is wrong on them."""


def check_cluster(
    address: str | None, tracking_uri: str | None, storage: str | None, client: Mapping[str, str] | None = None
) -> Iterator[Check]:
    """Yield what is found on a Ray cluster and on all of its nodes, or that an embedded one starts.

    Versions are compared with those of the ``client``, by default this process. Leaves nothing behind but a deleted run, where MLflow is a
    server or a database.
    """
    with Cluster.connect(address) as cluster:
        where = "an embedded cluster starts" if cluster.address == "local" else f"{cluster.address} answers"
        if (there := kept()) is not None:
            changed = "" if there.fits else "; it runs another version of this program: `orchestrate down`, then `up`"
            yield Check("local cluster", True, f"{there}{changed}")
        has = (amount(cluster.cpus, "core"), amount(cluster.gpus, "GPU"), amount(len(cluster.nodes), "node"))
        yield Check("ray", True, f"{where}: {', '.join(has)}")
        if cluster.here:
            return
        asked: dict[str, Any] = {}
        with ExitStack() as stack:
            for name, place in (("storage", _folder(storage)), ("mlflow", _run(tracking_uri))):
                try:
                    asked |= stack.enter_context(place)
                except OrchestratorError as error:
                    yield Check(name, False, str(error))
            nodes = ask_nodes(asked)
        yield from judged(nodes, asked, client or versions())


def judged(nodes: Sequence[NodeReport], asked: Mapping[str, Any], client: Mapping[str, str]) -> Iterator[Check]:
    """Yield what to think of what nodes have found: a line for each thing where all is well, or one for each node where it is not."""
    yield from _each("nodes", nodes, lambda node: node.failure, f"all {len(nodes)} answer" if len(nodes) != 1 else "it answers")
    answered = [node for node in nodes if not node.failure]
    if not answered:
        return
    yield from _each("versions", answered, lambda node: _other_versions(node.found["versions"], client), "as here on every node")
    yield from _each("gpus", answered, _missing_gpus, _all_gpus(answered))
    if "storage" in asked:
        yield from _each("storage", answered, _storage, _shared(answered, asked["storage"]))
    if "store" in asked:
        shown = redact(asked["store"])
        yield from _each("mlflow", answered, lambda node: _mlflow(node, shown), f"every node reaches {shown} and uploads to it")
    yield from _each("clocks", answered, _skew, f"within {SKEW_SECONDS:g} s of this machine's")


def _each(name: str, nodes: Sequence[NodeReport], judge: Callable[[NodeReport], str], fine: str) -> Iterator[Check]:
    wrong = [(node, words) for node in nodes if (words := judge(node))]
    if not wrong:
        yield Check(name, True, fine)
    yield from (Check(name, False, f"{node.name}: {words}") for node, words in wrong[:SHOWN])
    if len(wrong) > SHOWN:
        yield Check(name, False, f"and so on: {len(wrong) - SHOWN} more nodes")


def _other_versions(there: Mapping[str, str], client: Mapping[str, str]) -> str:
    missing = [name for name, version in client.items() if version and not there.get(name)]
    other = [f"{name} {there[name]}, here {version}" for name, version in client.items() if there.get(name, version) not in ("", version)]
    words = ([f"{', '.join(missing)} missing"] if missing else []) + other
    advice = "; install there what is here: `pip install -c constraints.txt …`, or the same image on all nodes"
    return "; ".join(words) + advice if words else ""


def _missing_gpus(node: NodeReport) -> str:
    found = node.found["gpus"]
    if isinstance(found, str):
        return f"torch sees no GPU: {one_line(found)}"
    if node.gpus > len(found):
        offered = amount(node.gpus, "GPU")
        return f"Ray offers {offered}, torch sees {len(found)}: is it a CUDA build, and is the driver new enough? (`nvidia-smi`)"
    return ""


def _all_gpus(nodes: Sequence[NodeReport]) -> str:
    found = [gpu for node in nodes if not isinstance(node.found["gpus"], str) for gpu in node.found["gpus"]]
    offered = sum(node.gpus for node in nodes)
    unused = f"; Ray offers {offered:g} of them: start it with --num-gpus" if offered < len(found) else ""
    return f"torch sees {gpu_names(found)}{unused}" if found else "none, and none offered"


def _storage(node: NodeReport) -> str:
    return one_line(redact(node.found["storage"]))


def _shared(nodes: Sequence[NodeReport], url: str) -> str:
    apart = sum(not node.found.get("shared") for node in nodes)
    if apart:
        advice = "their checkpoints go through the driver; a folder that all share, or a bucket, is faster"
        return f"{apart} of {amount(len(nodes), 'node')} {agreeing(apart, 'does', 'do')} not see {url}: {advice}"
    return f"every node reads and writes {url}"


def _mlflow(node: NodeReport, shown: str) -> str:
    return f"{one_line(redact(node.found['mlflow']))}; can it reach {shown}?" if node.found["mlflow"] else ""


def _skew(node: NodeReport) -> str:
    if abs(node.ahead) <= SKEW_SECONDS:
        return ""
    return f"its clock is {abs(node.ahead):.0f} s {'ahead of' if node.ahead > 0 else 'behind'} this machine's: set it by NTP, say chrony"


@contextmanager
def _folder(url: str | None) -> Iterator[dict[str, Any]]:
    """Yield what to ask about the storage, in which a file lies meanwhile."""
    storage, folder = open_storage(url), f"doctor/{uuid.uuid4().hex}"
    try:
        storage.write(f"{folder}/here", b"here")
        yield {"storage": storage.url, "folder": folder}
    finally:
        with suppress(StorageUnavailable):
            storage.remove_folder(folder)


@contextmanager
def _run(tracking_uri: str | None) -> Iterator[dict[str, Any]]:
    """Yield what to ask about MLflow, in which there is a run meanwhile.

    Of a file of this machine nothing: sweeps write to it from here.
    """
    uri = resolve(tracking_uri)
    if sqlite_path(uri) is not None:
        yield {}
        return
    with scratch_run(uri, EXPERIMENT) as run:
        yield {"store": uri, "run": run, "environment": {name: os.environ[name] for name in SECRETS if name in os.environ}}
