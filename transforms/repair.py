"""Repair: what a job tries on records that break their contract, where they are decoded.

Records that are good as they came cost nothing but a column of nulls. What is rescued is a record
as any other from then on: in its place among the others, judged by the watermark that it would have
been judged by, and with its bytes as they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from ..schemas.arrow import PAYLOAD, POSITION, REPAIRED, SOURCE
from ..schemas.avro.types import AvroSchemaError
from ..schemas.contract import Contract
from ..schemas.csv.written import written_by
from ..schemas.decoded import Decoded, UnknownFields
from ..schemas.drift.facts import Rows, drift_of, merged
from ..schemas.repairs.payloads import AvroPayloads, CsvPayloads, JsonPayloads, Payloads
from ..schemas.repairs.rescue import rescued
from ..schemas.repairs.spec import RepairJob
from .coder import RecordBatchCoder  # registers it  # noqa: F401
from .decoding import Decoding, Task
from .plan import InputFile
from .read.files import FileRange
from .read.lines import Oversize, Unreadable
from .read.records import Piece, RecordReader
from .tallies import Tally, count_sources


@dataclass(frozen=True)
class Repair:
    """The repairs of a job. Picklable: it travels to whatever decodes records.

    Records that are decoded with it have a column ``_repaired`` behind their own.

    Attributes:
        entries: in the order in which they are tried.
    """

    contract: Contract
    entries: tuple[RepairJob, ...]
    unknown_fields: UnknownFields = "ignore"

    def over(self, decoding: Decoding, said: Mapping[str, str] | None = None) -> Decoding:
        """A decoding that tries the repairs on what another one refuses.

        Args:
            said: what dead letters of such payloads say of how they are read; nothing of JSON.
        """
        return _Repairing(decoding, self._payloads(said or {}))

    def reading(self, reader: RecordReader) -> RecordReader:
        """A reader of files that tries the repairs on what another one refuses."""
        return _RepairingReader(reader, self)

    def rescued(self, decoded: Decoded, payloads: pa.Array, said: Mapping[str, str]) -> Decoded:
        """What became of records once repairs have been tried; see
        :func:`~..schemas.repairs.rescue.rescued`."""
        return rescued(decoded, payloads, self._payloads(said))

    def _payloads(self, said: Mapping[str, str]) -> Payloads | None:
        return _payloads_of(self, tuple(sorted(said.items())))

    def __hash__(self) -> int:
        return hash((self.contract.digest, len(self.entries)))


@lru_cache(maxsize=64)
def _payloads_of(repair: Repair, said: tuple[tuple[str, str], ...]) -> Payloads | None:
    """How payloads are written anew that are read as is said; ``None`` if they cannot be."""
    attributes = dict(said)
    given = repair.contract, repair.entries, repair.unknown_fields
    match attributes.get("format", "json"):
        case "csv":
            try:
                return CsvPayloads(*given, written_by(attributes))
            except ValueError:  # nothing can be read by the header, or by what is said of it
                return None
        case "avro":
            try:
                return AvroPayloads(*given, attributes.get("avro.schema", ""))
            except AvroSchemaError:
                return None
    return JsonPayloads(*given)


class _Repairing:
    """A decoding: see :meth:`Repair.over`."""

    def __init__(self, decoding: Decoding, payloads: Payloads | None) -> None:
        self._decoding = decoding
        self._payloads = payloads

    def put(self, task: Task) -> Iterator[tuple[Task, Decoded]]:
        return self._repaired(self._decoding.put(task))

    def drain(self) -> Iterator[tuple[Task, Decoded]]:
        return self._repaired(self._decoding.drain())

    def _repaired(self, done: Iterable[tuple[Task, Decoded]]) -> Iterator[tuple[Task, Decoded]]:
        for task, decoded in done:
            refused = task[0].column(PAYLOAD).take(pa.array(decoded.refused, pa.int64()))
            yield task, _with_drift(rescued(decoded, refused, self._payloads), task[0])


def _with_drift(decoded: Decoded, batch: pa.RecordBatch) -> Decoded:
    """What was noticed of rescued records, counted as what was noticed of the others is."""
    if not decoded.noticed:
        return decoded
    drift = drift_of(decoded.noticed, Rows(batch.column(SOURCE), batch.column(POSITION)))
    both = [each for each in (decoded.drift, drift) if each is not None]
    return decoded._replace(noticed=None, drift=merged(both))


class _RepairingReader:
    """A :class:`~.read.records.RecordReader`: see :meth:`Repair.reading`."""

    def __init__(self, reader: RecordReader, repair: Repair) -> None:
        self.max_record_bytes = reader.max_record_bytes
        self._reader = reader
        self._repair = repair

    def ranges(self, files: Iterable[InputFile]) -> list[FileRange]:
        return self._reader.ranges(files)

    def attributes(self, part: FileRange) -> dict[str, str]:
        return self._reader.attributes(part)

    def read(self, part: FileRange) -> Iterator[Piece | Oversize | Unreadable]:
        said: dict[str, str] = {}
        for found in self._reader.read(part):
            if not isinstance(found, Piece):
                yield found
                continue
            refused = found.decoded.refused
            if refused and not said:
                said = self._reader.attributes(part)
            payloads = found.payloads(np.array(refused)) if refused else pa.array([], pa.binary())
            yield Piece(
                self._repair.rescued(found.decoded, payloads, said),
                found.positions,
                partial(_payloads, found, np.array(refused, np.int64), payloads),
            )


def _payloads(piece: Piece, rows: np.ndarray, held: pa.Array, asked: np.ndarray) -> pa.Array:
    """Payloads of a piece: of the rows whose payloads are held, these. What takes them from a file
    is not made for two threads, and whoever reads ahead is another."""
    places = np.minimum(np.searchsorted(rows, asked), len(rows) - 1)
    if len(rows) and (rows[places] == asked).all():
        return held.take(pa.array(places))
    return piece.payloads(asked)


class CountRepaired(beam.PTransform):
    """Count the records that were rescued: batches with ``_repaired`` → ``PCollection[Tally]``.

    Args:
        output: the one output that is meant; else all.
    """

    def __init__(self, output: str = "") -> None:
        super().__init__()
        self._output = output

    def expand(self, pcoll: beam.PCollection[pa.RecordBatch]) -> Any:
        return pcoll | "Count" >> beam.FlatMap(_tallies, self._output).with_output_types(Tally)


def _tallies(batch: pa.RecordBatch, output: str) -> Iterator[Tally]:
    marks = batch.column(REPAIRED)
    if marks.null_count < len(marks):
        for source, rows in count_sources(batch.filter(marks.is_valid()), SOURCE).items():
            yield Tally(source, "repaired", rows, output)
