"""Decoding of messages whose writer's schema is in a registry."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from ....schemas.avro.messages import AvroMessageDecoder
from ....schemas.contract import Contract
from ....schemas.decoded import Decoded, UnknownFields
from ...dead_letters import Origin
from ...decoding import Decoding, InPlace
from ...kafka.writer_schemas import WriterSchemas
from ...write.attempts import Attempts
from ..errors import SourceError
from .bounds import client_of
from .inputs import KafkaInput


@dataclass(frozen=True)
class AvroMessages:
    """Makes the decoding of a topic's Avro messages, on a worker. Picklable.

    A registry that does not answer is asked again for ``patience`` seconds; then the bundle fails,
    and no message is refused for it.
    """

    input: KafkaInput
    contract: Contract
    unknown_fields: UnknownFields
    patience: float

    def __call__(self, origin: Origin) -> Decoding:
        client = client_of(self.input)
        schemas = WriterSchemas(self.input.registry, client.registry_settings, SourceError)
        decoder = AvroMessageDecoder(self.contract, schemas, self.unknown_fields, judge=True)
        return InPlace(_Patient(decoder, self.patience), origin, decoder.attributes)


class _Patient:
    def __init__(self, decoder: AvroMessageDecoder, patience: float) -> None:
        self._decoder = decoder
        self._attempts = Attempts(patience)

    def decode(self, payloads: pa.Array) -> Decoded:
        return self._attempts.call("registry", lambda: self._decoder.decode(payloads))
