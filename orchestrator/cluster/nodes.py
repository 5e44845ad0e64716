"""Every node of a cluster, asked what it has and what it reaches."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.cluster import probe
from orchestrator.errors import one_line

LOOK_SECONDS = 120.0
"""How long nodes may take to look: they import what they have, perhaps from a slow disk."""
CLOCK_SECONDS = 20.0


@dataclass(frozen=True)
class NodeReport:
    """A node of the cluster: its id, its address with its host's name, the GPUs that it offers, and what `probe.look` found there.

    ``failure`` says why nothing was found; ``ahead`` is by how many seconds its clock is ahead of ours, as far as that can be told.
    """

    id: str
    name: str
    gpus: float
    found: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    ahead: float = 0.0


def ask_nodes(asked: Mapping[str, Any], seconds: float = LOOK_SECONDS) -> list[NodeReport]:
    """Let every node that is up look at itself, all at once, for ``seconds`` at most. This process is connected to their cluster."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Where this package is missing, its functions must come along.
    ray.cloudpickle.register_pickle_by_value(probe)
    looking, telling = ray.remote(probe.look), ray.remote(probe.clock)
    nodes = [
        NodeReport(node["NodeID"], f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})", node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]
    there = [{"num_cpus": 0, "max_retries": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(n.id, soft=False)} for n in nodes]
    answers = [
        looking.options(**options).remote({**asked, "name": node.id, "gpus": node.gpus}) for node, options in zip(nodes, there, strict=True)
    ]
    ray.wait(answers, num_returns=len(answers), timeout=seconds)
    looked = [_looked(node, answer, seconds) for node, answer in zip(nodes, answers, strict=True)]
    # Of a process that is there by now, so that the way to it is short.
    return [_timed(node, telling.options(**options)) if not node.failure else node for node, options in zip(looked, there, strict=True)]


def _looked(node: NodeReport, answer: Any, seconds: float) -> NodeReport:
    import ray

    try:
        return replace(node, found=ray.get(answer, timeout=0.1))
    except ray.exceptions.GetTimeoutError:
        return replace(node, failure=f"has not answered for {seconds:g} s; `ray status` on the head says how it is")
    except Exception as error:  # of Ray's, or what a process there raises that has other packages
        first = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return replace(node, failure=f"runs nothing: {one_line(first)}")


def _timed(node: NodeReport, telling: Any) -> NodeReport:
    """Return the node with how far its clock is ahead, at least: what may have passed on the way counts for it."""
    import ray

    before = time.time()
    try:
        there = ray.get(telling.remote(), timeout=CLOCK_SECONDS)
    except ray.exceptions.RayError:
        return node
    after = time.time()
    ahead = there - after if there > after else min(0.0, there - before)
    return replace(node, ahead=ahead)
