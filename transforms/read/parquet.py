"""Reading Parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.arrow_decoder import ArrowDecoder
from ...schemas.arrow_json import json_rows
from ...schemas.contract import Contract
from ...schemas.decoded import UnknownFields
from .. import storage
from ..dead_letters import Origin
from ..plan import InputFile
from ..progress import PROGRESS
from .files import RANGE_BYTES, FileRange, PlannedFile, file_ranges, open_planned
from .json_lines import MAX_RECORD_BYTES
from .lines import BrokenStream, Oversize, Unreadable
from .parquet_footer import row_group_bytes
from .records import Piece, ReadRecords

_BATCH_ROWS = 64 << 10
_BATCH_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 20  # read at a time of each column of a local file
_PREVIEW = 1024
_ENCRYPTED = b"PARE"


class ReadFromParquet(ReadRecords):
    """Read Parquet files by a contract.

    Gives a :class:`~millstream.transforms.stage_result.StageResult` as
    :class:`~.records.ReadRecords` says. Columns are matched with fields by name, and their types
    are held against the contract as :class:`~millstream.schemas.arrow_decoder.ArrowDecoder` says.
    The schemas of files may differ. Only columns that the contract names are read, unless
    ``payload`` or ``unknown_fields`` ask for more. Time stamps of type INT96 have no zone.

    A position is the number of a row in its file, from 0. A payload is the row as JSON, all columns
    of the file included: :mod:`millstream.schemas.arrow_json` has the form. Of a dead letter, those
    columns are read once more; what cannot be read of them is left out.

    A row group in which a page is corrupt is one dead letter with the range of its bytes, and so is
    a file that is no Parquet file, truncated or encrypted. Rows of the group that were read before
    the page, and other groups, go on.

    Args:
        files: patterns, or files of a plan. Patterns are matched when the pipeline is built.
        contract: what the records must be.
        judge: hold records against the contract's rules at once, where they are decoded.
        payload: give each row as JSON beside it, in ``_payload``.
        unknown_fields: what to do with columns that the contract does not name: ``ignore``,
            ``keep`` (in a column ``_unknown``, as JSON) or ``reject`` rows that have something in
            one.
        max_record_bytes: a row whose JSON is longer becomes a dead letter without it. Only rows of
            a batch that takes more memory than that are looked at.
        allow_no_match: a pattern may match nothing.

    Raises:
        NoFiles: a pattern matches nothing.
        StorageError: when running, a file cannot be opened.
    """

    def __init__(
        self,
        files: str | Sequence[str | InputFile],
        contract: Contract,
        *,
        judge: bool = False,
        payload: bool = True,
        unknown_fields: UnknownFields = "ignore",
        max_record_bytes: int = MAX_RECORD_BYTES,
        range_bytes: int = RANGE_BYTES,
        allow_no_match: bool = False,
        origin: Origin | None = None,
    ) -> None:
        reader = ParquetReader(
            contract,
            judge=judge,
            payload=payload,
            unknown_fields=unknown_fields,
            max_record_bytes=max_record_bytes,
            range_bytes=range_bytes,
        )
        super().__init__(
            files, contract, reader, payload=payload, allow_no_match=allow_no_match, origin=origin
        )


class ParquetReader:
    """Reads and decodes Parquet files: a :class:`~.records.RecordReader`.

    Args:
        payload: payloads of all rows will be asked for.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        judge: bool = False,
        payload: bool = False,
        unknown_fields: UnknownFields = "ignore",
        max_record_bytes: int = MAX_RECORD_BYTES,
        range_bytes: int = RANGE_BYTES,
    ) -> None:
        self.max_record_bytes = max_record_bytes
        self._range_bytes = range_bytes
        self._names = {field.name for field in contract.fields}
        self._reads_all = payload or unknown_fields != "ignore"
        self._decoder = ArrowDecoder(contract, unknown_fields, judge=judge)

    def ranges(self, files: Iterable[InputFile]) -> list[FileRange]:
        """Ranges of bytes; each owns the row groups that start in it."""
        return file_ranges(files, "none", self._range_bytes)

    def attributes(self, part: FileRange) -> dict[str, str]:
        """That a payload is JSON."""
        return {"format": "json"}

    def read(self, part: FileRange) -> Iterator[Piece | Oversize | Unreadable]:
        """Everything in a part."""
        with open_planned(part.file) as stream:
            try:
                source = _Source(stream, part.file)
                file = _open(source, part.file)
                groups = _row_groups(file.metadata)
            except storage.StorageError:
                raise
            except Exception as error:  # whatever a broken footer makes a reader say
                if part.start == 0:
                    reason = f"cannot be read as Parquet: {_one_line(error)}"
                    yield Unreadable(0, b"", reason, part.file.size)
                return
            for group in groups:
                if _owns(part, group, file.metadata.num_rows):
                    yield from self._read_group(file, group, source)
                    share = group.rows / max(file.metadata.num_rows, 1)
                    PROGRESS.bytes += int(part.file.size * share)

    def _read_group(
        self, file: Any, group: _RowGroup, source: _Source
    ) -> Iterator[Piece | Oversize | Unreadable]:
        names = file.schema_arrow.names
        columns = names if self._reads_all else [n for n in names if n in self._names] or names[:1]
        rows = _Rows(file, group, columns)
        whole = rows if len(columns) == len(names) else _Rows(file, group, names)
        at = 0
        try:
            for batch in rows:
                if at + batch.num_rows > group.rows:
                    raise ValueError("it has more rows than the footer says")
                yield from self._pieces(batch, group, at, whole)
                at += batch.num_rows
            if at < group.rows:
                raise ValueError("it has fewer rows than the footer says")
        except storage.StorageError:
            raise
        except _READ_ERRORS as error:
            reason = (
                f"has a row group (number {group.number}) that cannot be read from its row {at} on:"
                f" {_one_line(error)}"
            )
            start, end = source.bytes_of(group.number)
            yield Unreadable(start, b"", reason, end)

    def _pieces(
        self, batch: pa.RecordBatch, group: _RowGroup, at: int, whole: _Rows
    ) -> Iterator[Piece | Oversize]:
        start = 0
        for i, text in self._oversize(batch):
            if start < i:
                yield self._piece(batch.slice(start, i - start), group, at + start, whole)
            number = group.first + at + i
            yield Oversize(number, number + len(text), text[:_PREVIEW])
            start = i + 1
        if start < batch.num_rows:
            yield self._piece(batch.slice(start), group, at + start, whole)

    def _oversize(self, batch: pa.RecordBatch) -> list[tuple[int, bytes]]:
        """The rows that are too long, by their numbers in the batch."""
        if batch.nbytes <= self.max_record_bytes:
            return []
        texts = json_rows(batch)
        too_long = pc.greater(pc.binary_length(texts), self.max_record_bytes)
        numbers = np.flatnonzero(too_long.to_numpy(zero_copy_only=False))
        return [(i, texts[i].as_py()) for i in numbers.tolist()]

    def _piece(self, batch: pa.RecordBatch, group: _RowGroup, at: int, whole: _Rows) -> Piece:
        numbers = np.arange(group.first + at, group.first + at + batch.num_rows)
        payloads = partial(_payloads, batch, at, whole)
        return Piece(self._decoder.decode(batch), pa.array(numbers), payloads)


_READ_ERRORS = (
    pa.ArrowException, OSError, ValueError, MemoryError, RuntimeError, BrokenStream
)  # fmt: skip
"""What a corrupt page, or a file that has become shorter, makes a reader raise."""


class _RowGroup(NamedTuple):
    """A row group: its number, its rows, and the number of its first row in the file."""

    number: int
    rows: int
    first: int
    row_bytes: float  # of all columns, encoded but not compressed


def _row_groups(metadata: Any) -> list[_RowGroup]:
    """What the footer says of the row groups.

    Raises:
        ValueError: it contradicts itself.
    """
    if not metadata.num_columns:
        raise ValueError("it has no columns")
    groups: list[_RowGroup] = []
    first = 0
    for number in range(metadata.num_row_groups):
        said = metadata.row_group(number)
        if said.num_rows < 0:
            raise ValueError("its footer contradicts itself")
        row_bytes = said.total_byte_size / max(said.num_rows, 1)
        groups.append(_RowGroup(number, said.num_rows, first, row_bytes))
        first += said.num_rows
    if first != metadata.num_rows:
        raise ValueError("its footer contradicts itself")
    return groups


def _owns(part: FileRange, group: _RowGroup, rows: int) -> bool:
    """Whether a row group is of a range: if it starts there, did all rows take as many bytes.

    Where it does start is not asked for: see :mod:`.parquet_footer`.
    """
    assert part.end is not None
    return part.start <= part.file.size * group.first // max(rows + 1, 1) < part.end


class _Source(PlannedFile):
    """A file as Arrow wants it."""

    closed = False

    def __init__(self, stream: BinaryIO, file: InputFile) -> None:
        super().__init__(stream, file)
        self._size = file.size

    def seek(self, at: int, whence: int = 0) -> None:
        super().seek(at + (0, self.at, self._size)[whence])

    def tell(self) -> int:
        return self.at

    def close(self) -> None:
        """Whoever opened the file closes it."""

    def bytes_at(self, at: int, size: int) -> bytes:
        """Some bytes of the file."""
        self.seek(at)
        return self.read(size)

    def bytes_of(self, row_group: int) -> tuple[int, int]:
        """The bytes [start, end) of a row group; all of the file if the footer does not say."""
        try:
            size = int.from_bytes(self.bytes_at(self._size - 8, 4), "little")
            found = row_group_bytes(self.bytes_at(self._size - 8 - size, size))[row_group]
        except (ValueError, IndexError, OSError, BrokenStream):
            found = (0, self._size)
        return found if 0 <= found[0] < found[1] <= self._size else (0, self._size)


def _open(source: _Source, file: InputFile) -> Any:
    import pyarrow.parquet as pq

    if file.size >= 4 and source.bytes_at(file.size - 4, 4) == _ENCRYPTED:
        raise ValueError("it is encrypted, and there is no key for it")
    remote = storage.is_remote(file.source)
    return pq.ParquetFile(
        pa.PythonFile(source, "r"),
        buffer_size=0 if remote else _BUFFER_BYTES,
        pre_buffer=remote,  # few long reads: each costs a store's latency
        coerce_int96_timestamp_unit="us",  # in nanoseconds years before 1677 are others, unnoticed
        page_checksum_verification=True,
    )


class _Rows:
    """The rows of a row group, as they are asked for: one after the other, or some by number."""

    def __init__(self, file: Any, group: _RowGroup, columns: list[str]) -> None:
        self._file = file
        self._group = group
        self.columns = columns
        self._batches: Iterator[pa.RecordBatch] | None = None
        self._batch = pa.RecordBatch.from_arrays([], names=[])  # that was taken from last
        self._start = self._end = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        share = len(self.columns) / len(self._file.schema_arrow.names)
        rows = int(_BATCH_BYTES / max(self._group.row_bytes * share, 1))
        rows = min(max(rows, 1), _BATCH_ROWS)
        return self._file.iter_batches(
            rows, row_groups=[self._group.number], columns=self.columns, use_threads=False
        )

    def json(self, rows: np.ndarray) -> pa.Array:
        """Rows as JSON, by their numbers in the group, ascending."""
        if self._batches is None or (len(rows) and rows[0] < self._start):
            self._batches, self._start, self._end = iter(self), 0, 0
        found = [pa.array([], pa.binary())]
        while len(rows):
            if rows[0] >= self._end:
                self._batch = next(self._batches)
                self._start, self._end = self._end, self._end + self._batch.num_rows
                continue
            here = int(np.searchsorted(rows, self._end))
            found.append(_json(self._batch, rows[:here] - self._start))
            rows = rows[here:]
        return pa.concat_arrays(found)


def _payloads(batch: pa.RecordBatch, at: int, whole: _Rows, rows: np.ndarray) -> pa.Array:
    """Rows of a batch as JSON; ``at`` is the number of its first row in the row group."""
    if batch.num_columns < len(whole.columns):
        try:
            return whole.json(rows + at)
        except storage.StorageError:
            raise
        except (*_READ_ERRORS, StopIteration):
            pass  # in a column that the contract does not name: the others are what there is
    return _json(batch, rows)


def _json(batch: pa.RecordBatch, rows: np.ndarray) -> pa.Array:
    if len(rows) == batch.num_rows:
        return json_rows(batch)
    try:
        return json_rows(batch.take(pa.array(rows)))
    except pa.ArrowNotImplementedError:  # of string views nothing can be taken (pyarrow 25)
        return json_rows(batch).take(pa.array(rows))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
