"""What problems have in common of whose observations some may be held out."""

from __future__ import annotations

from abc import abstractmethod

from workloads.problems.base import Observed, Problem


class HeldOut(Problem):
    """Some of what is known is observed, and some is held out: never trained on, but looked at."""

    held_out: Observed | None = None
    """How many of the known observations `held_out_error` looks at: a count or a fraction; by default all that are not observed."""

    @abstractmethod
    def known(self) -> int:
        """Return the number of observations whose values are known, of which some are observed and some are held out."""

    @property
    def lists(self) -> bool:
        """True where the data file lists what is known, all of which is observed or held out unless the grid says less."""
        return self.file is not None and self.file.count is not None

    def observations(self) -> int | None:
        if self.observed is None:
            return self.known() - (self._share(self.held_out) if self.held_out is not None else 0) if self.lists else None
        return self._share(self.observed)

    def _share(self, of: int | float) -> int:
        """Return a count, or a fraction of what is known, as a count."""
        return max(1, round(of * self.known())) if isinstance(of, float) else of

    def _counts(self) -> dict[str, int]:
        held_out = {"held_out": self.held_out_entries()} if isinstance(self.held_out, float) and self.shape is not None else {}
        return {**super()._counts(), **held_out}

    def held_out_entries(self) -> int:
        return self._share(self.held_out) if self.held_out is not None else self.known() - (self.observations() or 0)
