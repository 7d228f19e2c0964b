"""What messages carry beside their payloads, as their dead letters tell it."""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apache_beam.pvalue import TaggedOutput
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from millstream.schemas.arrow import PAYLOADS
from millstream.schemas.contract import Contract, Field
from millstream.transforms.dead_letters import SCHEMA, Attributes, Origin, with_attributes
from millstream.transforms.decoding import InPlace
from millstream.transforms.read.kinesis.carried import KinesisCarried
from millstream.transforms.read.kinesis.messages import AGGREGATED, KinesisMessages
from millstream.transforms.read.pubsub.carried import PubsubCarried
from millstream.transforms.read.pubsub.pulled import Pulled
from millstream.transforms.read.streams.attributes import BASE64, attribute
from millstream.transforms.read.streams.reading import Decodes, Reading
from millstream.transforms.read.streams.source import Carried, Polled

CONTRACT = Contract("c", "1", "c", (Field("n", "integer", required=True),))
DECODES = Decodes(CONTRACT, Origin("", "job").of(CONTRACT))
GOOD, BAD = b'{"n": 1}', b'{"n": "one"}'


def batch(*records: tuple[str, int, bytes]) -> pa.RecordBatch:
    """Records by source, position and payload."""
    sources, positions, payloads = zip(*records, strict=True)
    columns = [
        pa.array(sources, pa.string()).dictionary_encode(),
        pa.array(positions, pa.int64()),
        pa.array(payloads, pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=PAYLOADS)


def letters(polled: Polled, decodes: Decodes = DECODES) -> dict[tuple[str, str], Attributes]:
    """The attributes of the dead letters of what was polled, by source and position."""
    reading = Reading(decodes, decodes.open(), None)
    found = {}
    for output in (*reading.put(polled), *reading.drain()):
        if isinstance(output, TaggedOutput):
            assert output.value.schema == SCHEMA
            for row in output.value.to_pylist():
                pairs = [(pair["key"], pair["value"]) for pair in row["attributes"] or ()]
                found[row["source"], row["position"]] = pairs
    return found


class Told(Carried):
    """Tells of which records it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def attributes(self, sources: Sequence[str], positions: Sequence[int]) -> list[Attributes]:
        self.asked += zip(sources, positions, strict=True)
        return [
            [("t.place", f"{s}/{p}")] if p else []
            for s, p in zip(sources, positions, strict=True)
        ]  # fmt: skip


def test_only_records_that_are_refused_are_asked_for():
    told = Told()
    records = batch(("a", 0, BAD), ("a", 1, GOOD), ("b", 5, BAD), ("b", 9, GOOD), ("a", 2, BAD))
    assert letters(Polled(records, {}, carried=told)) == {
        ("a", "0"): [],
        ("b", "5"): [("t.place", "b/5")],
        ("a", "2"): [("t.place", "a/2")],
    }
    assert told.asked == [("a", 0), ("b", 5), ("a", 2)]
    assert letters(Polled(batch(("a", 1, GOOD)), {}, carried=told)) == {}
    assert len(told.asked) == 3


def test_what_a_decoding_says_comes_first():
    def decoder(origin: Origin) -> InPlace:
        from millstream.schemas.json.decoder import JsonDecoder

        return InPlace(JsonDecoder(CONTRACT, judge=True), origin, {"format": "x", "a": "b"})

    decodes = Decodes(CONTRACT, DECODES.origin, decoder=decoder)
    polled = Polled(batch(("a", 3, BAD)), {}, carried=Told())
    assert letters(polled, decodes) == {
        ("a", "3"): [("a", "b"), ("format", "x"), ("t.place", "a/3")]
    }


def test_without_any_attribute_the_column_is_null():
    polled = Polled(batch(("a", 0, BAD)), {})
    (letter,) = [
        output.value for output in Reading(DECODES, DECODES.open(), None).put(polled)
        if isinstance(output, TaggedOutput)
    ]  # fmt: skip
    assert with_attributes(letter, [[]]).column("attributes").null_count == 1


# ------------------------------------------------------------------------- values as texts


@given(st.none() | st.binary() | st.text(), st.text())
def test_no_value_is_lost(value: bytes | str | None, name: str):
    key, told = attribute("t.kind", value, name)
    kind, named = key.removesuffix(f".{name}") if name else key, name
    assert key == (f"{kind}.{named}" if named else kind)
    raw = value.encode() if isinstance(value, str) else value
    if kind == "t.kind":
        assert (told.encode() if told is not None else None) == raw
        assert "\0" not in (told or "")
    else:
        assert kind == f"t.kind{BASE64}"
        assert told is not None
        assert base64.b64decode(told, validate=True) == raw


@pytest.mark.parametrize("name", ["", "plain", "a_base64", "_base64.a"])
def test_a_name_does_not_pass_for_an_encoding(name):
    keys = {attribute("t.kind", value, name)[0] for value in (b"text", b"\xff")}
    others = {attribute("t.kind", value, "other")[0] for value in (b"text", b"\xff")}
    assert len(keys | others) == 4
    assert sum(key.startswith(f"t.kind{BASE64}") for key in keys) == 1


# ----------------------------------------------------------------------------------- Kafka


def kafka_message(offset: int, value: bytes, **said: Any) -> Any:
    from confluent_kafka import Message

    said = {"key": None, "headers": None, "timestamp": (0, 0)} | said
    return Message(topic="t", partition=0, offset=offset, value=value, **said)


def kafka_polled(*pieces: tuple[str, Sequence[Any]]) -> Polled:
    from millstream.transforms.read.kafka.carried import KafkaCarried
    from millstream.transforms.read.kafka.polled import as_columns

    records = [(s, m.offset(), m.value()) for s, messages in pieces for m in messages]
    columns = [(source, as_columns(0, messages, 0)) for source, messages in pieces]
    return Polled(batch(*records), {}, carried=KafkaCarried(columns))


def test_what_kafkas_messages_carry():
    pytest.importorskip("confluent_kafka", reason="pip install -e '.[dev]'")
    said = [("id", b"7"), ("trace", b"\x00\xff"), ("id", b"8"), ("none", None), ("empty", b"")]
    polled = kafka_polled(
        ("t/0", [kafka_message(3, GOOD), kafka_message(4, BAD, key=b"k", headers=said)]),
        ("t/1", [kafka_message(4, BAD, key=b"", timestamp=(1, 1764417600123))]),
        ("t/0", [kafka_message(9, BAD, key=b"\x00\x01", timestamp=(2, 5)), kafka_message(12, BAD)]),
    )
    assert letters(polled) == {
        ("t/0", "4"): [
            ("kafka.key", "k"),
            ("kafka.header.id", "7"),
            ("kafka.header_base64.trace", base64.b64encode(b"\x00\xff").decode()),
            ("kafka.header.id", "8"),
            ("kafka.header.none", None),
            ("kafka.header.empty", ""),
        ],
        ("t/1", "4"): [("kafka.key", ""), ("kafka.timestamp", "1764417600123")],
        ("t/0", "9"): [("kafka.key_base64", "AAE="), ("kafka.timestamp", "5")],
        ("t/0", "12"): [],
    }


def test_headers_that_the_client_cannot_read_stop_nothing():
    """Names that are no UTF-8."""
    confluent_kafka = pytest.importorskip("confluent_kafka", reason="pip install -e '.[dev]'")

    class Unreadable(confluent_kafka.Message):
        def headers(self) -> Any:
            raise SystemError("returned a result with an exception set") from UnicodeError()

    message = Unreadable(topic="t", partition=0, offset=2, value=BAD, key=b"k", timestamp=(0, 0))
    polled = kafka_polled(("t/0", [message]))
    assert letters(polled) == {("t/0", "2"): [("kafka.key", "k"), ("kafka.headers", None)]}


# --------------------------------------------------------------------------------- Pub/Sub


def pubsub_message(number: str, data: bytes, key: str = "", **said: str) -> Any:
    time = Timestamp(seconds=1764417600, nanos=120_000_000)
    message = SimpleNamespace(
        message_id=number, publish_time=time, data=data, ordering_key=key, attributes=said
    )
    return SimpleNamespace(message=message, ack_id=f"ack {number}")


def test_what_messages_of_pubsub_carry():
    pulled = Pulled.of(
        [
            pubsub_message("70", BAD, "user 1", colour="red", a="b"),
            pubsub_message("12", GOOD),
            pubsub_message("30", BAD),
            pubsub_message("20", BAD, nul="a\0b"),
        ]
    )
    polled = Polled(pulled.batch("pubsub:p/s"), {}, carried=PubsubCarried(pulled))
    time = ("pubsub.publish_time", "2025-11-29T12:00:00.120Z")
    assert letters(polled) == {
        ("pubsub:p/s", "70"): [
            ("pubsub.message_id", "70"),
            time,
            ("pubsub.ordering_key", "user 1"),
            ("pubsub.attribute.a", "b"),
            ("pubsub.attribute.colour", "red"),
        ],
        ("pubsub:p/s", "30"): [("pubsub.message_id", "30"), time],
        ("pubsub:p/s", "20"): [
            ("pubsub.message_id", "20"),
            time,
            ("pubsub.attribute_base64.nul", "YQBi"),
        ],
    }


@given(st.lists(st.integers(1, 10**18), unique=True, min_size=1, max_size=40), st.data())
def test_messages_of_pubsub_are_found_by_their_ids(ids: list[int], data: Any):
    pulled = Pulled.of([pubsub_message(str(n), b"%d" % n) for n in ids])
    asked = data.draw(st.lists(st.sampled_from(ids)))
    assert [message.data for message in pulled.messages(asked)] == [b"%d" % n for n in asked]
    order = np.array(sorted(data.draw(st.sets(st.integers(0, len(ids) - 1)))), np.int64)
    some = pulled.take(order)
    assert [m.message_id for m in some.messages(some.ids.tolist())] == [
        str(ids[row]) for row in order.tolist()
    ]


# --------------------------------------------------------------------------------- Kinesis


def kinesis_record(number: int, data: bytes, key: str, **said: Any) -> Mapping[str, Any]:
    return {"SequenceNumber": str(10**55 + number), "Data": data, "PartitionKey": key, **said}


def test_what_records_of_kinesis_carry():
    """Those that are several in one too, which are told apart before they are decoded."""
    zone = dt.timezone(dt.timedelta(hours=2))
    arrived = dt.datetime(2026, 11, 29, 14, 0, 0, 120_000, zone)
    taken = {
        "s/1": (7, [
            kinesis_record(1, GOOD, "one"),
            kinesis_record(2, AGGREGATED + b"x", "two", ApproximateArrivalTimestamp=arrived),
            kinesis_record(3, BAD, "three"),
        ]),
        "s/2": (0, [kinesis_record(4, BAD, "a\0b", ApproximateArrivalTimestamp=arrived)]),
    }  # fmt: skip
    records = [
        (source, begin + i, record["Data"])
        for source, (begin, some) in taken.items()
        for i, record in enumerate(some)
    ]
    polled = Polled(batch(*records), {}, carried=KinesisCarried(taken))
    decodes = Decodes(
        CONTRACT, DECODES.origin, decoder=KinesisMessages(CONTRACT, unknown_fields="ignore")
    )
    time = ("kinesis.arrival_time", "2026-11-29T12:00:00.120Z")
    assert letters(polled, decodes) == {
        ("s/1", "8"): [
            ("kinesis.partition_key", "two"), ("kinesis.sequence_number", str(10**55 + 2)), time,
        ],
        ("s/1", "9"): [
            ("kinesis.partition_key", "three"), ("kinesis.sequence_number", str(10**55 + 3)),
        ],
        ("s/2", "0"): [
            ("kinesis.partition_key_base64", "YQBi"),
            ("kinesis.sequence_number", str(10**55 + 4)),
            time,
        ],
    }  # fmt: skip
