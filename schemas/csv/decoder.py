"""CSV records to typed columns, strictly and fast.

Records arrive as one piece of bytes with their bounds (:class:`CsvRecords`). ``pyarrow.csv`` cuts
them into cells and gives columns of text, which :mod:`.text_columns` converts. It reads records as
:mod:`.cells` says, for what it would read otherwise never reaches it: records that are no CSV,
or not of their encoding, are left out.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from ..arrow import arrow_type, record_schema
from ..codes import Code
from ..contract import Contract
from ..decoded import Decoded, UnknownFields, settle
from ..drift.facts import Found, extend, renumbered, without
from ..drift.unknown import note_values
from ..drift.walk import cell_json
from ..masking import Masking
from ..problems import did_you_mean
from ..rules import Violation, has_restricted
from .cells import split_cells
from .options import CsvOptions
from .text_columns import text_converter

Faults = dict[int, tuple[Code, str]]
"""What is wrong with records as a whole, by their numbers."""

_BOM = b"\xef\xbb\xbf"
_LF, _CR = 10, 13
_SHOWN = 40  # names of a header, and characters of each, that a message repeats


class HeaderError(ValueError):
    """A header by which no record can be read. The message goes on from ``the file …``."""


class CsvRecords(NamedTuple):
    """Records in a row.

    ``data`` are bytes of the file, in its encoding, at offset ``at``; the records are
    ``data[starts[i]:ends[i]]``, without their line ends. Between two of them is a line end, and
    what is no record: blank lines, and records that are dealt with elsewhere. ``malformed`` says
    of some rows why they cannot be cut into cells.
    """

    at: int
    data: bytes
    starts: np.ndarray  # int64
    ends: np.ndarray  # int64
    malformed: dict[int, str]

    @property
    def positions(self) -> pa.Array:
        """The offset of each record (int64)."""
        return pa.array(self.starts + self.at)

    def payloads(self, rows: np.ndarray) -> pa.Array:
        """The exact bytes (binary) of some records."""
        bounds = np.empty(2 * len(self.starts) + 1, np.int32)
        bounds[0:-1:2], bounds[1::2] = self.starts, self.ends
        bounds[-1] = len(self.data)
        buffers = [None, pa.py_buffer(bounds), pa.py_buffer(self.data)]
        alternating = pa.Array.from_buffers(pa.binary(), len(bounds) - 1, buffers)
        return alternating.take(pa.array(rows * 2))

    def payload(self, row: int) -> bytes:
        """The exact bytes of a record."""
        return self.data[self.starts[row] : self.ends[row]]

    @property
    def first(self) -> int:
        """The offset of the first record."""
        return self.at + int(self.starts[0])

    def after(self, offset: int) -> CsvRecords:
        """The records that start after an offset."""
        skip = int(np.searchsorted(self.starts, offset - self.at, side="right"))
        if not skip:
            return self
        malformed = {row - skip: why for row, why in self.malformed.items() if row >= skip}
        return self._replace(starts=self.starts[skip:], ends=self.ends[skip:], malformed=malformed)


class CsvLines(NamedTuple):
    """Whole lines without quotes: ``data[start:end]``, with ``data`` at offset ``at``.

    They are not yet told apart: whoever cuts them into cells learns where each ends.
    """

    at: int
    data: bytes
    start: int
    end: int

    def after(self, offset: int) -> CsvLines:
        """The lines that start after that one in which ``offset`` is."""
        if offset < self.at + self.start:
            return self
        newline = self.data.find(b"\n", offset - self.at, self.end)
        return self._replace(start=newline + 1 if newline >= 0 else self.end)


def column_names(records: CsvRecords, options: CsvOptions, encoding: str) -> list[str]:
    """The names of the columns, which the first record holds.

    Args:
        encoding: of the records.

    Raises:
        HeaderError: it is no CSV, or not of the encoding.
    """
    if 0 in records.malformed:
        raise HeaderError(f"has a header that {records.malformed[0]}")
    cells = split_cells(records.payload(0), options)
    try:
        return [cell.text.decode(encoding) for cell in cells]
    except UnicodeDecodeError as error:
        raise HeaderError(f"has a header that {_undecodable(error, encoding)}") from None


class CsvDecoder:
    """Decodes the records of files with the same columns by a contract.

    Columns are matched with fields by name, in any order. A field without a column is null; a
    column without a field is what the contract does not name.

    Args:
        columns: the names of the columns.
        unknown: ``keep`` gives a column ``_unknown``, with a JSON object from name to text of
            those cells that are not null; with ``reject`` such a cell is a violation, with
            ``notice`` it is noticed.
        judge: hold what is well typed against the contract's rules too.
        transcoded: the records are UTF-8 already, whatever the encoding of their file is.

    Raises:
        HeaderError: two columns of one name, or none that the contract names.
    """

    def __init__(
        self,
        contract: Contract,
        columns: Sequence[str],
        options: CsvOptions,
        unknown: UnknownFields = "ignore",
        *,
        judge: bool = False,
        transcoded: bool = False,
    ) -> None:
        _check_names(columns, contract)
        self._contract = contract
        self._encoding = "utf-8" if transcoded else options.encoding
        self._not_decoded = f"is not {options.encoding}" if transcoded else ""
        self._options = options
        self._judge = judge
        self._unknown: UnknownFields = unknown
        self._masking = Masking(contract)
        self._converters = [text_converter(f, unknown) for f in contract.fields]
        places = {name: place for place, name in enumerate(columns)}
        self._known = [places.pop(f.name, None) for f in contract.fields]
        self._extra = {} if unknown == "ignore" else places
        wanted = sorted({*self._extra.values(), *(p for p in self._known if p is not None)})
        self._cells = _CellReader(len(columns), wanted, options)

    @property
    def schema(self) -> pa.Schema:
        """The schema of ``Decoded.records``."""
        return record_schema(self._contract, keep_unknown=self._unknown == "keep")

    def decode(self, records: CsvRecords) -> Decoded:
        """Decode records. No content whatever makes it raise."""
        faults: Faults = {row: (Code.MALFORMED, why) for row, why in records.malformed.items()}
        text, rows = self._text(records, faults)
        cells = self._cells.cut(text)
        for number, why in cells.uneven.items():
            faults[int(rows[number])] = (Code.MALFORMED, why)
        rows = np.delete(rows, list(cells.uneven))
        decoded = self._convert(cells.columns, len(rows))
        return _with_faults(decoded, rows, faults) if faults else decoded

    def decode_lines(self, lines: CsvLines, longest: int) -> tuple[CsvRecords, Decoded] | None:
        """Decode lines, and tell them apart by the lengths of their cells, which is faster than to
        look for their ends.

        ``None`` where that is not to be had: there may be blank lines, lines that are longer than
        ``longest``, or records that cannot be decoded. What was done is then not lost if the
        records of these lines are decoded next.
        """
        if not _is_utf8(self._encoding) and not lines.data.isascii():
            return None
        text = _as_utf8(memoryview(lines.data)[lines.start : lines.end], "utf-8")
        found = None if text is None else self._cells.line_bounds(text)
        if text is None or found is None:
            return None
        bounds, line_end = found
        if (bounds[1:] - bounds[:-1]).max() > longest + 1:
            return None
        bounds += lines.start
        records = CsvRecords(lines.at, lines.data, bounds[:-1], bounds[1:] - line_end, {})
        return records, self._convert(self._cells.cut(text).columns, len(bounds) - 1)

    def _convert(self, texts: dict[int, pa.Array], size: int) -> Decoded:
        found: list[Violation] = []
        columns, unknown, nested = [], [], []
        for field, place, convert in zip(
            self._contract.fields, self._known, self._converters, strict=True
        ):
            if place is None:
                columns.append(pa.nulls(size, arrow_type(field)))
                continue
            converted = convert(texts[place])
            columns.append(converted.column)
            found += converted.violations
            unknown += [converted.unknown] if converted.unknown is not None else []
            nested += [converted.noticed] if converted.noticed else []
        extra = {name: texts[place] for name, place in self._extra.items()}
        if self._unknown == "reject":
            found += _rejected(extra)
        kept = _unknown_column(extra, unknown, size) if self._unknown == "keep" else None
        decoded = settle(columns, self._contract, found, judge=self._judge, unknown=kept)
        if self._unknown != "notice":
            return decoded
        return decoded._replace(noticed=self._noticed(extra, nested, decoded.refused))

    def _noticed(
        self, extra: dict[str, pa.Array], nested: list[Found], refused: list[int]
    ) -> Found | None:
        """Cells of good rows that the contract does not name, and what is in JSON cells."""
        found: Found = {}
        for name, texts in extra.items():
            values = [
                (row, cell_json(text))
                for row, text in enumerate(texts.to_pylist())
                if text is not None
            ]
            note_values(found, name, values, self._masking)
        for more in nested:
            extend(found, more)
        return without(found, set(refused))

    def _text(self, records: CsvRecords, faults: Faults) -> tuple[pa.Buffer, np.ndarray]:
        """The records that can be cut into cells, as UTF-8, and their numbers."""
        for row in _with_bare_returns(records):
            if row not in faults and self._is_bare(records.payload(row)):
                faults[row] = (Code.MALFORMED, "has a carriage return outside quotes")
        text = _as_utf8(_joined(records, faults), self._encoding)
        if text is None:
            for row in _beyond_ascii(records):
                try:
                    records.payload(row).decode(self._encoding)
                except UnicodeDecodeError as error:
                    why = self._not_decoded or _undecodable(error, self._encoding)
                    faults.setdefault(row, (Code.ENCODING, why))
            text = _as_utf8(_joined(records, faults), self._encoding)
            assert text is not None
        rows = np.ones(len(records.starts), bool)
        rows[list(faults)] = False
        return text, np.flatnonzero(rows)

    def _is_bare(self, record: bytes) -> bool:
        cells = split_cells(record, self._options)
        return any(b"\r" in cell.text for cell in cells if not cell.quoted)


class _Cells(NamedTuple):
    """Text cut into cells: columns by place, of those records that have as many cells as there are
    columns; and what is wrong with the others, by their numbers."""

    columns: dict[int, pa.Array]
    uneven: dict[int, str]


class _CellReader:
    """Cuts records into columns of text with ``pyarrow.csv``."""

    def __init__(self, columns: int, wanted: list[int], options: CsvOptions) -> None:
        self._columns = columns
        self._wanted = wanted
        self._delimiter = options.delimiter
        self._quote: Any = options.quote or False
        self._null = list(options.null)
        self._last: tuple[pa.Buffer, _Cells] | None = None

    def cut(self, text: pa.Buffer) -> _Cells:
        """The wanted columns of records; of the same text as before, what it was before."""
        last = self._last
        if last and (last[0].address, last[0].size) == (text.address, text.size):
            return last[1]  # the buffer is held, so nothing else can be where it is
        cells = self._cut(text)
        self._last = text, cells
        return cells

    def line_bounds(self, text: pa.Buffer) -> tuple[np.ndarray, int] | None:
        """Where lines start, and the last ends, and how long their line ends are, if all bytes are
        cells, delimiters and line ends of one kind.

        So there are no blank lines, no records at fault, and no nulls but empty cells.
        """
        columns, uneven = self.cut(text)
        if self._columns == 1 or len(columns) < self._columns or uneven or not len(columns[0]):
            return None  # of a single column a blank line might be a cell
        size = len(columns[0])
        bounds = np.arange(size + 1, dtype=np.int32) * np.int32(self._columns)
        for column in columns.values():
            offsets = np.frombuffer(column.buffers()[1], np.int32)
            bounds += offsets[column.offset : column.offset + size + 1]
        if bounds[0] == 0 and bounds[-1] == text.size:
            return bounds.astype(np.int64), 1
        bounds += np.arange(size + 1, dtype=np.int32)
        if bounds[0] == 0 and bounds[-1] == text.size:
            following, data = bounds[1:], np.frombuffer(text, np.uint8)
            if (data[following - 1] == _LF).all() and (data[following - 2] == _CR).all():
                return bounds.astype(np.int64), 2
        return None

    def _cut(self, text: pa.Buffer) -> _Cells:
        from pyarrow import csv

        if not text.size:
            return _Cells({place: pa.nulls(0, pa.string()) for place in self._wanted}, {})
        uneven: dict[int, str] = {}

        def skip(row: Any) -> str:
            cells = "1 cell" if row.actual_columns == 1 else f"{row.actual_columns} cells"
            uneven[row.number - 1] = f"has {cells}, the header has {row.expected_columns}"
            return "skip"

        names = [f"f{place}" for place in range(self._columns)]
        table = csv.read_csv(
            pa.BufferReader(text),
            read_options=csv.ReadOptions(
                use_threads=False, block_size=text.size + 1, column_names=names
            ),
            parse_options=csv.ParseOptions(
                delimiter=self._delimiter, quote_char=self._quote, invalid_row_handler=skip
            ),
            convert_options=csv.ConvertOptions(
                check_utf8=False,
                column_types={names[place]: pa.string() for place in self._wanted},
                null_values=self._null,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                include_columns=[names[place] for place in self._wanted],
            ),
        )
        columns = table.combine_chunks().columns
        return _Cells(
            {
                place: column.chunk(0) if column.num_chunks else pa.nulls(0, pa.string())
                for place, column in zip(self._wanted, columns, strict=True)
            },
            uneven,
        )


def _with_faults(decoded: Decoded, rows: np.ndarray, faults: Faults) -> Decoded:
    """What became of all records, from what became of those without faults, which are ``rows``."""
    typed = rows[decoded.refused].tolist()
    refused = sorted([*faults, *typed])
    place = {row: i for i, row in enumerate(typed)}
    places = [place.get(row) for row in refused]
    found = [Violation(row, "", code, message) for row, (code, message) in faults.items()]
    found += [v._replace(row=int(rows[v.row])) for v in decoded.violations]
    return Decoded(
        decoded.records,
        rows if decoded.kept is None else rows[decoded.kept],
        refused,
        sorted(found, key=lambda v: v.row),  # stable: in order of fields
        [i is not None and decoded.well_typed[i] for i in places],
        decoded.event_times.take(pa.array(places, pa.int64())),
        noticed=decoded.noticed and renumbered(decoded.noticed, rows),
    )


def _check_names(columns: Sequence[str], contract: Contract) -> None:
    repeated = next((name for name in columns if columns.count(name) > 1), None)
    # What is taken for a header may be a record.
    hides = has_restricted(contract.fields)
    if repeated is not None:
        which = "a column" if hides else f"the column {repeated!r}"
        raise HeaderError(f"has a header that names {which} twice")
    fields = [field.name for field in contract.fields]
    if not set(fields) & set(columns):
        near = next(filter(None, (did_you_mean(name, fields) for name in columns)), "")
        raise HeaderError(
            f"has a header that names no field of the contract: expected {_listed(fields)}, "
            f"got {f'{len(columns)} others' if hides else _listed(columns)}{near}"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    short = (name if len(name) <= _SHOWN else name[:_SHOWN] + "…" for name in names[:_SHOWN])
    return ", ".join(map(repr, short)) + more


def _undecodable(error: UnicodeDecodeError, encoding: str) -> str:
    name = "UTF-8" if _is_utf8(encoding) else encoding
    return f"is not {name}: {error.reason} at byte {error.start}"


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def _as_utf8(data: bytes | memoryview, encoding: str) -> pa.Buffer | None:
    """The same text as UTF-8, or ``None`` if it is not of its encoding."""
    if _is_utf8(encoding):
        buffer = pa.py_buffer(data)
        return buffer if _is_valid(buffer) else None
    try:
        return pa.py_buffer(str(data, encoding).encode())
    except UnicodeDecodeError:
        return None


def _is_valid(text: pa.Buffer) -> bool:
    bounds = pa.py_buffer(np.array([0, text.size], np.int64))
    whole = pa.Array.from_buffers(pa.large_binary(), 1, [None, bounds, text])
    try:
        whole.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _beyond_ascii(records: CsvRecords) -> list[int]:
    """The records that hold bytes above 0x7F."""
    places = np.flatnonzero(np.frombuffer(records.data, np.uint8) >= 0x80)
    return _rows_of(records, places)


def _with_bare_returns(records: CsvRecords) -> list[int]:
    """The records with carriage returns that are no part of CRLF."""
    data, ends = np.frombuffer(records.data, np.uint8), records.ends
    if records.data.find(b"\r") < 0:
        return []
    returns = np.flatnonzero(data == _CR)
    if len(returns) == np.count_nonzero(data[ends[ends < len(data)]] == _CR):
        return []
    following = data.take(returns + 1, mode="clip")  # the last byte follows itself, and is no LF
    return _rows_of(records, returns[following != _LF])


def _rows_of(records: CsvRecords, places: np.ndarray) -> list[int]:
    """The records that some bytes are in."""
    rows = np.searchsorted(records.starts, places, side="right") - 1
    return np.unique(rows[(rows >= 0) & (places < records.ends[rows])]).tolist()


def _joined(records: CsvRecords, faults: Faults) -> bytes | memoryview:
    """The records without those at fault, with no more than line ends between two."""
    data, starts, ends = records.data, records.starts, records.ends
    spans: list[tuple[int, int]] = []
    first = 0
    for row in [*sorted({*faults, *_after_gaps(records)}), len(starts)]:
        if first < row:
            spans.append((int(starts[first]), int(ends[row - 1])))
        first = row + 1 if row in faults else row
    view = memoryview(data)
    if len(spans) == 1:
        begin, end = spans[0]
        newline = data.find(b"\n", end, end + 2)
        if newline >= 0 and not data.startswith(_BOM, begin):
            return view[begin : newline + 1]
    # An empty line first, since Arrow takes away a byte-order mark that a text starts with; and a
    # line end last, since without one it may take an empty last cell for one in quotes.
    pieces = [view[begin:end] for begin, end in spans]
    return b"\n".join([b"", *pieces, b""]) if pieces else b""


def _after_gaps(records: CsvRecords) -> Iterator[int]:
    """The records before which there is more than line ends."""
    data, starts, ends = records.data, records.starts, records.ends
    for i in np.flatnonzero(starts[1:] - ends[:-1] > 2).tolist():
        if data[ends[i] : starts[i + 1]].strip(b"\r\n"):
            yield i + 1


def _rejected(extra: dict[str, pa.Array]) -> list[Violation]:
    """Violations of cells that the contract does not name, where they are not null."""
    return [
        Violation(row, name, Code.UNKNOWN_FIELD, "is not in the contract")
        for name, texts in extra.items()
        for row in np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False)).tolist()
    ]


def _unknown_column(extra: dict[str, pa.Array], nested: list[pa.Array], size: int) -> pa.Array:
    """The column ``_unknown``: cells that the contract does not name, and what is in JSON cells."""
    found: list[dict[str, Any]] = [{} for _ in range(size)]
    for name, texts in extra.items():
        for row, text in enumerate(texts.to_pylist()):
            if text is not None:
                found[row][name] = text
    for objects in nested:
        for row, said in enumerate(objects.to_pylist()):
            if said is not None:
                found[row].update(_raw_object(said))
    return pa.array([msgspec.json.encode(f).decode() if f else None for f in found], pa.string())


_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
