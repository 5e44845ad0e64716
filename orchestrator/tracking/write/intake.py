"""Takes in a sweep that comes from a file, as if it had been run here."""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator import liveness
from orchestrator.tracking import layout
from orchestrator.tracking.artifacts import put_files
from orchestrator.tracking.read.queries import SweepSummary, list_sweeps
from orchestrator.tracking.read.results import Source, ended_trials, sources
from orchestrator.tracking.read.runs import search, tag_is
from orchestrator.tracking.store import Store, translated
from orchestrator.tracking.sweep_file import RUNS_FOLDER, SweepFile, taken_along
from orchestrator.tracking.write.bulk import BulkRunWriter
from orchestrator.tracking.write.client import run_writer
from orchestrator.tracking.write.description import describe
from orchestrator.tracking.write.edits import delete_runs
from orchestrator.tracking.write.naming import varying_first
from orchestrator.tracking.write.results import encode_rows
from orchestrator.tracking.write.run_record import RunRecord, history
from orchestrator.tracking.write.traces import parquet_bytes
from workloads.training.trial_state import Outcome, Trace

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run

TAKEN_IN = f"{layout.RESULTS_FOLDER}/imported.parquet"
"""Where the table of what its trials came to is among the artifacts of a sweep that comes from a file."""
_METRICS_PER_REQUEST = 1000
_TABLES = (layout.TRACES_FOLDER, layout.FACTORS_FOLDER)


class Intake:
    """A sweep on its way from a ``file`` into a store, in the turn of its experiment, where ``sweeps`` are those that are there.

    Its run is `RUNNING` and has a tag that says so until all is there; of one that was begun and is ``begun`` still, what is there
    stays. Trials of other sweeps that are here already are reused from them; all others become its own. Ids of runs stay as they are where
    the store lets them be chosen and has none of that id. ``advanced`` is told how many runs of how many are written.
    """

    def __init__(self, store: Store, file: SweepFile, advanced: Callable[[int, int], None] = lambda *_: None) -> None:
        self._store, self._file, self._advanced = store, file, advanced
        with translated(store.display):
            self._experiment_id = store.experiment(file.about.experiment)
            there = {sweep.sweep_id: sweep for sweep in list_sweeps(store, file.about.experiment, count=False)}
            self._begun = there.get(file.about.sweep_id)
            self.reused = self._elsewhere(there)
            self._writer = run_writer(store, self._experiment_id, again=True)
        self._rows = file.results[~file.results["trial_id"].isin(list(self.reused))].reset_index(drop=True)

    def take(self) -> None:
        """Write all of it. Raises `orchestrator.errors.TrackingUnavailable`; then it may be done again."""
        with translated(self._store.display):
            parent = self._parent()
            self._put_tables(parent)
            run_ids = self._write_runs(parent)
            rows = self._rows.assign(run_id=self._rows["trial_id"].map(run_ids))
            # Last: what is in this table is all there.
            put_files(parent.info.artifact_uri, {TAKEN_IN: encode_rows(rows)}, self._store.uri)
            self._end(parent)

    def _elsewhere(self, there: Mapping[str, SweepSummary]) -> dict[str, Source]:
        """Return where trials are that other sweeps ran and that these have here, too."""
        found: dict[str, Source] = {}
        for sweep_id, trials in self._file.trials.dropna(subset="source").groupby("source")["trial_id"]:
            if str(sweep_id) in there:
                parent_id = there[str(sweep_id)].parent_run_id
                ended = ended_trials(self._store, self._store.client.get_run(parent_id), measures=False)
                found |= sources(ended, parent_id, set(trials))
        return found

    def _parent(self) -> Run:
        about, client = self._file.about, self._store.client
        files = {name: self._file.read(name) for name in self._file.own_files()} | {layout.TRIALS_FILE: self._trials()}
        if self._begun is not None:
            return self._go_on(client.get_run(self._begun.parent_run_id), files)
        tags = {
            **taken_along(about.tags),
            layout.KIND: layout.SWEEP,
            layout.SWEEP_ID: about.sweep_id,
            layout.FORMAT: str(layout.WITH_RESULTS),
            layout.TRIALS: str(len(self._file.trials)),
            layout.IMPORTING: "true",
            **self._stands(),
        }
        if isinstance(self._writer, BulkRunWriter):
            run_id = uuid.uuid4().hex if self._writer.present([about.run_id]) else about.run_id
            self._writer.write([RunRecord(run_id, about.name, "RUNNING", about.started, about.started, tags, {}, [], files)])
            return client.get_run(run_id)
        parent = client.create_run(self._experiment_id, start_time=about.started, tags=tags, run_name=about.name)
        put_files(parent.info.artifact_uri, files, self._store.uri)
        return parent

    def _go_on(self, parent: Run, files: Mapping[str, bytes]) -> Run:
        """Say of what was begun how it stands now: trials that were its own may be reused from a sweep that came meanwhile."""
        ours = search(self._store, [self._experiment_id], tag_is(layout.PARENT, parent.info.run_id))
        delete_runs(self._store, [run.info.run_id for run in ours if run.data.tags.get(layout.TRIAL_ID) in self.reused])
        put_files(parent.info.artifact_uri, files, self._store.uri)
        for key, value in self._stands().items():
            self._store.tag(parent.info.run_id, key, value)
        return parent

    def _stands(self) -> dict[str, str]:
        return {layout.REUSED: str(len(self.reused)), layout.MACHINE: liveness.machine(), layout.PROCESS: liveness.process()}

    def _trials(self) -> bytes:
        import pyarrow as pa

        trials = self._file.trials
        places = [self.reused.get(trial_id) for trial_id in trials["trial_id"]]
        columns = {name: pa.array(trials[name], pa.string(), from_pandas=True) for name in ("trial_id", "pack", "spec")}
        columns["reused_run_id"] = pa.array([place and place.run_id for place in places], pa.string())
        columns["reused_from"] = pa.array([place and place.parent_run_id for place in places], pa.string())
        return parquet_bytes(pa.table(columns))

    def _put_tables(self, parent: Run) -> None:
        for column in ("trace", "factors"):
            for name in self._rows[column].dropna().unique():
                put_files(parent.info.artifact_uri, {name: self._file.read(name)}, self._store.uri)

    def _write_runs(self, parent: Run) -> dict[str, str]:
        """Write the runs of trials and return their ids by trial."""
        records = self._records(parent)
        made: dict[str, str] = {}
        count = int(self._file.runs["trial_id"].isin(self._rows["trial_id"]).sum())
        while some := list(islice(records, self._writer.at_once)):
            made |= zip((record.tags[layout.TRIAL_ID] for record in some), self._writer.write(some), strict=True)
            self._advanced(len(made), count)
        return made

    def _records(self, parent: Run) -> Iterator[RunRecord]:
        """Yield the runs of trials, those of one file of traces after another."""
        runs = {str(run["trial_id"]): run for run in self._file.runs.to_dict("records")}
        ids, about = self._ids(parent), self._file.about
        varying = json.loads(about.tags.get(layout.VARIES, "[]"))
        files: dict[str, list[str]] = defaultdict(list)
        for name in self._file.files(RUNS_FOLDER):
            files[name.split("/")[1]].append(name)
        rows = self._rows[self._rows["trial_id"].isin(list(runs))]
        for path, some in rows.groupby("trace", sort=False, dropna=False):
            traces = dict(_traces(self._file, str(path), set(some["trial_id"]))) if isinstance(path, str) else {}
            for _, row in some.iterrows():
                trial_id = str(row["trial_id"])
                own = {name.removeprefix(f"{RUNS_FOLDER}/{trial_id}/"): self._file.read(name) for name in files[trial_id]}
                record = _record(row, runs[trial_id], traces.get(trial_id), own, about.points, varying)
                record.tags.update({layout.PARENT: parent.info.run_id, layout.SWEEP_ID: about.sweep_id})
                yield RunRecord(**{**vars(record), "run_id": ids.get(trial_id, "")})

    def _ids(self, parent: Run) -> dict[str, str]:
        """Return the ids that runs of trials are to have, where they can be chosen: those that they had, unless other runs have them."""
        if not isinstance(self._writer, BulkRunWriter):
            return {}
        wanted = dict(zip(self._file.runs["trial_id"], self._file.runs["run_id"], strict=True))
        written = search(self._store, [self._experiment_id], tag_is(layout.PARENT, parent.info.run_id)) if self._begun else ()
        ours = {run.data.tags[layout.TRIAL_ID]: run.info.run_id for run in written}
        taken = self._writer.present(list(wanted.values())) - set(ours.values())
        places = {trial_id: place for place, trial_id in enumerate(self._file.trials["trial_id"])}
        # Not by the parent, whose id may be the one by which those were chosen that are taken.
        salt = uuid.uuid4().hex
        for trial_id, run_id in wanted.items():
            if run_id in taken:
                wanted[trial_id] = layout.run_id(salt, self._file.about.started, places[trial_id], trial_id, 1)
        return wanted | ours

    def _end(self, parent: Run) -> None:
        from mlflow.entities import Metric

        about, client, run_id = self._file.about, self._store.client, parent.info.run_id
        outcomes = self._rows["outcome"].value_counts()
        counts = {"reused": len(self.reused), **{outcome.value: int(outcomes.get(outcome.value, 0)) for outcome in Outcome}}
        points = [
            Metric(name, float(counts.get(name.removeprefix(layout.COUNT), value)), time, step)
            for name, values in about.metrics.items()
            for value, time, step in values
        ]
        for start in range(0, len(points), _METRICS_PER_REQUEST):
            client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_REQUEST])
        status = about.status if about.status in layout.TERMINAL else "KILLED"
        client.set_terminated(run_id, status, about.ended)
        # Before this it may be taken in again, with the same end.
        client.delete_tag(run_id, layout.IMPORTING)
        describe(self._store, run_id)


def _traces(file: SweepFile, path: str, trials: set[str]) -> Iterator[tuple[str, Trace]]:
    """Yield the traces of some trials in a file. A measure that a trial does not have is missing in all of its rows."""
    frame = file.trace_table(path).to_pandas()
    for trial_id, rows in frame[frame["trial_id"].isin(trials)].groupby("trial_id", sort=False):
        measures = [name for name in rows.columns.drop(["trial_id", "step"]) if name == "loss" or rows[name].notna().any()]
        yield str(trial_id), Trace(tuple(measures), rows["step"].to_numpy(np.int64), rows[measures].to_numpy(np.float64))


def _record(
    row: pd.Series[Any], run: Mapping[Any, Any], trace: Trace | None, files: dict[str, bytes], points: int, varying: Sequence[str]
) -> RunRecord:
    """Return the run of a trial: what the table of trials says of it counts, and of tags what stays true."""
    outcome = Outcome(row["outcome"])
    tags = {str(key)[: layout.KEY_LENGTH]: str(value)[: layout.TAG_LENGTH] for key, value in taken_along(json.loads(run["tags"])).items()}
    tags |= {layout.KIND: layout.TRIAL, layout.TRIAL_ID: str(row["trial_id"]), layout.OUTCOME: outcome.value}
    tags |= {layout.ATTEMPT: str(row["attempt"]), layout.STEPS: str(row["steps"])}
    for tag, column in ((layout.TRACE, "trace"), (layout.FACTORS, "factors")):
        tags.pop(tag, None)
        if isinstance(row[column], str):
            tags[tag] = row[column]
    if isinstance(row["error"], str):
        files[layout.ERROR_FILE] = row["error"].encode()
    started, ended = int(run["started"]), int(run["ended"])
    ordered = varying_first(json.loads(run["params"]), varying)
    params = {str(key)[: layout.KEY_LENGTH]: str(value)[: layout.PARAM_LENGTH] for key, value in ordered.items()}
    metrics = [] if trace is None else list(history(trace, started, float(row["seconds"]), points))
    return RunRecord("", str(run["name"]), layout.STATUS[outcome], started, ended, tags, params, metrics, files)
