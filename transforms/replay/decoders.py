"""Payloads of dead letters, decoded as they were written.

A dead letter of a format that its bytes alone do not tell carries what it takes (the schema of an
Avro file, the header of a CSV file) in its attributes. Those of later stages, and of most streams,
carry nothing: they are read as the job reads its input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa

from ...schemas.avro.types import AvroSchemaError
from ...schemas.contract import Contract
from ...schemas.csv.decoder import CsvDecoder
from ...schemas.csv.payloads import decode_payloads
from ...schemas.csv.written import Written, written_by
from ...schemas.decoded import Decoded, UnknownFields
from ..dead_letters import Origin
from ..decoding import Decoding, InPlace, open_decoding
from ..read.bare_avro import BareAvroMessages

if TYPE_CHECKING:
    from ..repair import Repair

Said = tuple[tuple[str, str], ...]
"""Attributes of letters that say how their payloads are read, sorted by their names."""


class UnreadableLetters(ValueError):
    """Payloads that cannot be read as what their letters say they are."""


@dataclass(frozen=True)
class Decoders:
    """How payloads become records, by what their letters say. Picklable.

    Attributes:
        ours: the decoding of the job's own input, where that is not JSON.
        repair: what is tried on records that are refused again.
    """

    contract: Contract
    unknown_fields: UnknownFields = "ignore"
    ours: Callable[[Origin], Decoding] | None = None
    repair: Repair | None = None

    def open(self, said: Said, origin: Origin) -> Decoding:
        """The decoding of letters that say this of themselves.

        Raises:
            UnreadableLetters: there is none.
        """
        decoding = self._open(dict(said), origin)
        return self.repair.over(decoding, dict(said)) if self.repair is not None else decoding

    def _open(self, attributes: dict[str, str], origin: Origin) -> Decoding:
        match attributes.get("format"):
            case "csv":
                try:
                    how = written_by(attributes)
                    payloads = _csv_payloads(self.contract, self.unknown_fields, how)
                except ValueError as error:
                    raise UnreadableLetters(f"csv: {error}") from error
                return InPlace(payloads, origin, attributes)
            case "avro" if "avro.schema" in attributes:
                text = attributes["avro.schema"]
                try:
                    return BareAvroMessages(text, self.contract, self.unknown_fields)(origin)
                except AvroSchemaError as error:
                    raise UnreadableLetters(f"avro.schema: {error}") from error
            case "json":
                return self._json(origin)
        return self.ours(origin) if self.ours else self._json(origin)

    def _json(self, origin: Origin) -> Decoding:
        return open_decoding(self.contract, self.unknown_fields, judge=True, origin=origin)


class _CsvPayloads:
    """Decodes single CSV records: a payload decoder."""

    def __init__(self, decoder: CsvDecoder, how: Written) -> None:
        self._decoder = decoder
        self._how = how

    def decode(self, payloads: pa.Array) -> Decoded:
        if self._how.transcodes:
            payloads = pa.array(map(self._plain, payloads.to_pylist()), pa.binary())
        return decode_payloads(self._decoder, payloads)

    def _plain(self, payload: bytes | None) -> bytes:
        try:
            return self._how.plain(payload or b"")
        except UnicodeError:
            return b"\xff"  # which is no UTF-8 either, and refused as that


@lru_cache(maxsize=64)
def _csv_payloads(contract: Contract, unknown: UnknownFields, how: Written) -> _CsvPayloads:
    decoder = CsvDecoder(
        contract, how.columns, how.options, unknown, judge=True, transcoded=how.transcodes
    )
    return _CsvPayloads(decoder, how)
