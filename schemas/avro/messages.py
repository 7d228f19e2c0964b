"""Avro messages to typed columns: records that come one by one, not in files.

A message says by which schema it was written (:mod:`.framing`), and messages of one batch may say
different ones: those of each are decoded together. What a record then is by the contract is decided
as for Avro files, by :class:`~millstream.schemas.arrow_decoder.ArrowDecoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow_decoder import ArrowDecoder
from ..codes import Code
from ..contract import Contract
from ..decoded import Decoded, UnknownFields
from ..rules import Violation
from .framing import BARE, CONFLUENT, Framing
from .merging import Part, merged
from .single import SingleDatums
from .types import AvroSchemaError, parse_avro_schema

_MAX_BYTES = 2**31 - 1  # of a payload; binary_slice fails where it is not told an end


class NoSchema(LookupError):
    """There is no schema of a number, and will be none soon. The message goes on after
    "names the schema 7, which"."""


SchemaOf = Callable[[int], str]
"""Gives the schema that has a number, as JSON; ``NoSchema`` if there is none. It is asked for a
known number once, for an unknown one with each batch. Whatever else it raises goes through."""


@dataclass(frozen=True)
class OneSchema:
    """The schema of all messages: for those that are bare."""

    text: str

    def __call__(self, number: int) -> str:
        return self.text


class AvroMessageDecoder:
    """Decodes Avro messages by a contract.

    A message that is not framed so, whose schema is not known or no record's, or that is not just
    one datum of its schema, is refused by itself (``MALFORMED``). The others are held to the
    contract as records of Avro files are: fields by name, values by what the writer's schema says
    they are.

    Args:
        schemas: gives the schema of a number; for bare datums :class:`OneSchema`.
        unknown: what to do with fields that the contract does not name.
        judge: hold what is well typed against the contract's rules too.
        framing: what stands before each datum.

    Raises:
        AvroSchemaError: the one schema of bare datums is none.

    >>> from millstream.schemas.contract import Contract, Field
    >>> schema = '{"type": "record", "name": "R", "fields": [{"name": "n", "type": "int"}]}'
    >>> contract = Contract("c", "1", "c", (Field("n", "integer"),))
    >>> decoder = AvroMessageDecoder(contract, OneSchema(schema))
    >>> decoder.decode(pa.array([bytes([0, 0, 0, 0, 7, 2]), b"{}"])).refused
    [1]
    """

    def __init__(
        self,
        contract: Contract,
        schemas: SchemaOf,
        unknown: UnknownFields = "ignore",
        *,
        judge: bool = False,
        framing: Framing = CONFLUENT,
    ) -> None:
        self._schemas = schemas
        self._framing = framing
        self._arrow = ArrowDecoder(contract, unknown, judge=judge)
        self._readers: dict[int, SingleDatums | str] = {}  # or what is wrong with a schema
        self._by_text: dict[str, SingleDatums] = {}
        if framing is BARE:
            self._readers[0] = self._read_by(schemas(0))

    @property
    def schema(self) -> pa.Schema:
        """The schema of ``Decoded.records``."""
        return self._arrow.schema

    @property
    def attributes(self) -> dict[str, str]:
        """What it takes, besides the contract, to read a payload again: dead letters carry it.

        Bare datums are told as the datums of Avro files are, with their schema.
        """
        if self._framing is BARE:
            return {"format": "avro", "avro.schema": self._schemas(0)}
        return {"format": "avro", "avro.framing": self._framing.name}

    def decode(self, payloads: pa.Array) -> Decoded:
        """Decode a binary array, one message an element; null is an empty one.

        No content whatever makes it raise; what ``schemas`` raises does, and then nothing of the
        batch is decoded.
        """
        if payloads.null_count:
            payloads = pc.fill_null(payloads, b"")
        numbers, framed = self._framing.numbers(payloads)
        wrong = [
            _malformed(row, self._framing.fault(payloads[row].as_py()))
            for row in np.flatnonzero(~framed).tolist()
        ]
        groups: dict[SingleDatums, list[np.ndarray]] = {}
        for number, rows in _by_number(numbers, framed):
            reader = self._reader(number)
            if isinstance(reader, SingleDatums):
                groups.setdefault(reader, []).append(rows)
            else:
                message = f"names the schema {number}, which {reader}"
                wrong += [_malformed(row, message) for row in rows.tolist()]
        parts: list[Part] = []
        for reader, several in groups.items():
            rows = several[0] if len(several) == 1 else np.sort(np.concatenate(several))
            datums = payloads if len(rows) == len(payloads) else payloads.take(pa.array(rows))
            if self._framing.size:
                datums = pc.binary_slice(datums, self._framing.size, _MAX_BYTES)
            found, corrupt = reader.read(datums)
            parts += [(rows[part.rows], self._arrow.decode(part.batch)) for part in found]
            for row, why in corrupt.items():
                row = int(rows[row])
                wrong.append(_malformed(row, f"is no {self._named(numbers[row])}: it {why}"))
        return merged(parts, wrong, len(payloads), self.schema)

    def _named(self, number: np.uint64) -> str:
        return f"record of the schema {number}" if self._framing.number_bytes else "record"

    def _reader(self, number: int) -> SingleDatums | str:
        """What reads the datums of a schema, or why nothing does."""
        known = self._readers.get(number)
        if known is not None:
            return known
        try:
            text = self._schemas(number)
        except NoSchema as error:
            return str(error)  # not kept: it may be registered yet
        try:
            reader = self._read_by(text)
        except AvroSchemaError as error:
            reader = str(error)
        self._readers[number] = reader
        return reader

    def _read_by(self, text: str) -> SingleDatums:
        if text not in self._by_text:
            self._by_text[text] = SingleDatums(parse_avro_schema(text))
        return self._by_text[text]


def _malformed(row: int, message: str) -> Violation:
    return Violation(row, "", Code.MALFORMED, message)


def _by_number(numbers: np.ndarray, framed: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The rows that are framed, by their numbers."""
    rows = np.flatnonzero(framed)
    of_rows = numbers[rows]
    if not len(rows):
        return
    if (of_rows == of_rows[0]).all():
        yield int(of_rows[0]), rows
        return
    order = np.argsort(of_rows, kind="stable")
    cuts = np.flatnonzero(np.diff(of_rows[order])) + 1
    for chosen in np.split(order, cuts):
        yield int(of_rows[chosen[0]]), rows[chosen]
