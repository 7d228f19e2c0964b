"""Kafka, a real broker and registry: what the conformance suite does not ask of everybody."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import pickle
import random
import time
import traceback
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from conformance_support import (
    DIED,
    EVENTS,
    NOON,
    Process,
    Target,
    Work,
    event,
    events,
    interrupted,
)
from conformance_values import CASES, rows_of, table_of
from millstream.schemas.contract import Field
from millstream.schemas.table import Table
from millstream.transforms.write.errors import CommitConflict, DestinationError, Unavailable
from millstream.transforms.write.evolution import TableMismatch

from tests.services import kafka as broker
from tests.services import registry
from tests.services.destinations import DESTINATIONS, Known
from tests.services.serving import free_port

pytest.importorskip("confluent_kafka", reason="pip install -e '.[dev]'")

from confluent_kafka import Consumer, Producer, TopicPartition, murmur2
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from millstream.transforms.kafka.names import CONFIG_VARIABLE
from millstream.transforms.write.kafka import tokens as kafka_tokens
from millstream.transforms.write.kafka.avro import grown
from millstream.transforms.write.kafka.destination import KafkaDestination, open_destination
from millstream.transforms.write.kafka.messages import (
    FRAME_BYTES,
    Columns,
    Limits,
    json_key,
    json_value,
    pack,
)
from millstream.transforms.write.kafka.transaction import TransactionalProducer

pytestmark = pytest.mark.service

TOKENS = "_millstream_commits"
COMMIT = (
    "millstream.transforms.write.kafka.transaction:TransactionalProducer",
    "commit_transaction",
)
JSON, AVRO = "json", "avro"


@dataclass(frozen=True)
class Topic(Target):
    """A topic that nobody has used."""

    peer: broker.Kafka


@pytest.fixture(scope="module")
def avro() -> Iterator[broker.Kafka]:
    """A broker whose messages are Avro, and its registry."""
    with DESTINATIONS["kafka_avro"].running_or_skip() as found:
        yield found


@pytest.fixture
def kafka(avro) -> broker.Kafka:
    """The same broker, where messages are JSON."""
    return replace(avro, registry="")


@pytest.fixture
def target(kafka, tmp_path) -> Topic:
    """A topic of JSON."""
    return Topic("kafka", Known("kafka"), kafka, str(tmp_path / "state"))


@pytest.fixture(params=[JSON, AVRO])
def either(request, kafka, avro, tmp_path) -> Topic:
    """A topic of JSON, and then one of Avro."""
    peer = kafka if request.param == JSON else avro
    return Topic("kafka", Known("kafka"), peer, str(tmp_path / "state"))


# ------------------------------------------------------------------------------ messages


def test_all_values_come_back(either: Topic):
    names = [n for n in CASES if not (either.peer.registry and n.startswith("name_"))]
    names += ["name_keyword", "name_upper"] if either.peer.registry else []
    rows, table = rows_of(*names), table_of(*names)
    work = either.staged(rows, table=table)
    work.destination.check_tables(work.commit.tables)
    work.do()
    found = either.read(table).sort_by("n")
    for name in names:
        column = CASES[name].field.name
        expected = pa.array([row[column] for row in rows], found.schema.field(column).type)
        assert repr(found[column].to_pylist()) == repr(expected.to_pylist()), name


def test_names_that_avro_has_not_are_refused_at_once(typed: Topic):
    table = Table((Field("two words", "string"),), has_identity=True)
    with pytest.raises(DestinationError, match="'two words': Avro allows only letters"):
        typed.output().destination.check_tables({"data": table})


def test_keys_are_those_of_the_contract(either: Topic):
    either.commit(events(1, 2))
    messages = either.peer.messages(either.table)
    keys = {message.key() for message in messages}
    if either.peer.registry:
        assert {key[0] for key in keys} == {0}
        assert {key[5:] for key in keys} == {b"\x04e1", b"\x04e2"}
    else:
        assert keys == {b"e1", b"e2"}
    for message in messages:
        assert message.partition() == murmur2(message.key(), 3)


def test_keys_of_several_columns(either: Topic):
    table = replace(EVENTS, key=("id", "amount"))
    either.commit(events(1), table=table)
    (message,) = either.peer.messages(either.table)
    if either.peer.registry:
        assert message.key()[5:] == b"\x04e1\x02\x02"
    else:
        assert json.loads(message.key()) == {"id": "e1", "amount": 1}


def test_rows_without_a_key(either: Topic):
    either.commit(events(1, 2), table=replace(EVENTS, key=()))
    assert [message.key() for message in either.peer.messages(either.table)] == [None, None]
    other = replace(either, table=either.another().table)
    other.commit([event(1, note=None), event(2)], table=replace(EVENTS, key=("note",)))
    keys = [message.key() for message in other.peer.messages(other.table)]
    assert sorted(key is None for key in keys) == [False, True]


@pytest.mark.parametrize(
    ("field", "value", "key"),
    [
        (Field("k", "string"), 'a "b"', b'a "b"'),
        (Field("k", "integer", storage="uint64"), 2**64 - 1, b"18446744073709551615"),
        (Field("k", "decimal", precision=10, scale=2), Decimal("-1.50"), b"-1.50"),
        (Field("k", "boolean"), True, b"true"),
        (Field("k", "number", storage="float64"), -0.0, b"0"),
        (Field("k", "number", storage="float64"), float("nan"), b"NaN"),
        (Field("k", "date"), dt.date(2024, 2, 29), b"2024-02-29"),
        (Field("k", "timestamp"), NOON, b"2026-11-29T12:00:00.000000Z"),
        (Field("k", "binary"), b"\0\xff", b"AP8="),
        (Field("k", "string"), None, None),
    ],
)
def test_a_key_of_one_column_is_its_text(field: Field, value: Any, key: bytes | None):
    schema = Table((field,)).schema
    batch = pa.RecordBatch.from_pydict({"k": pa.array([value], schema.field("k").type)}, schema)
    assert json_key(schema, ["k"])(batch).to_pylist() == [key]


def test_time_stamps_are_event_times_where_the_topic_takes_them(target: Topic):
    day = 86_400_000
    target.peer.make(
        target.table, retention_ms=str(30 * day), message_timestamp_before_max_ms=str(100 * day)
    )
    begun = time.time()
    moments = {
        "now": dt.timedelta(microseconds=-999),
        "yesterday": dt.timedelta(days=-1),
        "soon": dt.timedelta(minutes=50),
        "deleted at once": dt.timedelta(days=-31),
        "before all time": dt.timedelta(days=-30_000),
        "far ahead": dt.timedelta(days=1),
    }
    now = dt.datetime.fromtimestamp(begun, dt.UTC)
    rows = [event(n, id=name, at=now + ago) for n, (name, ago) in enumerate(moments.items())]
    target.commit([*rows, event(9, id="never", at=None)])
    found = {m.key().decode(): m.timestamp()[1] for m in target.peer.messages(target.table)}
    for name in ("now", "yesterday", "soon"):
        at = now + moments[name]
        assert found[name] == at.timestamp() * 1000 // 1, name
    for name in ("deleted at once", "before all time", "far ahead", "never"):
        assert begun - 1 <= found[name] / 1000 <= time.time() + 1, name


def test_headers_say_where_a_row_is_from(either: Topic):
    either.commit(events(1, _position=70), query="headers=identity", run_id="r7")
    either.commit(events(2), run_id="r8")
    messages = either.peer.messages(either.table)
    assert sorted((message.headers() for message in messages), key=bool) == [
        None,
        [
            ("millstream.run", b"r7"),
            ("millstream.source", b"s"),
            ("millstream.position", b"70"),
        ],
    ]
    assert either.read().schema.names == EVENTS.schema.names


# ------------------------------------------------------------------------------- upserts


def test_of_each_key_the_latest_row_is_sent(either: Topic):
    rows = [
        event(1, id="a", note="older", _position=1),
        event(2, id="a", note="newer", _position=0),
        event(1, id="b", _position=9, note="later in its source"),
        event(1, id="b", _position=8),
    ]
    either.commit(rows, query="mode=upsert")
    messages = either.peer.messages(either.table)
    assert len(messages) == 2
    either.assert_holds(rows[1:3])
    assert "compact" in either.peer.settings(either.table)["cleanup.policy"]
    either.commit([event(0, id="a", note="of a later run")], query="mode=upsert", run_id="r2")
    either.assert_holds([event(0, id="a", note="of a later run"), rows[2]])


def test_a_deletion_is_a_message_without_a_value(either: Topic):
    table = replace(EVENTS, fields=(*EVENTS.fields, Field("gone", "boolean")))
    rows = [event(n, gone=gone) for n, gone in enumerate([None, False, True])]
    query = "mode=upsert&deleted=gone"
    either.commit(rows, table=table, query=query)
    values = [message.value() is None for message in either.peer.messages(either.table)]
    assert sorted(values) == [False, False, True]
    either.assert_holds(rows[:2], table)
    either.commit([event(3, id="e1", gone=True)], table=table, query=query, run_id="r2")
    either.assert_holds(rows[:1], table)


def test_rows_with_a_null_in_their_key_are_refused(either: Topic):
    fields = (Field("id", "string"), *EVENTS.fields[1:])
    table = replace(EVENTS, fields=fields, key=("id", "amount"))
    rows = [event(1), event(2, id=None), event(3, amount=None), event(4)]
    work = either.commit(rows, table=table, query="mode=upsert")
    either.assert_holds([rows[0], rows[3]], table)
    assert [letter["errorMessage"] for letter in work.letters()] == [
        "id is null", "amount is null",
    ]  # fmt: skip


def test_what_is_refused_competes_with_no_other_row(target: Topic):
    target.peer.make(target.table, cleanup_policy="compact", max_message_bytes="2000")
    rows = [event(1, id="a"), event(2, id="a", note="x" * 3000), event(3, id="b")]
    work = target.commit(rows, query="mode=upsert")
    target.assert_holds([rows[0], rows[2]])
    assert len(work.letters()) == 1


# ---------------------------------------------------------------------------- large rows


def test_rows_that_are_too_large_are_refused_and_the_rest_lands(either: Topic):
    either.peer.make(either.table, partitions=2, max_message_bytes="5000")
    rows = [event(n, note="ü" * 5000 if n % 3 == 0 else "small") for n in range(100)]
    work = either.commit(rows[:50], rows[50:])
    either.assert_holds([row for row in rows if row["note"] == "small"])
    letters = work.letters()
    assert len(letters) == 34
    assert {letter["errorMessage"] for letter in letters} == {
        "its message is larger than the 5000 bytes that the topic takes"
    }
    assert sorted(json.loads(letter["payloadBytes"])["id"] for letter in letters) == sorted(
        f"e{n}" for n in range(0, 100, 3)
    )


@pytest.mark.parametrize("limit", [1000, 20_000, 1_200_000])
def test_what_is_sent_fits(target: Topic, limit: int):
    """Rows of all sizes up to the limit, which nothing makes smaller: the broker takes them all."""
    target.peer.make(target.table, max_message_bytes=str(limit))
    noise = random.Random(1)
    sizes = [limit - n for n in range(0, 400, 16)] + [limit // 2] * 4 + [limit // 3] * 6
    rows = [{"id": "k", "note": noise.randbytes(size // 2).hex()} for size in sizes]
    work = target.commit(rows, table=Table(EVENTS.fields, EVENTS.key, None, has_identity=True))
    landed = target.read()["note"].to_pylist()
    refused = [json.loads(letter["payloadBytes"])["note"] for letter in work.letters()]
    assert sorted(landed + refused) == sorted(row["note"] for row in rows)
    # Little more than the row's own JSON and the frame is kept free.
    assert max(map(len, landed)) > limit - FRAME_BYTES - 100


def test_a_queue_that_is_full_is_waited_for(either: Topic, monkeypatch, tmp_path):
    settings = broker.credentials(broker.USER, broker.PASSWORD)
    full = {"queue.buffering.max.messages": "100", "queue.buffering.max.kbytes": "2"}
    configure(monkeypatch, tmp_path, **settings, **full, **{"linger.ms": "1"})
    either.commit(events(*range(1200)), events(*range(1200, 2000)), query="headers=identity")
    either.assert_holds(events(*range(2000)))
    assert all(len(message.headers()) == 3 for message in either.peer.messages(either.table))


def test_a_null_in_a_required_column_is_refused():
    schema = pa.schema([pa.field("a", pa.int64(), False), ("b", pa.string())])
    batch = pa.RecordBatch.from_pydict({"a": [1, None, 3], "b": ["x", "y", None]})
    columns = Columns(None, json_value(schema), ("a",), None, None)
    (packed,) = pack(batch, columns, Limits(1000, 0, 0, 7))
    assert packed.messages.values.to_pylist() == [b'{"a":1,"b":"x"}', b'{"a":3,"b":null}']
    assert packed.messages.times.tolist() == [7, 7]
    assert packed.refused == [(1, "a is null")]


def test_large_batches_are_made_into_messages_piece_by_piece(monkeypatch):
    monkeypatch.setattr("millstream.transforms.write.kafka.messages.PIECE_BYTES", 100)
    schema = pa.schema([("a", pa.string())])
    batch = pa.RecordBatch.from_pydict({"a": [str(n) * 40 for n in range(10)]})
    columns = Columns(json_key(schema, ["a"]), json_value(schema), (), None, None)
    found = list(pack(batch, columns, Limits(FRAME_BYTES + 150, 0, 0, 7)))
    assert len(found) > 3
    keys = [key for packed in found for key in packed.messages.keys.to_pylist()]
    assert keys == [str(n).encode() * 40 for n in range(10)]


# ---------------------------------------------------------------------------- committing


def again(work: Work) -> None:
    """Commit as a process does that knows nothing of the first attempt."""
    pickle.loads(pickle.dumps(work)).do()


def test_the_same_token_twice_and_with_other_content(either: Topic):
    work = either.commit(events(1, 2))
    again(work)
    either.assert_holds(events(1, 2))
    with pytest.raises(CommitConflict, match="r1 with other content"):
        either.commit(events(3))
    either.assert_holds(events(1, 2))


def test_what_a_dead_process_sent_is_seen_by_nobody(target: Topic, tmp_path):
    work = target.staged(events(1, 2), events(3))
    code, said = Process(work, target, moment="before", folder=tmp_path).run()
    assert code == DIED, said
    # All of it has reached the broker.
    assert len(target.peer.messages(target.table, isolation="read_uncommitted")) == 3
    target.assert_holds([])
    again(work)
    assert work.held
    target.assert_holds(events(1, 2, 3))


def test_a_new_attempt_fences_off_a_zombie(target: Topic, monkeypatch):
    """A process that was held up before its commit wakes when another has done its work."""
    monkeypatch.setattr(kafka_tokens, "PATIENCE_SECONDS", 1)
    work = target.staged(events(1, 2))
    rescue = pickle.loads(pickle.dumps(work))
    with interrupted(COMMIT, "before", rescue.do) as calls:
        work.do()
        assert calls() == 2
    assert work.held
    target.assert_holds(events(1, 2))


def test_a_zombie_that_had_sent_its_token(target: Topic, monkeypatch):
    """It is waited for, and then its transaction is ended."""
    work = target.staged(events(1, 2))
    commit = TransactionalProducer.commit_transaction
    rescue = pickle.loads(pickle.dumps(work))

    def held_up(producer: TransactionalProducer, *seconds: float) -> None:
        monkeypatch.setattr(TransactionalProducer, "commit_transaction", commit)
        assert producer.flush(30) == 0
        rescue.do()
        commit(producer, *seconds)

    monkeypatch.setattr(kafka_tokens, "PATIENCE_SECONDS", 1)
    monkeypatch.setattr(TransactionalProducer, "commit_transaction", held_up)
    work.do()
    assert work.held
    target.assert_holds(events(1, 2))


def test_a_zombie_whose_successor_died_tries_again(target: Topic, monkeypatch):
    work = target.staged(events(1, 2))
    monkeypatch.setattr(
        "millstream.transforms.write.kafka.destination.timeout_ms", lambda client: 4000
    )

    def take_over() -> None:
        producer = Producer(
            {
                "bootstrap.servers": target.peer.inner,
                "transactional.id": f"millstream/{target.table}/r1",
            }
        )
        producer.init_transactions(10)

    with interrupted(COMMIT, "before", take_over), pytest.raises(Unavailable, match="took over"):
        work.do()
    assert not work.held
    target.assert_holds([])
    again(work)
    target.assert_holds(events(1, 2))


@contextmanager
def stranger(kafka: broker.Kafka, key: str, value: str = "{}") -> Iterator[Producer]:
    """An open transaction of somebody else's on the topic of tokens."""
    producer = Producer({"bootstrap.servers": kafka.inner, "transactional.id": "stranger"})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(TOKENS, value, key, 0)
    producer.flush(10)
    try:
        yield producer
    finally:
        producer.abort_transaction(10)


def test_tokens_behind_an_open_transaction_of_somebody_else(target: Topic, monkeypatch):
    """A reader of committed messages does not see them, and would commit once more."""
    monkeypatch.setattr(kafka_tokens, "PATIENCE_SECONDS", 0.5)
    target.commit(events(0), run_id="r0")
    with stranger(target.peer, "another/run"):
        work = target.commit(events(1, 2))
        with pytest.raises(Unavailable, match="is still open"):
            again(work)
    assert work.held
    again(work)
    target.assert_holds(events(0, 1, 2))


def test_a_token_of_which_nobody_knows_is_waited_for(target: Topic, monkeypatch):
    target.commit(events(0), run_id="r0")
    work = target.staged(events(1, 2))
    monkeypatch.setattr(kafka_tokens, "PATIENCE_SECONDS", 0.5)
    with stranger(target.peer, f"{target.table}/r1"), pytest.raises(Unavailable, match="open"):
        work.do()
    work.do()
    target.assert_holds(events(0, 1, 2))


def tombstones(kafka: broker.Kafka, topic: str) -> list[str]:
    """The keys of a topic's messages without a value."""
    return [message.key().decode() for message in kafka.messages(topic) if message.value() is None]


def test_old_tokens_are_forgotten(target: Topic):
    to = target.output().destination
    assert isinstance(to, KafkaDestination)
    assert (to.old_tokens(time.time() + 60), to.forget(time.time() + 60, [])) == ([], 0)
    works = [target.commit(events(n), run_id=f"r{n}") for n in range(3)]
    # The name of one of the others begins as ours does.
    others = target.another(), replace(target, table=f"{target.table}r")
    kept = [other.commit(events(9), run_id="r0") for other in others]
    assert to.old_tokens(time.time() - 3600) == []
    assert to.forget(time.time() - 3600, []) == 0
    assert to.old_tokens(time.time() + 60) == ["r0", "r1", "r2"]
    assert to.forget(time.time() + 60, ["r1"]) == 2
    assert to.old_tokens(time.time() + 60) == ["r1"]
    assert [work.held for work in works] == [False, True, False]
    assert all(work.held for work in kept)
    gone = [f"{target.table}/r{n}" for n in (0, 2)]
    assert [key for key in tombstones(target.peer, TOKENS) if key.startswith(target.table)] == gone
    assert to.forget(time.time() + 60, ["r1"]) == 0
    # A run id that is forgotten is like one that was never there.
    again(target.staged(events(0), run_id="r0"))
    target.assert_holds([*events(0, 1, 2), *events(0)])
    assert to.old_tokens(time.time() + 60) == ["r0", "r1"]


def test_of_old_tokens_those_that_nobody_knows_of_stay(target: Topic):
    """Some are behind a transaction that is still open: nobody waits for them, or deletes them."""
    first = target.commit(events(0), run_id="r0")
    to = first.destination
    assert isinstance(to, KafkaDestination)
    with stranger(target.peer, f"{target.table}/r2"):
        later = target.commit(events(1))
        assert to.old_tokens(time.time() + 60) == ["r0"]
        assert to.forget(time.time() + 60, []) == 1
    assert not first.held
    assert later.held
    assert to.old_tokens(time.time() + 60) == ["r1"]


def test_many_tokens_are_forgotten(target: Topic, monkeypatch, tmp_path):
    """More than fit into the producer's queue."""
    settings = broker.credentials(broker.USER, broker.PASSWORD)
    configure(monkeypatch, tmp_path, **settings, **{"queue.buffering.max.messages": "7"})
    tokens = f"{target.table}.commits"
    target.peer.make(tokens, cleanup_policy="compact")
    producer = Producer({"bootstrap.servers": target.peer.inner})
    for n in range(100):
        producer.produce(tokens, "{}", f"{target.table}/r{n}")
    assert producer.flush(30) == 0
    to = target.output(f"tokens={tokens}").destination
    assert isinstance(to, KafkaDestination)
    assert to.forget(time.time() + 60, ["r7"]) == 99
    assert to.old_tokens(time.time() + 60) == ["r7"]


def test_tokens_outlive_compaction(target: Topic):
    """Brokers delete what has a later message with its key, and forgotten tokens as a whole."""
    tokens = f"{target.table}.commits"
    target.peer.make(
        tokens, cleanup_policy="compact", segment_ms="1", min_cleanable_dirty_ratio="0",
        delete_retention_ms="0",
    )  # fmt: skip
    query = f"tokens={tokens}"
    works = [target.commit(events(n), run_id=f"r{n}", query=query) for n in range(3)]
    to = works[0].destination
    assert isinstance(to, KafkaDestination)
    assert to.forget(time.time() + 60, ["r1"]) == 2
    deadline = time.monotonic() + 60
    for n in itertools.count(3):
        if f"{target.table}/r0" not in keys(target.peer, tokens):
            break
        assert time.monotonic() < deadline, "the broker does not compact"
        # Only what lies before the last segment is compacted.
        works.append(target.commit(events(n), run_id=f"r{n}", query=query))
    assert [work.held for work in works] == [False, True, False, *[True] * (len(works) - 3)]
    for work in works[1:2] + works[3:]:
        again(work)
    target.assert_holds(events(*range(len(works))))


def keys(kafka: broker.Kafka, topic: str) -> set[str]:
    """The keys of all messages that are left of a topic."""
    return {message.key().decode() for message in kafka.messages(topic)}


def test_another_topic_of_tokens(target: Topic):
    query = f"tokens={target.table}.commits"
    work = target.commit(events(1), query=query)
    again(work)
    target.assert_holds(events(1))
    (token,) = target.peer.messages(f"{target.table}.commits")
    assert token.key() == f"{target.table}/r1".encode()
    assert target.output().destination.committed("r1") is None


def decided(target: Topic) -> bool:
    """Whether no transaction is open on a topic: all that there is can be read."""
    ends = []
    for isolation in ("read_committed", "read_uncommitted"):
        consumer = Consumer(
            {
                "bootstrap.servers": target.peer.inner,
                "group.id": "tests",
                "isolation.level": isolation,
            }
        )
        partitions = [TopicPartition(target.table, n) for n in range(3)]
        ends.append([consumer.get_watermark_offsets(p, 30) for p in partitions])
        consumer.close()
    return ends[0] == ends[1]


def test_a_transaction_that_takes_too_long(target: Topic, monkeypatch, tmp_path):
    settings = broker.credentials(broker.USER, broker.PASSWORD)
    configure(monkeypatch, tmp_path, **settings, **{"transaction.timeout.ms": "1500"})

    def wait() -> None:
        """Until the broker has undone it: then what was sent is decided."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not decided(target):
            pass

    work = target.staged(events(1))
    with interrupted(COMMIT, "before", wait), pytest.raises(DestinationError, match="took longer"):
        work.do()
    assert not work.held
    target.assert_holds([])


# ---------------------------------------------------------------------------- topics


def test_topics_are_made_as_the_options_say(target: Topic):
    target.commit(query="partitions=5")
    topics = target.peer.admin().list_topics(timeout=30).topics
    assert len(topics[target.table].partitions) == 5
    assert target.peer.settings(target.table)["cleanup.policy"] == "delete"
    assert target.peer.settings(TOKENS)["cleanup.policy"] == "compact"
    assert len(topics[TOKENS].partitions) == 1


@pytest.mark.parametrize(
    ("policy", "query", "said"),
    [
        ("compact", "", "all but the last would vanish"),
        ("compact,delete", "", "all but the last would vanish"),
        ("delete", "mode=upsert", "set it to compact"),
    ],
)
def test_topics_that_are_cleaned_up_otherwise(target: Topic, policy: str, query: str, said: str):
    target.peer.make(target.table, cleanup_policy=policy)
    work = target.staged(events(1), query=query)
    with pytest.raises(DestinationError, match=said):
        work.destination.check_tables(work.commit.tables)
    with pytest.raises(DestinationError, match=said):
        work.do()
    assert target.peer.messages(target.table) == []


def test_a_topic_of_tokens_that_forgets(target: Topic):
    tokens = f"{target.table}.commits"
    target.peer.make(tokens, cleanup_policy="compact,delete")
    work = target.staged(events(1), query=f"tokens={tokens}")
    with pytest.raises(DestinationError, match="set it to compact"):
        work.destination.check_tables(work.commit.tables)
    with pytest.raises(DestinationError, match="set it to compact"):
        work.do()


def test_examining_makes_no_topic(target: Topic):
    work = target.staged(events(1))
    work.destination.check_tables(work.commit.tables)
    assert target.table not in target.peer.admin().list_topics(timeout=30).topics


# --------------------------------------------------------------------------- the registry


@pytest.fixture
def typed(avro, tmp_path) -> Topic:
    """A topic of Avro."""
    return Topic("kafka", Known("kafka"), avro, str(tmp_path / "state"))


def latest(topic: Topic, part: str = "value") -> Any:
    """The schema that was registered last, as another client reads it."""
    url = f"{topic.peer.registry}/subjects/{topic.table}-{part}/versions/latest"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(json.loads(answer.read())["schema"])


def with_fields(*fields: Field) -> Table:
    """The table of events, with some columns more."""
    return replace(EVENTS, fields=(*EVENTS.fields, *fields))


def test_schemas_are_registered(typed: Topic):
    typed.commit(query="mode=upsert")
    assert [(f["name"], f["type"]) for f in latest(typed)["fields"]] == [
        ("id", "string"),
        ("at", ["null", {"type": "long", "logicalType": "timestamp-micros"}]),
        ("amount", ["null", "long"]),
        ("note", ["null", "string"]),
        ("tags", ["null", {"type": "array", "items": ["null", "string"]}]),
        ("_source", ["null", "string"]),
        ("_position", ["null", "long"]),
    ]
    assert latest(typed, "key") in ("string", {"type": "string"})


def test_schemas_that_do_not_fit_are_refused(typed: Topic):
    typed.commit(events(1))
    fields = [replace(f, type="integer") if f.name == "note" else f for f in EVENTS.fields]
    other = replace(EVENTS, fields=tuple(fields))
    work = typed.staged([event(2, note=2)], table=other, run_id="r2")
    for act in (lambda: work.destination.check_tables(work.commit.tables), work.do):
        with pytest.raises(TableMismatch) as raised:
            act()
        assert f"{typed.table}-value does not fit" in str(raised.value)
        assert "  - note string\n  + note long\n" in str(raised.value)
    assert not work.held
    typed.assert_holds(events(1))


def test_what_only_the_registry_knows_is_refused_too(typed: Topic):
    typed.commit(events(1))
    rule = {"compatibility": "FULL_TRANSITIVE"}
    registry.put(f"{typed.peer.registry}/config/{typed.table}-key", rule)
    work = typed.staged(events(1), table=replace(EVENTS, key=("amount",)), run_id="r2")
    for act in (lambda: work.destination.check_tables(work.commit.tables), work.do):
        with pytest.raises(TableMismatch, match=f"{typed.table}-key .* not compatible"):
            act()


def test_schemas_grow(typed: Topic):
    """What is new may be null, though it is required: so readers get on with old messages."""
    typed.commit(events(1))
    score = Field("score", "number", storage="float64")
    wider = with_fields(score, replace(score, name="rank", required=True))
    for n in (2, 3):
        work = typed.staged(events(n, score=0.5, rank=1.0), table=wider, run_id=f"r{n}")
        work.destination.check_tables(work.commit.tables)
        work.do()
    assert latest(typed)["fields"][-1] == {
        "name": "rank", "type": ["null", "double"], "default": None,
    }  # fmt: skip
    new = events(2, 3, score=0.5, rank=1.0)
    typed.assert_holds([*events(1), *new], wider)


def test_a_schema_of_others_is_kept_to():
    columns = pa.schema([pa.field("a", pa.int64(), False), ("b", pa.string())])
    theirs: Any = {
        "type": "record",
        "name": "com.acme.Event",
        "fields": [
            {"name": "b", "type": ["string", "null"], "doc": "why"},
            {"name": "a", "type": "long", "doc": "what"},
            {"name": "c", "type": "int", "default": 7},
        ],
    }
    assert grown(columns, "t", theirs) == columns
    theirs["fields"][1]["type"] = ["null", "long"]
    assert grown(columns, "t", theirs).field("a").nullable
    del theirs["fields"][2]["default"]
    with pytest.raises(TableMismatch, match="  - c int NOT NULL"):
        grown(columns, "t", theirs)
    with pytest.raises(TableMismatch, match="has schemas of no record"):
        grown(columns, "t", "string")


def test_a_registry_that_does_not_answer(target: Topic):
    peer = replace(target.peer, registry=f"http://127.0.0.1:{free_port()}")
    work = replace(target, peer=peer).staged(events(1))
    with pytest.raises(Unavailable, match=r"schema registry .* does not answer"):
        work.destination.check_tables(work.commit.tables)
    with pytest.raises(Unavailable, match=r"schema registry .* does not answer"):
        work.do()
    assert not work.held


# ------------------------------------------------------------------------- being let in


def configure(monkeypatch, folder, **settings: str) -> None:
    """Have the environment name a file of settings."""
    path = folder / "kafka.properties"
    lines = ["# for a test", "", *(f"{name} = {value}" for name, value in settings.items())]
    path.write_text("\n".join(lines), "utf-8")
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))


def test_a_broker_that_does_not_answer(target: Topic):
    uri = f"kafka://127.0.0.1:{free_port()}/{target.table}"
    work = replace_destination(target.staged(events(1)), uri, target)
    for ask in (
        work.do,
        lambda: work.destination.committed("r1"),
        lambda: work.destination.check_tables(work.commit.tables),
    ):
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="kafka://127"):
            ask()
        assert time.monotonic() - begun < 15


def replace_destination(work: Work, uri: str, target: Topic) -> Work:
    scheme, _, rest = uri.partition(":")
    return work._replace(destination=open_destination(scheme, rest, "events", target.state))


def test_a_wrong_password_is_said_and_not_shown(target: Topic, monkeypatch, tmp_path, capfd):
    work = target.staged(events(1))
    configure(monkeypatch, tmp_path, **broker.credentials(broker.USER, "wröng-and-secret"))
    for ask in (work.do, lambda: work.destination.check_tables(work.commit.tables)):
        with pytest.raises(DestinationError, match="see the credentials in") as raised:
            ask()
        said = "".join(traceback.format_exception(raised.value))
        out, err = capfd.readouterr()
        assert "wröng-and-secret" not in said + out + err


def allow(kafka: broker.Kafka, kind: ResourceType, name: str, *operations: str) -> None:
    """Give a stranger rights."""
    rules = [
        AclBinding(
            kind, name, ResourcePatternType.PREFIXED, f"User:{broker.STRANGER}", "*",
            AclOperation[operation], AclPermissionType.ALLOW,
        )
        for operation in operations
    ]  # fmt: skip
    admin = kafka.admin()
    for answer in admin.create_acls(rules).values():
        answer.result(30)


def test_rights_are_asked_for_one_after_another(target: Topic, monkeypatch, tmp_path):
    configure(monkeypatch, tmp_path, **broker.credentials(broker.STRANGER, broker.PASSWORD))
    tokens = f"{target.table}-commits"
    target.peer.make(target.table, max_message_bytes="600")
    target.peer.make(tokens, cleanup_policy="compact")
    work = target.staged(events(1), query=f"tokens={tokens}")

    def refused(match: str) -> None:
        with pytest.raises(DestinationError, match=match):
            work.do()

    topic, transactional = ResourceType.TOPIC, ResourceType.TRANSACTIONAL_ID
    refused("allow Write, Describe and DescribeConfigs on topics")
    allow(target.peer, topic, target.table, "DESCRIBE", "READ")
    with pytest.raises(DestinationError, match=f"allow Write on topic {target.table}"):
        work.destination.check_tables(work.commit.tables)
    refused("on transactional ids that begin with 'millstream'")
    allow(target.peer, transactional, "millstream", "WRITE", "DESCRIBE")
    refused("allow Write, Describe and DescribeConfigs on topics")
    allow(target.peer, topic, target.table, "WRITE")
    work.destination.check_tables(work.commit.tables)
    work.do()
    target.assert_holds(events(1))


def test_a_topic_that_may_not_be_made(target: Topic, monkeypatch, tmp_path):
    configure(monkeypatch, tmp_path, **broker.credentials(broker.STRANGER, broker.PASSWORD))
    work = target.staged(events(1))
    with pytest.raises(DestinationError, match="Create where they are to be made"):
        work.destination.check_tables(work.commit.tables)
    with pytest.raises(DestinationError, match="Create where they are to be made"):
        work.do()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("no sign here: hunter2", "line 1 is not key=value"),
        ("acks=0", "sets acks; leave it out"),
        ("bootstrap.servers=elsewhere:1", "sets bootstrap.servers; leave it out"),
        ("no.such.thing=hunter2", 'No such configuration property: "no.such.thing"'),
        ("security.protocol=hunter2", 'Invalid value "…" for configuration property'),
    ],
)
def test_settings_that_cannot_be(monkeypatch, tmp_path, lines: str, said: str):
    path = tmp_path / "kafka.properties"
    path.write_text(lines, "utf-8")
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    to = open_destination("kafka", f"//127.0.0.1:{free_port()}/t", "events")
    with pytest.raises(DestinationError) as raised:
        to.committed("r1")
    shown = "".join(traceback.format_exception(raised.value))
    assert said in str(raised.value)
    assert "hunter2" not in shown


def test_settings_that_cannot_be_read(tmp_path):
    rest = f"//127.0.0.1:{free_port()}/t?config={tmp_path}/none"
    with pytest.raises(DestinationError, match="none cannot be read: No such file"):
        open_destination("kafka", rest, "events").committed("r1")


# --------------------------------------------------------------------------------- URIs


@pytest.mark.parametrize(
    ("rest", "uri"),
    [
        ("//a/t", "kafka://a:9092/t"),
        ("//a:1,b/t?mode=append", "kafka://a:1,b:9092/t"),
        ("//[::1]:9/x.y-z_?mode=upsert", "kafka://[::1]:9/x.y-z_?mode=upsert"),
        (
            "//a/t?registry=http://r:8081/x&format=avro&partitions=3",
            "kafka://a:9092/t?registry=http://r:8081/x&format=avro&partitions=3",
        ),
    ],
)
def test_uris(rest: str, uri: str):
    found = open_destination("kafka", rest, "events", "/s")
    assert found.uri == uri
    assert open_destination("kafka", found.uri.partition(":")[2], "events", "/s") == found
    assert found.service == uri.rpartition("/" + found.target)[0]


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("a:1/t", "names no topic; write kafka://HOST:PORT/TOPIC"),
        ("//a:1", "names no topic"),
        ("///t", "names no topic"),
        ("//a:1/ta/b%20", "is no topic's name"),
        ("//a:1/..", "is no topic's name"),
        ("//a:b/t", "'a:b' is no broker"),
        ("//me:hunter2@a:1/t", "the URI has credentials in it; put sasl.username"),
        ("//a/t?mode=replace&partition_by=x", "no mode 'replace'"),
        ("//a/t?partition_by=x", "leave partition_by out"),
        ("//a/t?partitions=0", "partitions=0: expected a number from 1 on"),
        ("//a/t?format=xml", "format=xml: expected 'json' or 'avro'"),
        ("//a/t?tokens=a/b", "that is no topic's name"),
        ("//a/t?format=avro&registry=http://me:hunter2@r", "URL has credentials in it"),
        ("//a/t?format=avro&registry=r:8081", "say registry=https://"),
        ("//a/t?sasl.password=hunter2", "no option 'sasl.password'"),
    ],
)
def test_uris_that_cannot_be(rest: str, said: str):
    with pytest.raises(DestinationError) as raised:
        open_destination("kafka", rest, "events")
    assert said in str(raised.value)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_a_registry_has_to_be_named(monkeypatch, tmp_path):
    monkeypatch.delenv(CONFIG_VARIABLE, raising=False)
    to = open_destination("kafka", "//127.0.0.1:1/t?format=avro", "events")
    with pytest.raises(DestinationError, match="needs the schema registry: say registry="):
        to._registry(to._client())
    configure(monkeypatch, tmp_path, **{"schema.registry.url": "https://r:8081"})
    assert to._registry(to._client()).url == "https://r:8081"
