"""Stages: tables of their own that rows are brought to, and from which one job makes them visible.

A stage expires by itself, if nobody deletes it.
"""

# Google's clients are not installed where all else is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import datetime as dt
import os
import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from google.cloud import bigquery

from ... import storage
from ..destination import Commit
from ..tables import Load
from . import streams
from .files import Files, schema_fields
from .jobs import RETRY, SECONDS, Jobs, digest, finish
from .rows import converted, converted_schema, is_said_in_text
from .sql import Staged
from .tables import Made, kind_of, make_table

_PREFIX = "_millstream_stage_"
_KEPT = dt.timedelta(days=2)
_UPLOAD_SECONDS = 600
_PLAIN = re.compile(r"\w*", re.ASCII)


def stage_by_jobs(
    jobs: Jobs, commit: Commit, load: Load, files: Iterable[Files], unfit: Collection[int]
) -> Staged:
    """Have load jobs bring files to the stage of a load and its content, each once.

    Who starts again finds the stage, and the jobs that are done.

    Raises:
        DestinationError: BigQuery cannot load a file.
    """
    name = _stage_name(load, digest(load.name, str(commit.token), commit.digest))
    begun = []
    for each in files:
        fields = schema_fields(each.schema)
        stage = _make_stage(jobs.client, name, fields)
        # A stage that expired and is made again is filled by other jobs.
        job = f"millstream-stage-{digest(stage.name, stage.born, each.key)}"
        told = fields if each.has_others else None
        begun.append(jobs.begin(job, Loading(jobs, each, name, told))[0])
        if each.is_made:
            os.unlink(each.path)
    for job in begun:
        finish(job, load.schema.names)
    return Staged(load, name, load.rows - len(unfit))


class Loading:
    """Starts a load job under an id: files into a table.

    Args:
        fields: the table's columns, where the job has to be told them: else it takes them from the
            files.
        labels: of the job.
    """

    def __init__(
        self,
        jobs: Jobs,
        files: Files,
        table: str,
        fields: Sequence[bigquery.SchemaField] | None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._jobs = jobs
        self._files = files
        self._table = table
        self._fields = fields
        self._labels = labels or {}

    def __call__(self, job_id: str) -> Any:
        client, files = self._jobs.client, self._files
        said = {
            "job_id": job_id,
            "location": self._jobs.location,
            "job_config": self._config(),
        }
        if files.uris:
            return client.load_table_from_uri(
                files.uris, self._table, **said, retry=RETRY, timeout=SECONDS
            )
        with storage.named(files.path, "read"), storage.open_read(files.path) as file:
            size = storage.size(files.path)
            return client.load_table_from_file(
                file, self._table, size=size, **said, timeout=_UPLOAD_SECONDS
            )

    def _config(self) -> bigquery.LoadJobConfig:
        parquet = bigquery.ParquetOptions()
        parquet.enable_list_inference = True
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.PARQUET,
            parquet_options=parquet,
            create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
            write_disposition=bigquery.WriteDisposition.WRITE_APPEND,
            decimal_target_types=["NUMERIC", "BIGNUMERIC"],
            ignore_unknown_values=True,  # a staged file holds the records' own bytes too
            labels=self._labels,
        )
        if self._fields is not None:
            config.schema = self._fields
        if not all(map(_PLAIN.fullmatch, self._files.schema.names)):
            config.column_name_character_map = "V2"
        return config


def is_direct(load: Load, table: Made, schema: pa.Schema) -> bool:
    """Whether one load job can bring a file of that schema into the table itself."""
    if load.mode != "append" or any(map(is_said_in_text, load.table.fields)):
        return False
    held = {field.name: field for field in table.fields}
    fields = {field.name: field for field in schema_fields(schema)}
    return held.keys() == fields.keys() and all(_alike(fields[n], held[n]) for n in held)


def has_same_modes(table: Made, schema: pa.Schema) -> bool:
    """Whether the same columns are required in the table and not nullable in a file.

    If not, a load job has to be told the table's columns, and BigQuery has refused such files.
    """
    held = {field.name: field.mode for field in table.fields}
    return all(held[field.name] == field.mode for field in schema_fields(schema))


def _alike(file: bigquery.SchemaField, table: bigquery.SchemaField) -> bool:
    """Whether two columns are of one type, whatever may be null."""
    if kind_of(file) != kind_of(table) or len(file.fields) != len(table.fields):
        return False
    if (file.mode == "REPEATED") != (table.mode == "REPEATED"):
        return False
    pairs = zip(file.fields, table.fields, strict=True)
    return all(a.name == b.name and _alike(a, b) for a, b in pairs)


def stage_by_stream(
    jobs: Jobs, load: Load, unfit: Mapping[int, str]
) -> tuple[Staged, dict[int, str]]:
    """Append a load's rows to a stage of this attempt's own, through a stream.

    Gives it, and the rows that are left out, with the reasons: those that are known beforehand,
    and those that BigQuery refuses.

    Raises:
        DestinationError: BigQuery does not take the rows at all.
        Unavailable: the connection broke.
    """
    fields = load.table.fields
    schema = converted_schema(fields)
    name = _stage_name(load, uuid.uuid4().hex)
    _make_stage(jobs.client, name, schema_fields(schema))
    left_out = sorted(unfit)
    with streams.connected() as client:
        stream = streams.open_stream(client, name, "COMMITTED")
        with streams.StreamWriter(client, stream, schema) as writer:
            for batch in load.batches(without=left_out):
                writer.append(converted(batch, fields, schema))
            writer.flush()
    sent = np.array(sorted(writer.refused), np.int64)
    refused = {**unfit}
    for number, before in zip(_numbers(sent, left_out), sent.tolist(), strict=True):
        refused[number] = writer.refused[before]
    return Staged(load, name, load.rows - len(refused)), refused


def _numbers(kept: np.ndarray, left_out: Sequence[int]) -> list[int]:
    """The numbers in a load of rows that are counted without those that are left out."""
    gaps = np.array(left_out, np.int64) - np.arange(len(left_out))
    return (kept + np.searchsorted(gaps, kept, side="right")).tolist()


def delete_stage(client: bigquery.Client, staged: Staged) -> None:
    """Delete a stage; it may be gone."""
    client.delete_table(staged.stage, not_found_ok=True, retry=RETRY, timeout=SECONDS)


def _stage_name(load: Load, told_apart: str) -> str:
    dataset = load.name.rpartition(".")[0]
    return f"{dataset}.{_PREFIX}{told_apart}"


def _make_stage(client: bigquery.Client, name: str, fields: Sequence[bigquery.SchemaField]) -> Made:
    stage = bigquery.Table(name, fields)
    stage.expires = dt.datetime.now(dt.UTC) + _KEPT
    return make_table(client, stage)
