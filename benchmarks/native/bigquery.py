"""BigQuery: a load job of a Parquet file, and a stream of the Storage Write API with Arrow batches.
Read back by the Storage Read API."""

# Google's clients are not installed where all else is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
from columns import SCHEMA
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery, bigquery_storage
from google.cloud.bigquery_storage_v1 import types
from google.cloud.bigquery_storage_v1.services.big_query_read.transports import (
    BigQueryReadGrpcTransport,
)
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import (
    BigQueryWriteGrpcTransport,
)
from google.cloud.bigquery_storage_v1.writer import AppendRowsStream

from native import Held, Way

FIELDS = (
    bigquery.SchemaField("event_id", "STRING"),
    bigquery.SchemaField("user_id", "STRING"),
    bigquery.SchemaField("ts", "TIMESTAMP"),
    bigquery.SchemaField("page", "STRING"),
    bigquery.SchemaField("country", "STRING"),
    bigquery.SchemaField("duration_ms", "INT64"),
    bigquery.SchemaField("price", "NUMERIC", precision=10, scale=2),
)
REQUEST_ROWS = 65_536
"""Rows of a request: some 7 MB; 10 MB are allowed."""
UNANSWERED = 4
"""Requests that are on their way at a time."""
SECONDS = 600


def load_job(place: str, rows: pa.Table) -> Callable[[], None]:
    config = bigquery.LoadJobConfig(
        source_format=bigquery.SourceFormat.PARQUET,
        write_disposition=bigquery.WriteDisposition.WRITE_APPEND,
        schema=FIELDS,
    )

    def load() -> None:
        file = io.BytesIO()
        pq.write_table(rows, file)
        file.seek(0)
        with _client() as client:
            client.load_table_from_file(file, _table(place), job_config=config).result(
                timeout=SECONDS
            )

    return load


def write_stream(place: str, rows: pa.Table) -> Callable[[], None]:
    project, dataset, table = _table(place).split(".")
    stream = f"projects/{project}/datasets/{dataset}/tables/{table}/streams/_default"

    def load() -> None:
        transport = BigQueryWriteGrpcTransport(channel=_channel())
        with bigquery_storage.BigQueryWriteClient(transport=transport) as client:
            first = types.AppendRowsRequest(write_stream=stream)
            schema = first.arrow_rows.writer_schema
            schema.serialized_schema = rows.schema.serialize().to_pybytes()
            connection = AppendRowsStream(client, first)
            sent: deque[Any] = deque()
            for batch in rows.to_batches(REQUEST_ROWS):
                request = types.AppendRowsRequest(write_stream=stream)
                request.arrow_rows.rows.serialized_record_batch = batch.serialize().to_pybytes()
                sent.append(connection.send(request))
                if len(sent) > UNANSWERED:
                    sent.popleft().result(SECONDS)
            for future in sent:
                future.result(SECONDS)
            connection.close()

    return load


WAYS = (
    Way("a load job", load_job),
    Way("a Storage Write stream", write_stream, query="method=storage_write"),
)


def prepare(place: str) -> None:
    with _client() as client:
        client.create_table(bigquery.Table(_table(place), FIELDS))


def read(place: str) -> Held:
    transport = BigQueryReadGrpcTransport(channel=_channel())
    with _client() as client, bigquery_storage.BigQueryReadClient(transport=transport) as reader:
        table = client.get_table(_table(place))
        kept = [field for field in table.schema if field.name in SCHEMA.names]
        types = {field.name: _type(field) for field in kept}
        rows = client.list_rows(table, kept).to_arrow(bqstorage_client=reader)
    return Held(rows.select(SCHEMA.names).cast(SCHEMA), types)


def drop(place: str) -> None:
    with _client() as client:
        client.delete_table(_table(place))


def _type(field: bigquery.SchemaField) -> str:
    digits = f"({field.precision}, {field.scale})" if field.precision else ""
    return f"{field.field_type}{digits} {field.mode}"


@contextmanager
def _client() -> Iterator[bigquery.Client]:
    options = {"api_endpoint": os.environ["BIGQUERY_EMULATOR_HOST"]}
    client = bigquery.Client("none", AnonymousCredentials(), client_options=options)
    try:
        yield client
    finally:
        client.close()


def _channel() -> grpc.Channel:
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    return grpc.insecure_channel(os.environ["BIGQUERY_STORAGE_EMULATOR_HOST"], unlimited)


def _table(place: str) -> str:
    return place.removeprefix("bigquery:")
