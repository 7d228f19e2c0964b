"""References in compacted topics of Kafka: of each message key, the latest value.

A value is a JSON object; a message without one (a tombstone) deletes its key's. All of the topic is
read each time, whether it has been compacted yet or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

import pyarrow as pa

from ...schemas.contract import Field
from ...schemas.enrich.json_fields import SAMPLE, NoField, fields_of_json
from ...schemas.json.decoder import JsonDecoder
from ..read.kafka.bounds import ends, starts, topic_state
from ..read.kafka.inputs import KafkaInput, parse_input
from ..read.kafka.polled import Polled
from ..read.kafka.reader import KafkaReader
from .records import refusal
from .sources import SourceError, too_large
from .spec import ReferenceSpec

_ROWS = 1 << 16


class KafkaSource:
    """A topic, as far as it goes when it is asked for."""

    def __init__(self, spec: ReferenceSpec, topic: KafkaInput) -> None:
        self._spec = spec
        self._topic = topic

    def fields(self, expected: Mapping[str, Field]) -> tuple[Field, ...]:
        with self._polled() as polled:
            values = (value for some in polled for value in some.payloads.to_pylist() if value)
            try:
                return fields_of_json(islice(values, SAMPLE), self._spec.columns, expected)
            except NoField as error:
                raise SourceError(f"{self._spec.place}: {error}") from None

    def batches(self) -> Iterator[pa.RecordBatch]:
        values = list(self._latest().values())
        decoder = JsonDecoder(self._spec.contract)
        for at in range(0, len(values), _ROWS):
            decoded = decoder.decode(pa.array(values[at : at + _ROWS], pa.binary()))
            if decoded.refused:
                raise SourceError(f"{self._spec.place}: {refusal(decoded)}")
            yield decoded.records

    def version(self) -> str:
        return ""

    def _latest(self) -> dict[bytes, bytes]:
        """The value of each key that has one.

        Raises:
            SourceError: a message has no key, or they are too large.
        """
        found: dict[bytes, bytes] = {}
        held = 0
        with self._polled() as polled:
            for some in polled:
                keys = some.keys(range(some.rows))
                if keys.null_count:
                    offset = some.offsets[keys.to_pylist().index(None)]
                    raise SourceError(
                        f"{self._spec.place}: the message at offset {offset} of partition "
                        f"{some.partition} has no key: a reference needs keys, to know what "
                        "replaces what"
                    )
                for key, value in zip(keys.to_pylist(), some.payloads.to_pylist(), strict=True):
                    held -= len(found.pop(key, b""))
                    if value is not None:
                        found[key] = value
                        held += len(value)
                if held > self._spec.max_bytes:
                    raise too_large(self._spec, len(found), held)
        return found

    @contextmanager
    def _polled(self) -> Iterator[Iterator[Polled]]:
        """All messages that there are now."""
        state = topic_state(self._topic)
        with KafkaReader(self._topic, starts(self._topic, state), state.topic_id) as reader:
            yield reader.bounded(ends(self._topic, state))


def open_source(spec: ReferenceSpec) -> KafkaSource:
    """The source of ``kafka://HOST:PORT[,HOST:PORT…]/TOPIC?config=…&isolation=…``.

    Raises:
        SourceError: it names no topic, has a password in it, or an option cannot be used.
    """
    topic = parse_input(spec.uri)
    whole = replace(topic, start="earliest", until=None, format="json", registry="", group="")
    if topic != whole:
        raise SourceError(
            f"from: {topic.place}: a reference is all of a topic, of JSON: leave out all options "
            "but config and isolation"
        )
    return KafkaSource(spec, topic)
