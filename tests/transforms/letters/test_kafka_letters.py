"""Kafka Connect's dead-letter topics, as KIP-298 says that they are; and topics of both kinds."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from letters_support import commit, comparable, letters
from millstream.schemas.dead_letters import SCHEMA
from millstream.schemas.table import table_of_schema
from millstream.transforms.dead_letters import dead_letter_id
from millstream.transforms.letters import EVERY, Where, open_letters, payloads
from millstream.transforms.write.destination import Output
from millstream.transforms.write.errors import DestinationError

from tests.services.destinations import DESTINATIONS

pytestmark = pytest.mark.service
WHY = "org.apache.kafka.connect.errors.DataException"


def connect_headers(offset: int, **more: bytes) -> list[tuple[str, bytes]]:
    """What Connect's DeadLetterQueueReporter adds to the headers of a record."""
    said = {
        "topic": b"clicks",
        "partition": b"3",
        "offset": str(offset).encode(),
        "connector.name": b"warehouse-sink",
        "task.id": b"0",
        "stage": b"VALUE_CONVERTER",
        "class.name": b"org.apache.kafka.connect.json.JsonConverter",
        "exception.class.name": WHY.encode(),
        "exception.message": f"cannot convert {offset}".encode(),
        "exception.stacktrace": f"{WHY}: cannot convert\n\tat x.y(Z.java:1)".encode(),
        **more,
    }
    return [(f"__connect.errors.{name}", value) for name, value in said.items()]


@pytest.fixture(scope="module")
def peer() -> Iterator[Any]:
    with DESTINATIONS["kafka"].running_or_skip() as found:
        yield found


@pytest.fixture
def topic(peer) -> str:
    """A new topic with two partitions."""
    name = f"dlq-{uuid.uuid4().hex[:8]}"
    peer.make(name, 2)
    return name


def producing(peer, **settings: str) -> Any:
    from confluent_kafka import Producer

    return Producer({"bootstrap.servers": peer.inner, **settings})


def send(peer, topic: str, *messages: dict[str, Any]) -> None:
    producer = producing(peer, partitioner="murmur2_random")  # as Java's clients have it
    for message in messages:
        producer.produce(topic, **message)
    assert not producer.flush(30)


def test_a_message_of_connects_is_a_dead_letter(peer, topic):
    own = [("trace", b"\xff"), ("kind", b"click"), ("none", None)]
    send(
        peer,
        topic,
        {
            "key": b"k1",
            "value": b'{"amount": "x"\xff',
            "headers": [*own, *connect_headers(17)],
            "timestamp": 1_764_417_600_123,
            "partition": 1,
        },
    )
    (batch,) = open_letters(peer.uri(topic)).batches()
    assert batch.schema == SCHEMA
    (row,) = batch.to_pylist()
    assert payloads(batch).to_pylist() == [b'{"amount": "x"\xff']
    assert row["id"] == dead_letter_id("kafka:clicks/3", "17", b'{"amount": "x"\xff')
    assert (row["source"], row["position"], row["attempt"]) == ("kafka:clicks/3", "17", 0)
    assert row["errorMessage"] == "cannot convert 17"
    assert row["codes"] == ["DataException"]
    assert row["violations"] == [
        {"field": "", "code": "DataException", "message": "cannot convert 17"}
    ]
    assert row["stacktrace"].startswith(f"{WHY}: cannot convert\n\tat ")
    assert (row["stage"], row["pipeline"]) == ("VALUE_CONVERTER", "warehouse-sink")
    assert row["timestamp"].timestamp() == 1_764_417_600.123
    assert [(a["key"], a["value"]) for a in row["attributes"]] == [
        ("kafka.key", "k1"),
        ("kafka.timestamp", "1764417600123"),
        ("kafka.header_base64.trace", "/w=="),
        ("kafka.header.kind", "click"),
        ("kafka.header.none", None),
    ]
    assert row["run_id"] is row["contract_version"] is row["event_time"] is None


def test_a_record_without_a_value_is_there_too(peer, topic):
    send(peer, topic, {"key": b"\xff", "value": None, "headers": connect_headers(1)})
    (row,) = [r for b in open_letters(peer.uri(topic)).batches() for r in b.to_pylist()]
    assert (row["payloadBytes"], row["payloadString"]) == (None, None)


def test_conditions_are_judged_on_what_the_headers_say(peer, topic):
    send(
        peer,
        topic,
        *({"value": b"x%d" % n, "headers": connect_headers(n)} for n in range(10)),
        {"value": b"y", "headers": connect_headers(99, topic=b"orders")},
    )
    found = open_letters(peer.uri(topic))

    def positions(where: Where) -> list[str]:
        return sorted(p for b in found.batches(where, ("position",)) for p in b[0].to_pylist())

    assert len(positions(EVERY)) == 11
    assert positions(Where(source="kafka:orders/*")) == ["99"]
    assert len(positions(Where(source="kafka:clicks/*", codes=("DataException",)))) == 10
    assert positions(Where(codes=("TYPE",))) == []
    assert positions(Where(ids=(dead_letter_id("kafka:clicks/3", "4", b"x4"),))) == ["4"]


def test_letters_of_both_kinds_lie_in_one_topic(peer, topic, tmp_path):
    tables: Any = {"data": table_of_schema(SCHEMA, ("id",))}
    to = Output("dead_letters", peer.uri(topic), "dead_letters", tables=tables, state=str(tmp_path))
    ours = letters(range(10))
    commit(to, [ours], "r1")
    send(peer, topic, {"value": b"x", "headers": connect_headers(5)})
    found = list(open_letters(peer.uri(topic)).batches())
    own = [b.filter(b["run_id"].is_valid()) for b in found]
    assert comparable(own) == comparable([ours])
    assert sum(b.num_rows for b in found) == 11


def test_what_no_transaction_committed_is_left_out(peer, topic):
    producer = producing(peer, **{"transactional.id": topic})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"x", headers=connect_headers(1))
    producer.flush(30)
    producer.abort_transaction(30)
    assert list(open_letters(peer.uri(topic)).batches()) == []


def test_in_a_compacted_topic_the_last_of_each_key_stands(peer, tmp_path):
    table = f"upserts-{uuid.uuid4().hex[:8]}"
    uri = peer.uri(table, "mode=upsert")
    tables: Any = {"data": table_of_schema(SCHEMA, ("id",))}
    to = Output("dead_letters", uri, "dead_letters", tables=tables, state=str(tmp_path))
    first, again = letters(range(8)), letters(range(3), "r2")
    commit(to, [first], "r1")
    commit(to, [again], "r2")
    found = list(open_letters(uri).batches())
    assert comparable(found) == comparable([first.slice(3), again])
    send(peer, table, {"key": first["id"][5].as_py().encode(), "value": None})
    left = [i for b in open_letters(uri).batches(EVERY, ("id",)) for i in b[0].to_pylist()]
    assert sorted(left) == sorted(set(first["id"].to_pylist()) - {first["id"][5].as_py()})


def test_without_connects_headers_it_is_no_dead_letter(peer, topic):
    send(peer, topic, {"value": b"not JSON \xff secret"})
    with pytest.raises(DestinationError, match="is no row of json") as raised:
        list(open_letters(peer.uri(topic)).batches())
    assert "secret" not in str(raised.value)
    assert "errors.deadletterqueue.context.headers.enable" in str(raised.value)
