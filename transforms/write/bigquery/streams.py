"""Streams of BigQuery's Storage Write API: Arrow batches, appended at their offsets.

A stream is opened for a table, and written by one writer at a time. It takes rows at the offset
that the writer says and at no other, so what is sent twice is there once. What becomes of them is
the stream's kind:

* ``COMMITTED``: rows are visible at once;
* ``PENDING``: they are when :func:`commit_streams` says so, of all its streams at the same time;
* ``BUFFERED``: they are up to the offset that :func:`flush_rows` names;
* the table's :func:`default_stream`, which is always there: rows are visible at once, and have no
  offsets, so what is sent twice is there twice.

Against an emulator the client needs to be told where it serves gRPC, which is not where it serves
REST: :data:`EMULATOR` names its ``host:port``, and there are no credentials then.

See https://cloud.google.com/bigquery/docs/write-api
"""

# Google's clients are not installed where all else is checked.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import grpc
import pyarrow as pa
from google.api_core import exceptions
from google.api_core.future import polling
from google.api_core.retry import Retry, if_exception_type
from google.cloud.bigquery_storage_v1 import BigQueryWriteClient, types
from google.cloud.bigquery_storage_v1.exceptions import StreamClosedError
from google.cloud.bigquery_storage_v1.services.big_query_write.transports import (
    BigQueryWriteGrpcTransport,
)
from google.cloud.bigquery_storage_v1.writer import AppendRowsStream

from ..errors import DestinationError, Unavailable
from .jobs import without_values

EMULATOR = "BIGQUERY_STORAGE_EMULATOR_HOST"
"""The environment variable that names an emulator's ``host:port`` for gRPC."""
Kind = Literal["COMMITTED", "PENDING", "BUFFERED"]

REQUEST_BYTES = 3 << 20
"""What a request aims at: servers that are not told otherwise take 4 MiB (gRPC's default)."""
MOST_BYTES = 10 << 20
"""What BigQuery takes in one request, and so in one row."""
UNANSWERED = 4
"""Requests that are on their way at a time."""

_TRANSIENT = (
    exceptions.ServiceUnavailable, exceptions.InternalServerError, exceptions.Aborted,
)  # fmt: skip
_RETRY = Retry(predicate=if_exception_type(*_TRANSIENT), timeout=30)
_OPEN_RETRY = Retry(predicate=if_exception_type(*_TRANSIENT, exceptions.NotFound), timeout=30)
"""A table that has only just been made may not be found for a moment."""
_SECONDS = 60
_POLLING = polling.DEFAULT_POLLING.with_delay(initial=0.005, maximum=0.1).with_timeout(600)


@contextmanager
def connected() -> Iterator[BigQueryWriteClient]:
    """A client, with the application's default credentials."""
    address = os.environ.get(EMULATOR)
    if not address:
        client = BigQueryWriteClient()
    else:
        channel = grpc.insecure_channel(address)
        client = BigQueryWriteClient(transport=BigQueryWriteGrpcTransport(channel=channel))
    with client:
        yield client


def open_stream(client: BigQueryWriteClient, table: str, kind: Kind) -> str:
    """A new stream of a table (``project.dataset.table``); gives its name."""
    stream = types.WriteStream(type_=types.WriteStream.Type[kind])
    made = client.create_write_stream(
        parent=_path(table), write_stream=stream, retry=_OPEN_RETRY, timeout=_SECONDS
    )
    return made.name


def default_stream(table: str) -> str:
    """The name of the stream that every table has."""
    return f"{_path(table)}/streams/_default"


def finalize_stream(client: BigQueryWriteClient, stream: str) -> int:
    """End a stream: nothing more can be appended. Gives the number of its rows."""
    return client.finalize_write_stream(name=stream, retry=_RETRY, timeout=_SECONDS).row_count


def commit_streams(client: BigQueryWriteClient, table: str, streams: Sequence[str]) -> None:
    """Make the rows of pending streams, which are finalized, visible: all or none.

    Raises:
        DestinationError: a stream is not of that kind, not finalized, or committed already.
    """
    request = types.BatchCommitWriteStreamsRequest(parent=_path(table), write_streams=streams)
    done = client.batch_commit_write_streams(request, retry=_RETRY, timeout=_SECONDS)
    if done.stream_errors:
        said = "; ".join(error.error_message for error in done.stream_errors)
        raise DestinationError(f"BigQuery does not commit the streams of {table}: {said}")


def flush_rows(client: BigQueryWriteClient, stream: str, offset: int) -> None:
    """Make a buffered stream's rows visible, up to that offset and with it."""
    request = types.FlushRowsRequest(write_stream=stream, offset=offset)
    client.flush_rows(request, retry=_RETRY, timeout=_SECONDS)


@dataclass(frozen=True)
class _Piece:
    """Rows that are appended together, and their numbers among all that the writer was given."""

    rows: pa.RecordBatch
    numbers: tuple[int, ...] | range


class StreamWriter:
    """Appends Arrow batches to one stream; a context manager.

    Some requests are on their way at a time: :meth:`flush` waits for the answers to all of them.
    Rows that BigQuery refuses are left out, and their neighbours appended without them.

    Args:
        stream: what :func:`open_stream` or :func:`default_stream` gave.
        schema: of the batches. Types: https://cloud.google.com/bigquery/docs/supported-data-types
        offset: where in the stream the first row belongs; ``None`` for a default stream.

    Attributes:
        refused: number of a row, among all that were appended, from 0 → why it was refused. The
            reasons hold no values.
        offset: the one after the last row that is known to be in the stream.

    All methods raise:
        DestinationError: the stream is not there, or does not take such batches.
        Unavailable: the connection broke, or the service cannot serve just now. Everything from
            the last known offset on may be appended again by another writer.
    """

    def __init__(
        self,
        client: BigQueryWriteClient,
        stream: str,
        schema: pa.Schema,
        offset: int | None = 0,
    ) -> None:
        self.refused: dict[int, str] = {}
        self.offset = offset
        self._stream = stream
        self._names = schema.names
        self._next = 0
        self._end = offset  # after all that was sent
        self._sent: deque[tuple[_Piece, int | None, Any]] = deque()
        rows = types.AppendRowsRequest.ArrowData()
        rows.writer_schema.serialized_schema = schema.serialize().to_pybytes()
        # The client's own retry would call again for a day, and not send what it had sent.
        once: Any = SimpleNamespace(append_rows=partial(client.append_rows, retry=None))
        self._connection = AppendRowsStream(
            once, types.AppendRowsRequest(write_stream=stream, arrow_rows=rows)
        )

    def append(self, batch: pa.RecordBatch) -> None:
        """Append a batch after all others."""
        numbers = range(self._next, self._next + batch.num_rows)
        self._next += batch.num_rows
        self._append(_Piece(batch, numbers))

    def flush(self) -> None:
        """Wait until everything is in the stream, or refused."""
        while self._sent:
            self._settle()

    def close(self) -> None:
        """End the connection; the stream stays."""
        with suppress(StreamClosedError):
            self._connection.close()

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, piece: _Piece) -> None:
        """Send a piece in requests that are small enough."""
        rows = piece.rows.num_rows
        if not rows:
            return
        data = piece.rows.serialize().to_pybytes()
        if len(data) <= MOST_BYTES if rows == 1 else len(data) <= REQUEST_BYTES:
            self._send(piece, data)
        elif rows == 1:
            self.refused[piece.numbers[0]] = f"the row takes more than {MOST_BYTES >> 20} MiB"
        else:
            step = max(1, min(rows - 1, rows * REQUEST_BYTES // len(data)))
            for start in range(0, rows, step):
                self._append(
                    _Piece(piece.rows.slice(start, step), piece.numbers[start : start + step])
                )

    def _send(self, piece: _Piece, data: bytes) -> None:
        while len(self._sent) >= UNANSWERED:
            self._settle()
        request = types.AppendRowsRequest(write_stream=self._stream, offset=self._end)
        request.arrow_rows.rows.serialized_record_batch = data
        with _said(self._names):
            future = self._connection.send(request)
        self._sent.append((piece, self._end, future))
        if self._end is not None:
            self._end += piece.rows.num_rows

    def _settle(self) -> None:
        """Take the answer to the oldest request."""
        piece, offset, future = self._sent.popleft()
        try:
            with _said(self._names):
                _answer(future)
        except _RowsRefused as refusal:
            self._leave_out(piece, offset, refusal.reasons)
            return
        if offset is not None:
            self.offset = offset + piece.rows.num_rows

    def _leave_out(self, piece: _Piece, offset: int | None, reasons: dict[int, str]) -> None:
        """Append a refused piece without the rows that are to blame, and again what came after it:
        its offsets were beyond the end."""
        self.refused.update((piece.numbers[place], reason) for place, reason in reasons.items())
        kept = [place for place in range(piece.rows.num_rows) if place not in reasons]
        rows = piece.rows.take(pa.array(kept, pa.int64()))
        rest = [_Piece(rows, tuple(piece.numbers[place] for place in kept))]
        if offset is not None:
            self._end = offset
            rest += [later for later, _, _ in self._sent]
            for _, _, future in self._sent:
                with suppress(DestinationError, _RowsRefused), _said(self._names):
                    _answer(future)
            self._sent.clear()
        for again in rest:
            self._append(again)


class _RowsRefused(Exception):
    """Rows of a request are refused, and so none of it was appended: place → reason."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__()
        self.reasons = reasons


def _answer(future: Any) -> None:
    """Wait for the answer to a request.

    Raises:
        _RowsRefused: rows of it are refused.
        GoogleAPICallError: nothing was appended. That it was appended before is no error.
    """
    try:
        future.result(polling=_POLLING)
    except exceptions.AlreadyExists:
        return
    except exceptions.GoogleAPICallError as error:
        response = error.response
        refused = {e.index: e.message for e in getattr(response, "row_errors", ())}
        if not refused:
            raise
        raise _RowsRefused(refused) from None


@contextmanager
def _said(names: Sequence[str]) -> Iterator[None]:
    """What goes wrong while rows are sent, in our words and without their values."""
    try:
        yield
    except _RowsRefused as refusal:
        refusal.reasons = {n: without_values(m, names) for n, m in refusal.reasons.items()}
        raise
    except (exceptions.ServerError, exceptions.Aborted, exceptions.TooManyRequests) as error:
        raise Unavailable(f"BigQuery's stream broke: {_reason(error, names)}") from error
    except (StreamClosedError, exceptions.Cancelled, exceptions.RetryError, TimeoutError) as error:
        raise Unavailable(f"BigQuery's stream broke: {type(error).__name__}") from error
    except exceptions.GoogleAPICallError as error:
        raise DestinationError(f"BigQuery refuses rows: {_reason(error, names)}") from error


def _reason(error: exceptions.GoogleAPICallError, names: Sequence[str]) -> str:
    return without_values(error.message or type(error).__name__, names)


def _path(table: str) -> str:
    project, dataset, name = table.rsplit(".", 2)
    return f"projects/{project}/datasets/{dataset}/tables/{name}"
