"""File encoders: each turns record batches of one schema into the bytes of one file."""

from __future__ import annotations

from typing import BinaryIO, Protocol

import pyarrow as pa

from ..receipts import Part
from .avro import AvroEncoder
from .csv import CsvEncoder
from .jsonl import JsonLinesEncoder
from .parquet import BriefParquetEncoder, ParquetEncoder


class Encoder(Protocol):
    """Writes batches of one schema to a file object that somebody else opened and closes."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None: ...

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch; it may stay in memory for a while."""
        ...

    def flush(self) -> None:
        """Write what is in memory, be it less than a reader would like at a time."""
        ...

    def close(self) -> None:
        """Write what is still in memory, and the file's end. Closes no file object."""
        ...


BRIEF = "lz4.parquet"
"""The format of rows that are staged for a table."""

FORMATS: dict[str, type[Encoder]] = {
    "parquet": ParquetEncoder,
    BRIEF: BriefParquetEncoder,
    "jsonl": JsonLinesEncoder,
    "csv": CsvEncoder,
    "avro": AvroEncoder,
}
"""Format → encoder. The key is also the file name's extension."""


def format_of(format: str, part: Part) -> str:
    """The format that a part of an output is written in, if the output's is ``format``.

    Partial states are Parquet in any case: millstream reads them back, and needs their types.
    """
    return "parquet" if part == "states" and format != BRIEF else format
