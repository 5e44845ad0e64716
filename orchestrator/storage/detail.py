"""Which of a sweep's trials become runs of MLflow: all of them, a sample, or none. The others are in the sweep's tables alone."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.amounts import amount
from workloads.training.trial_state import Outcome

MANY = 20_000
"""Trials up to which all become runs unless the grid says otherwise: MLflow writes some hundred runs a second and shows thousands."""
SAMPLE = 1000
"""How many of more trials become runs, about, besides those that went wrong."""
_STRIDE = 0.6180339887498949
"""The golden ratio: multiples of it, modulo one, are spread evenly however many there are, and fall in with no axis of a grid."""


@dataclass(frozen=True)
class Detail:
    """``runs`` is ``all``, ``sampled`` or ``none``, of a sweep of so many ``trials``."""

    runs: str = "all"
    trials: int = 0

    @classmethod
    def of(cls, runs: str, trials: int) -> Detail:
        """Return what a grid asks for; ``auto`` is all of a few trials and a sample of many."""
        return cls(("all" if trials <= MANY else "sampled") if runs == "auto" else runs, trials)

    def has_run(self, place: int, outcome: Outcome) -> bool:
        """Return whether the trial at a place of the grid that has ended so is to have a run.

        Of a sample, those that failed or diverged are, too.
        """
        if self.runs != "sampled":
            return self.runs == "all"
        wrong = outcome in (Outcome.FAILED, Outcome.DIVERGED)
        return wrong or place * _STRIDE % 1.0 < SAMPLE / max(self.trials, 1)

    def __str__(self) -> str:
        if self.runs == "all":
            return "all trials become runs of MLflow"
        sample = amount(min(SAMPLE, self.trials), "trial")
        which = "no trials become" if self.runs == "none" else f"about {sample}, and all that go wrong, become"
        every = "it is" if self.trials == 1 else f"all {self.trials:,} are"
        return f"{which} runs of MLflow; {every} in the sweep's tables (tracking: {{runs: all}} writes a run for each)"
