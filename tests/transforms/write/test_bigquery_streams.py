"""Streams of BigQuery's Storage Write API, by themselves: offsets, kinds, refused rows."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from millstream.transforms.write.errors import DestinationError, Unavailable

from tests.services import bigquery as service
from tests.services.destinations import DESTINATIONS
from tests.services.serving import free_port

pytestmark = [pytest.mark.service, pytest.mark.cloud]

SCHEMA = pa.schema([("n", pa.int64()), ("text", pa.string())])


def batch(*numbers: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([{"n": n, "text": f"text {n}"} for n in numbers], SCHEMA)


@pytest.fixture(scope="module")
def warehouse() -> Iterator[service.BigQuery]:
    with DESTINATIONS["bigquery"].running_or_skip() as found:
        yield found


@pytest.fixture
def streams(warehouse: service.BigQuery) -> Any:
    """The module, which needs Google's clients."""
    from millstream.transforms.write.bigquery import streams as bigquery_streams

    return bigquery_streams


@pytest.fixture
def client(streams: Any) -> Iterator[Any]:
    with streams.connected() as found:
        yield found


@pytest.fixture
def table(warehouse: service.BigQuery) -> str:
    name = warehouse.name(f"t_{uuid.uuid4().hex[:12]}")
    warehouse.run(f"CREATE TABLE `{name}` (n INT64 NOT NULL, text STRING)")
    return name


def numbers(warehouse: service.BigQuery, table: str) -> list[int]:
    """The visible rows."""
    return sorted(row["n"] for row in warehouse.run(f"SELECT n FROM `{table}`"))


def append(streams: Any, client: Any, stream: str, *batches: Any, offset: int | None = 0) -> Any:
    """Append batches by a writer of their own; gives it."""
    with streams.StreamWriter(client, stream, SCHEMA, offset) as writer:
        for each in batches:
            writer.append(each)
        writer.flush()
        return writer


def test_what_is_appended_twice_is_there_once(warehouse, streams, client, table):
    stream = streams.open_stream(client, table, "COMMITTED")
    first = append(streams, client, stream, batch(1, 2), batch(3))
    assert (first.offset, first.refused) == (3, {})
    again = append(streams, client, stream, batch(1, 2), batch(3), batch(4))
    assert (again.offset, again.refused) == (4, {})
    assert append(streams, client, stream, batch(5), offset=4).offset == 5
    assert numbers(warehouse, table) == [1, 2, 3, 4, 5]


def test_a_gap_is_refused(warehouse, streams, client, table):
    stream = streams.open_stream(client, table, "COMMITTED")
    with pytest.raises(DestinationError, match="BigQuery refuses rows"):
        append(streams, client, stream, batch(1), offset=7)
    assert numbers(warehouse, table) == []


def test_pending_rows_become_visible_together(warehouse, streams, client, table):
    pending = [streams.open_stream(client, table, "PENDING") for _ in range(2)]
    for n, stream in enumerate(pending):
        append(streams, client, stream, batch(2 * n, 2 * n + 1))
    with pytest.raises(DestinationError, match="does not commit the streams of"):
        streams.commit_streams(client, table, pending)
    assert [streams.finalize_stream(client, stream) for stream in pending] == [2, 2]
    with pytest.raises(DestinationError, match="BigQuery refuses rows"):
        append(streams, client, pending[0], batch(9), offset=2)
    assert numbers(warehouse, table) == []
    streams.commit_streams(client, table, pending)
    assert numbers(warehouse, table) == [0, 1, 2, 3]
    with pytest.raises(DestinationError, match="does not commit the streams of"):
        streams.commit_streams(client, table, pending)
    assert numbers(warehouse, table) == [0, 1, 2, 3]


def test_buffered_rows_become_visible_up_to_an_offset(warehouse, streams, client, table):
    stream = streams.open_stream(client, table, "BUFFERED")
    append(streams, client, stream, batch(1, 2, 3))
    assert numbers(warehouse, table) == []
    streams.flush_rows(client, stream, 1)
    assert numbers(warehouse, table) == [1, 2]
    streams.flush_rows(client, stream, 2)
    assert numbers(warehouse, table) == [1, 2, 3]


def test_the_default_stream_has_no_offsets(warehouse, streams, client, table):
    stream = streams.default_stream(table)
    for _ in range(2):
        writer = append(streams, client, stream, batch(1), batch(2), offset=None)
        assert writer.offset is None
    assert numbers(warehouse, table) == [1, 1, 2, 2]


@pytest.mark.parametrize("offset", [0, None])
@pytest.mark.parametrize("unanswered", [1, 4])
def test_refused_rows_are_left_out(
    warehouse, streams, client, table, monkeypatch, offset: int | None, unanswered: int
):
    monkeypatch.setattr(streams, "UNANSWERED", unanswered)
    kind = streams.open_stream(client, table, "COMMITTED")
    stream = streams.default_stream(table) if offset is None else kind
    rows = [{"n": None if n % 7 == 3 else n, "text": f"hunter {n}"} for n in range(60)]
    parts = [rows[:10], rows[10:12], rows[12:40], rows[40:]]
    batches = [pa.RecordBatch.from_pylist(part, SCHEMA) for part in parts]
    writer = append(streams, client, stream, *batches, offset=offset)
    assert writer.refused == dict.fromkeys(range(3, 60, 7), "Missing required field: n.")
    kept = [row["n"] for row in rows if row["n"] is not None]
    assert writer.offset == (None if offset is None else len(kept))
    assert numbers(warehouse, table) == kept


def test_a_request_of_nothing_but_refused_rows(warehouse, streams, client, table):
    stream = streams.open_stream(client, table, "COMMITTED")
    none = pa.RecordBatch.from_pylist([{"n": None, "text": ""}] * 3, SCHEMA)
    writer = append(streams, client, stream, none, batch(1))
    assert (sorted(writer.refused), writer.offset) == ([0, 1, 2], 1)
    assert numbers(warehouse, table) == [1]


def test_why_a_row_is_refused_does_not_tell_its_values(warehouse, streams, client, table):
    schema = pa.schema([("n", pa.string())])
    stream = streams.open_stream(client, table, "COMMITTED")
    with streams.StreamWriter(client, stream, schema) as writer:
        writer.append(pa.RecordBatch.from_pylist([{"n": "1"}, {"n": "hunter2"}], schema))
        writer.flush()
    assert list(writer.refused) == [1]
    assert "hunter" not in writer.refused[1]
    assert "…" in writer.refused[1]


def test_batches_that_are_too_large_are_sent_in_parts(
    warehouse, streams, client, table, monkeypatch
):
    monkeypatch.setattr(streams, "REQUEST_BYTES", 2000)
    monkeypatch.setattr(streams, "MOST_BYTES", 4000)
    rows = [{"n": n, "text": "x" * (5000 if n == 5 else 3000 if n == 6 else 10)} for n in range(99)]
    stream = streams.open_stream(client, table, "COMMITTED")
    writer = append(streams, client, stream, pa.RecordBatch.from_pylist(rows, SCHEMA))
    assert list(writer.refused) == [5]
    assert numbers(warehouse, table) == [n for n in range(99) if n != 5]


def test_a_table_that_is_not_there(warehouse, streams, client, monkeypatch):
    from google.api_core.exceptions import NotFound, RetryError  # pyright: ignore

    monkeypatch.setattr(streams, "_OPEN_RETRY", streams._OPEN_RETRY.with_timeout(0.1))
    with pytest.raises((NotFound, RetryError)):
        streams.open_stream(client, warehouse.name("nowhere"), "COMMITTED")


def test_a_stream_that_is_not_there(warehouse, streams, client, table):
    stream = f"{streams.default_stream(table).rpartition('/')[0]}/none"
    with pytest.raises((DestinationError, Unavailable), match="BigQuery"):
        append(streams, client, stream, batch(1))


def test_a_service_that_does_not_answer(streams, monkeypatch):
    monkeypatch.setenv(streams.EMULATOR, f"127.0.0.1:{free_port()}")
    with streams.connected() as client, pytest.raises(Unavailable, match="stream broke"):
        append(streams, client, streams.default_stream("p.d.t"), batch(1), offset=None)
