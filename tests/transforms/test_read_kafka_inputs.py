"""What a topic's URI says of how it is to be read."""

from __future__ import annotations

import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream.transforms.read.errors import SourceError
from millstream.transforms.read.kafka.inputs import (
    KafkaInput,
    Offsets,
    Since,
    parse_input,
    source_name,
)

NOON = 1_795_953_600_000  # 2026-11-29T12:00:00Z

offsets = st.dictionaries(
    st.integers(0, 9999), st.integers(0, 2**63 - 1), min_size=1, max_size=5
).map(lambda found: Offsets(tuple(sorted(found.items()))))
times = st.integers(0, 4_000_000_000_000).map(Since)
names = st.text("abcXYZ059._-", min_size=1, max_size=20).filter(lambda name: name.strip("."))
inputs = st.builds(
    KafkaInput,
    servers=st.lists(names.map(lambda name: f"{name}:9"), min_size=1, max_size=3).map(",".join),
    topic=names,
    start=st.one_of(st.sampled_from(["earliest", "latest"]), times, offsets),
    until=st.one_of(st.none(), st.just("now"), times, offsets),
    format=st.sampled_from(["json", "avro"]),
    registry=st.sampled_from(["", "https://r:8081/x"]),
    isolation=st.sampled_from(["read_committed", "read_uncommitted"]),
    group=st.text("ab &=+ü/:", max_size=8),
    config=st.sampled_from(["", "/etc/kafka.properties"]),
)


@given(inputs)
def test_what_is_said_is_read_again(said: KafkaInput):
    assert parse_input(said.uri) == said
    assert pickle.loads(pickle.dumps(said)) == said


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", KafkaInput("a:9092", "t")),
        ("start=latest", KafkaInput("a:9092", "t", "latest")),
        ("start=committed&group=g", KafkaInput("a:9092", "t", "committed", group="g")),
        ("start=2026-11-29T12:00:00Z", KafkaInput("a:9092", "t", Since(NOON))),
        ("start=2026-11-29T13:00:00+01:00", KafkaInput("a:9092", "t", Since(NOON))),
        ("start=2026-11-29T13:00:00%2B01:00", KafkaInput("a:9092", "t", Since(NOON))),
        # The first message that is not before it.
        ("until=2026-11-29T12:00:00.0001Z", KafkaInput("a:9092", "t", until=Since(NOON + 1))),
        ("until=now", KafkaInput("a:9092", "t", until="now")),
        ("start=1:7,0:5", KafkaInput("a:9092", "t", Offsets(((0, 5), (1, 7))))),
        (
            "format=avro&registry=http://r:8081&isolation=read_uncommitted",
            KafkaInput(
                "a:9092", "t", format="avro", registry="http://r:8081",
                isolation="read_uncommitted",
            ),
        ),
    ],
)  # fmt: skip
def test_options(query: str, said: KafkaInput):
    assert parse_input(f"kafka://a/t?{query}") == said


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("kafka:a/t", "kafka: names no topic; write kafka://HOST:PORT/TOPIC"),
        ("kafka://a:1", "names no topic"),
        (f"kafka://a/{'t' * 250}", "is no topic's name: up to 249 letters"),
        ("pulsar://a/t", "pulsar: is no topic"),
        ("kafka://me:hunter2@a:1/t", "put sasl.username and sasl.password into a file"),
        ("kafka://a/t?sasl.password=hunter2", "no option 'sasl.password'; expected 'start'"),
        ("kafka://a/t?registry=http://me:hunter2@r", "put USER:PASSWORD into the environment"),
        ("kafka://a/t?form=json", "kafka: no option 'form'; did you mean 'format'?"),
        ("kafka://a/t?start=latest&start=latest", "option 'start' is there twice"),
        ("kafka://a/t?format=jsonl", "format=jsonl; did you mean 'json'?"),
        ("kafka://a/t?isolation=none", "isolation=none; expected 'read_committed' or"),
        ("kafka://a/t?start=erliest", "start=erliest; did you mean 'earliest'?"),
        ("kafka://a/t?start=noon", "a time as 2026-11-29T12:00:00Z, or offsets as 0:1200,1:70"),
        ("kafka://a/t?start=committed", "start=committed: of which group? Say group=NAME"),
        ("kafka://a/t?start=2026-11-29T12:00:00", "in which zone? Write"),
        ("kafka://a/t?until=2026-13-29T12:00:00Z", "until=2026-13-29T12:00:00Z; expected 'now'"),
        ("kafka://a/t?until=0:1,0:2", "partition 0 is there twice"),
        ("kafka://a/t?until=0:1,2", "'2' is not PARTITION:OFFSET"),
    ],
)
def test_what_cannot_be(uri: str, said: str):
    with pytest.raises(SourceError) as raised:
        parse_input(uri)
    assert said in str(raised.value)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_the_file_of_settings_is_found_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert parse_input("kafka://a/t?config=my.conf").config == str(tmp_path / "my.conf")


def test_rows_are_named_after_their_partition():
    assert source_name("clicks", 3) == "kafka:clicks/3"
