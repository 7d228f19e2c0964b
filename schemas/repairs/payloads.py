"""Payloads of broken records, written anew with repairs, and decoded again.

Each format has its own way: JSON is JSON again, CSV becomes CSV of one plain dialect, and a datum
of an Avro file its JSON (:mod:`..arrow_json` has the form), as a row of a Parquet file is already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import pyarrow as pa

from ..arrow_json import json_rows
from ..avro.single import SingleDatums
from ..avro.types import parse_avro_schema
from ..contract import Contract
from ..csv.decoder import CsvDecoder
from ..csv.options import CsvOptions
from ..csv.payloads import decode_payloads
from ..csv.written import Written
from ..decoded import Decoded, UnknownFields
from ..json.decoder import JsonDecoder
from .repairs import BareCell, Repairs
from .spec import RepairJob

_PLAIN = CsvOptions(null=("",))
"""The dialect of CSV that is written: everything in quotes but null."""

_properties = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Rewritten(NamedTuple):
    """A payload with repairs, and what was repaired: ``amount: cast``."""

    payload: bytes
    marks: list[str]


class Payloads(Protocol):
    """How payloads of one format are written anew, and what decodes them then."""

    def rewritten(
        self, payloads: pa.Array, wrong: Sequence[Iterable[str]]
    ) -> list[Rewritten | None]:
        """Each payload with repairs; ``None`` where none does anything.

        Args:
            wrong: the paths of what breaks the contract, of each.
        """
        ...

    def decode(self, payloads: pa.Array) -> Decoded:
        """What becomes of payloads that were written anew, by types and rules."""
        ...


class JsonPayloads:
    """JSON objects."""

    def __init__(
        self, contract: Contract, entries: Sequence[RepairJob], unknown: UnknownFields = "ignore"
    ) -> None:
        self._repairs = Repairs(contract, entries)
        # Other fields may hold what is no JSON: of a file's binary columns any bytes.
        self._drops = unknown in ("ignore", "notice")
        self._names = frozenset(field.name for field in contract.fields)
        self._decoder = JsonDecoder(contract, unknown, judge=True)

    def rewritten(
        self, payloads: pa.Array, wrong: Sequence[Iterable[str]]
    ) -> list[Rewritten | None]:
        return [
            None if text is None else self._one(text, paths)
            for text, paths in zip(self._texts(payloads), wrong, strict=True)
        ]

    def decode(self, payloads: pa.Array) -> Decoded:
        return self._decoder.decode(payloads)

    def _texts(self, payloads: pa.Array) -> list[bytes | None]:
        """The JSON of each."""
        return payloads.to_pylist()

    def _one(self, text: bytes, wrong: Iterable[str]) -> Rewritten | None:
        try:
            record = _properties(text)
        except (ValueError, RecursionError):
            return None
        repaired, marks = self._repairs.repaired(record, wrong)
        if self._drops:
            names = self._names
            repaired = {n: v for n, v in repaired.items() if n in names or _is_text(v)}
        return Rewritten(msgspec.json.encode(repaired), marks) if marks else None


def _is_text(value: Any) -> bool:
    """Whether what is held of a value is UTF-8."""
    try:
        bytes(value).decode()
    except UnicodeDecodeError:
        return False
    return True


class AvroPayloads(JsonPayloads):
    """Datums of one writer's schema.

    Args:
        schema: that of the writer, as JSON.

    Raises:
        AvroSchemaError: it is none.
    """

    def __init__(
        self,
        contract: Contract,
        entries: Sequence[RepairJob],
        unknown: UnknownFields,
        schema: str,
    ) -> None:
        super().__init__(contract, entries, unknown)
        self._datums = SingleDatums(parse_avro_schema(schema))

    def _texts(self, payloads: pa.Array) -> list[bytes | None]:
        found: list[bytes | None] = [None] * len(payloads)
        parts, _ = self._datums.read(payloads.fill_null(b""))
        for rows, batch in parts:
            for row, text in zip(rows.tolist(), json_rows(batch).to_pylist(), strict=True):
                found[row] = text
        return found


class CsvPayloads:
    """Records of CSV files with one header.

    Args:
        how: the names in the header, and the dialect of the file.

    Raises:
        HeaderError: nothing can be read by the header.
    """

    def __init__(
        self,
        contract: Contract,
        entries: Sequence[RepairJob],
        unknown: UnknownFields,
        how: Written,
    ) -> None:
        self._how = how
        self._repairs = Repairs(contract, entries, nulls=how.options.null)
        absent = [field.name for field in contract.fields if field.name not in how.columns]
        self._written = (*how.columns, *absent)  # a repair may give what the file has not
        self._decoder = CsvDecoder(contract, self._written, _PLAIN, unknown, judge=True)

    def rewritten(
        self, payloads: pa.Array, wrong: Sequence[Iterable[str]]
    ) -> list[Rewritten | None]:
        pairs = zip(payloads.to_pylist(), wrong, strict=True)
        return [None if text is None else self._one(text, paths) for text, paths in pairs]

    def decode(self, payloads: pa.Array) -> Decoded:
        return decode_payloads(self._decoder, payloads)

    def _one(self, text: bytes, wrong: Iterable[str]) -> Rewritten | None:
        record = self._record(text)
        if record is None:
            return None
        repaired, marks = self._repairs.repaired(record, wrong)
        return Rewritten(self._line(repaired), marks) if marks else None

    def _record(self, text: bytes) -> dict[str, str | None] | None:
        """The cells of a record by the names of their columns; ``None`` if it is no record."""
        how = self._how
        record: dict[str, str | None] = {}
        try:
            cells = how.cells(text)
            if len(cells) != len(how.columns):
                return None
            for name, (raw, quoted) in zip(how.columns, cells, strict=True):
                cell = raw.decode(how.encoding)
                is_null = not quoted and cell in how.options.null
                record[name] = None if is_null else cell if quoted else BareCell(cell)
        except UnicodeError:
            return None
        return record

    def _line(self, record: Mapping[str, Any]) -> bytes:
        cells = map(record.get, self._written)
        return ",".join(map(_quoted, cells)).encode()


def _quoted(cell: Any) -> str:
    if cell is None:
        return ""
    text = cell if isinstance(cell, str) else msgspec.json.encode(cell).decode()
    doubled = text.replace('"', '""')
    return f'"{doubled}"'
