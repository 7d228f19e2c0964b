"""JSON lines, written column by column; :mod:`.json_text` says in which form values are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from .gathering import GatheringEncoder
from .json_text import bytes_of, json_kernel, json_keys, json_object


class JsonLinesEncoder(GatheringEncoder):
    """Writes each row as a JSON object on a line of its own.

    Raises:
        TypeError: a column of a type that has no JSON form; the message names it.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        super().__init__(file)
        self._kernels = [json_kernel(field.type, field.name) for field in schema]
        self._keys = json_keys(schema.names)

    def encoded(self, batch: pa.RecordBatch) -> Iterator[memoryview]:
        columns = [kernel(column) for kernel, column in zip(self._kernels, batch, strict=True)]
        yield bytes_of(json_object(self._keys, columns, batch.num_rows, "\n"))
