"""Rows as JSON messages, as fast as can be where users make them themselves; and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from columns import SCHEMA

Message = tuple[bytes, bytes]
"""Key and value."""

_TYPES = {
    "event_id": "VARCHAR", "user_id": "VARCHAR", "ts": "VARCHAR", "page": "VARCHAR",
    "country": "VARCHAR", "duration_ms": "BIGINT", "price": "DECIMAL(10,2)",
}  # fmt: skip
"""What JSON texts are read as, in DuckDB's words."""


class Click(msgspec.Struct):
    """A row, for the encoder. Time stamps are texts already: that is faster than to make them."""

    event_id: str
    user_id: str
    ts: str
    page: str
    country: str | None
    duration_ms: int
    price: Decimal


def messages_of(rows: pa.Table) -> Iterator[Message]:
    """The message of each row; its key is the event's id."""
    encode = msgspec.json.Encoder(decimal_format="number").encode
    for batch in rows.to_batches(max_chunksize=65_536):
        ts = pc.strftime(batch["ts"], format="%Y-%m-%dT%H:%M:%SZ")
        columns = [ts if name == "ts" else batch[name] for name in SCHEMA.names]
        for row in zip(*(column.to_pylist() for column in columns), strict=True):
            yield row[0].encode(), encode(Click(*row))


def rows_of(values: Sequence[bytes]) -> pa.Table:
    """The rows of messages, by their values."""
    texts = pa.table({"value": pa.array(values, pa.binary()).cast(pa.string())})
    query = "SELECT unnest(from_json(value, ?)) FROM texts"
    with duckdb.connect() as db:
        db.register("texts", texts)
        found = db.sql(query, params=[msgspec.json.encode(_TYPES).decode()]).to_arrow_table()
    assert found is not None
    return found.select(SCHEMA.names).cast(SCHEMA)
