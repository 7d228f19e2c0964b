"""Whole jobs over subscriptions and shards, through the command line: runs in any cuts, killed at
any moment, live on Prism, add up to what one batch over all the events gives."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import fastavro
import pytest

from tests.pipelines.clicks import JobFolder, judge, page_views
from tests.services import kinesis, pubsub
from tests.services.object_stores import object_store
from tests.services.prism import prism_location
from tests.services.prism import why_not as why_no_prism
from tests.services.serving import NoServer

if reason := pubsub.why_not() or kinesis.why_not():
    pytest.skip(reason, allow_module_level=True)

from apache_beam.portability.api import beam_runner_api_pb2
from millstream.pipelines import exit_codes
from millstream.pipelines.cli import main

pytestmark = [pytest.mark.service, pytest.mark.cloud, pytest.mark.slow]

Kind = Literal["pubsub", "kinesis"]
SECONDS = 120.0


@pytest.fixture(scope="module")
def peers():
    """Both services, by their schemes."""
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            pubsub.running() as messages,
            kinesis.running() as shards,
        ):
            for name, value in messages.environment.items():
                patch.setenv(name, value)
            for name, value in kinesis.environment(shards.address).items():
                patch.setenv(name, value)
            yield {"pubsub": messages, "kinesis": shards}
    except NoServer as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def events(tmp_path_factory) -> list[bytes]:
    """1,200 events, some broken, in their order, and a little out of it."""
    folder = JobFolder.make(tmp_path_factory.mktemp("events") / "job", events=1200)
    plain = [file for file in folder.files if file.suffix == ".jsonl"]
    lines = [line for file in plain for line in file.read_bytes().split(b"\n") if line.strip()]
    return lines


@dataclass
class StreamJob:
    """The example's job over a stream of its own."""

    kind: Kind
    peer: Any
    folder: JobFolder
    name: str
    sent: Counter[bytes]

    @classmethod
    def make(cls, kind: Kind, peer: Any, path: Path) -> StreamJob:
        folder, name = JobFolder.make(path), f"events-{os.urandom(4).hex()}"
        if kind == "pubsub":
            peer.make(name)
            uri = f"pubsub://{pubsub.PROJECT}/{name}"
        else:
            peer.make(name, shards=2)
            uri = f"kinesis://{kinesis.REGION}/{name}?endpoint={peer.address}"
        job = Path(folder.job)
        text = re.sub(r"input: .*", f"input: {uri}", job.read_text("utf-8"))
        job.write_text(text + "late: jsonl:warehouse/late\ndisorder: 2d\ncommit_every: 1\n")
        return cls(kind, peer, folder, name, Counter())

    def send(self, lines: Sequence[bytes]) -> None:
        if self.kind == "pubsub":
            self.peer.publish(self.name, lines)
        else:
            self.peer.put(self.name, lines)
        self.sent.update(lines)

    def peer_sends(self, payload: bytes, key: str, **attributes: str) -> None:
        """Send something that has a key and, where the service has any, attributes."""
        if self.kind == "pubsub":
            self.peer.publish(self.name, [payload], key, **attributes)
        else:
            self.peer.client.put_record(StreamName=self.name, Data=payload, PartitionKey=key)

    def run(self, *arguments: str) -> int:
        return main(["ingest", "--job", self.folder.job, "--until=now", *arguments])

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "millstream.pipelines.cli", "ingest", "--job"]
        with (self.folder.path / "run.log").open("ab") as log:
            return subprocess.Popen(
                [*command, self.folder.job, *arguments], stdout=log, stderr=subprocess.STDOUT
            )

    def has_all(self) -> bool:
        """Whether all good records are there."""
        good = sum(n for line, n in self.sent.items() if judge(line)[1] is not None)
        return len(self.folder.table()) >= good

    def assert_exact(self) -> None:
        """All that was sent is where it belongs, once, and every commit balances."""
        records: Counter[Any] = Counter()
        dead: Counter[bytes] = Counter()
        for line, count in self.sent.items():
            _, row = judge(line)
            if row is None:
                dead[line] += count
            else:
                records[row] += count
        assert self.folder.records() == records
        assert Counter(letter.payload for letter in self.folder.letters().elements()) == dead
        assert self.folder.table("late", "jsonl") == []
        assert self.folder.page_views() == page_views(records)
        for row in self.folder.ledger():
            out = sum(row[n] for n in ("written", "dead", "duplicate", "filtered", "late"))
            assert row["open_before"] + row["read"] == out + row["open_after"], row


@pytest.fixture(params=["pubsub", "kinesis"])
def job(request, peers, tmp_path) -> StreamJob:
    return StreamJob.make(request.param, peers[request.param], tmp_path / "job")


def test_runs_add_up_to_one_batch(job, events):
    chance = random.Random(3)
    left = list(events)
    while left:
        count = chance.randint(1, 500)
        job.send(left[:count])
        del left[:count]
        if job.kind == "kinesis" and len(left) in range(300, 900):
            job.peer.split(job.name, _open_shard(job))
        assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    job.assert_exact()


def test_dead_letters_have_what_messages_carry(job):
    job.peer_sends(b"{broken", "user 1", colour="red")
    assert job.run() == exit_codes.OK
    (letter,) = job.folder.table("dead_letters", "jsonl")
    assert letter["payloadBytes"] == b"{broken"
    carried = {pair["key"]: pair["value"] for pair in letter["attributes"]}
    if job.kind == "pubsub":
        at = carried.pop("pubsub.publish_time")
        assert carried == {
            "pubsub.message_id": letter["position"],
            "pubsub.ordering_key": "user 1",
            "pubsub.attribute.colour": "red",
        }
    else:
        at = carried.pop("kinesis.arrival_time")
        assert len(carried.pop("kinesis.sequence_number")) == 56
        assert carried == {"kinesis.partition_key": "user 1"}
    assert abs(dt.datetime.fromisoformat(at).timestamp() - time.time()) < 600


def test_messages_in_avro_are_replayed_as_avro(job, tmp_path):
    """Of what a step refused, nothing but the job says how it is read."""
    names = ["event_id", "user_id", "event_type", "page"]
    fields: list[dict[str, Any]] = [{"name": name, "type": "string"} for name in names]
    fields.append({"name": "ts", "type": {"type": "long", "logicalType": "timestamp-micros"}})
    schema = {"type": "record", "name": "Click", "fields": fields}
    (tmp_path / "click.avsc").write_text(json.dumps(schema))
    text = Path(job.folder.job).read_text("utf-8")
    uri = re.search(r"input: (.*)", text)[1]  # type: ignore[index]
    query = f"{'&' if '?' in uri else '?'}format=avro&schema={tmp_path}/click.avsc"
    text = text.replace(uri, uri + query) + "steps:\n- sql: SELECT *, {} AS n FROM records\n"
    Path(job.folder.job).write_text(text.replace("{}", "CAST(page AS INTEGER)"))
    at = dt.datetime(2026, 11, 29, tzinfo=dt.UTC)
    said = {"user_id": "u1", "event_type": "view", "page": "/a", "ts": at}
    for n in range(5):
        out = io.BytesIO()
        event = {**said, "event_id": f"00000000-0000-4000-8000-00000000000{n}"}
        fastavro.schemaless_writer(out, fastavro.parse_schema(schema), event)
        job.peer_sends(out.getvalue(), f"key {n}")
    assert job.run() == exit_codes.OK
    assert job.folder.table() == []
    # Whatever fails again is read by the job, and not as JSON.
    assert main(["dead-letters", "replay", "--job", job.folder.job]) == exit_codes.OK
    assert {tuple(letter["codes"]) for letter in job.folder.table("dead_letters", "jsonl")} == {
        ("STEP",)
    }
    Path(job.folder.job).write_text(text.replace("{}", "length(page)"))
    assert main(["dead-letters", "replay", "--job", job.folder.job]) == exit_codes.OK
    assert [row["n"] for row in job.folder.table()] == [2] * 5


def test_on_dataflow_a_subscription_is_read_by_our_own_source(peers, tmp_path, monkeypatch):
    """Beam's own would acknowledge messages before they are committed."""
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
    from apache_beam.runners.runner import PipelineResult, PipelineState

    translated = []
    plain: Any = DataflowRunner.run_pipeline

    def run_pipeline(self: Any, pipeline: Any, options: Any) -> Any:
        translated.append(plain(self, pipeline, options).job.proto_pipeline)
        result: Any = PipelineResult(PipelineState.DONE)
        result.wait_until_finish = lambda duration=None: PipelineState.DONE
        return result

    monkeypatch.setattr(DataflowRunner, "run_pipeline", run_pipeline)
    job = StreamJob.make("pubsub", peers["pubsub"], tmp_path / "job")
    path = Path(job.folder.job)
    text = path.read_text("utf-8").replace(":warehouse/", ":gs://bucket/warehouse/")
    path.write_text(text, "utf-8")
    places = [f"--{name}=gs://bucket/{name}" for name in ("temp_location", "staging_location")]
    image = "--sdk_container_image=example.org/millstream:1"
    flags = ["--dry_run=True", "--no_auth", "--sdk_location=container", image, *places]
    where = ["--project=shop", "--region=us-central1"]
    command = ["ingest", "--job", job.folder.job, "--streaming", "--runner=DataflowRunner"]
    with object_store("gs", "bucket"):
        assert main([*command, *flags, *where]) == exit_codes.OK
    (pipeline,) = translated
    urns = Counter(t.spec.urn for t in pipeline.components.transforms.values())
    assert not [urn for urn in urns if "pubsub" in urn]
    payloads = [
        beam_runner_api_pb2.ParDoPayload.FromString(t.spec.payload)
        for t in pipeline.components.transforms.values()
        if t.spec.urn == "beam:transform:pardo:v1"
    ]
    assert sum(bool(found.restriction_coder_id) for found in payloads) == 1


def _open_shard(job: StreamJob) -> str:
    shards = job.peer.client.list_shards(StreamName=job.name)["Shards"]
    return next(
        s["ShardId"] for s in shards if "EndingSequenceNumber" not in s["SequenceNumberRange"]
    )


def test_a_run_that_is_killed_is_mended_by_the_next(job, events):
    chance = random.Random(5)
    left = list(events)
    while left:
        job.send(left[:300])
        del left[:300]
        process = job.start("--until=now")
        time.sleep(chance.uniform(2.0, 6.0))
        process.kill()
        process.wait()
    deadline = time.monotonic() + SECONDS
    while not job.has_all():
        assert time.monotonic() < deadline  # what the dead have leased comes after a minute
        assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    job.assert_exact()


def test_live_on_prism(job, events):
    prism = prism_location()
    if prism is None:
        pytest.skip(why_no_prism())
    flags = ["--streaming", "--runner=PrismRunner", f"--prism_location={prism}"]
    half = len(events) // 2
    for part, last in ((events[:half], False), (events[half:], True)):
        process = job.start(*flags, *(["--close_windows"] if last else []))
        try:
            for start in range(0, len(part), 200):
                job.send(part[start : start + 200])
                time.sleep(0.3)
            _wait(process, job.has_all)
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == exit_codes.OK
        finally:
            process.kill()
            process.wait()
    job.assert_exact()


def _wait(process: subprocess.Popen[bytes], is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_done():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline
        time.sleep(0.2)
