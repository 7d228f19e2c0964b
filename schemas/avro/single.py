"""Avro datums that come one by one, each to be judged alone.

In a file, bytes that are wrong cost the rest of their block: where the next record begins nobody
can tell. Of a message its ends are known. So what is sound is found first (:mod:`.sound`) and read
in one go, and each of the others by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from .columns import column_of, json_of
from .sound import sound_datums
from .types import MAX_DEPTH, AvroSchema, AvroType
from .values import CorruptDatum, Read, reader_of
from .with_polars import PolarsReader, Uneven, is_readable

FAST_FROM = 128
"""Fewer datums are read one by one: a call of polars, whatever it reads, takes as long."""


class Part(NamedTuple):
    """Some of the datums: their row numbers, ascending, and their records, one a row."""

    rows: np.ndarray
    batch: pa.RecordBatch


class SingleDatums:
    """Reads datums of one writer's schema.

    Args:
        fast: let polars read, if it is installed.
    """

    def __init__(self, schema: AvroSchema, *, fast: bool = True) -> None:
        self._record = schema.record
        self._careful = reader_of(schema, json_of(schema))
        self._polars: PolarsReader | None = None
        if fast and is_readable(schema.record):
            with suppress(ImportError):  # what it would read is read all the same
                self._polars = PolarsReader(schema.record)

    def read(self, datums: pa.Array) -> tuple[list[Part], dict[int, str]]:
        """Read a binary array without nulls, one datum an element. No content makes it raise.

        Returns:
            The records, in parts whose Arrow types may differ (``binary`` or ``large_binary``); and
            of each row that is no datum what is wrong with it, which goes on after "it".
        """
        rest = np.arange(len(datums))
        parts = []
        if self._polars is not None and len(datums) >= FAST_FROM:
            sound = _sound(self._polars, self._record, datums)
            if sound is not None:
                parts, rest = [sound], np.delete(rest, sound.rows)
        corrupt: dict[int, str] = {}
        if len(rest):
            taken = datums if len(rest) == len(datums) else datums.take(pa.array(rest))
            values, corrupt = self._values(rest.tolist(), taken.to_pylist())
            if values:
                parts.append(Part(np.array(list(values)), self._batch(list(values.values()))))
        return parts, corrupt

    def _values(
        self, rows: Iterable[int], datums: Iterable[bytes]
    ) -> tuple[dict[int, Any], dict[int, str]]:
        values: dict[int, Any] = {}
        corrupt: dict[int, str] = {}
        for row, datum in zip(rows, datums, strict=True):
            try:
                values[row] = _value(self._careful, datum)
            except CorruptDatum as error:
                corrupt[row] = str(error)
        return values, corrupt

    def _batch(self, values: list[Any]) -> pa.RecordBatch:
        fields = self._record.fields
        if not fields:  # a batch without columns has no rows
            return pa.record_batch([pa.nulls(len(values))], names=[""])
        by_field = zip(*values, strict=True)
        columns = [column_of(of, part) for (_, of), part in zip(fields, by_field, strict=True)]
        return pa.RecordBatch.from_arrays(columns, names=[name for name, _ in fields])


def _sound(polars: PolarsReader, record: AvroType, datums: pa.Array) -> Part | None:
    """All datums that are sound for sure, read; if polars cannot, or there are none, ``None``."""
    chosen = sound_datums(record, *layout(datums))
    if not chosen.any():
        return None
    if not chosen.all():
        datums = datums.filter(pa.array(chosen))
    octets, offsets = layout(datums)
    try:
        columns, _, ends = polars.read([(len(datums), octets.data)])
    except Uneven:
        return None
    if not np.array_equal(ends, offsets[1:]):  # two ways to tell, which never differed
        return None
    batch = pa.RecordBatch.from_arrays(columns, names=[name for name, _ in record.fields])
    return Part(np.flatnonzero(chosen), batch)


def layout(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of a binary array, and where in them each element begins and the last one ends."""
    _, offsets, data = values.buffers()
    places = np.frombuffer(offsets, np.int32, len(values) + 1, values.offset * 4)
    octets = np.frombuffer(data if data is not None else b"", np.uint8)
    return octets[places[0] : places[-1]], places - places[0]


def _value(read: Read, datum: bytes) -> Any:
    """The value of a datum that has all of the bytes.

    Raises:
        CorruptDatum: they are none. The message goes on after "it".
    """
    try:
        value, end = read(datum, 0)
    except (IndexError, struct.error):
        raise CorruptDatum("ends too early") from None
    except RecursionError:
        raise CorruptDatum(f"is nested more than {MAX_DEPTH} levels deep") from None
    if end != len(datum):
        raise CorruptDatum(f"has {len(datum) - end} bytes left over")
    return value
