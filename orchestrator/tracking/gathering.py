"""What trials came to, gathered from wherever it is: as files that stand on their own, for a sweep that is to have all of it itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from orchestrator.tracking import layout
from orchestrator.tracking.factors import decode_factors, encode_factors
from orchestrator.tracking.read.tables import Found
from orchestrator.tracking.store import Store
from orchestrator.tracking.write.traces import parquet_bytes

if TYPE_CHECKING:
    import pandas as pd


class Gathering:
    """Those of the trials of a sweep that are ``chosen``, a boolean for each.

    Their files are numbered or, if they are to lie beside others, called as those of a ``pack`` with these trials.

    ``rows`` are those of `orchestrator.tracking.read.results.ended_trials`, with the trial's id as a column and the paths that the files
    have here. They are complete when all `files` have been taken. Methods raise what MLflow's client raises.
    """

    def __init__(self, store: Store, found: Found, chosen: pd.Series[bool], pack: str | None = None) -> None:
        self._store, self._found, self._pack = store, found, pack
        self._there = found.ended.assign(trial_id=found.trials["trial_id"])[chosen]
        self.rows = self._there.drop(columns=["parent", "gone"]).reset_index(drop=True)
        for name in ("attempt", "steps"):
            self.rows[name] = self.rows[name].astype("int64")
        self.rows[["trace", "factors"]] = None

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the traces, and then the factors that are in files of sweeps, each a path and its content; one is in memory at a time."""
        for path, parent, source, ids in self._groups("trace", layout.TRACES_FOLDER, "parquet", layout.trace_path):
            table = self._found.artifacts(self._store, parent).table(source, None, ids)
            if table is not None:
                self._note("trace", ids, path)
                yield path, parquet_bytes(table)
        for path, parent, source, ids in self._groups("factors", layout.FACTORS_FOLDER, "safetensors", layout.factors_path):
            content = self._found.artifacts(self._store, parent).read(source)
            if content is not None:
                self._note("factors", ids, path)
                yield path, encode_factors(dict(decode_factors(content, set(ids))))

    def _groups(
        self, column: str, folder: str, ending: str, path: Callable[[str, list[str]], str]
    ) -> Iterator[tuple[str, str, str, list[str]]]:
        """Yield what comes from one file: its name here, the run among whose artifacts it is, its path there, and the trials."""
        groups = self._there[self._there[column].notna()].groupby(["parent", column], sort=False)["trial_id"]
        for place, ((parent, source), ids) in enumerate(groups):
            name = f"{folder}/{place:06d}.{ending}" if self._pack is None else path(self._pack, ids.tolist())
            yield name, str(parent), str(source), ids.tolist()

    def _note(self, column: str, ids: list[str], path: str) -> None:
        self.rows.loc[self.rows["trial_id"].isin(ids), column] = path
