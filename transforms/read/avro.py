"""Reading Avro object container files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...schemas.arrow_decoder import ArrowDecoder
from ...schemas.avro.datums import AvroDatums, Datums
from ...schemas.avro.types import AvroSchemaError, parse_avro_schema
from ...schemas.contract import Contract
from ...schemas.decoded import UnknownFields
from ..dead_letters import Origin
from ..plan import InputFile
from .avro_blocks import Block, Header, NotAvro, read_blocks, read_header
from .files import RANGE_BYTES, FileRange, PlannedFile, file_ranges, open_planned
from .json_lines import MAX_RECORD_BYTES
from .lines import BrokenStream, Oversize, Unreadable
from .records import Piece, ReadRecords

POSITIONS = 1 << 24
"""A record's position is the offset of its block times this, plus its number in the block."""

_MAX_FILE_BYTES = (1 << 63) // POSITIONS
_GROUP_BYTES = 4 << 20  # of blocks that are decoded together
_PIECE_ROWS = 64 << 10
_PREVIEW = 1024


class ReadFromAvro(ReadRecords):
    """Read Avro files by a contract.

    Gives a :class:`~millstream.transforms.stage_result.StageResult` as
    :class:`~.records.ReadRecords` says. Fields are matched by name; what values are by the writer's
    schema is held against the contract as
    :class:`~millstream.schemas.arrow_decoder.ArrowDecoder` says. The schemas of files may differ,
    and all codecs of the specification are read. polars, if it is installed
    (``pip install 'millstream[avro]'``), makes this ten times faster.

    A position is the byte offset of a record's block times 2**24, plus the record's number in its
    block. A payload is the record's datum: its exact bytes, which the file's schema describes.

    A block that is corrupt (by its marker, codec, counts, or by what is in it) is one dead letter
    as a whole, with the range of its bytes: which of its records are sound, nobody can tell. The
    others go on. A block that no codec checks, and that is by chance what the schema allows, is
    taken for what it says.

    Args:
        files: patterns, or files of a plan. Patterns are matched when the pipeline is built.
        contract: what the records must be.
        judge: hold records against the contract's rules at once, where they are decoded.
        payload: give each record's datum beside it, in ``_payload``.
        unknown_fields: what to do with fields that the contract does not name: ``ignore``,
            ``keep`` (in a column ``_unknown``, as JSON) or ``reject`` records that have something
            in one.
        max_record_bytes: a longer datum becomes a dead letter without its bytes; its ``from-to``
            is its position, and that and its length.
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
        reader = AvroReader(
            contract,
            judge=judge,
            unknown_fields=unknown_fields,
            max_record_bytes=max_record_bytes,
            range_bytes=range_bytes,
        )
        super().__init__(
            files, contract, reader, payload=payload, allow_no_match=allow_no_match, origin=origin
        )


class AvroReader:
    """Reads and decodes Avro files: a :class:`~.records.RecordReader`."""

    def __init__(
        self,
        contract: Contract,
        *,
        judge: bool = False,
        unknown_fields: UnknownFields = "ignore",
        max_record_bytes: int = MAX_RECORD_BYTES,
        range_bytes: int = RANGE_BYTES,
    ) -> None:
        self.max_record_bytes = max_record_bytes
        self._range_bytes = range_bytes
        self._decoder = ArrowDecoder(contract, unknown_fields, judge=judge)

    def ranges(self, files: Iterable[InputFile]) -> list[FileRange]:
        """Ranges of bytes; each owns the blocks that start in it."""
        return file_ranges(files, "none", self._range_bytes)

    def attributes(self, part: FileRange) -> dict[str, str]:
        """The schema that the file was written by."""
        with open_planned(part.file) as stream:
            header = read_header(PlannedFile(stream, part.file))
        return {"format": "avro", "avro.schema": header.schema.decode()}

    def read(self, part: FileRange) -> Iterator[Piece | Oversize | Unreadable]:
        """Everything in a part."""
        assert part.end is not None
        with open_planned(part.file) as stream:
            file = PlannedFile(stream, part.file)
            try:
                header, datums = _opened(file, part.file.size)
            except (NotAvro, BrokenStream) as error:
                if part.start == 0:
                    yield Unreadable(0, b"", str(error), part.file.size)
                return
            for found in _grouped(read_blocks(file, header, part.start, part.end)):
                if isinstance(found, Unreadable):
                    yield found
                else:
                    yield from self._decoded(found, datums)

    def _decoded(
        self, blocks: list[Block], datums: AvroDatums
    ) -> Iterator[Piece | Oversize | Unreadable]:
        """What is in some blocks, in order."""
        found = datums.read([(block.count, block.data) for block in blocks])
        positions = _positions(blocks, found)
        sound = 0  # records before the next corrupt block
        start = 0
        for number, block in enumerate(blocks):
            if number in found.corrupt:
                yield from self._pieces(found, positions, start, sound)
                start = sound
                reason = f"has a block that cannot be read: {found.corrupt[number]}"
                yield Unreadable(block.start, b"", reason, block.end)
            sound += found.counts[number]
        yield from self._pieces(found, positions, start, sound)

    def _pieces(
        self, found: Datums, positions: np.ndarray, start: int, end: int
    ) -> Iterator[Piece | Oversize]:
        for at in range(start, end, _PIECE_ROWS):
            size = min(_PIECE_ROWS, end - at)
            batch, payloads = found.batch.slice(at, size), found.payloads.slice(at, size)
            places = pa.array(positions[at : at + size])
            if pc.any(pc.greater(pc.binary_length(payloads), self.max_record_bytes)).as_py():
                yield from self._oversize(payloads, places)
                fine = pc.less_equal(pc.binary_length(payloads), self.max_record_bytes)
                batch, payloads, places = (x.filter(fine) for x in (batch, payloads, places))
            if len(places):
                yield Piece(self._decoder.decode(batch), places, _taken_from(payloads))

    def _oversize(self, payloads: pa.Array, positions: pa.Array) -> Iterator[Oversize]:
        sizes = pc.binary_length(payloads).to_numpy()
        for i in np.flatnonzero(sizes > self.max_record_bytes).tolist():
            start = positions[i].as_py()
            yield Oversize(start, start + int(sizes[i]), payloads[i].as_py()[:_PREVIEW])


def _opened(file: PlannedFile, size: int) -> tuple[Header, AvroDatums]:
    """A file's header, and what reads its blocks.

    Raises:
        NotAvro: it cannot be read by them.
        BrokenStream: it has become shorter than planned.
    """
    if size > _MAX_FILE_BYTES:
        raise NotAvro(f"is longer than {_MAX_FILE_BYTES} bytes: positions end there")
    header = read_header(file)
    try:
        return header, AvroDatums(parse_avro_schema(header.schema))
    except AvroSchemaError as error:
        raise NotAvro(f"has a schema that {error}") from error


def _taken_from(payloads: pa.Array) -> Callable[[np.ndarray], pa.Array]:
    return lambda rows: payloads if len(rows) == len(payloads) else payloads.take(pa.array(rows))


def _positions(blocks: list[Block], found: Datums) -> np.ndarray:
    starts = np.array([block.start for block in blocks], np.int64) * POSITIONS
    counts = np.array(found.counts, np.int64)
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def _grouped(blocks: Iterable[Block | Unreadable]) -> Iterator[list[Block] | Unreadable]:
    """Blocks that follow each other, about as many bytes at a time as are worth a call."""
    group: list[Block] = []
    size = 0
    for block in blocks:
        if isinstance(block, Unreadable):
            if group:
                yield group
            group, size = [], 0
            yield block
            continue
        group.append(block)
        size += len(block.data)
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
