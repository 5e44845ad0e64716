"""The picture in the README, from the traces of ``orchestrate submit configs/figure1.yaml``: ``python docs/figures/figure1.py``.

Loss against the absolute value of the unobserved entry; colour is the iteration, as in the first figure of arXiv 2005.06398.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

import orchestrator

mpl.use("agg")

from matplotlib import pyplot as plt

runs = orchestrator.load_runs("figure1").query("seed == 0").set_index("trial_id")
history = orchestrator.load_history("figure1")
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), sharex=True, sharey=True, layout="constrained")
colors = mpl.colors.LogNorm(1, history.step.max())
for depth, panel in zip((2, 3, 4), axes, strict=True):
    loss = np.geomspace(1e-4, 0.49)
    panel.plot(loss, (1 - np.sqrt(2 * loss)) ** 2 / np.sqrt(2 * loss), "k--", lw=1, label="lower bound while det > 0")
    for trial in runs.index[runs["factorization.depth"] == depth]:
        trace = history[(history.trial_id == trial) & (history.step > 0)]
        marker = "o" if runs.loc[trial, "init.balanced"] else "^"
        points = panel.scatter(trace.loss, trace.entry_0_0.abs(), c=trace.step, norm=colors, cmap="viridis", s=9, marker=marker, lw=0)
    panel.set(title=f"depth {depth}", xlabel="loss", xscale="log", yscale="log", ylim=(1e-2, 200))
    panel.grid(alpha=0.3)
axes[0].invert_xaxis()
axes[0].set_ylabel("|unobserved entry|")
handles = [plt.Line2D([], [], color="gray", marker=m, ls="") for m in "o^"] + axes[0].get_legend_handles_labels()[0]
axes[0].legend(handles, ["balanced start", "plain start", "lower bound while det > 0"], loc="upper left", fontsize=8)
figure.colorbar(points, ax=axes, label="iteration")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)
