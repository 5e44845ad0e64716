"""What the guide says of words that no model has: distributions, spaces, functions of expressions, and examples of single keys."""

from __future__ import annotations

from orchestrator.grid.model import EXAMPLES

WORDS = {
    "random.samples": ("whole number ≥ 1, required", "How many points are drawn.", f"random: {EXAMPLES['random']}"),
    "random.seed": ("whole number ≥ 0, default 0", "What the points of random are drawn by.", f"random: {EXAMPLES['random']}"),
    "uniform": ("distribution of random", "Draws a number between two, evenly.", "init.scale: {uniform: [0.1, 1]}"),
    "loguniform": (
        "distribution of random",
        "Draws a number between two, evenly in its logarithm.",
        "optimizer.lr: {loguniform: [1e-4, 1e-1]}",
    ),
    "integers": ("distribution of random", "Draws a whole number between two, both included.", "problem.observed: {integers: [5, 20]}"),
    "choice": (
        "distribution of random",
        "Draws one of several values, of which one may be a whole section.",
        "factorization.depth: {choice: [2, 3, 5]}",
    ),
    "linspace": ("values of an axis", "So many numbers from the first to the last, evenly spaced.", "init.scale: {linspace: [0.1, 1, 10]}"),
    "logspace": (
        "values of an axis",
        "So many numbers from the first to the last, evenly spaced in their logarithms.",
        "init.scale: {logspace: [1e-5, 1e-1, 5]}",
    ),
    "rate": (
        "in expressions of figures",
        "The share of trials for which a condition holds: in y of medians, color of heatmap and when of threshold.",
        "y: rate(error < 1e-2)",
    ),
    "first": ("in expressions", "A measure at the first recorded step of a trial.", "where: first(det) > 0"),
    "lowest": ("in expressions", "The smallest value of a measure over a trial's whole trace.", "where: lowest(det) > 0"),
    "highest": ("in expressions", "The largest value of a measure over a trial's whole trace.", "where: highest(loss) < 10"),
    "outcome": (
        "in expressions",
        "How a trial ended: converged, exhausted (steps or seconds used up), aborted, diverged (not finite), failed or cancelled.",
        "where: outcome == 'converged'",
    ),
}
"""Words that are no keys, kinds or measures: where they stand, what they mean, and an example."""

SAMPLES = {
    "seconds": "60",
    "schedule": "{warmup: 100, cosine: 1000}",
    "warmup": "100",
    "cosine": "1000",
    "floor": "0.1",
    "milestones": "[1000, 2000]",
    "factors": "[0.1, 0.01]",
    "clip": "1.0",
    "weight_decay": "1e-4",
    "batch": "16",
    "label_noise": "0.1",
    "abort": "loss > 10 * first(loss)",
    "widths": "[2, 4]",
    "arity": "2",
    "pattern": "half",
    "measurements": "rank_one",
    "steps": "[0, 10, 100]",
    "checkpoint_steps": "[1000, 10_000]",
    "checkpoint_losses": "[1e-2, 1e-4]",
    "condition": "100",
    "spectrum": "[4, 2, 0.5]",
    "noise": "{std: 0.1}",
    "std": "0.1",
    "distribution": "logistic",
    "signs": "true",
    "entries": "[[0, 1, 1.0], [1, 0, 1.0]]",
    "held_out": "0.1",
    "scale": "0.1",
    "product_scale": "1e-3",
    "scales": "[0.01, 1]",
    "where": "outcome == 'converged'",
    "title": "Error over depth",
    "facet": "problem.observed",
    "labels": "{x: entries seen}",
    "x_range": "[1, 1e3]",
    "y_range": "[null, 1]",
    "shape": "init.kind",
    "log": "[x, y]",
    "reverse": "x",
    "when": "step > 100",
    "curves": "{bound: 1 / x}",
    "statistic": "mean",
    "band": "iqr",
    "lines": "{error: {noise: 0.1}}",
    "says": "Error falls with depth.",
    "source": "arXiv 1905.13655",
    "by": "[factorization.depth]",
    "share": "0.9",
}
"""Values of keys that no example of their section has."""
