"""Avro data to Arrow record batches: blocks of records by the schema that wrote them.

polars reads them where it is installed and its result can be proven (:mod:`.with_polars`), else
Python does (:mod:`.values`): with the same outcome, at a tenth of the speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from .columns import column_of, json_of
from .types import AvroSchema
from .values import CorruptDatum, read_datums, reader_of
from .with_polars import PolarsReader, Uneven, is_readable

MAX_BLOCK_RECORDS = 1 << 24
"""How many records a block may hold."""

Block = tuple[int, bytes | memoryview]
"""How many records a block says to hold, and its data, not compressed."""


class Datums(NamedTuple):
    """The records of some blocks.

    ``batch`` has the fields by the names and types of their writer; ``payloads`` (binary) the exact
    bytes of each record. ``counts`` says how many are of each block. A block that is corrupt has
    none, and is in ``corrupt``, by its number, with what is wrong with it.
    """

    batch: pa.RecordBatch
    payloads: pa.Array
    counts: list[int]
    corrupt: dict[int, str]


class AvroDatums:
    """Reads the data of one writer's schema.

    Args:
        fast: let polars read, if it is installed.
    """

    def __init__(self, schema: AvroSchema, *, fast: bool = True) -> None:
        self._record = schema.record
        self._names = [name for name, _ in schema.record.fields]
        self._careful = reader_of(schema, json_of(schema))
        self._polars: PolarsReader | None = None
        if fast and is_readable(schema.record):
            with suppress(ImportError):  # what it would read is read all the same
                self._polars = PolarsReader(schema.record)

    def read(self, blocks: Sequence[Block]) -> Datums:
        """Read blocks. No content makes it raise.

        A block that is not just the records that it says to hold, by the schema, is corrupt as a
        whole: where the bytes went wrong, and so which records before that are sound, nobody can
        tell.
        """
        sound = [self._refusal(count, len(data)) is None for count, data in blocks]
        if self._polars is not None and all(sound):
            try:
                columns, data, ends = self._polars.read(blocks)
            except Uneven:
                return self._read_carefully(blocks)
            return self._datums(columns, data, ends, [count for count, _ in blocks], {})
        return self._read_carefully(blocks)

    def _refusal(self, count: int, size: int) -> str | None:
        least = self._record.least_bytes
        if not 0 <= count <= MAX_BLOCK_RECORDS:
            return f"it says to hold {count} records, and may hold {MAX_BLOCK_RECORDS}"
        if count * least > size or (size and not count):
            return f"it says to hold {count} records in {size} bytes"
        return None

    def _read_carefully(self, blocks: Sequence[Block]) -> Datums:
        values: list[Any] = []
        ends: list[np.ndarray] = []
        parts: list[bytes] = []
        counts: list[int] = []
        corrupt: dict[int, str] = {}
        start = 0
        for number, (count, data) in enumerate(blocks):
            data, counts = bytes(data), [*counts, 0]
            try:
                if refusal := self._refusal(count, len(data)):
                    raise CorruptDatum(refusal)
                found, local = read_datums(self._careful, data, count)
            except CorruptDatum as error:
                corrupt[number] = str(error)
                continue
            values += found
            ends.append(np.array(local, np.int64) + start)
            parts.append(data)
            start += len(data)
            counts[-1] = count
        by_field = list(zip(*values, strict=True)) if values else [()] * len(self._names)
        types = [of for _, of in self._record.fields]
        columns = [column_of(of, part) for of, part in zip(types, by_field, strict=True)]
        data = pa.py_buffer(b"".join(parts))
        return self._datums(
            columns, data, np.concatenate([np.zeros(0, np.int64), *ends]), counts, corrupt
        )

    def _datums(
        self,
        columns: list[pa.Array],
        data: pa.Buffer,
        ends: np.ndarray,
        counts: list[int],
        corrupt: dict[int, str],
    ) -> Datums:
        offsets = np.zeros(len(ends) + 1, np.int32)
        offsets[1:] = ends
        buffers = [None, pa.py_buffer(offsets), data]
        payloads = pa.Array.from_buffers(pa.binary(), len(ends), buffers)
        if not columns:
            columns, names = [pa.nulls(len(ends))], [""]
        else:
            names = self._names
        batch = pa.RecordBatch.from_arrays(columns, names=names)
        return Datums(batch, payloads, counts, corrupt)
