"""A topic of Kafka, read to its end as it is when reading begins; messages of no committed
transaction are left out.

With ``mode=upsert`` the last message of each key stands. All messages are read twice then: first
their keys alone, of which a hash and an offset are kept in memory, then those that stand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import msgspec
import pyarrow as pa
from xxhash import xxh3_128_digest

from ...schemas.avro.messages import NoSchema
from ..kafka.writer_schemas import WriterSchemas
from ..read.errors import SourceError
from ..read.kafka.bounds import client_of, ends, starts, topic_state
from ..read.kafka.inputs import KafkaInput
from ..read.kafka.polled import Polled
from ..read.kafka.reader import KafkaReader
from ..receipts import Part
from ..write.destination import Output
from ..write.errors import DestinationError
from ..write.kafka.destination import KafkaDestination
from ..write.kafka.topics import Topic, find
from .avro_values import columns_of
from .filter import Filter
from .json_values import row_decoder
from .stored import Stored, table_name

_FRAME = 5
"""Bytes before an Avro message's own: a zero, and the number of its schema."""


class StoredKafka(Stored):
    """A topic of rows as JSON or Avro."""

    def __init__(
        self, place: str, asked: pa.Schema | None, topic: KafkaInput, *, compacted: bool
    ) -> None:
        super().__init__(place, asked)
        self._topic = topic
        self._compacted = compacted

    def find(self) -> pa.Schema | None:
        if self.asked is None:
            raise DestinationError(
                f"{self.place}: a topic does not say the types of its columns; name them"
            )
        client = client_of(self._topic)
        topic = Topic(self._topic.topic, self._compacted)
        with _as_destination(), client.explained():
            return self.asked if find(client.admin(), [topic]) else None

    def read(self, names: Collection[str], where: Filter) -> Iterator[pa.RecordBatch]:
        wanted = pa.schema([self._field(name) for name in names])
        with self.decoder(wanted) as decode:
            for some in self.polled():
                yield decode(with_values(some))

    def polled(self) -> Iterator[Polled]:
        """The messages that stand. Where keys do not count, some may have no value."""
        with _as_destination():
            state = topic_state(self._topic)
            begin, end = starts(self._topic, state), ends(self._topic, state)
            last = self._last_offsets(begin, end, state.topic_id) if self._compacted else None
            with KafkaReader(self._topic, begin, state.topic_id) as reader:
                for some in reader.bounded(end):
                    kept = _standing(some, last)
                    if kept.rows:
                        yield kept

    @contextmanager
    def decoder(self, wanted: pa.Schema) -> Iterator[Callable[[Polled], pa.RecordBatch]]:
        """What makes rows of messages."""
        settings = client_of(self._topic).registry_settings
        with WriterSchemas(self._topic.registry, settings, DestinationError) as schemas:
            avro = self._topic.format == "avro"
            rows = _avro_rows(wanted, schemas) if avro else row_decoder(wanted)

            def decode(some: Polled) -> pa.RecordBatch:
                try:
                    return rows(some.payloads.to_pylist())
                except (msgspec.DecodeError, pa.ArrowException, NoSchema, _NoRow):
                    raise DestinationError(
                        f"{self.place}: of partition {some.partition} a message from offset "
                        f"{some.offsets[0]} on is no row of {self._topic.format}, as millstream "
                        "writes it"
                    ) from None  # the message may quote a row

            yield decode

    def _last_offsets(
        self, begin: Mapping[int, int], end: Mapping[int, int], topic_id: str
    ) -> dict[bytes, int]:
        """Of each key, the offset of its last message. A key is always in one partition."""
        last: dict[bytes, int] = {}
        with KafkaReader(self._topic, begin, topic_id) as reader:
            for some in reader.bounded(end):
                offsets = some.offsets.to_pylist()
                last.update(zip(_key_hashes(some), offsets, strict=True))
        return last


class _NoRow(ValueError):
    """A message that is not Avro behind the frame of a schema registry."""


def _avro_rows(
    wanted: pa.Schema, schema_of: Callable[[int], str]
) -> Callable[[Sequence[bytes]], pa.RecordBatch]:
    """What makes a batch of Avro messages, by the schemas that they were written by."""
    import fastavro

    parsed: dict[int, Any] = {}

    def record(value: bytes) -> Any:
        if len(value) < _FRAME or value[0]:
            raise _NoRow
        number = int.from_bytes(value[1:_FRAME], "big")
        if number not in parsed:
            parsed[number] = fastavro.parse_schema(json.loads(schema_of(number)))
        try:
            return fastavro.schemaless_reader(BytesIO(value[_FRAME:]), parsed[number], None)
        except (EOFError, IndexError, ValueError) as error:
            raise _NoRow from error

    return lambda values: columns_of(list(map(record, values)), wanted)


def _standing(some: Polled, last: Mapping[bytes, int] | None) -> Polled:
    """The messages that are their key's last, and no deletion; where keys do not count, all."""
    if last is None:
        return some
    pairs = zip(_key_hashes(some), some.offsets.to_pylist(), strict=True)
    return with_values(filtered(some, [last[key] == offset for key, offset in pairs]))


def with_values(some: Polled) -> Polled:
    """The messages that have a value."""
    return filtered(some, [value is not None for value in some.payloads.to_pylist()])


def filtered(some: Polled, kept: Sequence[bool]) -> Polled:
    """The messages for which ``kept`` is true."""
    if all(kept):
        return some
    mask = pa.array(kept, pa.bool_())
    messages = [m for m, yes in zip(some.messages, kept, strict=True) if yes]
    return Polled(
        some.partition, some.offsets.filter(mask), some.payloads.filter(mask), some.next, messages
    )


def _key_hashes(some: Polled) -> list[bytes]:
    return [xxh3_128_digest(key or b"") for key in some.keys(range(some.rows)).to_pylist()]


@contextmanager
def _as_destination() -> Iterator[None]:
    try:
        yield
    except SourceError as error:
        raise DestinationError(str(error)) from error.__cause__


def open_stored(output: Output, part: Part, schema: pa.Schema | None) -> StoredKafka:
    """The topic of a part."""
    to = output.destination
    assert isinstance(to, KafkaDestination)
    own = to.options.own
    topic = KafkaInput(
        to.servers,
        table_name(to, part),
        format="avro" if own.get("format") == "avro" else "json",
        registry=own.get("registry", ""),
        config=own.get("config", ""),
    )
    compacted = to.options.mode == "upsert" and part == "data"
    return StoredKafka(to.place, schema, topic, compacted=compacted)
