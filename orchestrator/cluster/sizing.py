"""How many workers of which kind a cluster has room for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.cluster.connection import Cluster
from orchestrator.errors import RayUnavailable
from orchestrator.planning.pack import fitting
from workloads.amounts import agreeing, amount

SMALL_GPU_SHARE = 0.25
"""Share of a GPU for a worker when the grid says ``gpus: auto``: small packs leave most of it idle, so four run side by side."""
LARGE_PACK_BYTES = 4 << 30
"""With ``gpus: auto``, packs that could take this much get a GPU of their own."""
SCALED_WORKERS = 8
"""Workers that a cluster which scales is asked for, unless told otherwise."""


@dataclass(frozen=True, order=True)
class Allotment:
    """What one worker asks of the cluster."""

    cpus: float
    gpus: float


def crews_for(
    cluster: Cluster,
    cpus: float,
    gpus: float | str,
    trials: int,
    large: bool = False,
    *,
    workers: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[tuple[Allotment, int]]:
    """Return which workers to start for a sweep of ``trials``, and how many of each kind; workers with a GPU come first.

    ``cpus`` is what each gets. With ``gpus`` ``auto`` there are workers for all GPUs, each with a share of one, or with all of it for
    ``large`` packs, and workers without for the cores that are left; with a number all workers get as much. ``workers`` bounds how
    many there are of a kind. Raises `RayUnavailable` for more than the cluster has: Ray itself would wait for ever. A cluster that
    scales is asked for ``workers``, by default `SCALED_WORKERS` or what it has room for now, whether they are there or not.
    """
    most = min(max(trials, 1), workers or trials or 1)
    share = (1.0 if large else SMALL_GPU_SHARE) if gpus == "auto" and cluster.gpus else 0.0 if gpus == "auto" else float(gpus)
    for name, wanted, there in (("cpus", float(cpus), cluster.cpus), ("gpus", share, cluster.gpus)):
        if wanted > there and not cluster.scales:
            raise RayUnavailable(
                f"resources.{name} asks for {wanted:g} a pack, but the cluster at {cluster.address!r} has {there:g} in all: "
                "lower it, or use another cluster"
            )
    with_gpu, without = 0, 0
    for node in cluster.nodes:
        room = fitting(node.cpus, cpus)
        here = min(room, fitting(node.gpus, share)) if share else 0
        with_gpu += here
        without += room - here
    if share and gpus != "auto":
        without = 0
    found = [(Allotment(float(cpus), share), with_gpu)] if share else []
    found.append((Allotment(float(cpus), 0.0), without))
    if cluster.scales:
        asked = min(most, workers or SCALED_WORKERS)
        if sum(count for _, count in found) < asked:
            tell(f"the cluster scales: asking it for {amount(asked, 'worker')}, which {agreeing(asked, 'comes up', 'come up one by one')}")
            found[0] = (found[0][0], max(found[0][1], asked))
    found = [(allotment, min(count, most)) for allotment, count in found if count]
    if not found:
        raise RayUnavailable(
            f"resources ask for {amount(cpus, 'core')} and {amount(share, 'GPU')} a pack, which no single node of the cluster at "
            f"{cluster.address!r} has: lower them, or use another cluster"
        )
    return found
