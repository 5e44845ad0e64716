"""Parquet files of a sweep: the traces at full resolution, and the list of trials."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.tracking.read.results import Source
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
    return parquet_bytes(pa.table(arrays))


def encode_trials(trials: Sequence[TrialRow]) -> bytes:
    """Return the sweep's trials in grid order, with their specs as JSON of dotted keys."""
    import pyarrow as pa

    text = pa.string()
    return parquet_bytes(
        pa.table(
            {
                "trial_id": pa.array([trial.trial_id for trial in trials], text),
                "pack": pa.array([trial.pack for trial in trials], text),
                "spec": pa.array([json.dumps(trial.spec.flat()) for trial in trials], text),
                "reused_run_id": pa.array([trial.reused.run_id if trial.reused else None for trial in trials], text),
                "reused_from": pa.array([trial.reused.parent_run_id if trial.reused else None for trial in trials], text),
            }
        )
    )


def with_reused(trials: bytes, reused: Mapping[str, Source | None]) -> tuple[bytes, int]:
    """Return a list of trials in which some are ``reused``, by trial id, or, if ``None``, are not any more; and how many of all are now."""
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(trials))
    if "reused_from" not in table.column_names:
        table = table.append_column("reused_from", pa.nulls(len(table), pa.string()))
    rows: list[dict[str, Any]] = table.select(["trial_id", "reused_run_id", "reused_from"]).to_pylist()
    pairs = [(row["reused_from"], row["reused_run_id"]) for row in rows]
    for place, row in enumerate(rows):
        if row["trial_id"] in reused:
            one = reused[row["trial_id"]]
            pairs[place] = (None, None) if one is None else (one.parent_run_id, one.run_id)
    for name, values in (("reused_from", [pair[0] for pair in pairs]), ("reused_run_id", [pair[1] for pair in pairs])):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return parquet_bytes(table), sum(pair != (None, None) for pair in pairs)


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as a Parquet file."""
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
