"""Values of classified fields as people may see them: masked, or as keyed hashes.

A contract with a classified field (:data:`.rules.RESTRICTED`) is taken at its word: what it does
not name has not been classified by anybody, and is masked too. A contract without one hides
nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .contract import Contract, Field
from .csv.written import written_by
from .dead_letters import OURS
from .json.masked import masked_json
from .rules import has_restricted, holds_restricted, is_restricted

MASK = "***"
NOT_SHOWN = "(not shown: it may hold classified fields)"
"""In the place of a payload of which nobody can tell which part is which field."""
SHORTEST_KEY = 16
"""Bytes of a key: whoever guesses a shorter one can try out all values."""

TECHNICAL = OURS | frozenset(
    {
        "payload.encryption", "payload.key",
        "kafka.timestamp", "pubsub.message_id", "pubsub.publish_time",
        "kinesis.sequence_number", "kinesis.arrival_time",
    }
)  # fmt: skip
"""Attributes of dead letters that say nothing of whom a record is about."""
_INDEX = re.compile(r"\[\d+\]")


class Masking:
    """Hides the values of a contract's classified fields.

    Args:
        key: values are shown as hashes keyed by it, so that equal ones can be told equal: BLAKE2b
            (RFC 7693) of 64 bits; without, as ``***``.

    Raises:
        ValueError: the key is too short.

    >>> contract = Contract("c", "1", "c", (Field("mail", "string", classification="pii"),))
    >>> Masking(contract).payload(b'{"mail": "ada@example.org", "n": 1.50}')
    '{"mail": "***", "n": "***"}'
    """

    def __init__(self, contract: Contract, key: bytes | None = None) -> None:
        if key is not None and len(key) < SHORTEST_KEY:
            raise ValueError(f"a key has at least {SHORTEST_KEY} bytes, this one has {len(key)}")
        self._fields = contract.fields
        self._event_time = contract.event_time
        self._key = key if key is None or len(key) <= 64 else hashlib.blake2b(key).digest()
        self.hides = has_restricted(contract.fields)
        """Whether anything is classified."""

    def mark(self, value: str) -> str:
        """What stands in the place of a value."""
        if self._key is None:
            return MASK
        data = value.encode("utf-8", "surrogatepass")
        return f"hmac:{hashlib.blake2b(data, digest_size=8, key=self._key).hexdigest()}"

    def value(self, path: str, value: Any) -> str:
        """A value of the field at a dotted path (``items[3].price``) as text."""
        return self.mark(str(value)) if value is not None and self.is_hidden(path) else str(value)

    def is_hidden(self, path: str) -> bool:
        """Whether values of the field at a path are hidden."""
        field = self._field(path)
        return self.hides and (field is None or holds_restricted(field))

    @property
    def hides_event_time(self) -> bool:
        """Whether the times of records are hidden."""
        return self._event_time is not None and self.is_hidden(self._event_time)

    def attribute(self, name: str, value: str) -> str:
        """An attribute of a dead letter; what a message carried is no field of the contract."""
        return self.mark(value) if self.hides and name not in TECHNICAL else value

    def payload(self, payload: bytes, attributes: Mapping[str, str] | None = None) -> str:
        """A record as text, everything that is not hidden word for word.

        JSON, unless the attributes of its dead letter say that it is CSV or a datum of Avro, which
        is given as JSON.
        """
        if not self.hides:
            return payload.decode("utf-8", "backslashreplace")
        said = attributes or {}
        read = _READ.get(said.get("format", ""), _json)
        try:
            return read(payload, said, self._fields, self.mark)
        except Exception:  # of bytes that nobody has judged, or for want of a library for Avro
            return NOT_SHOWN

    def _field(self, path: str) -> Field | None:
        """The field at a path, or the restricted one around it."""
        level: tuple[Field, ...] = self._fields
        found: Field | None = None
        for part in path.split("."):
            name, *indices = _INDEX.sub("\0", part).split("\0")
            found = next((field for field in level if field.name == name), None)
            for _ in indices:
                if found is not None and not is_restricted(found):
                    found = found.items
            if found is None or is_restricted(found):
                return found
            level = found.fields
        return found


Mark = Callable[[str], str]


def _json(
    payload: bytes, attributes: Mapping[str, str], fields: tuple[Field, ...], mark: Mark
) -> str:
    return masked_json(payload.decode(), fields, mark)


def _csv(
    payload: bytes, attributes: Mapping[str, str], fields: tuple[Field, ...], mark: Mark
) -> str:
    how = written_by(attributes)
    known = {field.name: field for field in fields}
    quote, cells = how.options.quote, []
    for name, cell in zip(how.columns, how.cells(payload), strict=True):
        field, text = known.get(name), cell.text.decode(how.encoding, "backslashreplace")
        text = mark(text) if text and (field is None or holds_restricted(field)) else text
        cells.append(f"{quote}{text.replace(quote, quote * 2)}{quote}" if cell.quoted else text)
    return how.options.delimiter.join(cells)


def _avro(
    payload: bytes, attributes: Mapping[str, str], fields: tuple[Field, ...], mark: Mark
) -> str:
    import fastavro

    stream = io.BytesIO(payload)
    schema: Any = json.loads(attributes["avro.schema"])
    record = fastavro.schemaless_reader(stream, schema, None)
    if stream.read(1):
        raise ValueError("more than a datum")
    return masked_json(msgspec.json.encode(record, enc_hook=str).decode(), fields, mark)


_READ: dict[str, Callable[..., str]] = {"csv": _csv, "avro": _avro}
