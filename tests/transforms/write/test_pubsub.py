"""Topics of Pub/Sub: at least once, with ids; what the suite of all destinations does not ask."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from conformance_support import EVENTS, NOON, Target, Work, event, events, payload
from millstream.schemas.contract import Field
from millstream.schemas.table import Table
from millstream.transforms.dead_letters import dead_letter_id
from millstream.transforms.write.destination import destination
from millstream.transforms.write.errors import CommitConflict, DestinationError, Unavailable

from tests.services import pubsub as service
from tests.services.destinations import DESTINATIONS, Known
from tests.services.serving import free_port

if reason := service.why_not():
    pytest.skip(f"pubsub: {reason}", allow_module_level=True)

from google.api_core import exceptions  # pyright: ignore[reportMissingImports]
from google.auth import exceptions as auth  # pyright: ignore[reportMissingImports]
from millstream.transforms.write.pubsub import client as pubsub_client
from millstream.transforms.write.pubsub import messages as pubsub_messages
from millstream.transforms.write.pubsub.client import Client, connected

pytestmark = [pytest.mark.service, pytest.mark.cloud]


@pytest.fixture(scope="module")
def peer():
    with DESTINATIONS["pubsub"].running_or_skip() as found:
        yield found


@pytest.fixture
def topic(peer, tmp_path) -> Target:
    """A topic that nobody has used, with a subscription."""
    return Target("pubsub", Known("pubsub", once=False), peer, str(tmp_path / "state"))


def messages(target: Target, part: str = "") -> list[Any]:
    peer: Any = target.peer
    return peer.messages(target.table + part)


def ids(target: Target) -> Counter[str]:
    return Counter(message.attributes["id"] for message in messages(target))


def again(work: Work) -> None:
    pickle.loads(pickle.dumps(work)).do()


@pytest.fixture
def sent(monkeypatch) -> list[Any]:
    """The requests that were sent, in their order."""
    found: list[Any] = []
    original = Client.send

    def send(self, request):
        found.append(request)
        original(self, request)

    monkeypatch.setattr(Client, "send", send)
    return found


# --------------------------------------------------------------------------------- URIs


def test_a_uri():
    found: Any = destination("pubsub://my-project/my.topic?ordering_key=a,b", "events", "/state")
    assert (found.place, found.target, found.project, found.ordering_key, found.service) == (
        "pubsub://my-project/my.topic", "my.topic", "my-project", ("a", "b"), "pubsub://my-project",
    )  # fmt: skip
    assert destination(found.uri, "events", "/state") == found


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pubsub:topic", "expected pubsub://PROJECT/TOPIC"),
        ("pubsub://project", "expected pubsub://PROJECT/TOPIC"),
        ("pubsub://project/goog-topic", "expected pubsub://PROJECT/TOPIC"),
        ("pubsub://project/ab", "expected pubsub://PROJECT/TOPIC"),
        ("pubsub://project/topic/more", "expected pubsub://PROJECT/TOPIC"),
        ("pubsub://user:hunter2@project/topic", "credentials are taken from the environment"),
        ("pubsub://project/topic?mode=upsert", "pubsub: no mode 'upsert'"),
        ("pubsub://project/topic?partition_by=a", "a topic has no partitions"),
        ("pubsub://project/topic?key=a", "pubsub: no option 'key'"),
    ],
)
def test_uris_that_cannot_be_used(uri, message):
    with pytest.raises(DestinationError) as raised:
        destination(uri, "events")
    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)


# ----------------------------------------------------------------------------- messages


def test_what_a_message_says(topic):
    rows = [event(1, note='"ü"'), event(2, at=None)]
    work = topic.commit(rows)
    found = {json.loads(message.data)["id"]: message for message in messages(topic)}
    assert json.loads(found["e1"].data) == {
        "id": "e1", "at": "2026-11-29T12:00:01.000000Z", "amount": 1, "note": '"ü"', "tags": ["1"],
    }  # fmt: skip
    token = str(work.commit.token)
    for n, row in enumerate(rows):
        attributes = dict(found[row["id"]].attributes)
        assert attributes == {
            "id": dead_letter_id("s", str(n), payload(row)),
            "run_id": "r1",
            "token": token,
            **({} if row["at"] is None else {"event_time": "2026-11-29T12:00:01.000000Z"}),
        }


def test_ids_of_rows_that_are_no_records(topic):
    """They follow from the token, and are the same each time it is published."""
    table = Table(EVENTS.fields, event_time="at")
    for run_id, attempts in (("r1", 2), ("r2", 1)):
        for _ in range(attempts):
            work = topic.staged(events(1, 1, 2), table=table, kind="aggregates", run_id=run_id)
            found: Any = work.destination
            loads = found._loads(work.commit.tables, work.commit.receipts)
            found._publish(work.commit, loads[0])
    assert sorted(ids(topic).values()) == [1, 1, 1, 2, 2, 2]


def test_states_have_a_topic_of_their_own(topic):
    states = Table((Field("k", "string"), Field("rows", "integer"), Field("raw", "binary")))
    batch = pa.RecordBatch.from_pylist([{"k": "a", "rows": 2, "raw": b"\0\xff"}], states.schema)
    data = pa.RecordBatch.from_pylist([{"k": "a"}], pa.schema([("k", pa.string())]))
    work = topic.staged_parts(
        {"data": Table((Field("k", "string"),)), "states": states},
        {"data": [data], "states": [batch]},
        query="ordering_key=k",
    )
    work.destination.check_tables(work.commit.tables)
    work.do()
    (state,), (row,) = messages(topic, "__states"), messages(topic)
    assert json.loads(state.data) == {"k": "a", "rows": 2, "raw": "AP8="}
    assert (state.ordering_key, row.ordering_key) == ("", "a")
    assert state.attributes["id"] != row.attributes["id"]
    topic.assert_holds([{"k": "a"}], Table((Field("k", "string"),)))


# --------------------------------------------------------------------------------- once


def test_after_its_end_a_run_publishes_nothing(topic, sent):
    work = topic.commit(events(1, 2))
    assert work.held
    before = len(sent)
    again(work)
    assert len(sent) == before
    assert set(ids(topic).values()) == {1}


@pytest.mark.parametrize("call", [0, 3])
def test_a_run_that_breaks_off_publishes_the_same_ids_again(topic, monkeypatch, call):
    monkeypatch.setattr(pubsub_client, "REQUEST_MESSAGES", 10)
    work = topic.staged(events(*range(100)))
    original, calls = Client.send, itertools.count()

    def send(self, request):
        if next(calls) >= call:
            raise exceptions.ServiceUnavailable("later")
        original(self, request)

    monkeypatch.setattr(Client, "send", send)
    with pytest.raises(Unavailable, match="later"):
        work.do()
    assert not work.held
    assert sum(ids(topic).values()) == 10 * call
    monkeypatch.setattr(Client, "send", original)
    again(work)
    assert work.held
    found = ids(topic)
    assert len(found) == 100
    assert sum(found.values()) == 100 + 10 * call
    topic.assert_holds(events(*range(100)))


def test_a_note_is_written_once(topic, monkeypatch):
    """Of two processes that publish one token at once, one holds it, and the other sees that."""
    work = topic.staged(events(1))
    original = Client.send

    def overtaken(self, request):
        monkeypatch.setattr(Client, "send", original)
        found: Any = work.destination
        found.load(work.commit, found._loads(work.commit.tables, work.commit.receipts))
        original(self, request)

    monkeypatch.setattr(Client, "send", overtaken)
    work.do()
    assert work.held
    assert list(ids(topic).values()) == [2]
    with pytest.raises(CommitConflict, match="r1 with other content"):
        topic.commit(events(2))


def test_notes_are_forgotten_by_their_age(topic):
    works = [topic.commit(events(n), run_id=f"r{n}") for n in range(3)]
    found: Any = topic.output().destination
    for n in (0, 1):
        os.utime(found._note(f"r{n}"), (1000 + n, 1000 + n))
    assert sorted(found.old_tokens(1001.5)) == ["r0", "r1"]
    assert found.forget(1001.5, ["r1"]) == 1
    assert [work.held for work in works] == [False, True, True]
    assert topic.another().output().destination.committed("r1") is None


def test_without_a_folder_there_is_no_token(peer):
    found = destination("pubsub://project/topic", "events")
    with pytest.raises(DestinationError, match="needs a folder to stage rows in"):
        found.committed("r1")


# ---------------------------------------------------------------------------- requests


def test_requests_are_of_a_bounded_size(topic, sent):
    topic.commit(
        events(*range(2500)), events(1, note="x" * 3_000_000), events(2, note="y" * 3_000_000)
    )
    sizes = [(len(request.messages), request._pb.ByteSize()) for request in sent]
    assert sum(count for count, _ in sizes) == 2502
    assert max(count for count, _ in sizes) == 1000
    assert max(size for _, size in sizes) < pubsub_client.REQUEST_BYTES
    assert sum(size > 3_000_000 for _, size in sizes) == 2


def test_no_more_is_on_its_way_than_was_said(topic, monkeypatch):
    """Else all rows would be in memory where a service is slow."""
    monkeypatch.setattr(pubsub_messages, "PIECE_BYTES", 1)
    packed, arrived, most = itertools.count(1), itertools.count(1), [0]
    done = [0]
    original = pubsub_messages._Writer.pack

    def pack(self, batch, before):
        most[0] = max(most[0], next(packed) - done[0])
        return original(self, batch, before)

    def send(self, request):
        threading.Event().wait(0.002)  # a service that takes its time
        done[0] = next(arrived)

    monkeypatch.setattr(pubsub_messages._Writer, "pack", pack)
    monkeypatch.setattr(Client, "send", send)
    topic.commit(events(*range(500)))
    assert done[0] == 500
    assert most[0] <= 2 * pubsub_client.REQUESTS + 2


@pytest.mark.parametrize("at_a_time", [1, 7, 1000])
def test_messages_of_one_key_arrive_in_order(peer, topic, monkeypatch, at_a_time):
    monkeypatch.setattr(pubsub_client, "REQUEST_MESSAGES", at_a_time)
    peer.make(topic.table, ordered=True)
    rows = [event(n, note=[None, "a", "b", "c"][n % 4], amount=n % 3) for n in range(200)]
    topic.commit(rows, query="ordering_key=note,amount")
    found: dict[str, list[int]] = {}
    for message in messages(topic):
        found.setdefault(message.ordering_key, []).append(int(json.loads(message.data)["id"][1:]))
    assert found == {
        f"{note or ''}|{amount}": [
            n for n in range(200) if rows[n]["note"] == note and n % 3 == amount
        ]
        for note in (None, "a", "b", "c")
        for amount in range(3)
    }


def test_an_empty_ordering_key_is_none(topic, sent):
    topic.commit(
        [event(n, note=[None, "", "a"][n % 3]) for n in range(9)], query="ordering_key=note"
    )
    keys = Counter(message.ordering_key for message in messages(topic))
    assert keys == {"": 6, "a": 3}
    assert len(sent) == 2


# --------------------------------------------------------------------------------- size


def test_rows_that_are_too_large_are_refused(topic):
    most = pubsub_messages.MOST_BYTES - pubsub_messages.ROOM_BYTES
    base = len(json.dumps(event(1, note=""), default=str).encode())
    rows = [
        event(1, note="x" * (most - base - 100)),
        event(2, note="x" * most),
        event(3),
        event(4, note="\1" * (most // 6 + 1)),
    ]
    work = topic.commit(rows)
    assert work.held
    topic.assert_holds([rows[0], rows[2]])
    letters = work.letters()
    assert [json.loads(letter["payloadBytes"])["id"] for letter in letters] == ["e2", "e4"]
    said = "its message would be larger than the 10000000 bytes that Pub/Sub takes"
    assert {letter["errorMessage"] for letter in letters} == {said}
    found = work.destination.committed("r1")
    assert found is not None
    assert found.rows == 2


def test_ordering_keys_that_are_too_long_are_refused(topic):
    rows = [event(1, note="é" * 512), event(2, note="é" * 513), event(3)]
    work = topic.commit(rows, query="ordering_key=note")
    topic.assert_holds([rows[0], rows[2]])
    (letter,) = work.letters()
    assert letter["errorMessage"] == "its ordering key is longer than 1024 bytes"


# ------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("key", "message"),
    [("note,amonut", "ordering_key=amonut: no such column; did you mean 'amount'"),
     ("tags", "ordering_key=tags: it is nested")],
)  # fmt: skip
def test_ordering_keys_that_cannot_be(topic, key, message):
    with pytest.raises(DestinationError, match=message):
        topic.output(f"ordering_key={key}").destination.check_tables({"data": EVENTS})


def test_a_missing_topic_is_named(topic, tmp_path):
    work = topic.staged(events(1))
    gone = replace(work.destination, target="not-there")  # type: ignore[type-var]
    with pytest.raises(DestinationError, match="no topic not-there; make it, and a subscription"):
        gone.check_tables({"data": EVENTS})
    with pytest.raises(DestinationError, match="there is no such topic"):
        gone.commit(work.commit)
    assert gone.committed("r1") is None


def test_a_service_that_does_not_answer(topic, monkeypatch):
    work = topic.staged(events(1))
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(pubsub_client, "_RETRY", pubsub_client._RETRY.with_timeout(0.5))
    for attempt in (lambda: work.destination.check_tables({"data": EVENTS}), work.do):
        with pytest.raises(Unavailable, match="cannot be reached, or cannot serve just now"):
            attempt()
    assert not work.held


def test_without_credentials(topic, monkeypatch, tmp_path):
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    found = destination("pubsub://project/topic", "events", topic.state)
    with pytest.raises(DestinationError, match="no credentials that Google accepts were found"):
        found.check_tables({"data": EVENTS})


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (exceptions.ServiceUnavailable("a"), Unavailable, "cannot serve just now: a"),
        (exceptions.ResourceExhausted("a"), Unavailable, "cannot serve just now: a"),
        (exceptions.DeadlineExceeded("a"), Unavailable, "cannot serve just now: a"),
        (exceptions.RetryError("b", exceptions.InternalServerError("a")), Unavailable, "now: a"),
        (auth.TransportError("a"), Unavailable, "cannot serve just now: a"),
        (exceptions.PermissionDenied("a"), DestinationError, r"no permission \(roles/pubsub.pub"),
        (exceptions.NotFound("a"), DestinationError, "there is no such topic: a"),
        (exceptions.InvalidArgument("a"), DestinationError, "pubsub://p/t: a"),
        (exceptions.Unauthenticated("a"), DestinationError, "no credentials that Google accepts"),
        (auth.DefaultCredentialsError("a"), DestinationError, "no credentials that Google accept"),
        (exceptions.ServiceUnavailable("Getting metadata failed: RefreshError('invalid_grant')"),
         DestinationError, "no credentials that Google accepts"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_what_goes_wrong_is_said(peer, error, kind, message):
    with pytest.raises(kind, match=message) as raised, connected("pubsub://p/t"):
        raise error
    assert raised.value.__cause__ is error


def test_who_may_publish_need_not_see_the_topic(topic, monkeypatch):
    def refused(*args, **options):
        raise exceptions.PermissionDenied("pubsub.topics.get")

    monkeypatch.setattr("google.cloud.pubsub_v1.PublisherClient.get_topic", refused)
    topic.output().destination.check_tables({"data": EVENTS})


def test_two_runs(topic):
    topic.commit(events(1), run_id="r1")
    topic.commit(events(2), run_id="r2")
    topic.assert_holds(events(1, 2))
    assert NOON.isoformat()[:10] in messages(topic)[0].attributes["event_time"]
