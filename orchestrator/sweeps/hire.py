"""Who is to run a sweep: the workers that are hired, and how fast they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.cluster.connection import Cluster, check_reachable
from orchestrator.cluster.kept import address_of, is_here
from orchestrator.cluster.pool import Workers
from orchestrator.cluster.sizing import LARGE_PACK_BYTES, Allotment, crews_for
from orchestrator.deadline import in_background
from orchestrator.planning.pack import PACK_BYTES, Crew
from orchestrator.planning.plan import make_plan
from workloads.engines.calibration import known_rates
from workloads.engines.rates import DEFAULTS

if TYPE_CHECKING:
    from orchestrator.execution.progress import Reporter
    from orchestrator.grid import Grid
    from orchestrator.options import Options
    from orchestrator.sweeps.run import StopRequest
    from orchestrator.tracking.store import Store
    from workloads.training.recording import Recording

MACHINE_SECONDS = 30.0
"""How long planning waits for a worker to say how fast it is."""
LEAVING_SECONDS = 5.0
"""How long a sweep that is interrupted at its start waits for the store that it is opening."""


@contextmanager
def connected(
    grid: Grid, recording: Recording, options: Options, reporter: Reporter, stop: StopRequest
) -> Iterator[tuple[Cluster, Workers, list[tuple[Allotment, int]], Store]]:
    """Ray with its workers and MLflow, all or none.

    A cluster of this machine cannot be unreachable, so it starts while MLflow opens its store, each taking seconds, and its workers import
    what they need at the same time. A cluster that is elsewhere is reached first: if it is not there, no database may have been created.
    Signals interrupt this between its steps.
    """
    from orchestrator.tracking import preflight
    from orchestrator.tracking.store import open_store
    from orchestrator.tracking.uris import resolve

    address = address_of(options.address)
    local = is_here(address)
    if local:
        # Starting Ray takes seconds, which a wrong address need not cost.
        preflight.check_place(resolve(options.tracking_uri))
    else:
        # As joining it does; but here, where nothing has begun, a signal need not wait for the answer.
        check_reachable(address)
    with ExitStack() as stack:
        with stop.deferring():
            opening: Future[Store] | None = in_background(open_store, options.tracking_uri) if local else None
            if opening:
                stack.callback(wait, [opening], LEAVING_SECONDS)
            cluster = stack.enter_context(Cluster.connect(address))
            stop.check()
            resources = grid.resources
            large = bool(cluster.gpus) and _is_large(grid, recording)
            crews = crews_for(cluster, resources.cpus, resources.gpus, len(grid.trials), large, workers=options.workers, tell=reporter.note)
            workers = stack.enter_context(Workers(crews, share=not cluster.scales))
            while opening and not opening.done():
                stop.check()
                wait([opening], 0.1)
        yield cluster, workers, crews, opening.result() if opening else open_store(options.tracking_uri)


def _is_large(grid: Grid, recording: Recording) -> bool:
    """Return whether some pack would fill a good part of a GPU."""
    plan = make_plan(grid.trials, recording, "batched", [Crew(1, "cuda", DEFAULTS["cuda"], 2 * LARGE_PACK_BYTES)])
    return any(pack.bytes >= LARGE_PACK_BYTES for pack in plan.packs)


def crews_of(workers: Workers, hired: Sequence[tuple[Allotment, int]], cluster: Cluster) -> list[Crew]:
    """Who is to run the sweep and how fast they are: as they say themselves, or as this machine is known to be."""
    kept = known_rates()
    here = cluster.here and kept is not None and not cluster.gpus
    machines = {allotment: machine for machine, allotment in workers.machines(0.0 if here else MACHINE_SECONDS)}
    crews: dict[str, Crew] = {}
    for allotment, count in hired:
        machine = machines.get(allotment)
        device = machine.device if machine else "cuda" if allotment.gpus else "cpu"
        rates = machine.rates if machine else (kept if device == "cpu" else None) or DEFAULTS[device]
        crew = Crew(count, device, rates, machine.memory if machine else PACK_BYTES)
        # A GPU that torch does not see leaves cores.
        crews[device] = replace(crew, workers=crews[device].workers + count) if device in crews else crew
    return list(crews.values())
