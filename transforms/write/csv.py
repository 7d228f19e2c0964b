r"""CSV as RFC 4180 has it, in UTF-8, with a header, lines ending in ``\n``; column by column.

A null is an empty field, an empty string is ``""``: text and binary are always in quotes, so that
a reader can tell them apart (DuckDB with ``allow_quoted_nulls=false``, ``pyarrow.csv`` with
``quoted_strings_can_be_null=False``). Numbers, dates, times, time stamps and base64 are written as
:mod:`.json_text` says, NaN and the infinities as ``NaN``, ``Infinity`` and ``-Infinity``. Structs
and lists are JSON in a cell. In a table of one column a null is an empty line, which many readers
skip.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from .gathering import GatheringEncoder
from .json_text import Kernel, Text, bytes_of, floats, joined, json_kernel

_NOT_NUMBERS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


class CsvEncoder(GatheringEncoder):
    """Writes each row as a line of comma-separated values.

    Raises:
        TypeError: a column of a type that has no text form; the message names it.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        super().__init__(file)
        self._kernels = [_kernel(field.type, field.name) for field in schema]
        self._before = ["," if i else "" for i in range(len(schema))]
        self._header: str | None = ",".join(map(_name, schema.names)) + "\n"

    def encoded(self, batch: pa.RecordBatch) -> Iterator[bytes | memoryview]:
        if self._header:
            yield self._header.encode()
            self._header = None
        columns = [kernel(column) for kernel, column in zip(self._kernels, batch, strict=True)]
        yield bytes_of(joined(self._before, columns, batch.num_rows, "\n", null=""))

    def close(self) -> None:
        self.flush()
        if self._header:
            self._file.write(self._header.encode())


def _name(name: str) -> str:
    if name and not any(mark in name for mark in ',"\r\n'):
        return name
    return '"' + name.replace('"', '""') + '"'


def _kernel(type: pa.DataType, path: str) -> Kernel:
    if pt.is_dictionary(type):
        inner = _kernel(type.value_type, path)
        return lambda array: inner(array.dictionary_decode())
    if pt.is_string(type) or pt.is_large_string(type) or pt.is_string_view(type):
        return lambda array: _in_quotes(array.cast(pa.string()))
    if pt.is_floating(type):
        return lambda array: floats(array, _NOT_NUMBERS)
    as_json = json_kernel(type, path)
    if pt.is_nested(type):
        return lambda array: _in_quotes(as_json(array).values)
    if pt.is_temporal(type):
        return lambda array: Text(as_json(array).values)  # no comma or quote is in them
    return as_json


def _in_quotes(array: pa.Array) -> Text:
    # one look at all bytes, not one a value: most columns hold no quote
    if (np.frombuffer(bytes_of(array), np.uint8) == ord('"')).any():
        array = pc.replace_substring(array, '"', '""')
    return Text(array, '"')
