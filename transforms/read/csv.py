"""Reading CSV files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from ...schemas.contract import Contract
from ...schemas.csv.decoder import CsvDecoder, CsvLines, CsvRecords, HeaderError, column_names
from ...schemas.csv.options import CsvOptions
from ...schemas.csv.written import Written
from ...schemas.decoded import Decoded, UnknownFields
from ..dead_letters import Origin
from ..plan import InputFile
from .compression import Compression
from .csv_records import cut_records, records_are_lines, records_of
from .encodings import Transcoder
from .files import CHUNK_BYTES, RANGE_BYTES, FileRange, chunks, file_ranges
from .json_lines import MAX_RECORD_BYTES
from .lines import BrokenStream, Oversize, Unreadable
from .records import Piece, ReadRecords

_READ_BYTES = 1 << 20  # read at a time, into memory that stays in the processor's cache
_HEADER_BYTES = 64 << 10  # to find the header


class ReadFromCsv(ReadRecords):
    """Read CSV files by a contract.

    Gives a :class:`~millstream.transforms.stage_result.StageResult` as
    :class:`~.records.ReadRecords` says. Columns are matched with fields by the header's names;
    types are strict: see :mod:`millstream.schemas.csv.text_columns`. What a record is, and what
    becomes of stray quotes, is said in :mod:`.csv_records`. A file whose header cannot be used is
    one dead letter.

    A position is the offset of a record's first byte. In encodings in which bytes of ASCII may be
    parts of other characters, such as UTF-16, it counts the bytes that the file has as UTF-8.

    Args:
        files: patterns, or files of a plan. Patterns are matched when the pipeline is built.
        contract: what the records must be.
        options: the dialect. Files are split only without ``multiline``.
        judge: hold records against the contract's rules at once, where they are decoded.
        payload: give each record's exact bytes beside it, in ``_payload``.
        unknown_fields: what to do with columns that the contract does not name: ``ignore``,
            ``keep`` (in a column ``_unknown``, as JSON) or ``reject`` records that have something
            in one.
        compression: ``auto`` goes by each name's ending.
        allow_no_match: a pattern may match nothing.

    Raises:
        NoFiles: a pattern matches nothing.
        HeaderError: ``options`` names the columns, and the contract none of them.
        StorageError: when running, a file cannot be opened.
    """

    def __init__(
        self,
        files: str | Sequence[str | InputFile],
        contract: Contract,
        *,
        options: CsvOptions | None = None,
        judge: bool = False,
        payload: bool = True,
        unknown_fields: UnknownFields = "ignore",
        max_record_bytes: int = MAX_RECORD_BYTES,
        compression: Compression = "auto",
        range_bytes: int = RANGE_BYTES,
        allow_no_match: bool = False,
        origin: Origin | None = None,
    ) -> None:
        reader = CsvReader(
            contract,
            options or CsvOptions(),
            judge=judge,
            unknown_fields=unknown_fields,
            max_record_bytes=max_record_bytes,
            compression=compression,
            range_bytes=range_bytes,
        )
        super().__init__(
            files, contract, reader, payload=payload, allow_no_match=allow_no_match, origin=origin
        )


class _Header(NamedTuple):
    """The first record of a file: where it is, and how it is used, or why it cannot be."""

    start: int
    decoder: CsvDecoder | None
    record: bytes = b""
    fault: str = ""


class CsvReader:
    """Reads and decodes CSV files: a :class:`~.records.RecordReader`.

    Raises:
        HeaderError: ``options`` names the columns, and the contract none of them.
    """

    def __init__(
        self,
        contract: Contract,
        options: CsvOptions,
        *,
        judge: bool = False,
        unknown_fields: UnknownFields = "ignore",
        max_record_bytes: int = MAX_RECORD_BYTES,
        compression: Compression = "auto",
        range_bytes: int = RANGE_BYTES,
    ) -> None:
        self.max_record_bytes = max_record_bytes
        self._contract = contract
        self._options = options
        self._judge = judge
        self._unknown_fields: UnknownFields = unknown_fields
        self._compression: Compression = compression
        self._transcodes = Written(options, ()).transcodes
        splits = records_are_lines(options) and not self._transcodes
        self._range_bytes = range_bytes if splits else sys.maxsize
        if not isinstance(options.header, bool):
            self._decoder(options.header)  # so that names of no use are told at once

    def ranges(self, files: Iterable[InputFile]) -> list[FileRange]:
        """Whole files, or ranges of those that can be split."""
        return file_ranges(files, self._compression, self._range_bytes)

    def attributes(self, part: FileRange) -> dict[str, str]:
        """The file's header, and how it is written."""
        options = msgspec.json.encode(self._options_of(part)).decode()
        said = {"format": "csv", "csv.options": options}
        header = self._header(part)
        if header and header.record:
            encoding = "utf-8" if self._transcodes else self._options.encoding
            said["csv.header"] = header.record.decode(encoding, "replace")
        return said

    def _options_of(self, part: FileRange) -> CsvOptions:
        """How the file is written; of an encoding with two orders of bytes, which it has: a record
        alone does not say that."""
        transcoder = self._transcoder()
        if transcoder is None:
            return self._options
        with suppress(BrokenStream):
            next(transcoder.read(chunks(part._replace(start=0), _HEADER_BYTES)), None)
        return msgspec.structs.replace(self._options, encoding=transcoder.codec)

    def read(self, part: FileRange) -> Iterator[Piece | Oversize | Unreadable]:
        """Everything in a part."""
        header = self._header(part)
        if header and header.fault:
            if part.start <= header.start and (part.end is None or header.start < part.end):
                yield Unreadable(0, header.record, header.fault)
            return
        transcoder = self._transcoder()
        for piece in self._cut(part, transcoder):
            if header and header.decoder:
                yield from self._decoded(piece, header.start, header.decoder, transcoder)
            elif not isinstance(piece, CsvLines):  # blank lines, where there is no record at all
                assert not isinstance(piece, CsvRecords)
                yield piece

    def _decoded(
        self,
        piece: CsvLines | CsvRecords | Oversize | Unreadable,
        header_at: int,
        decoder: CsvDecoder,
        transcoder: Transcoder | None,
    ) -> Iterator[Piece | Oversize | Unreadable]:
        if isinstance(piece, CsvLines):
            lines = piece.after(header_at)
            done = decoder.decode_lines(lines, self.max_record_bytes)
            if done:
                yield _piece(*done, transcoder)
            else:
                for slower in records_of(lines, self._options, self.max_record_bytes):
                    yield from self._decoded(slower, header_at, decoder, transcoder)
        elif isinstance(piece, CsvRecords):
            records = piece.after(header_at)
            if len(records.starts):
                yield _piece(records, decoder.decode(records), transcoder)
        else:
            yield piece

    def _header(self, part: FileRange) -> _Header | None:
        """How records of a file are decoded; ``None`` if it has no record."""
        if not isinstance(self._options.header, bool):
            return _Header(-1, self._decoder(self._options.header))
        start = part._replace(start=0)
        pieces = self._cut(start, self._transcoder(), _HEADER_BYTES, _HEADER_BYTES)
        match next(self._told_apart(pieces), None):
            case CsvRecords() as records:
                start, record = records.first, records.payload(0)
                try:
                    encoding = "utf-8" if self._transcodes else self._options.encoding
                    names = column_names(records, self._options, encoding)
                    return _Header(start, self._decoder(names), record)
                except HeaderError as error:
                    return _Header(start, None, record, str(error))
            case Oversize(start):
                fault = f"has a header of more than {self.max_record_bytes} bytes"
                return _Header(start, None, b"", fault)
        return None

    def _told_apart(
        self, pieces: Iterator[CsvRecords | CsvLines | Oversize | Unreadable]
    ) -> Iterator[CsvRecords | Oversize | Unreadable]:
        for piece in pieces:
            if isinstance(piece, CsvLines):
                yield from records_of(piece, self._options, self.max_record_bytes)
            else:
                yield piece

    def _cut(
        self,
        part: FileRange,
        transcoder: Transcoder | None,
        read_bytes: int = _READ_BYTES,
        block_bytes: int = CHUNK_BYTES,
    ) -> Iterator[CsvRecords | CsvLines | Oversize | Unreadable]:
        stream = chunks(part, read_bytes)
        end = part.end
        if transcoder:
            stream, end = transcoder.read(stream), None
        longest = self.max_record_bytes
        return cut_records(stream, part.start, end, self._options, longest, block_bytes)

    def _transcoder(self) -> Transcoder | None:
        return Transcoder(self._options.encoding) if self._transcodes else None

    def _decoder(self, columns: Sequence[str]) -> CsvDecoder:
        return CsvDecoder(
            self._contract,
            columns,
            self._options,
            self._unknown_fields,
            judge=self._judge,
            transcoded=self._transcodes,
        )


def _piece(records: CsvRecords, decoded: Decoded, transcoder: Transcoder | None) -> Piece:
    return Piece(decoded, records.positions, partial(_payloads, records, transcoder))


def _payloads(records: CsvRecords, transcoder: Transcoder | None, rows: np.ndarray) -> pa.Array:
    found = records.payloads(rows)
    if transcoder is None:
        return found
    return pa.array([transcoder.original(text) for text in found.to_pylist()], pa.binary())
