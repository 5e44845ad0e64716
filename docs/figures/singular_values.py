"""After the third figure of arXiv 1905.13655, from ``orchestrate submit configs/singular-values.yaml``: singular values in training."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

import orchestrator

mpl.use("agg")

from matplotlib import pyplot as plt

history = orchestrator.load_history("singular-values").set_index("trial_id")
runs = orchestrator.load_runs("singular-values").set_index("trial_id")
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
for panel, (trial, depth) in zip(axes, runs["factorization.depth"].items(), strict=True):
    trace = history.loc[trial].query("step > 0")
    panel.plot(trace.step, trace.filter(regex=r"^sv_\d+$"))
    panel.set(title=f"depth {depth}", xlabel="iteration", xscale="log")
axes[0].set_ylabel("singular value")
figure.savefig(Path("singular-values.png"), dpi=110)
