"""The second figure of arXiv 2005.06398, from ``orchestrate submit configs/figure2-order3.yaml``: ``python docs/figures/figure2.py``.

Reconstruction error and estimated CP rank over the number of observations: medians over repetitions with interquartile bars. With
``figure2-order4`` or a rank-three sweep as its argument it draws that one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

import orchestrator

mpl.use("agg")

from matplotlib import pyplot as plt

sweep = sys.argv[1] if len(sys.argv) > 1 else "figure2-order3"
history = orchestrator.load_history(sweep)
# The CP rank is taken at the end of a trial only: the last row of its trace.
final = history.groupby("trial_id").last().join(orchestrator.load_runs(sweep).set_index("trial_id")[["problem.observed", "init.scale"]])
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
series = {f"tensor factorization, init {scale:g}": some for scale, some in final.groupby("init.scale")}
for label, runs in (series | {"linear": final[final["init.scale"].isna()]}).items():
    some = runs.groupby("problem.observed")
    for panel, measure in zip(axes, ("error", "cp_rank"), strict=True):
        middle = some[measure].median()
        bars = [middle - some[measure].quantile(0.25), some[measure].quantile(0.75) - middle]
        panel.errorbar(middle.index, middle, bars, marker="o", ms=4, capsize=2, label=label)
axes[0].set(xlabel="observations", ylabel="reconstruction error", yscale="log")
axes[1].set(xlabel="observations", ylabel="estimated CP rank", ylim=(0, None))
axes[0].legend(fontsize=8)
figure.savefig(Path(f"{sweep}.png"), dpi=110)
