"""Dead letters in topics of Kafka: millstream's own, and Kafka Connect's.

Connect sends a record that its connector could not take to a dead-letter topic: key, value and
headers as they were, and, with ``errors.deadletterqueue.context.headers.enable=true``, headers
``__connect.errors.*`` that say what went wrong (KIP-298). What has them is read as a dead letter:

====================================  ==============================================
header                                becomes
====================================  ==============================================
``topic``, ``partition``              ``source``, as millstream names that partition
``offset``                            ``position``
``exception.message``                 ``errorMessage``, and the violation's message
``exception.class.name``              the code: the class's name without its package
``exception.stacktrace``              ``stacktrace``
``stage``                             ``stage``
``connector.name``                    ``pipeline``
====================================  ==============================================

The other headers, the key and the time are ``attributes``, as those of a message that millstream
reads by itself. The id is that which the record has wherever it is refused.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from ...schemas.dead_letters import SCHEMA
from ..dead_letters import dead_letter_id
from ..read.kafka.carried import attribute
from ..read.kafka.inputs import source_name
from ..read.kafka.polled import Polled
from ..stored.filter import Filter
from ..stored.kafka import StoredKafka, filtered, open_stored, with_values
from ..write.destination import Output
from ..write.errors import DestinationError
from .letters import Letters

PREFIX = "__connect.errors."
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_PARTITION = re.compile(r"[0-9]{1,10}")
Headers = Sequence[tuple[str, bytes | None]]


class KafkaLetters(Letters):
    """Dead letters of a topic. Messages of both kinds may be in it."""

    def __init__(self, output: Output) -> None:
        self._stored: StoredKafka = open_stored(output, "data", SCHEMA)
        self.place = self._stored.place

    def _batches(self, where: Filter, columns: list[str]) -> Iterator[pa.RecordBatch]:
        if self._stored.found is None:
            return
        needed = list(dict.fromkeys((*columns, *where.columns)))
        wanted = pa.schema([SCHEMA.field(name) for name in needed])
        with self._stored.decoder(wanted) as decode:
            for some in self._stored.polled():
                for letters in self._letters(some, decode, needed):
                    rows = where.kept(letters).select(columns)
                    if rows.num_rows:
                        yield rows

    def _letters(self, some: Polled, decode: Any, needed: list[str]) -> Iterator[pa.RecordBatch]:
        headers = [_headers(message) for message in some.messages]
        connects = [any(name.startswith(PREFIX) for name, _ in each) for each in headers]
        ours = with_values(filtered(some, [not yes for yes in connects]))
        if ours.rows:
            yield self._decoded(ours, decode)
        found = [
            connect_letter(message, each)
            for message, each, yes in zip(some.messages, headers, connects, strict=True)
            if yes
        ]
        if found:
            yield pa.RecordBatch.from_pylist(found, SCHEMA).select(needed)

    def _decoded(self, some: Polled, decode: Any) -> pa.RecordBatch:
        try:
            return decode(some)
        except DestinationError as error:
            raise DestinationError(
                f"{error}. It has no headers of Kafka Connect's either: a connector adds these "
                "with errors.deadletterqueue.context.headers.enable=true"
            ) from None


def connect_letter(message: Message, headers: Headers) -> dict[str, Any]:
    """A row of dead letters: what a message of Connect's says.

    Raises:
        DestinationError: a header of Connect's is no text.
    """
    said = {
        name.removeprefix(PREFIX): _text(name, value)
        for name, value in headers
        if name.startswith(PREFIX)
    }
    payload = message.value()
    topic, partition = said.get("topic"), said.get("partition") or ""
    source = (
        source_name(topic, int(partition)) if topic and _PARTITION.fullmatch(partition) else None
    )
    why = said.get("exception.message")
    code = (said.get("exception.class.name") or "").rpartition(".")[2]
    return {
        "timestamp": _made_at(message),
        "payloadString": payload and payload.decode("utf-8", "replace"),
        "payloadBytes": payload,
        "attributes": [{"key": k, "value": v} for k, v in _attributes(message, headers)],
        "errorMessage": why,
        "stacktrace": said.get("exception.stacktrace"),
        "id": dead_letter_id(source, said.get("offset"), payload),
        "codes": [code] if code else [],
        "violations": [{"field": "", "code": code, "message": why}] if code else [],
        "stage": said.get("stage"),
        "pipeline": said.get("connector.name"),
        "source": source,
        "position": said.get("offset"),
        "attempt": 0,
    }


def _made_at(message: Message) -> dt.datetime:
    """When a message was made; 1970 where it does not say so, or says what is no time."""
    kind, ms = message.timestamp()
    try:
        return _EPOCH + dt.timedelta(milliseconds=ms if kind != TIMESTAMP_NOT_AVAILABLE else 0)
    except OverflowError:
        return _EPOCH


def _attributes(message: Message, headers: Headers) -> Iterator[tuple[str, str | None]]:
    if (key := message.key()) is not None:
        yield attribute("kafka.key", key)
    kind, ms = message.timestamp()
    if kind != TIMESTAMP_NOT_AVAILABLE:
        yield attribute("kafka.timestamp", str(ms))
    for name, value in headers:
        if not name.startswith(PREFIX):
            yield attribute("kafka.header", value, name)


def _headers(message: Message) -> Headers:
    try:
        found: Any = message.headers()
    except SystemError:  # the name of one is no UTF-8, and the client can read none of them
        return ()
    return found or ()


def _text(name: str, value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        raise DestinationError(f"the header {name} of a message of Connect's is no text") from None
