"""The input files that a job has read, of those that are still there."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from .. import storage
from ..plan import InputFile

_SCHEMA = pa.schema([("source", pa.string()), ("size", pa.int64()), ("version", pa.string())])


def write_seen(files: Iterable[InputFile], folder: str) -> str:
    """Write down files in a folder; gives the path, empty if there are none."""
    table = pa.Table.from_pylist([msgspec.structs.asdict(file) for file in files], _SCHEMA)
    if not len(table):
        return ""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    path = storage.join(folder, "seen.parquet")
    storage.write_replace(path, sink.getvalue().to_pybytes())
    return path


def read_seen(path: str) -> list[InputFile]:
    """The files that :func:`write_seen` wrote."""
    if not path:
        return []
    with storage.named(path, "read"):
        table = pq.read_table(pa.BufferReader(storage.read_bytes(path)))
    return [InputFile(**row) for row in table.to_pylist()]
