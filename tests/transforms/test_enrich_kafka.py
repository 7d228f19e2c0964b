"""Enrichment from a compacted topic, of a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from millstream.schemas.arrow import batch_schema
from millstream.schemas.contract import Contract, Field
from millstream.schemas.enrich.spec import EnrichJob
from millstream.transforms.enrich.enrich_step import EnrichStep
from millstream.transforms.enrich.references import load, reference_version
from millstream.transforms.enrich.sources import SourceError
from millstream.transforms.write.attempts import Attempts

from tests.services.destinations import DESTINATIONS
from tests.services.kafka import Kafka

pytestmark = pytest.mark.service

CONTRACT = Contract("c", "1", "c", (Field("k", "string"),))
SCHEMA = batch_schema(CONTRACT)
ON_ONE_BROKER = settings(
    max_examples=10,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    with DESTINATIONS["kafka"].running_or_skip() as found:
        yield found


def produce(broker: Kafka, topic: str, messages: list[tuple[str | None, Any]]) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker.inner})
    for key, value in messages:
        data = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        producer.produce(topic, data, key)
    assert not producer.flush(30)


def made(broker: Kafka, topic: str, messages: list[tuple[str | None, Any]]) -> str:
    broker.make(topic, 3, cleanup_policy="compact")
    produce(broker, topic, messages)
    return broker.uri(topic)


def step_of(uri: str, **said: Any) -> EnrichStep:
    said = {"from": uri, "on": {"k": "code"}, "add": {"n": "n"}} | said
    return EnrichStep(msgspec.convert(said, EnrichJob), SCHEMA, CONTRACT)


def found_by(step: EnrichStep, *keys: str) -> list[Any]:
    batch = pa.RecordBatch.from_pylist([{"k": key} for key in keys], SCHEMA)
    return step.attempt(batch).records["n"].to_pylist()


def row(code: str, n: Any) -> dict[str, Any]:
    return {"code": code, "n": n, "other": [1]}


def test_a_compacted_topic_is_a_reference(broker):
    messages = [("a", row("A", 1)), ("b", row("B", 2)), ("a", row("A", 3)), ("b", None)]
    step = step_of(made(broker, "countries", messages))
    assert found_by(step, "A", "B", "C") == [3, None, None]
    assert reference_version(step.reference) == ""
    produce(broker, "countries", [("b", row("B", 4))])
    # What is said now is found by those who look now.
    assert found_by(step, "B") == [None]
    assert found_by(step_of(broker.uri("countries")), "B") == [4]


TOPICS = iter(range(1000))


@ON_ONE_BROKER
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 9)), min_size=1, max_size=30
    )
)
def test_of_each_key_the_last_value_stands(broker, changes):
    messages = [("key " + key, None if n is None else row(key, n)) for key, n in changes]
    step = step_of(made(broker, f"law{next(TOPICS)}", messages), types={"n": "integer"})
    assert found_by(step, *"abcd") == [dict(changes).get(key) for key in "abcd"]


def test_an_empty_topic_knows_nothing(broker):
    uri = made(broker, "empty", [])
    # A topic that has just been made may have no leader yet.
    assert found_by(Attempts().call(uri, lambda: step_of(uri)), "A") == [None]


def test_two_keys_that_say_the_same_are_an_error(broker):
    step = step_of(made(broker, "twins", [("a", row("A", 1)), ("b", row("A", 2))]))
    with pytest.raises(SourceError, match="there is 1 key in more than one row"):
        load(step.reference)


def test_a_message_without_a_key_is_an_error(broker):
    broker.make("keyless")  # not compacted: of such a topic the broker takes none without a key
    produce(broker, "keyless", [("a", row("A", 1)), (None, row("A", 1))])
    step = step_of(broker.uri("keyless"))
    with pytest.raises(SourceError, match="the message at offset 1 of partition 0 has no key"):
        load(step.reference)


def test_a_value_that_does_not_fit_is_an_error_without_it(broker):
    step = step_of(made(broker, "wrong", [("a", row("A", 1)), ("b", row("B", "secret"))]),
                   types={"n": "integer"})  # fmt: skip
    with pytest.raises(SourceError) as caught:
        load(step.reference)
    assert "/wrong: 1 records do not fit; of the first, n is wrong (TYPE)" in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(SourceError, match="n is integer and string: say with types which it is"):
        step_of(broker.uri("wrong"))


def test_a_topic_that_is_too_large_is_an_error(broker):
    uri = made(broker, "large", [(str(n), row(str(n), n)) for n in range(1000)])
    with pytest.raises(SourceError, match="is larger than max_bytes, 1000 bytes"):
        load(step_of(uri, max_bytes=1000).reference)


def test_what_is_no_topic_is_an_error_at_start(broker):
    with pytest.raises(SourceError, match="there is no topic 'nothing'"):
        step_of(broker.uri("nothing"))
    with pytest.raises(SourceError, match="there is no field 'm'"):
        step_of(made(broker, "fields", [("a", row("A", 1))]), add={"n": "m"})
    with pytest.raises(SourceError, match="leave out all options but config and isolation"):
        step_of(broker.uri("fields", "start=latest"))
