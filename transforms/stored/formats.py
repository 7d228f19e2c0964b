"""Formats of files, read back: each gives a file's rows in the columns that are asked for."""

from __future__ import annotations

import binascii
import csv as text_csv
import datetime as dt
import io
import zlib
from abc import ABC, abstractmethod
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO, ClassVar, cast

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from .. import storage
from ..write.errors import DestinationError
from . import duckdb_lines
from .avro_values import columns_of
from .filter import Compare, Filter, IsIn
from .json_values import json_column, row_decoder

ROWS = 1 << 16
"""How many rows are in memory at a time."""
_BLOCK = 8 << 20
"""Bytes that are read of a text at a time."""


class FileReader(ABC):
    """Reads files of one format.

    Args:
        place: what messages begin with.
        asked: the columns that files may have, where a format does not say their types.
        ours: we have written the files.
    """

    broken: ClassVar[tuple[type[Exception], ...]] = (pa.ArrowException,)
    """What is raised while a file is read that is damaged."""

    def __init__(self, place: str, asked: pa.Schema | None, *, ours: bool = False) -> None:
        self._place = place
        self._asked = asked
        self._ours = ours

    @abstractmethod
    def schema(self, path: str) -> pa.Schema:
        """The columns of a file, in the types that they are read in."""

    @abstractmethod
    def batches(self, path: str, names: Sequence[str], where: Filter) -> Iterator[pa.RecordBatch]:
        """Those of the columns that a file has, of the rows that meet the conditions. Of a file
        that lacks a column which is judged, no row does."""

    @abstractmethod
    def has(self, path: str, column: str) -> bool:
        """Whether a file has a column; of JSON lines, its first row. An empty file has all."""

    @contextmanager
    def _opened(self, path: str) -> Iterator[BinaryIO]:
        try:
            with storage.named(path, "read"), storage.open_read(path) as file:
                yield file
        except (storage.StorageError, DestinationError):
            raise
        except self.broken:
            raise DestinationError(
                f"{self._place}: {path} cannot be read: it is no file of the format, or is damaged"
            ) from None  # the message may quote a row


class ParquetFiles(FileReader):
    """Parquet."""

    def schema(self, path: str) -> pa.Schema:
        import pyarrow.parquet as pq

        with self._opened(path) as file:
            return pq.read_schema(file)

    def has(self, path: str, column: str) -> bool:
        return column in self.schema(path).names

    def batches(self, path: str, names: Sequence[str], where: Filter) -> Iterator[pa.RecordBatch]:
        import pyarrow.dataset as ds

        with self._opened(path) as file:
            source = pa.PythonFile(file, "r") if storage.is_remote(path) else pa.OSFile(path)
            fragment = ds.ParquetFileFormat(pre_buffer=False).make_fragment(source)
            held = fragment.physical_schema
            if any(name not in held.names for name in where.columns):
                return
            kept = [name for name in names if name in held.names]
            yield from ds.Scanner.from_fragment(
                fragment,
                columns=kept or held.names[:1],
                filter=_expression(where, held),
                batch_size=ROWS,
                batch_readahead=2,
                fragment_readahead=1,
            ).to_batches()


def _expression(where: Filter, held: pa.Schema) -> Any:
    """The conditions as Arrow's datasets take them; ``None`` where there are none."""
    found: Any = None
    for each in where.conditions:
        column, type = pc.field(each.column), _plain(held.field(each.column).type)
        match each:
            case Compare(_, operator, value):
                scalar = pa.scalar(value, type)
                said = {
                    "=": column == scalar, "<": column < scalar, "<=": column <= scalar,
                    ">": column > scalar, ">=": column >= scalar,
                }[operator]  # fmt: skip
            case IsIn(_, values):
                said = column.isin(pa.array(list(values), type))
            case _:
                raise AssertionError(f"not for a dataset: {each}")
        found = said if found is None else found & said
    return found


def _plain(type: Any) -> pa.DataType:
    return type.value_type if pa.types.is_dictionary(type) else type


class _Texts(FileReader):
    """A format that does not say of which types its columns are."""

    def schema(self, path: str) -> pa.Schema:
        if self._asked is None:
            raise DestinationError(
                f"{self._place}: files of this format do not say the types of their columns"
            )
        return self._asked

    def batches(self, path: str, names: Sequence[str], where: Filter) -> Iterator[pa.RecordBatch]:
        known = self.schema(path)
        wanted = pa.schema([known.field(n) for n in dict.fromkeys((*names, *where.columns))])
        with self._opened(path) as file:
            for batch in self._rows(path, file, wanted):
                yield where.kept(batch).select(list(names))

    @abstractmethod
    def _rows(self, path: str, file: BinaryIO, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
        """All rows of a file, which is open."""


class JsonLinesFiles(_Texts):
    """JSON lines."""

    broken = (pa.ArrowException, msgspec.DecodeError)

    def has(self, path: str, column: str) -> bool:
        with self._opened(path) as file:
            line = file.readline()
        return not line or column in msgspec.json.decode(line, type=dict[str, msgspec.Raw])

    def _rows(self, path: str, file: BinaryIO, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
        given = 0
        if self._ours and duckdb_lines.reads(path, wanted):
            import duckdb

            try:
                for batch in duckdb_lines.batches(path, wanted, ROWS):
                    given += batch.num_rows
                    yield batch
                return
            except duckdb.Error:  # a line that is too long for it, or damage: see what we can read
                pass
        for batch in self._decoded(file, wanted):
            yield batch.slice(given)
            given = max(0, given - batch.num_rows)

    def _decoded(self, file: BinaryIO, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
        decode = row_decoder(wanted)
        rest = b""
        while block := file.read(_BLOCK):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            if lines:
                yield decode([line for line in lines if line])
        if rest:
            yield decode([rest])


class CsvFiles(_Texts):
    """CSV with a header, in the form of :mod:`..write.csv`."""

    broken = (
        pa.ArrowException,
        msgspec.DecodeError,
        binascii.Error,
        text_csv.Error,
        UnicodeDecodeError,
    )

    def has(self, path: str, column: str) -> bool:
        with self._opened(path) as file:
            lines = io.TextIOWrapper(file, "utf-8", newline="")
            return column in next(text_csv.reader(lines), [column])

    def _rows(self, path: str, file: BinaryIO, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
        from pyarrow import csv

        with csv.open_csv(
            pa.PythonFile(file, "r"),
            csv.ReadOptions(block_size=_BLOCK, use_threads=False),
            csv.ParseOptions(newlines_in_values=True),
            csv.ConvertOptions(
                include_columns=wanted.names,
                include_missing_columns=True,
                column_types={name: pa.string() for name in wanted.names},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        ) as texts:
            for batch in texts:
                columns = [_of_text(batch.column(f.name), f.type) for f in wanted]
                yield pa.RecordBatch.from_arrays(columns, schema=wanted)


def _of_text(texts: Any, type: Any) -> Any:
    """A column of CSV's texts in its type."""
    if pa.types.is_nested(type):
        return json_column(texts.to_pylist(), type)
    if pa.types.is_binary(type):
        return pa.array([None if t is None else b64decode(t) for t in texts.to_pylist()], type)
    if pa.types.is_time(type):
        times = [None if t is None else dt.time.fromisoformat(t) for t in texts.to_pylist()]
        return pa.array(times, type)
    if pa.types.is_timestamp(type):
        return pc.replace_substring(texts, " UTC", "Z").cast(type)
    return texts.cast(type)


class AvroFiles(FileReader):
    """Avro's object container files."""

    broken = (
        pa.ArrowException, EOFError, LookupError, TypeError, ValueError, zlib.error,
    )  # fmt: skip

    def schema(self, path: str) -> pa.Schema:
        """What was asked for: Avro's types are read as those."""
        if self._asked is None:
            raise DestinationError(f"{self._place}: say which columns are to be read of Avro files")
        return self._asked

    def has(self, path: str, column: str) -> bool:
        import fastavro

        with self._opened(path) as file:
            schema: Any = fastavro.reader(file).writer_schema
        return any(field["name"] == column for field in schema["fields"])

    def batches(self, path: str, names: Sequence[str], where: Filter) -> Iterator[pa.RecordBatch]:
        import fastavro

        wanted = dict.fromkeys((*names, *where.columns))
        with self._opened(path) as file:
            reader = fastavro.reader(file)
            schema: Any = reader.writer_schema
            held = {field["name"] for field in schema["fields"]}
            if any(name not in held for name in where.columns):
                return
            types = pa.schema([f for f in self.schema(path) if f.name in wanted and f.name in held])
            while rows := list(islice(reader, ROWS // 8)):
                batch = columns_of(cast(Any, rows), types)
                yield where.kept(batch).select([n for n in names if n in held])


READERS: dict[str, type[FileReader]] = {
    "parquet": ParquetFiles,
    "jsonl": JsonLinesFiles,
    "csv": CsvFiles,
    "avro": AvroFiles,
}
"""Format → its reader."""
