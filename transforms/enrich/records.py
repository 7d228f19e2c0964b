"""References in files of records: Avro, CSV and JSON lines, read as a job's input is."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import chain, islice

import pyarrow as pa

from ...schemas.avro.datums import AvroDatums
from ...schemas.avro.types import AvroSchemaError, parse_avro_schema
from ...schemas.contract import Contract, Field
from ...schemas.decoded import Decoded
from ...schemas.enrich.json_fields import SAMPLE, NoField, fields_of_json
from ...schemas.json.decoder import JsonDecoder
from ...schemas.problems import did_you_mean
from ..read.avro import AvroReader
from ..read.avro_blocks import NotAvro
from ..read.csv import CsvReader
from ..read.files import FileRange, chunks, file_ranges
from ..read.json_lines import MAX_RECORD_BYTES
from ..read.lines import BrokenStream, Lines, Oversize, Unreadable, cut_lines
from ..read.records import RecordReader
from .files import files_version, reference_files
from .sources import SourceError, fields_of
from .spec import ReferenceSpec


class _FilesSource:
    def __init__(self, spec: ReferenceSpec) -> None:
        self._spec = spec
        self._files = reference_files(spec)

    def version(self) -> str:
        return files_version(self._files)

    def _checked(self, decoded: Decoded, path: str) -> pa.RecordBatch:
        """The records, all of them.

        Raises:
            SourceError: some do not fit. The message has no values.
        """
        if decoded.refused:
            raise SourceError(f"{path}: {refusal(decoded)}")
        return decoded.records


def refusal(decoded: Decoded) -> str:
    """What is wrong with the records that are refused, without their values."""
    first = decoded.violations[0]
    what = f"{first.field} is wrong ({first.code})" if first.field else f"{first.code}"
    return (
        f"{len(decoded.refused)} records do not fit; of the first, {what}. Of fields of another "
        "type, say with types which it is"
    )


class ReaderSource(_FilesSource):
    """Files that a reader of records understands."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        reader = self._reader()
        for part in reader.ranges(self._files):
            self._check(part, self._spec.contract)
            for piece in reader.read(part):
                path = part.file.source
                if isinstance(piece, Unreadable):
                    raise SourceError(f"{path} {piece.reason}")
                if isinstance(piece, Oversize):
                    raise SourceError(f"{path} has a record of more than {MAX_RECORD_BYTES} bytes")
                yield self._checked(piece.decoded, path)

    def _reader(self) -> RecordReader:
        raise NotImplementedError

    def _check(self, part: FileRange, contract: Contract) -> None:
        """See whether a file has the columns, which are the contract's."""


class AvroSource(ReaderSource):
    """Avro files; the types are those of the first."""

    def fields(self, expected: Mapping[str, Field]) -> tuple[Field, ...]:
        return fields_of(
            self._schema(FileRange(self._files[0], 0, self._files[0].size)), self._spec
        )

    def _reader(self) -> RecordReader:
        return AvroReader(self._spec.contract)

    def _check(self, part: FileRange, contract: Contract) -> None:
        if part.start == 0:
            fields_of(self._schema(part), self._spec)

    def _schema(self, part: FileRange) -> pa.Schema:
        try:
            text = AvroReader(self._spec.contract).attributes(part)["avro.schema"]
            columns = AvroDatums(parse_avro_schema(text)).read([]).batch.schema
        except (NotAvro, BrokenStream, AvroSchemaError) as error:
            raise SourceError(f"{part.file.source} {error}") from error
        return pa.schema([pa.field(column.name, _as_text(column.type)) for column in columns])


class CsvSource(ReaderSource):
    """CSV files. Columns of which nothing is expected are strings."""

    def fields(self, expected: Mapping[str, Field]) -> tuple[Field, ...]:
        fields = tuple(expected.get(name) or Field(name, "string") for name in self._spec.columns)
        self._check(file_ranges(self._files)[0], Contract("reference", "1", "reference", fields))
        return fields

    def _reader(self) -> RecordReader:
        return CsvReader(self._spec.contract, self._spec.csv)

    def _check(self, part: FileRange, contract: Contract) -> None:
        if part.start:
            return
        options = self._spec.csv
        names: list[str] = []
        if not isinstance(options.header, bool):
            names = list(options.header)
        elif header := CsvReader(contract, options).attributes(part).get("csv.header"):
            quote = {"quotechar": options.quote} if options.quote else {"quoting": csv.QUOTE_NONE}
            names = next(csv.reader([header], delimiter=options.delimiter, **quote))  # type: ignore[arg-type]
        for name in self._spec.columns:
            if names and name not in names:
                hint = did_you_mean(name, names)
                raise SourceError(f"{part.file.source} has no column {name!r}{hint}")


class JsonSource(_FilesSource):
    """Files of JSON lines. Columns of which nothing is expected are as the first records have
    them."""

    def fields(self, expected: Mapping[str, Field]) -> tuple[Field, ...]:
        parts = file_ranges(self._files)
        records = chain.from_iterable(lines.payloads.to_pylist() for lines in self._lines(parts))
        try:
            return fields_of_json(islice(records, SAMPLE), self._spec.columns, expected)
        except NoField as error:
            raise SourceError(f"{self._spec.place}: {error}") from None

    def batches(self) -> Iterator[pa.RecordBatch]:
        decoder = JsonDecoder(self._spec.contract)
        for part in file_ranges(self._files):
            for lines in self._lines([part]):
                yield self._checked(decoder.decode(lines.payloads), part.file.source)

    def _lines(self, parts: list[FileRange]) -> Iterator[Lines]:
        for part in parts:
            for piece in cut_lines(chunks(part), part.start, part.end, MAX_RECORD_BYTES):
                path = part.file.source
                if isinstance(piece, Unreadable):
                    raise SourceError(f"{path} {piece.reason}")
                if isinstance(piece, Oversize):
                    raise SourceError(f"{path} has a line of more than {MAX_RECORD_BYTES} bytes")
                yield piece


_SOURCES = {"avro": AvroSource, "csv": CsvSource, "jsonl": JsonSource}


def open_source(spec: ReferenceSpec) -> AvroSource | CsvSource | JsonSource:
    """The source of ``avro:PATTERN``, ``csv:PATTERN`` or ``jsonl:PATTERN``."""
    return _SOURCES[spec.uri.partition(":")[0]](spec)


def _as_text(type: pa.DataType) -> pa.DataType:
    """What a contract's field is that holds these: bytes are strings, which are read strictly."""
    if pa.types.is_binary(type) or pa.types.is_large_binary(type):
        return pa.string()
    if pa.types.is_struct(type):
        return pa.struct([pa.field(field.name, _as_text(field.type)) for field in type.fields])
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return pa.list_(_as_text(type.value_type))
    return type
