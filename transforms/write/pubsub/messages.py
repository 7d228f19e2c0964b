"""Rows as Pub/Sub messages, column by column: JSON objects, ids, event times, ordering keys."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....schemas.arrow import IDENTITY, PAYLOAD, POSITION, SOURCE
from ....schemas.contract import Field
from ...dead_letters import dead_letter_id
from ..destination import Commit
from ..json_text import json_kernel, json_keys, json_object
from ..tables import Load

MOST_BYTES = 10_000_000
"""What Pub/Sub takes in a request, and so in a message.

Limits: https://cloud.google.com/pubsub/quotas#resource_limits
"""
MOST_KEY_BYTES = 1024
ROOM_BYTES = 4096
"""What attributes, key and topic take of a message at most."""
PIECE_BYTES = 32 << 20
"""How much of a batch, in memory, is made into messages at a time."""

_IDENTITY = (
    Field(SOURCE, "string"),
    Field(POSITION, "integer"),
    Field(PAYLOAD, "binary"),
)


class Messages(NamedTuple):
    """Messages as columns.

    ``data`` are JSON objects (binary), ``times`` event times as RFC 3339 has them, null where there
    is none; ``keys`` are ordering keys, ``None`` if messages have none.
    """

    data: pa.Array
    ids: list[str]
    times: pa.Array
    keys: pa.Array | None

    def __len__(self) -> int:
        return len(self.ids)


class Packed(NamedTuple):
    """Messages of some rows, and the numbers of those that cannot be any, with the reason."""

    messages: Messages
    refused: list[tuple[int, str]]


def pack(commit: Commit, load: Load, ordering_key: Sequence[str]) -> Iterator[Packed]:
    """The load's rows as messages, in their order, some megabytes at a time.

    A record's id is that of the dead letter that it would be; of any other row it follows from
    token, part and number: in both cases it is the same whenever the row is published again.

    Raises:
        TypeError: a column has no JSON form; the message names it.
    """
    writer = _Writer(commit, load, ordering_key)
    number = 0
    for batch in _with_identity(load).batches():
        step = max(1, batch.num_rows * PIECE_BYTES // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, step):
            piece = batch.slice(start, step)
            yield writer.pack(piece, number)
            number += piece.num_rows


def _with_identity(load: Load) -> Load:
    """The load with the columns of a record's identity, if it has any."""
    if not load.table.has_identity:
        return load
    fields = [field for field in load.table.fields if field.name not in IDENTITY]
    table = dataclasses.replace(load.table, fields=(*fields, *_IDENTITY))
    return dataclasses.replace(load, table=table)


class _Writer:
    def __init__(self, commit: Commit, load: Load, ordering_key: Sequence[str]) -> None:
        self._names = load.schema.names
        self._kernels = [json_kernel(field.type, field.name) for field in load.schema]
        self._keys = json_keys(self._names)
        self._time = load.table.event_time
        self._has_identity = load.table.has_identity
        self._ordering_key = ordering_key
        self._seed = f"{commit.token} {load.part} ".encode()

    def pack(self, batch: pa.RecordBatch, before: int) -> Packed:
        """Some rows; ``before`` is the number of the first."""
        data = self._objects(batch)
        keys = self._ordering(batch)
        sizes = _lengths(data) + ROOM_BYTES
        large = f"its message would be larger than the {MOST_BYTES} bytes that Pub/Sub takes"
        reasons = dict.fromkeys(np.flatnonzero(sizes > MOST_BYTES).tolist(), large)
        if keys is not None:
            for n in np.flatnonzero(_lengths(keys) > MOST_KEY_BYTES).tolist():
                reasons[n] = f"its ordering key is longer than {MOST_KEY_BYTES} bytes"
        messages = Messages(data, self._ids(batch, before), self._times(batch), keys)
        if reasons:
            messages = _without(messages, sorted(reasons))
        return Packed(messages, [(before + n, reasons[n]) for n in sorted(reasons)])

    def _objects(self, batch: pa.RecordBatch) -> pa.Array:
        columns = [
            kernel(batch.column(name))
            for name, kernel in zip(self._names, self._kernels, strict=True)
        ]
        return json_object(self._keys, columns, batch.num_rows, "").cast(pa.binary())

    def _ordering(self, batch: pa.RecordBatch) -> pa.Array | None:
        if not self._ordering_key:
            return None
        texts = [batch.column(name).cast(pa.string()) for name in self._ordering_key]
        return pc.binary_join_element_wise(
            *texts, "|", null_handling="replace", null_replacement=""
        )

    def _times(self, batch: pa.RecordBatch) -> pa.Array:
        if self._time is None:
            return pa.nulls(batch.num_rows, pa.string())
        return json_kernel(batch.schema.field(self._time).type, "")(batch.column(self._time)).values

    def _ids(self, batch: pa.RecordBatch, before: int) -> list[str]:
        if not self._has_identity:
            return [self._numbered(before + n) for n in range(batch.num_rows)]
        sources, positions, payloads = (
            batch.column(SOURCE), batch.column(POSITION).cast(pa.string()), batch.column(PAYLOAD),
        )  # fmt: skip
        said = (column.to_pylist() for column in (sources, positions, payloads))
        return list(map(dead_letter_id, *said))

    def _numbered(self, number: int) -> str:
        return hashlib.blake2b(self._seed + b"%d" % number, digest_size=16).hexdigest()


def _lengths(texts: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False)


def _without(messages: Messages, gone: Sequence[int]) -> Messages:
    kept = np.delete(np.arange(len(messages)), gone)
    rows = pa.array(kept)
    return Messages(
        messages.data.take(rows),
        [messages.ids[n] for n in kept.tolist()],
        messages.times.take(rows),
        None if messages.keys is None else messages.keys.take(rows),
    )
