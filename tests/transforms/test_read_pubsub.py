"""Subscriptions as streams: each message once, whatever is given again, lost or killed."""

from __future__ import annotations

import datetime as dt
import logging
import os
import time
from collections import Counter
from typing import Any

import pytest

from tests.services import pubsub as service

if reason := service.why_not():
    pytest.skip(f"pubsub: {reason}", allow_module_level=True)

from millstream.transforms.carry import SourceState
from millstream.transforms.intervals.chain import Overtaken
from millstream.transforms.plan import OPEN_END
from millstream.transforms.read.errors import SourceError, Unavailable
from millstream.transforms.read.pubsub import begin, client, leases, reader, stream
from millstream.transforms.read.pubsub.client import Subscription
from millstream.transforms.read.pubsub.inputs import parse_input
from millstream.transforms.read.pubsub.stream import PubsubStream
from read_pubsub_support import FakeChain, Read, Topic, emulator_or_skip, payloads, poll_until

pytestmark = [pytest.mark.service, pytest.mark.cloud]


@pytest.fixture(scope="module")
def peer():
    before = os.environ.get(client.EMULATOR)
    with emulator_or_skip() as found:
        os.environ.update(found.environment)
        yield found
    if before is None:
        del os.environ[client.EMULATOR]
    else:
        os.environ[client.EMULATOR] = before


@pytest.fixture(autouse=True)
def _reads_alone():
    """What a test before this one has left is not extended any more."""
    stream._LEASES.clear()
    stream._KNOWN.clear()


@pytest.fixture
def topic(peer, tmp_path) -> Topic:
    return Topic(peer, str(tmp_path))


def test_all_is_read_once(topic):
    sent = payloads(2500)
    topic.send(*sent)
    found = topic.read()
    assert sorted(found.payloads) == sorted(sent)
    assert len(set(found.positions)) == len(sent)
    assert found.next == {topic.input.source: 2500}
    topic.commit(found)
    assert topic.read().payloads == []
    assert topic.states[topic.input.source].next == 2500


def test_runs_go_on_from_one_another(topic):
    for n in range(4):
        topic.send(*payloads(300, 300 * n))
        topic.commit(topic.read())
    assert topic.committed == Counter(payloads(1200))
    assert topic.states[topic.input.source].next == 1200


def test_what_is_not_committed_comes_again(topic):
    topic.send(*payloads(500))
    lost = topic.read()
    assert len(lost.payloads) == 500
    found = topic.read()  # by a process that knows nothing of the first
    assert sorted(found.payloads) == sorted(lost.payloads)
    assert found.next == {topic.input.source: 500}


def test_what_is_committed_and_comes_again_is_a_duplicate(topic):
    topic.send(*payloads(500))
    found = topic.read()
    topic.commit(found, acknowledge=False)
    topic.send(*payloads(10, 500))
    topic.give_again(found)
    stream._LEASES.clear()
    with topic.open() as opened:
        again = poll_until(opened, Read(), rows=10, duplicates=500)
    assert sorted(again.payloads) == sorted(payloads(10, 500))
    assert again.duplicates == 500
    assert again.next == {topic.input.source: 510}
    topic.commit(again)
    assert topic.committed == Counter(payloads(510))


def test_what_is_known_to_be_committed_is_acknowledged_at_once(topic, monkeypatch):
    topic.send(*payloads(50))
    found = topic.read()
    topic.commit(found, acknowledge=False)
    done: list[str] = []
    plain = Subscription.acknowledge
    monkeypatch.setattr(
        Subscription, "acknowledge", lambda self, ids: (plain(self, ids), done.extend(ids))
    )
    topic.give_again(found)
    again = topic.read()
    assert (again.payloads, again.receipts, again.duplicates) == ([], [], 50)
    deadline = time.monotonic() + 30
    while len(done) < 50:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert topic.read().duplicates == 0


def test_what_waits_for_its_commit_and_comes_again_is_acknowledged_with_it(topic):
    topic.send(*payloads(20))
    with topic.open() as opened:
        found = poll_until(opened, Read(), rows=20)
        topic.give_again(found)
        found = poll_until(opened, found, rows=20, duplicates=20)
        assert len(found.payloads) == 20
        topic.commit(found)
        assert topic.committed == Counter(payloads(20))
    assert topic.read().duplicates == 0


def test_an_acknowledgement_that_fails_is_harmless(topic, monkeypatch, caplog):
    topic.send(*payloads(30))
    found = topic.read()

    def fails(self: Any, ids: Any) -> None:
        raise Unavailable("pubsub://somewhere does not answer")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Subscription, "acknowledge_all", fails)
        topic.commit(found)
    assert "does not answer; what is committed comes again" in caplog.text
    topic.give_again(found)
    assert topic.read().duplicates == 30


def test_two_processes_commit_a_message_once(topic):
    topic.send(*payloads(40))
    first = topic.read()
    second = topic.read()  # which has taken all from the first
    assert sorted(first.payloads) == sorted(second.payloads)
    topic.commit(first)
    with pytest.raises(Overtaken, match="40 messages were read by another process too"):
        topic.commit(second)


def test_what_comes_again_is_not_acknowledged_for_nothing(topic):
    """Of a slice that was passed over, the messages are not committed: to acknowledge what came of
    them again would lose them."""
    topic.send(*payloads(20))
    with topic.open() as opened:
        passed_over = poll_until(opened, Read(), rows=20)
        topic.give_again(passed_over)
        later = poll_until(opened, Read(), rows=0, duplicates=20)
        with pytest.raises(Overtaken, match="20 messages"):
            topic.commit(later)


def test_a_runner_that_goes_back_reads_on_from_the_newest_commit(topic):
    topic.send(*payloads(30))
    old = topic.states
    topic.commit(topic.read())
    topic.send(*payloads(5, 30))
    with topic.stream.open(old) as opened:
        found = poll_until(opened, Read(), rows=5)
    assert found.next == {topic.input.source: 35}
    assert sorted(found.payloads) == sorted(payloads(5, 30))


@pytest.mark.slow
def test_messages_are_held_until_their_commit(topic):
    """The subscription's deadline is ten seconds."""
    topic.send(*payloads(300))
    with topic.open() as opened:
        found = poll_until(opened, Read(), rows=300)
        until = time.monotonic() + 25
        while time.monotonic() < until:
            assert opened.poll(1000, 0.5) is None
    topic.commit(found)
    assert topic.read().duplicates == 0


@pytest.mark.slow
def test_what_waits_for_too_long_is_let_go(peer, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 10)
    topic = Topic(peer, str(tmp_path), "max_extension=2s")
    topic.send(*payloads(10))
    with topic.open() as opened, caplog.at_level(logging.WARNING):
        found = poll_until(opened, Read(), rows=10)
        found = poll_until(opened, found, rows=10, duplicates=10)
    assert "10 messages have waited for a commit for more than 2 seconds" in caplog.text
    topic.commit(found)
    assert topic.committed == Counter(payloads(10))


def test_no_more_is_read_than_may_wait(peer, tmp_path, caplog):
    topic = Topic(peer, str(tmp_path), "max_messages=100")
    topic.send(*payloads(700))
    with caplog.at_level(logging.WARNING):
        found = topic.read()
    assert 100 <= len(found.payloads) < 700
    assert "wait for their commit, and no more are read before it" in caplog.text
    topic.commit(found)
    while len(found.payloads):
        found = topic.read()
        topic.commit(found)
    assert topic.committed == Counter(payloads(700))


def test_a_stream_waits_for_commits(peer, tmp_path):
    topic = Topic(peer, str(tmp_path), "max_messages=100")
    topic.send(*payloads(500))
    with topic.open() as opened:
        while sum(topic.committed.values()) < 500:
            found = poll_until(opened, Read(), rows=1)
            while polled := opened.poll(10_000, 0.5):
                found.add(polled)
            assert len(found.payloads) < 300
            topic.commit(found)
    assert topic.committed == Counter(payloads(500))


def test_the_end_is_what_the_service_says(topic):
    with topic.open() as opened:
        assert opened.at_end() == {topic.input.source}
        topic.send(*payloads(3))
        assert len(poll_until(opened, Read(), rows=3).payloads) == 3
        assert opened.at_end() == {topic.input.source}
        assert opened.discover() == {}


def test_messages_with_one_key_stay_in_order(peer, tmp_path):
    topic = Topic(peer, str(tmp_path), ordered=True)
    for start in range(0, 400, 100):
        for key in "abc":
            topic.send(*(b"%s%d" % (key.encode(), n) for n in range(start, start + 100)), key=key)
    found: list[bytes] = []
    while some := (read := topic.read()).payloads:
        found += some
        topic.commit(read)
    for key in b"a", b"b", b"c":
        assert [p for p in found if p[:1] == key] == [b"%s%d" % (key, n) for n in range(400)]


def test_messages_come_with_all_that_they_have(topic):
    topic.send(b"one", b"two", key="k", colour="red")
    with topic.open() as opened:
        polled = opened.poll(2, 30)
    assert polled is not None
    sources = polled.batch.column("_source").to_pylist()
    positions = polled.batch.column("_position").to_pylist()
    carried = polled.carried.attributes(sources[::-1], positions[::-1])
    for said, position in zip(carried, positions[::-1], strict=True):
        found = dict(said)
        published = dt.datetime.fromisoformat(found.pop("pubsub.publish_time"))
        assert abs(published.timestamp() - time.time()) < 600
        assert found == {
            "pubsub.message_id": str(position),
            "pubsub.ordering_key": "k",
            "pubsub.attribute.colour": "red",
        }


def test_the_latest_is_what_comes_from_now_on(peer, tmp_path):
    topic = Topic(peer, str(tmp_path), "start=latest")
    topic.send(*payloads(20))
    begin.check(topic.input, is_new=True)
    topic.send(*payloads(5, 20))
    assert sorted(topic.read().payloads) == sorted(payloads(5, 20))


def test_a_subscription_that_was_read_is_not_sought(peer, tmp_path):
    topic = Topic(peer, str(tmp_path), "start=latest")
    topic.send(*payloads(20))
    begin.check(topic.input, is_new=False)
    assert len(topic.read().payloads) == 20


def test_a_subscription_that_is_not_there(peer, tmp_path):
    input = parse_input(f"pubsub://{service.PROJECT}/nothing-here")
    for asks in (
        lambda: begin.check(input, is_new=True),
        lambda: list(
            PubsubStream(input, FakeChain(str(tmp_path)))
            .open({input.source: SourceState()})
            .until({input.source: OPEN_END})
        ),
    ):
        with pytest.raises(SourceError, match="nothing-here: there is no such subscription"):
            asks()


def test_another_part_of_the_stream_reads_nothing(topic):
    topic.send(*payloads(3))
    source = topic.input.source
    parts = [topic.stream.part(n, 3) for n in range(3)]
    assert [part.owns(source) for part in parts] == [True, False, False]
    with parts[1].open({}) as opened:
        assert opened.poll(10, 0.01) is None
        assert (list(opened.until({})), opened.at_end(), opened.discover()) == ([], set(), {})


def test_a_service_that_does_not_answer(tmp_path, monkeypatch):
    broken = service.Breakable()
    monkeypatch.setenv(client.EMULATOR, broken.environment[client.EMULATOR])
    monkeypatch.setattr(reader, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(client, "ASK_SECONDS", 2.0)
    try:
        topic = Topic(broken.start(), str(tmp_path))
        topic.send(*payloads(10))
        with topic.open() as opened:
            found = poll_until(opened, Read(), rows=10)
            broken.stop()
            assert opened.poll(10, 0.2) is None
            assert opened.at_end() == set(), "a service that is gone has said nothing"
            with pytest.raises(Unavailable, match="cannot be reached, or cannot serve"):
                list(opened.until({topic.input.source: OPEN_END}))
            topic.commit(found, acknowledge=False)
        # The emulator has forgotten all, and numbers its messages from 1 again.
        Topic(broken.start(), str(tmp_path), name=topic.name).send(*payloads(5, 100))
        topic.commit(topic.read())
        assert topic.committed == Counter([*payloads(10), *payloads(5, 100)])
    finally:
        broken.stop()
