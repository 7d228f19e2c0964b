"""Streams of Kinesis: shards that split and merge, numbers of 56 digits, and what fails."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from tests.services import kinesis as service
from tests.services.serving import NoServer

if reason := service.why_not():
    pytest.skip(f"kinesis: {reason}", allow_module_level=True)

from millstream.schemas.arrow import PAYLOADS
from millstream.schemas.contract import Contract, Field
from millstream.transforms.carry import SourceState
from millstream.transforms.dead_letters import Origin
from millstream.transforms.plan import OPEN_END
from millstream.transforms.read.errors import SourceError, Unavailable
from millstream.transforms.read.kinesis import fetching, reader
from millstream.transforms.read.kinesis.client import DONE, Answer, Expired, Kinesis, Throttled
from millstream.transforms.read.kinesis.inputs import KinesisInput, parse_input
from millstream.transforms.read.kinesis.messages import AGGREGATED, KinesisMessages
from millstream.transforms.read.kinesis.stream import KinesisStream, begin
from millstream.transforms.read.streams.source import Polled, StreamReader

pytestmark = [pytest.mark.service, pytest.mark.cloud]

SECONDS = 60.0
_NUMBERS = itertools.count()


@pytest.fixture(autouse=True)
def _credentials(monkeypatch):
    for name, value in service.environment("").items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def peer():
    try:
        with pytest.MonkeyPatch.context() as patch, service.running() as found:
            for name, value in service.environment(found.address).items():
                patch.setenv(name, value)
            yield found
    except NoServer as error:
        pytest.skip(f"kinesis: {error}")


@dataclass
class Job:
    """A stream that nobody has used, and a job that reads it."""

    peer: service.Kinesis
    shards: int = 1
    query: str = ""
    name: str = field(default_factory=lambda: f"stream-{next(_NUMBERS)}")
    states: Mapping[str, SourceState] = field(default_factory=dict)
    read: list[tuple[str, int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.peer.make(self.name, self.shards)

    @property
    def input(self) -> KinesisInput:
        query = "&".join(filter(None, [f"endpoint={self.peer.address}", self.query]))
        return parse_input(f"kinesis://{service.REGION}/{self.name}?{query}")

    @property
    def payloads(self) -> Counter[bytes]:
        return Counter(payload for _, _, payload in self.read)

    def source(self, shard: int) -> str:
        return self.input.source_name(_shard(shard))

    def put(self, *payloads: bytes) -> None:
        self.peer.put(self.name, payloads)

    def split(self, shard: int) -> None:
        self.peer.split(self.name, _shard(shard))

    def merge(self, shard: int, other: int) -> None:
        self.peer.merge(self.name, _shard(shard), _shard(other))

    def run(self) -> None:
        """What a run with ``until: now`` does."""
        begun = begin(self.input, self.states)
        self.states = begun.states
        with KinesisStream(self.input, begun.done).open(self.states) as opened:
            ends = {s: OPEN_END for s, v in self.states.items() if v.cursor != DONE}
            for polled in opened.until(ends):
                self.take(polled)

    def take(self, polled: Polled) -> None:
        columns = (polled.batch.column(name).to_pylist() for name in polled.batch.schema.names)
        self.read += zip(*columns, strict=True)
        cursors = polled.cursors or {}
        after = {
            source: SourceState(next=next, cursor=cursors[source])
            for source, next in polled.next.items()
        }
        self.states = {**self.states, **after}

    def poll_until(self, opened: StreamReader, rows: int) -> None:
        """Poll a stream until so much has been read in all."""
        deadline = time.monotonic() + SECONDS
        while len(self.read) < rows:
            assert time.monotonic() < deadline, len(self.read)
            opened.discover()
            if polled := opened.poll(10_000, 0.1):
                self.take(polled)


def _shard(number: int) -> str:
    return f"shardId-{number:012}"


def payloads(count: int, start: int = 0) -> Sequence[bytes]:
    return [b'{"n": %d}' % n for n in range(start, start + count)]


@pytest.fixture
def job(peer) -> Job:
    return Job(peer)


def test_runs_go_on_from_one_another(peer):
    job = Job(peer, shards=3)
    for n in range(3):
        job.put(*payloads(700, 700 * n))
        job.run()
        assert job.payloads == Counter(payloads(700 * (n + 1)))
    for shard in range(3):
        positions = [position for source, position, _ in job.read if source == job.source(shard)]
        assert positions == list(range(len(positions)))
        state = job.states[job.source(shard)]
        assert state.next == len(positions) > 100
        assert len(state.cursor) == 56
    job.run()
    assert job.payloads == Counter(payloads(2100))


def test_a_shard_is_in_order(job):
    job.put(*payloads(1200))
    job.run()
    assert [payload for _, _, payload in job.read] == payloads(1200)


def test_children_are_read_after_their_parents(peer):
    job = Job(peer, shards=2)
    job.put(*payloads(400))
    job.run()
    job.put(*payloads(300, 400))
    job.split(0)  # into 2 and 3
    job.put(*payloads(300, 700))
    job.merge(2, 3)  # into 4
    job.put(*payloads(300, 1000))
    job.run()
    assert job.payloads == Counter(payloads(1300))
    order = [source for source, _, _ in job.read]
    last = {source: n for n, source in enumerate(order)}
    first = {source: n for n, source in reversed(list(enumerate(order)))}
    assert last[job.source(0)] < min(first[job.source(2)], first[job.source(3)])
    assert max(last[job.source(2)], last[job.source(3)]) < first[job.source(4)]
    done = {source for source, state in job.states.items() if state.cursor == DONE}
    assert done == {job.source(0), job.source(2), job.source(3)}
    job.put(*payloads(50, 1300))
    job.run()
    assert job.payloads == Counter(payloads(1350))


def test_a_shard_that_splits_while_it_is_read(job):
    job.put(*payloads(300))
    job.states = begin(job.input, {}).states
    with KinesisStream(job.input).open(job.states) as opened:
        job.poll_until(opened, 300)
        job.split(0)
        job.put(*payloads(300, 300))
        job.poll_until(opened, 600)
        job.merge(1, 2)
        job.put(*payloads(300, 600))
        job.poll_until(opened, 900)
        deadline = time.monotonic() + SECONDS
        while opened.at_end() != {job.source(n) for n in range(4)}:
            assert time.monotonic() < deadline
            if polled := opened.poll(10, 0.1):
                job.take(polled)
    assert job.payloads == Counter(payloads(900))
    done = {source for source, state in job.states.items() if state.cursor == DONE}
    assert done == {job.source(n) for n in range(3)}


def test_a_child_whose_parent_is_read_elsewhere_waits_for_the_next_run(job):
    job.put(*payloads(100))
    job.split(0)
    job.put(*payloads(100, 100))
    begun = begin(job.input, {})
    parent, *children = (job.source(n) for n in range(3))
    for sources in ([parent], children):
        states = {source: begun.states[source] for source in sources}
        with KinesisStream(job.input, begun.done).open(states) as opened:
            for polled in opened.until(dict.fromkeys(sources, OPEN_END)):
                job.take(polled)
    assert job.payloads == Counter(payloads(100))
    job.states = {**begun.states, **job.states}
    job.run()
    assert job.payloads == Counter(payloads(200))


def test_the_latest_is_what_comes_after_the_first_run_was_planned(peer):
    job = Job(peer, query="start=latest")
    job.put(*payloads(50))
    job.split(0)
    job.put(*payloads(50, 50))
    time.sleep(0.01)
    job.run()
    assert job.read == []
    assert job.states[job.source(0)].cursor == DONE
    job.put(*payloads(20, 100))
    job.run()
    assert job.payloads == Counter(payloads(20, 100))


def test_a_partition_that_is_held_is_not_polled(peer):
    job = Job(peer, shards=2)
    job.put(*payloads(200))
    job.states = begin(job.input, {}).states
    with KinesisStream(job.input).open(job.states) as opened:
        opened.hold({job.source(0)})
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            if polled := opened.poll(1000, 0.1):
                job.take(polled)
        assert {source for source, _, _ in job.read} == {job.source(1)}
        opened.hold(set())
        job.poll_until(opened, 200)
    assert job.payloads == Counter(payloads(200))


def test_iterators_expire_and_streams_throttle(job, monkeypatch):
    plain = Kinesis.records
    faults: list[Exception] = []

    def records(self: Kinesis, iterator: str) -> Answer:
        if faults:
            raise faults.pop()
        answer = plain(self, iterator)
        faults.extend([Throttled("later"), Expired("too old"), Unavailable("cannot be reached")])
        return answer

    monkeypatch.setattr(Kinesis, "records", records)
    monkeypatch.setattr(fetching, "_FIRST_PAUSE", 0.01)
    job.put(*payloads(400))
    job.run()
    job.put(*payloads(10, 400))
    job.run()
    assert job.payloads == Counter(payloads(410))


def test_a_service_that_does_not_answer(monkeypatch):
    broken = service.Breakable()
    monkeypatch.setattr(reader, "PATIENCE_SECONDS", 1.0)
    try:
        job = Job(broken.start())
        job.put(*payloads(10))
        job.states = begin(job.input, {}).states
        with KinesisStream(job.input).open(job.states) as opened:
            job.poll_until(opened, 10)
            broken.stop()
            deadline = time.monotonic() + SECONDS
            while opened.at_end():
                assert time.monotonic() < deadline
                assert opened.poll(10, 0.1) is None
            with pytest.raises(Unavailable, match="cannot be reached: EndpointConnectionError"):
                list(opened.until({job.source(0): OPEN_END}))
        with pytest.raises(Unavailable):
            begin(job.input, {})
    finally:
        broken.stop()


def test_a_stream_that_is_not_there(peer):
    input = parse_input(f"kinesis://{service.REGION}/nothing?endpoint={peer.address}")
    with pytest.raises(SourceError, match="kinesis://us-east-1/nothing: there is no such stream"):
        begin(input, {})


def test_a_shard_that_is_gone_before_it_was_read_is_told(job):
    gone, other = job.source(7), "kinesis:other-stream/shardId-000000000007"
    for known in ({gone: SourceState(cursor=DONE)}, {other: SourceState(next=5, cursor="17")}):
        assert begin(job.input, known).states.keys() == {job.source(0)}
    with pytest.raises(SourceError, match="shardId-000000000007 is gone by the stream's retention"):
        begin(job.input, {gone: SourceState(next=5, cursor="17")})


def test_no_credentials(job, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(SourceError, match="no AWS credentials were found"):
        begin(job.input, {})


def test_another_part_of_the_stream_reads_nothing(job):
    parts = [KinesisStream(job.input).part(n, 2) for n in range(2)]
    assert [part.owns(job.source(0)) for part in parts] == [True, False]


def test_aggregated_records_are_told():
    contract = Contract("c", "1", "c", (Field("n", "integer"),))
    decoding = KinesisMessages(contract, "ignore")(Origin("parse"))
    payloads: list[Any] = [b'{"n": 1}', AGGREGATED + b"\x0a\x01", b'{"n": "x"}', None]
    sources = pa.DictionaryArray.from_arrays(pa.array([0] * 4, pa.int32()), pa.array(["kinesis:s"]))
    columns = [sources, pa.array(range(4), pa.int64()), pa.array(payloads, pa.binary())]
    batch = pa.RecordBatch.from_arrays(columns, schema=PAYLOADS)
    found = [*decoding.put((batch, "more")), *decoding.drain()]
    assert [task[1] for task, _ in found] == ["more", "more"]
    rows = [row for _, d in found for row in (d.records.to_pylist() if d.records.num_rows else [])]
    assert rows == [{"n": 1}]
    letters = {
        letter["position"]: letter["errorMessage"]
        for _, decoded in found
        if decoded.letters is not None
        for letter in decoded.letters.to_pylist()
    }
    assert letters.keys() == {"1", "2", "3"}
    assert "aggregated record of the Kinesis Producer Library" in letters["1"]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("kinesis:stream", "expected kinesis://REGION/STREAM"),
        ("kinesis://nowhere/stream", "expected kinesis://REGION/STREAM"),
        ("kinesis://us-east-1/a/b", "expected kinesis://REGION/STREAM"),
        ("kinesis://us-east-1/s?start=lates", "start=lates; did you mean 'latest'"),
        ("kinesis://us-east-1/s?start=2026-11-29T12:00:00", "in which zone"),
        ("kinesis://us-east-1/s?format=avro", "format=avro needs schema=FILE"),
        ("kinesis://us-east-1/s?schema=a.avsc", "format=avro needs schema=FILE"),
        ("kinesis://us-east-1/s?endpoint=ftp://x", "expected a URL"),
        ("kinesis://us-east-1/s?shard=1", "no option 'shard'"),
    ],
)
def test_uris_that_cannot_be_used(uri, said):
    with pytest.raises(SourceError) as error:
        parse_input(uri)
    assert said in str(error.value)


def test_a_secret_in_the_endpoint_is_not_repeated():
    with pytest.raises(SourceError, match="AWS_SECRET_ACCESS_KEY") as error:
        parse_input("kinesis://us-east-1/s?endpoint=http://key:hunter2@localhost")
    assert "hunter2" not in str(error.value)
