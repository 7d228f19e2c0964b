"""Decoding of messages that are bare Avro datums of one schema, which is a file."""

from __future__ import annotations

from dataclasses import dataclass

from ...schemas.avro.framing import BARE
from ...schemas.avro.messages import AvroMessageDecoder, OneSchema
from ...schemas.avro.types import AvroSchemaError
from ...schemas.contract import Contract
from ...schemas.decoded import UnknownFields
from .. import storage
from ..dead_letters import Origin
from ..decoding import Decoding, InPlace
from .errors import SourceError


@dataclass(frozen=True)
class BareAvroMessages:
    """Makes the decoding of messages, on a worker. Picklable."""

    text: str
    contract: Contract
    unknown_fields: UnknownFields

    def __call__(self, origin: Origin) -> Decoding:
        decoder = AvroMessageDecoder(
            self.contract, OneSchema(self.text), self.unknown_fields, judge=True, framing=BARE
        )
        return InPlace(decoder, origin, decoder.attributes)


def bare_avro(path: str, contract: Contract, unknown_fields: UnknownFields) -> BareAvroMessages:
    """The decoding by the schema that is in a file.

    Raises:
        SourceError: the file cannot be read, or holds no schema.
    """
    try:
        text = storage.read_bytes(path).decode("utf-8")
        AvroMessageDecoder(contract, OneSchema(text), unknown_fields, framing=BARE)
    except (storage.StorageError, AvroSchemaError, UnicodeDecodeError) as error:
        raise SourceError(f"schema={path}: {error}") from error
    return BareAvroMessages(text, contract, unknown_fields)
