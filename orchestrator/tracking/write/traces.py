"""Parquet files of a sweep: the traces at full resolution, and the list of trials."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.tracking.write.parent import TrialRow
from workloads.training.results import TrialResult

if TYPE_CHECKING:
    import pyarrow as pa


def encode_traces(results: Sequence[TrialResult]) -> bytes:
    """One row per trial and step, one float64 column per measure; null where a trial has no such measure."""
    import pyarrow as pa

    columns = list(dict.fromkeys(name for result in results for name in result.trace.columns))
    counts = [len(result.trace.steps) for result in results]
    index = np.repeat(np.arange(len(results), dtype=np.int32), counts)
    arrays: dict[str, pa.Array[Any]] = {
        "trial_id": pa.DictionaryArray.from_arrays(index, pa.array([result.trial_id for result in results])),
        "step": pa.array(np.concatenate([result.trace.steps for result in results]), pa.int64()),
    }
    for name in columns:
        values = np.zeros(sum(counts))
        absent = np.ones(sum(counts), dtype=bool)
        end = 0
        for result, count in zip(results, counts, strict=True):
            start, end = end, end + count
            if name in result.trace.columns:
                values[start:end] = result.trace.values[:, result.trace.columns.index(name)]
                absent[start:end] = False
        # A mask, not NaN: NaN says that the measure was taken and is undefined there.
        arrays[name] = pa.array(values, pa.float64(), mask=absent)
    return _parquet(pa.table(arrays))


def encode_trials(trials: Sequence[TrialRow]) -> bytes:
    """Return the sweep's trials in grid order, with their specs as JSON of dotted keys."""
    import pyarrow as pa

    text = pa.string()
    return _parquet(
        pa.table(
            {
                "trial_id": pa.array([trial.trial_id for trial in trials], text),
                "pack": pa.array([trial.pack for trial in trials], text),
                "spec": pa.array([json.dumps(trial.spec.flat()) for trial in trials], text),
                "reused_run_id": pa.array([trial.reused_run_id for trial in trials], text),
            }
        )
    )


def with_reused(trials: bytes, reused: Mapping[str, str]) -> tuple[bytes, int]:
    """Return a list of trials in which some are ``reused``, run ids by trial id, and how many of all are now."""
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(trials))
    rows: list[dict[str, Any]] = table.select(["trial_id", "reused_run_id"]).to_pylist()
    run_ids: list[str | None] = [reused.get(row["trial_id"], row["reused_run_id"]) for row in rows]
    column = table.schema.get_field_index("reused_run_id")
    return _parquet(table.set_column(column, "reused_run_id", pa.array(run_ids, pa.string()))), len(run_ids) - run_ids.count(None)


def _parquet(table: pa.Table) -> bytes:
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
