"""Jobs that read a topic of a real broker: up to now, again and again, and live on Prism."""

from __future__ import annotations

import itertools
import os
import random
import re
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from millstream.pipelines import exit_codes
from millstream.pipelines.cli import main

from tests.pipelines.clicks import JobFolder
from tests.pipelines.kafka_jobs import START, TopicJob, events
from tests.services import kafka
from tests.services.kafka import Kafka
from tests.services.prism import prism_location, why_not
from tests.services.serving import or_skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    with or_skip("kafka", kafka.why_not, kafka.running) as peer:
        yield peer


@pytest.fixture
def job(broker, tmp_path) -> TopicJob:
    return TopicJob.make(tmp_path / "job", broker)


@pytest.fixture(scope="module", params=["prism", "endpoint"])
def runner(request) -> list[str]:
    """The flags of a runner of streams: Prism, and a job server that the environment names.

    ``MILLSTREAM_JOB_ENDPOINT`` is its address (Flink's, say), ``MILLSTREAM_JOB_FLAGS`` the flags
    that it needs besides, as ``--environment_type=LOOPBACK --checkpointing_interval=2000``.
    """
    if request.param == "prism":
        found = prism_location()
        if found is None:
            pytest.skip(f"prism: {why_not()}")
        return ["--runner=PrismRunner", f"--prism_location={found}"]
    endpoint = os.environ.get("MILLSTREAM_JOB_ENDPOINT")
    if not endpoint:
        pytest.skip("MILLSTREAM_JOB_ENDPOINT names no job server")
    options = shlex.split(os.environ.get("MILLSTREAM_JOB_FLAGS", ""))
    return ["--runner=PortableRunner", f"--job_endpoint={endpoint}", *options]


# Up to now


@pytest.mark.parametrize("seed", [1, 2])
def test_runs_add_up_to_one_batch(job, seed):
    chance = random.Random(seed)
    waiting = events(3000, seed=seed)
    while waiting:
        count = chance.randint(1, 1500)
        job.send(waiting[:count])
        waiting = waiting[count:]
        assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    assert job.late() == []
    job.assert_exact()


def test_an_empty_partition_holds_nothing_back(job):
    job.send(events(600, partitions=[0, 2]))
    assert job.run() == exit_codes.OK
    assert len(job.views()) > 100
    job.assert_balanced()


def test_partitions_that_are_an_hour_apart_close_windows_by_the_one_behind(job):
    job.send(events(300, partitions=[0]))
    job.send(events(300, partitions=[1, 2, 3], start=START + timedelta(hours=1), seed=2))
    assert job.run() == exit_codes.OK
    last = max(start for start, *_ in job.views())
    assert last < START + timedelta(minutes=10)
    job.send(events(300, partitions=[0], start=START + timedelta(hours=1), seed=3))
    assert job.run("--close_windows") == exit_codes.OK
    assert job.late() == []
    job.assert_exact()


def test_nothing_new_is_nothing_to_do(job, capsys):
    job.send(events(50))
    assert job.run() == exit_codes.OK
    before = job.folder.snapshot()
    assert job.run() == exit_codes.OK
    assert "nothing new since run c0000000001" in capsys.readouterr().err
    assert job.folder.snapshot() == before


def test_a_partition_that_is_added_is_read_from_its_start(job):
    from confluent_kafka.admin import NewPartitions

    job.send(events(400))
    assert job.run() == exit_codes.OK
    admin = job.broker.admin()
    for done in admin.create_partitions([NewPartitions(job.topic, 6)]).values():
        done.result(20)
    later = START + timedelta(minutes=10)
    deadline = time.monotonic() + 20
    while len(admin.list_topics(job.topic, timeout=5).topics[job.topic].partitions) < 6:
        assert time.monotonic() < deadline
    job.send(events(400, seed=2, start=later, partitions=range(6)))
    assert job.run("--close_windows") == exit_codes.OK
    job.assert_exact()


def test_a_topic_that_was_made_again_is_refused(job, capsys):
    job.send(events(40))
    assert job.run() == exit_codes.OK
    admin = job.broker.admin()
    for done in admin.delete_topics([job.topic], operation_timeout=20).values():
        done.result(20)
    deadline = time.monotonic() + 20
    while job.topic in admin.list_topics(timeout=5).topics:
        assert time.monotonic() < deadline
    job.broker.make(job.topic, 4)
    before = job.folder.snapshot()
    assert job.run() == exit_codes.USAGE
    assert "has been deleted and made again since the last run" in capsys.readouterr().err
    assert job.folder.snapshot() == before


def test_offsets_that_are_gone_are_told(job, capsys):
    from confluent_kafka import TopicPartition

    job.send(events(400))
    assert job.run() == exit_codes.OK
    job.send(events(400, seed=2))
    admin = job.broker.admin()
    end = len(job.sent[1])
    for done in admin.delete_records([TopicPartition(job.topic, 1, end - 5)]).values():
        done.result(20)
    assert job.run() == exit_codes.USAGE
    said = capsys.readouterr().err
    assert re.search(rf"kafka:{job.topic}/1 begins at offset \d+, and has been read to \d+", said)
    assert "offsets are gone" in said


def test_messages_without_a_value_are_dead_letters(job):
    from confluent_kafka import Producer

    job.send(events(20, partitions=[0]))
    producer = Producer({"bootstrap.servers": job.broker.inner})
    producer.produce(job.topic, None, key=b"k", partition=0)
    assert producer.flush(20) == 0
    assert job.run() == exit_codes.OK
    (letter,) = [
        row for row in job.folder.table("dead_letters", "jsonl") if row["position"] == "20"
    ]
    assert letter["codes"] == ["MALFORMED"]
    job.assert_balanced()


def test_dead_letters_have_what_messages_carry(job):
    from confluent_kafka import Producer

    headers: list[tuple[str, str | bytes | None]] = [
        ("trace", b"one"), ("trace", b"two"), ("id", b"\x00\xff\xfe"), ("none", None),
    ]  # fmt: skip
    job.send(events(200))
    producer = Producer({"bootstrap.servers": job.broker.inner})
    producer.produce(job.topic, b"{bad", b"k", 0, None, None, 1764417600123, headers)
    producer.produce(job.topic, b"{too", None, 3, None, None, 1764417600124)
    assert producer.flush(20) == 0
    assert job.run() == exit_codes.OK
    carried = {}
    for row in job.folder.table("dead_letters", "jsonl"):
        carried[row["payloadBytes"]] = [(a["key"], a["value"]) for a in row["attributes"]]
    assert carried.pop(b"{bad") == [
        ("kafka.key", "k"),
        ("kafka.timestamp", "1764417600123"),
        ("kafka.header.trace", "one"),
        ("kafka.header.trace", "two"),
        ("kafka.header_base64.id", "AP/+"),
        ("kafka.header.none", None),
    ]
    assert carried.pop(b"{too") == [("kafka.timestamp", "1764417600124")]
    assert carried
    assert {name for found in carried.values() for name, _ in found} == {"kafka.timestamp"}
    job.assert_balanced()


def test_a_poison_batch_of_anything_harms_no_other_record(job):
    chance = random.Random(3)
    good = events(100, partitions=[0])
    poison = [(0, chance.randbytes(chance.randrange(200))) for _ in range(200)]
    poison += [(0, b"null"), (0, b"{}{}"), (0, b'{"a":' * 600), (0, b"\xff\xfe")]
    job.send([*good[:50], *poison, *good[50:]])
    assert job.run("--close_windows") == exit_codes.OK
    expected = job.expected()
    assert job.folder.records() == expected.records
    assert len(job.folder.letters()) == len(expected.letters)
    job.assert_balanced()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query": "star=latest"}, "no option 'star'; did you mean 'start'?"),
        ({"query": "start=committed"}, "of which group"),
        ({"lines": "late:\n"}, "late is not given"),
    ],
)
def test_mistakes_are_told(job, changes, said, capsys):
    job.write(**changes)
    assert job.run() == exit_codes.USAGE
    assert said in capsys.readouterr().err


def test_a_stream_without_an_end_is_refused(job, capsys):
    job.send(events(5))
    text = Path(job.folder.job).read_text("utf-8").replace("late: jsonl:warehouse/late\n", "")
    Path(job.folder.job).write_text(text, "utf-8")
    assert main(["ingest", "--job", job.folder.job]) == exit_codes.USAGE
    assert "a stream has no end: say until: now" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_killed_is_mended_by_the_next(job, seed):
    chance = random.Random(seed)
    waiting = events(2000, seed=seed)
    for piece in (waiting[:700], waiting[700:1400], waiting[1400:]):
        job.send(piece)
        job.run_killed(after=chance.uniform(1.0, 2.5))
    assert job.run() == exit_codes.OK
    assert job.run("--close_windows") == exit_codes.OK
    assert job.late() == []
    job.assert_exact()


# Live


def closed(job: TopicJob) -> bool:
    """Whether all records are committed, and all windows given."""
    if job.committed() < sum(map(len, job.sent.values())):
        return False
    rows = job.folder.ledger()
    newest = max((row["run_id"] for row in rows), default="")
    return not any(row["open_after"] for row in rows if row["run_id"] == newest)


@pytest.mark.parametrize("rows", [500, 50_000])
def test_a_live_job_gives_every_window_exactly(job, runner, rows):
    job.write(lines=f"commit_every: 1\nidle: 1s\npoll_rows: {rows}\n")
    job.send(events(4000, partitions=[0, 1, 2], seconds=900))
    job.send(events(500, partitions=[1], start=START + timedelta(hours=1), seed=2))
    with job.live(runner) as live:
        live.until(lambda: job.committed() >= 4500)
        for i in range(4):
            later = START + timedelta(hours=1, minutes=10 * (i + 1))
            job.send(events(300, partitions=[0, 1, 2], start=later, seed=10 + i))
            time.sleep(0.4)
        # The clock moves event time on once nothing comes any more: the disorder, and a window.
        live.until(lambda: closed(job), 90)
    assert live.code == exit_codes.OK, live.said
    assert "stopped after" in live.said
    job.assert_exact()


def test_a_live_job_goes_on_where_it_was_stopped_and_up_to_now_after_it(job, runner):
    job.write(lines="commit_every: 1\n")
    waiting = events(3000)
    job.send(waiting[:1000])
    with job.live(runner) as live:
        live.until(lambda: job.committed() >= 500)
    job.send(waiting[1000:2000])
    with job.live(runner) as live:
        live.until(lambda: job.committed() >= 1500)
    job.send(waiting[2000:])
    assert job.run("--close_windows") == exit_codes.OK
    assert job.late() == []
    job.assert_exact()


@pytest.mark.parametrize("seed", range(1))
def test_a_live_job_that_is_killed_loses_and_doubles_nothing(job, runner, seed):
    chance = random.Random(seed)
    job.write(lines="commit_every: 0.5\n")
    waiting = events(3000, seed=seed)
    for piece in (waiting[:1000], waiting[1000:2000], waiting[2000:]):
        with job.live(runner) as live:
            job.send(piece)
            time.sleep(chance.uniform(4, 7))
            live.kill()
    assert job.run("--close_windows") == exit_codes.OK
    assert job.late() == []
    job.assert_exact()


@pytest.mark.parametrize("seed", [1])
def test_a_batch_runs_up_to_now_and_a_live_job_give_the_same(broker, runner, tmp_path, seed):
    """Over the same records: as files, by cuts of a topic, and live from it."""
    chance = random.Random(seed)
    sent = events(3000, seed=seed)
    cuts = sorted(chance.sample(range(1, len(sent)), 3))
    pieces = [sent[a:b] for a, b in itertools.pairwise([0, *cuts, len(sent)])]
    runs = TopicJob.make(tmp_path / "runs", broker)
    live = TopicJob(JobFolder.make(tmp_path / "live"), broker, runs.topic)
    live.write(lines="commit_every: 1\n")
    with live.live(runner, "--close_windows") as reading:
        for piece in pieces:
            runs.send(piece)
            assert runs.run() == exit_codes.OK
            count = sum(map(len, runs.sent.values()))
            reading.until(lambda count=count: live.committed() >= count, 90)
    assert reading.code == exit_codes.OK, reading.said
    assert runs.run("--close_windows") == exit_codes.OK
    batch = JobFolder.make(tmp_path / "batch")
    job = Path(batch.job)
    job.write_text(job.read_text("utf-8").replace("{fixed: 1m}", "{fixed: 10s}"), "utf-8")
    for partition, payloads in runs.sent.items():
        batch.put(f"{partition}.jsonl", b"\n".join(payloads))
    assert main(["ingest", "--job", batch.job, "--allow_no_input"]) == exit_codes.OK
    expected = told(batch)
    for found in (runs, live):
        assert found.late() == []
        found.assert_balanced()
        assert told(found.folder) == expected


def told(folder: JobFolder) -> tuple[Any, ...]:
    """Records, refusals and windows, and what the ledger has of each output and partition."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for row in folder.ledger():
        place = row["output"], Path(row["source"]).name.removesuffix(".jsonl")
        of_row = {name: row[name] for name in ("read", "written", "dead", "late")}
        counts.setdefault(place, Counter()).update(of_row)
    letters = Counter((letter.payload, letter.codes) for letter in folder.letters().elements())
    return folder.records(), letters, folder.page_views(), counts


def test_a_broker_that_hangs_dies_and_comes_back_costs_no_record(runner, tmp_path):
    with or_skip("kafka", kafka.why_not, kafka.breakable) as broker:
        job = TopicJob.make(tmp_path / "job", broker.peer)
        # Event time goes on by the clock while nothing is sent, which may be for long where a
        # machine is busy: what is sent then is late by right, but for more disorder than there is.
        job.write(lines="commit_every: 1\nidle: 1s\ndisorder: 10m\n")
        waiting = events(2000)
        job.send(waiting[:700])
        with job.live(runner) as live:
            live.until(lambda: job.committed() >= 700)
            with broker.hanging():
                time.sleep(4)
            job.send(waiting[700:1400])
            live.until(lambda: job.committed() >= 1400)
            broker.kill()
            time.sleep(1)
            broker.start()
            job.send(waiting[1400:])
            live.until(lambda: job.committed() >= 2000)
        assert live.code == exit_codes.OK, live.said
        assert job.run("--close_windows") == exit_codes.OK
        assert job.late() == []
        job.assert_exact()


def test_lag_tools_see_how_far_the_job_is(job):
    from confluent_kafka import ConsumerGroupTopicPartitions

    job.write(query="group=the-job")
    job.send(events(200))
    assert job.run() == exit_codes.OK
    admin = job.broker.admin()

    def seen() -> dict[int, int]:
        asked = [ConsumerGroupTopicPartitions("the-job")]
        answer = admin.list_consumer_group_offsets(asked)["the-job"].result(10)
        return {p.partition: p.offset for p in answer.topic_partitions}

    wanted = {partition: len(payloads) for partition, payloads in job.sent.items()}
    deadline = time.monotonic() + 10
    while seen() != wanted:
        assert time.monotonic() < deadline
