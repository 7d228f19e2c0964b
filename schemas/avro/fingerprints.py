"""Schemas by their fingerprints, which Avro's single objects name.

Source: the Avro specification 1.12, "Schema Fingerprints". fastavro computes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from fastavro.schema import SchemaParseException, fingerprint, to_parsing_canonical_form

from .messages import NoSchema
from .types import AvroSchemaError, parse_avro_schema


class KnownSchemas:
    """Gives the schema that has a fingerprint, of those that are known: what
    :class:`~.messages.AvroMessageDecoder` takes for ``SINGLE_OBJECT``.

    Raises:
        AvroSchemaError: a text is no schema of records.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._known = {rabin(text): text for text in texts}

    def __call__(self, number: int) -> str:
        if number not in self._known:
            raise NoSchema("is none of those that are known")
        return self._known[number]


def rabin(text: str) -> int:
    """A schema's CRC-64-AVRO fingerprint.

    Raises:
        AvroSchemaError: it is no schema of records.
    """
    parse_avro_schema(text)
    try:
        canonical = to_parsing_canonical_form(json.loads(text))
    except (SchemaParseException, LookupError, TypeError, ValueError) as error:
        raise AvroSchemaError(f"is no Avro schema: {error}") from error
    return int.from_bytes(bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO")), "little")
