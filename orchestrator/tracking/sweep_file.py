"""What is in a file of `orchestrate export`: its names, its tables, and what of it is believed.

Whoever made the file may have been anybody. It decides neither where anything is written, nor which process, job or storage a sweep is
said to have, and a table that is not as described here is an error before anything is written.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.errors import UsageError, one_line
from orchestrator.storage.archive import Archive
from orchestrator.tracking import layout
from orchestrator.tracking.notes import own_note
from workloads.training.trial_state import Outcome

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

RESULTS_FILE = "results.parquet"
RUNS_FILE = "runs.parquet"
RUNS_FOLDER = "runs"
"""What trials came to, a row each; those of them that are runs, with what MLflow knows of them; the files of each of these."""
OWN_FILES = (layout.GRID_FILE, layout.PLAN_FILE, layout.CLAIMS_FILE, layout.REPORT_FILE)
CARRIED = (layout.LOGS_FOLDER, layout.FIGURES_FOLDER, layout.CODE_FOLDER)
"""Files, and folders of them, among a sweep's artifacts that are taken along as they are."""
KEPT_HERE = frozenset(
    {
        *(layout.MACHINE, layout.PROCESS, layout.JOB, layout.STORAGE, layout.CANCEL, layout.IMPORTING, layout.PROGRESS),
        *(layout.PARENT, layout.RUNS_IN, layout.SWEEP_ID, layout.RUN_NAME, layout.REUSED, layout.REUSE_FROM, layout.FORMAT),
        *(layout.TRACE, layout.FACTORS),
    }
)
"""Tags that say where a sweep is or was: they are not taken along, or said anew."""
MLFLOWS = frozenset({layout.NOTE, layout.USER, layout.SOURCE_NAME, layout.COMMIT})
"""Tags of MLflow's own that are taken along."""
MAX_UNPACKED, MAX_FACTOR = 1 << 30, 100
"""Bytes that a table may take in memory, and so many times those of its file: a small file may say that it holds any number of values."""
_ROWS = 1 << 16
MAX_ATTEMPTS = 1 << 20
MAX_TIME = 1 << 44
"""Latest time, in milliseconds since the epoch: some five hundred years after it."""
_TEXTS = {"trial_id", "pack", "spec", "source", "run_id", "name", "tags", "params", "outcome", "trace", "factors", "error"}
_WHOLE = {"attempt", "steps", "step", "started", "ended"}

_TRIAL = r"\w[\w-]{0,63}"
Id = Annotated[str, Field(pattern=f"^{_TRIAL}$")]
Time = Annotated[int, Field(ge=0, le=MAX_TIME)]
Point = tuple[float, Time, Annotated[int, Field(ge=0, le=1 << 62)]]


class _Record(BaseModel):
    """What `orchestrator.tracking.layout.recording_tag` makes."""

    model_config = ConfigDict(extra="allow", strict=True)

    measures: list[str] | None
    points: int | None
    steps: list[int] | str | None
    code: dict[str, str] = {}
    references: dict[str, str] = {}


_TAGS: Mapping[str, TypeAdapter[Any]] = {
    layout.RECORD: TypeAdapter(_Record),
    layout.ATTEMPT: TypeAdapter(Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)]),
    layout.VARIES: TypeAdapter(list[str]),
    layout.OVERRIDES: TypeAdapter(list[str]),
    layout.AT_ENDS: TypeAdapter(list[str]),
}
"""What tags of a sweep are, as JSON, that are read as more than text."""


def _seen(text: str) -> str:
    """Return a text that can be read as it is. Raises `ValueError` for another."""
    if not text.isprintable():
        raise ValueError("has characters that cannot be seen")
    return text


class About(BaseModel):
    """A sweep's own run: times in milliseconds since the epoch, ``metrics`` by name as (value, time, step), and about how many ``points``
    of a trace its trials' runs have."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    sweep_id: Id
    experiment: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_seen)]
    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    name: Annotated[str, Field(max_length=250)]
    status: Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
    started: Time
    ended: Time | None
    points: Annotated[int, Field(ge=1, le=10_000)]
    tags: dict[Annotated[str, Field(max_length=250)], Annotated[str, Field(max_length=layout.TAG_LENGTH)]]
    metrics: dict[Annotated[str, Field(max_length=250)], list[Point]]


class SweepFile:
    """A sweep in an archive. Raises `UsageError` if it is not as it has to be."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        try:
            self.about = About.model_validate(archive.about)
        except ValidationError as error:
            first = error.errors()[0]
            raise self._wrong(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from error
        self.trials = self._frame(layout.TRIALS_FILE, ("trial_id", "pack", "spec", "source"))
        self.results = self._frame(RESULTS_FILE, tuple(layout.RESULT))
        self.runs = self._frame(RUNS_FILE, ("trial_id", "run_id", "name", "started", "ended", "tags", "params"))
        self._check()

    def read(self, name: str) -> bytes:
        """Return a file of the archive."""
        return self._archive.read(name)

    def code(self, name: str) -> bytes | None:
        """Return a file of users' code; ``None`` for one that is not there."""
        path = f"{layout.CODE_FOLDER}/{name}"
        return self._archive.read(path) if path in self._archive.names else None

    def files(self, folder: str) -> Iterator[str]:
        """Yield the names of the files in and below a folder."""
        return (name for name in self._archive.names if name.startswith(f"{folder}/"))

    def own_files(self) -> Iterator[str]:
        """Yield the names of what goes among the sweep's artifacts as it is, without traces and factors."""
        for name in OWN_FILES:
            if name in self._archive.names:
                yield name
        for folder in (*CARRIED, layout.DATA_FOLDER):
            yield from self.files(folder)

    def trace_table(self, name: str) -> pa.Table:
        """Return the traces in a file."""
        table = self._table(name, {"trial_id"}, {"step"})
        if not {"trial_id", "step"} <= set(table.column_names):
            raise self._wrong(f"{name} has no column trial_id or step")
        if table["step"].null_count or table["trial_id"].null_count:
            raise self._wrong(f"{name} has rows of no trial or step")
        return table

    def _check(self) -> None:
        names, trials = set(self._archive.names), self.trials["trial_id"]
        missing = {layout.GRID_FILE, layout.TRIALS_FILE} - names
        missing |= (set(self.results["trace"].dropna()) | set(self.results["factors"].dropna())) - names
        if missing:
            raise self._wrong(f"{sorted(missing)[0]} is missing")
        if not trials.str.fullmatch(_TRIAL).all():
            raise self._wrong("the id of a trial is none")
        ended = self.results["trial_id"]
        if trials.duplicated().any() or ended.duplicated().any() or not ended.isin(trials).all():
            raise self._wrong("its trials are not those that it lists")
        if not self.runs["trial_id"].isin(ended).all() or self.runs["run_id"].duplicated().any():
            raise self._wrong("its runs are not those of its trials")
        if self.runs.isna().any(axis=None) or self.results[["attempt", "steps"]].isna().any(axis=None):
            raise self._wrong("something is missing of a trial")
        if not self.results["attempt"].between(1, MAX_ATTEMPTS).all() or not (self.results["steps"] >= 0).all():
            raise self._wrong("a trial has no such number of steps or attempts")
        if not self.runs["run_id"].str.fullmatch("[0-9a-f]{32}").all():
            raise self._wrong("the id of a run is none of MLflow's")
        for key in sorted(_TAGS.keys() & self.about.tags.keys()):
            try:
                _TAGS[key].validate_json(self.about.tags[key])
            except ValidationError as error:
                raise self._wrong(f"its tag {key}: {error.errors()[0]['msg']}") from error
        if self.about.tags.get(layout.DETAIL, "all") not in ("all", "sampled", "none"):
            raise self._wrong(f"its tag {layout.DETAIL} is none of all, sampled and none")
        self._check_contents()

    def _check_contents(self) -> None:
        if unknown := set(self.results["outcome"]) - set(Outcome):
            raise self._wrong(f"a trial has no outcome {sorted(map(str, unknown))[0]!r}")
        for table, columns in ((self.trials, ("spec",)), (self.runs, ("tags", "params"))):
            for column in columns:
                if not all(isinstance(_parsed(text), dict) for text in table[column]):
                    raise self._wrong(f"the column {column} has something else than JSON")
        for folder, paths in ((layout.TRACES_FOLDER, self.results["trace"]), (layout.FACTORS_FOLDER, self.results["factors"])):
            if not paths.dropna().str.startswith(f"{folder}/").all():
                raise self._wrong(f"there are {folder} elsewhere than in {folder}/")
        self._check_times()

    def _check_times(self) -> None:
        """See that what becomes times of MLflow's can, and that traces can be read."""
        if not all(self.runs[column].between(0, MAX_TIME).all() for column in ("started", "ended")):
            raise self._wrong("a run has no such times")
        seconds = self.results["seconds"]
        # The points of a trace have times that follow from it.
        needed = self.results["trace"].notna() & self.results["trial_id"].isin(self.runs["trial_id"])
        if not (seconds.between(0, MAX_TIME / 1000) | seconds.isna() & ~needed).all():
            raise self._wrong("a trial took no such time")
        for name in self.results["trace"].dropna().unique():
            self.trace_table(name)

    def _frame(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        if name not in self._archive.names:
            raise self._wrong(f"{name} is missing")
        table = self._table(name, _TEXTS, _WHOLE)
        if missing := set(columns) - set(table.column_names):
            raise self._wrong(f"{name} has no column {sorted(missing)[0]}")
        frame: pd.DataFrame = table.to_pandas()
        return frame

    def _table(self, name: str, texts: Collection[str], whole: Collection[str]) -> pa.Table:
        """Return a table with the types that its columns have to have, ``texts``, ``whole`` numbers or floats, after a look at its size."""
        import pyarrow as pa
        from pyarrow import parquet

        try:
            content = self.read(name)
            shared = [column for column in parquet.read_schema(io.BytesIO(content)).names if column in texts]
            # A text that many rows share takes its place once, until its size with all of them is known.
            with parquet.ParquetFile(io.BytesIO(content), read_dictionary=shared) as file:
                left, batches = max(MAX_UNPACKED, MAX_FACTOR * len(content)), []
                for batch in file.iter_batches(_ROWS):
                    left -= sum(_bytes(column) for column in batch.columns)
                    if left < 0:
                        raise self._wrong(f"{name} is larger than any table of a sweep")
                    batches.append(batch)
                table = pa.Table.from_batches(batches, file.schema_arrow if not batches else None)
            text, number = pa.string(), pa.float64()
            types = [(column, text if column in texts else pa.int64() if column in whole else number) for column in table.column_names]
            return table.cast(pa.schema(types))
        except (pa.ArrowException, ValueError, OSError) as error:
            raise self._wrong(f"{name}: {error}") from error

    def _wrong(self, reason: str) -> UsageError:
        return UsageError(f"{self._archive.path} holds no sweep: {one_line(reason)}")


def taken_along(tags: Mapping[str, str]) -> dict[str, str]:
    """Return those of a run's tags that stay true wherever it is."""
    kept = {key: value for key, value in tags.items() if key not in KEPT_HERE and (key in MLFLOWS or not key.startswith("mlflow."))}
    if layout.NOTE in kept:
        # The rest leads to runs that are not there.
        kept[layout.NOTE] = own_note(kept[layout.NOTE])
    return {key: value for key, value in kept.items() if value or key != layout.NOTE}


def _bytes(column: pa.Array[Any]) -> int:
    """Return what the values of a column take where each of them has its own."""
    import numpy as np
    import pyarrow as pa

    if not isinstance(column, pa.DictionaryArray):
        return int(column.nbytes)
    sizes = np.array([len(text or "") for text in column.dictionary.to_pylist()], np.int64)
    return int(sizes[column.indices.drop_null().to_numpy()].sum()) + 8 * len(column)


def _parsed(text: object) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
