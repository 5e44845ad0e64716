"""The parts of a grid file beside the trials' specs: what is recorded, and what resources are asked for."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from workloads.section import LARGEST_COUNT, Finite, Section, Whole, as_tuple
from workloads.training.references import References

SMALLEST_SHARE = 1e-4
"""Of a core or GPU: Ray counts in these."""


def _share(value: float) -> float:
    if 0 < value < SMALLEST_SHARE:
        raise ValueError(f"must be at least {SMALLEST_SHARE:g}, the smallest share that can be scheduled, not {value:g}")
    return value


Step = Annotated[Whole, Field(ge=0, le=LARGEST_COUNT)]


class Record(Section):
    """What is recorded: ``points`` spread evenly over log(step) and again over log(loss), or exactly the ``steps`` listed.

    A trial's factors at ``checkpoint_steps``, and where ``checkpoint_losses`` are first reached, become artifacts of its run.
    """

    points: Annotated[Whole, Field(ge=0, le=10_000)] = 200
    """About how many steps are recorded: so many evenly in log(step), and again in log(loss)."""
    steps: Annotated[tuple[Step, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None
    """Exactly these steps are recorded instead."""
    measures: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] | None = None
    """What is computed at each, beside the loss; see `orchestrate help MEASURE`."""
    checkpoint_steps: Annotated[tuple[Step, ...], BeforeValidator(as_tuple), Field(max_length=100)] = ()
    """Steps at which a trial's factors are kept."""
    checkpoint_losses: Annotated[tuple[Annotated[Finite, Field(gt=0)], ...], BeforeValidator(as_tuple), Field(max_length=100)] = ()
    """Losses at which, when they are first reached, a trial's factors are kept."""
    references: Annotated[References, Field(max_length=20)] = Field(default_factory=dict)
    """Arrays of data files, by names of your own: `{found: runs/w.npz:W}` is what the measure `distance_to_found` is against."""


class Resources(Section):
    """What each pack gets: ``cpus`` cores and ``gpus`` GPUs (a fraction shares one; ``auto`` takes what the cluster has)."""

    cpus: Annotated[Finite, Field(gt=0), AfterValidator(_share)] = 1.0
    """Cores of a worker; a fraction shares one."""
    gpus: Literal["auto"] | Annotated[Finite, Field(ge=0), AfterValidator(_share)] = "auto"
    """GPUs of a worker; a fraction shares one, and auto takes what the cluster has."""
    engine: Literal["auto", "autograd", "batched", "fused"] = "auto"
    """What trains: auto picks the fastest for each pack."""


class Tracking(Section):
    """What MLflow gets: which trials become ``runs`` (``auto``: all of up to 20,000, else a sample), and about how many ``points`` of each
    trace."""

    runs: Literal["auto", "all", "sampled", "none"] = "auto"
    """Which trials become runs of MLflow: auto means all of up to 20,000, else a sample over the grid."""
    points: Annotated[Whole, Field(ge=2, le=10_000)] = 30
    """About how many points of each trace a run has."""


EXAMPLES = {
    "name": "depth-and-scale",
    "needs": "models.py",
    "fixed": "{problem: {kind: matrix_completion, shape: [5, 5], target: {rank: 1}, observed: 12}, stop: {steps: 20_000}}",
    "cases": "[{factorization.kind: deep_matrix, grid: {factorization.depth: [2, 3]}}, {factorization.kind: nuclear_norm, init: null}]",
    "grid": "{factorization.depth: 2..4, init.product_scale: {logspace: [1e-5, 1e-1, 5]}}",
    "zip": "{optimizer.lr: [0.02, 0.01], stop.steps: [20_000, 40_000]}",
    "random": "{samples: 20, seed: 0, optimizer.lr: {loguniform: [1e-4, 1e-1]}}",
    "seeds": "0..9",
    "exclude": '[{factorization.depth: [3, 4]}, "factorization.depth == 2 and optimizer.lr > 0.1"]',
    "record": "{points: 100, measures: [error, effective_rank, singular_values]}",
    "tracking": "{runs: sampled, points: 30}",
    "resources": "{cpus: 1, gpus: auto}",
    "figures": "{error: {kind: medians, x: problem.observed, y: error, color: factorization.depth, log: y}}",
    "claims": "{small: {kind: within, of: effective_rank, range: [null, 1.1], where: factorization.depth > 2}}",
}
"""How each top-level key may be written."""

TOP: dict[str, Any] = {
    "name": "the MLflow experiment",
    "needs": "files or modules of your own that its kinds and measures are from; they have to be given with `--with`, too",
    "fixed": "keys that all trials share",
    "cases": "a list, each item a set of keys; it may have a grid, zip and random of its own",
    "grid": "key: list of values, range or space; all combinations",
    "zip": "key: list of values, advancing together; or a list of such mappings",
    "random": "samples, seed, and key: distribution",
    "seeds": "a number of seeds, a list of them, or a range; they set `seed`, by which starts are drawn",
    "exclude": "a list of partial specs and conditions to leave out",
    "record": "what is recorded, and when",
    "tracking": "which trials become runs of MLflow",
    "resources": "what each pack gets",
    "figures": "name: a picture of the runs",
    "claims": "name: a statement about the runs that is checked",
}
"""Top-level keys of a grid file, with a word on each."""

SCALARS = ("dtype", "seed")
"""Parts of a spec that are single values."""
