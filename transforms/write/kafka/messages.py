"""Rows as Kafka messages, column by column: keys, values, time stamps, headers.

Here are messages of JSON, as :mod:`..json_text` writes it; those of Avro are in :mod:`.avro`.
A key of one column is its text, without quotes; a key of several columns is an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from ....schemas.arrow import POSITION, SOURCE
from ..json_text import floats, json_kernel, json_keys, json_object

RUN_HEADER = "millstream.run"
SOURCE_HEADER = "millstream.source"
POSITION_HEADER = "millstream.position"

FRAME_BYTES = 128
"""What a batch with one message takes on the wire besides key, value and headers, at most: 61 bytes
for the batch, some twenty for lengths, and a few for each header."""
PIECE_BYTES = 32 << 20
"""How much of a batch, in memory, is made into messages at a time."""
_INFINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

Encode = Callable[[pa.RecordBatch], pa.Array]
"""Gives the bytes for each row (binary); null where there are none."""


class Columns(NamedTuple):
    """How a table's rows become messages.

    ``key`` is ``None`` for a table without one. ``required`` names columns that may not be null,
    ``time`` the event time's, ``deleted`` the one that is true where a message has no value.
    """

    key: Encode | None
    value: Encode
    required: Sequence[str]
    time: str | None
    deleted: str | None
    run_id: str = ""
    """With it, messages have headers: run, source and position."""


class Limits(NamedTuple):
    """What a topic takes: messages of so many bytes, and time stamps between the first and the last
    (milliseconds since the epoch). Where an event time is none of these, ``otherwise`` stands."""

    size: int
    first: int
    last: int
    otherwise: int


class Messages(NamedTuple):
    """Messages as columns. ``times`` are in milliseconds since the epoch."""

    keys: pa.Array
    values: pa.Array
    times: np.ndarray
    headers: list[Any] | None

    def sizes(self) -> np.ndarray:
        """What each takes on the wire, uncompressed and alone, at most."""
        size = np.full(len(self.values), FRAME_BYTES, np.int64)
        for column in (self.keys, self.values):
            lengths = pc.fill_null(pc.binary_length(column), 0)
            size += lengths.to_numpy(zero_copy_only=False)
        if self.headers is not None:
            size += [sum(len(name) + len(value) for name, value in row) for row in self.headers]
        return size

    def filter(self, kept: np.ndarray) -> Messages:
        """Those where ``kept`` is true."""
        mask = pa.array(kept)
        headers = self.headers and list(compress(self.headers, kept))
        return Messages(self.keys.filter(mask), self.values.filter(mask), self.times[kept], headers)


class Packed(NamedTuple):
    """Rows of a batch as messages, and those that cannot be any: their numbers in the batch, and
    why. No value of a row is among the reasons."""

    messages: Messages
    refused: list[tuple[int, str]]


def pack(batch: pa.RecordBatch, columns: Columns, limits: Limits) -> Iterator[Packed]:
    """A batch's rows as messages, in their order, some megabytes at a time."""
    step = max(1, batch.num_rows * PIECE_BYTES // max(1, batch.nbytes))
    for start in range(0, batch.num_rows, step):
        piece = batch.slice(start, step)
        numbers = np.arange(start, start + piece.num_rows)
        refused: list[tuple[int, str]] = []
        for name in columns.required:
            if piece.column(name).null_count:
                kept = piece.column(name).is_valid().to_numpy(zero_copy_only=False)
                refused += [(n, f"{name} is null") for n in numbers[~kept].tolist()]
                piece, numbers = piece.filter(pa.array(kept)), numbers[kept]
        messages = _messages(piece, columns, limits)
        sizes = messages.sizes()
        if sizes.max(initial=0) > limits.size:
            kept = sizes <= limits.size
            why = f"its message is larger than the {limits.size} bytes that the topic takes"
            refused += [(n, why) for n in numbers[~kept].tolist()]
            messages = messages.filter(kept)
        yield Packed(messages, sorted(refused))


def _messages(batch: pa.RecordBatch, columns: Columns, limits: Limits) -> Messages:
    keys = columns.key(batch) if columns.key else pa.nulls(batch.num_rows, pa.binary())
    values = columns.value(batch)
    if columns.deleted:
        gone = pc.fill_null(batch.column(columns.deleted), False)
        values = pc.if_else(gone, pa.scalar(None, pa.binary()), values)
    headers = _headers(batch, columns.run_id) if columns.run_id else None
    return Messages(keys, values, _times(batch, columns.time, limits), headers)


def json_messages(schema: pa.Schema, key: Sequence[str]) -> tuple[Encode | None, Encode]:
    """What gives keys and values of rows as JSON; without a key's columns, no keys.

    Raises:
        TypeError: a column is of a type that has no JSON form; the message names it.
    """
    return json_key(schema, key) if key else None, json_value(schema)


def json_value(schema: pa.Schema) -> Encode:
    """Rows as JSON objects.

    Raises:
        TypeError: a column of a type that has no JSON form; the message names it.
    """
    kernels = [json_kernel(field.type, field.name) for field in schema]
    keys = json_keys(schema.names)

    def encode(batch: pa.RecordBatch) -> pa.Array:
        columns = [
            kernel(batch.column(name)) for name, kernel in zip(schema.names, kernels, strict=True)
        ]
        return json_object(keys, columns, batch.num_rows, "").cast(pa.binary())

    return encode


def json_key(schema: pa.Schema, key: Sequence[str]) -> Encode:
    """The key's columns as JSON: of one column the text alone, null where it is.

    Raises:
        TypeError: as :func:`json_value`.
    """
    if len(key) > 1:
        encode = json_value(pa.schema([schema.field(name) for name in key]))
        return lambda batch: encode(key_columns(batch, key))
    kernel = json_kernel(schema.field(key[0]).type, key[0])

    def write(batch: pa.RecordBatch) -> pa.Array:
        (column,) = key_columns(batch, key)
        if pt.is_string(column.type):
            return column.cast(pa.binary())
        if pt.is_floating(column.type):
            return floats(column, _INFINITE).values.cast(pa.binary())
        return kernel(column).values.cast(pa.binary())

    return write


def key_columns(batch: pa.RecordBatch, key: Sequence[str]) -> pa.RecordBatch:
    """The key's columns; floats that are equal have equal bytes."""
    columns = [_one_zero(batch.column(name)) for name in key]
    schema = pa.schema([batch.schema.field(name) for name in key])
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _one_zero(column: pa.Array) -> pa.Array:
    """Floats with one zero and one NaN."""
    if not pt.is_floating(column.type):
        return column
    nan = pa.scalar(float("nan"), column.type)
    zero = pa.scalar(0.0, column.type)
    return pc.if_else(pc.is_nan(column), nan, pc.if_else(pc.equal(column, zero), zero, column))


def _times(batch: pa.RecordBatch, name: str | None, limits: Limits) -> np.ndarray:
    if name is None:
        return np.full(batch.num_rows, limits.otherwise, np.int64)
    column = batch.column(name).cast(pa.timestamp("us", "UTC")).view(pa.int64())
    # Null becomes what no topic takes.
    found = pc.fill_null(column, -1).to_numpy(zero_copy_only=False) // 1000
    return np.where((found >= limits.first) & (found <= limits.last), found, limits.otherwise)


def _headers(batch: pa.RecordBatch, run_id: str) -> list[Any]:
    run = (RUN_HEADER, run_id.encode())
    sources = batch.column(SOURCE).cast(pa.binary()).to_pylist()
    positions = batch.column(POSITION).cast(pa.string()).cast(pa.binary()).to_pylist()
    return [
        [run, *_given((SOURCE_HEADER, source), (POSITION_HEADER, position))]
        for source, position in zip(sources, positions, strict=True)
    ]


def _given(*headers: tuple[str, bytes | None]) -> Iterator[tuple[str, bytes]]:
    return ((name, value) for name, value in headers if value is not None)
