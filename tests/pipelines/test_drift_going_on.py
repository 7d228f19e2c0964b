"""Drift in jobs that go on: files up to now, again and again, and a topic that is read live."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from millstream.pipelines import exit_codes
from millstream.transforms.write.files import live_files

from tests.pipelines.kafka_jobs import Live
from tests.pipelines.test_drift import CONTRACT, DRIFTING, GOOD, UNKNOWN, Folder, ids, order
from tests.services import kafka
from tests.services.kafka import Kafka
from tests.services.prism import prism_location, why_not
from tests.services.serving import or_skip

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, cli) -> Folder:
    return Folder(tmp_path, cli)


def test_the_next_run_up_to_now_goes_by_the_evolved_contract(folder):
    folder.put([*GOOD, *DRIFTING])
    assert folder.run("evolve", job="until: now\n").code == 0
    assert folder.ids() == ids(GOOD)
    done = folder.run("evolve", job="until: now\n")
    assert done.code == 0, done
    assert "nothing new since run" in done.err
    folder.put([order(500, coupon="NEXT", qty=2**40)], "in-1.jsonl")
    assert folder.run("evolve", job="until: now\n").code == 0
    rows = {row["id"]: row for row in folder.rows()}
    assert rows["o500"]["coupon"] == "NEXT"
    assert folder.replay().code == 0
    assert folder.ids() == ids([*GOOD, *DRIFTING]) | {"o500"}


def test_a_frozen_run_up_to_now_commits_nothing_and_can_be_made_again(folder):
    folder.put([*GOOD, *DRIFTING])
    done = folder.run("freeze", job="until: now\n")
    assert done.code == exit_codes.GATED, done
    assert "coupon" in done.err
    assert folder.ids() == set()
    done = folder.run("warn", job="until: now\n")
    assert done.code == 0, done
    assert folder.ids() == ids([*GOOD, *UNKNOWN])


# ----------------------------------------------------------------------------------- live


@pytest.fixture(scope="module")
def broker() -> Iterator[Kafka]:
    with or_skip("kafka", kafka.why_not, kafka.running) as peer:
        yield peer


@pytest.fixture
def topic(broker, request) -> str:
    name = f"orders-{time.time_ns()}"
    broker.make(name, 1)
    return name


def send(broker: Kafka, topic: str, records: list[dict[str, Any]]) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker.inner})
    for record in records:
        producer.produce(topic, json.dumps(record).encode(), partition=0)
    assert producer.flush(30) == 0


def live(broker: Kafka, topic: str, folder: Path, policy: str) -> Live:
    prism = prism_location()
    if prism is None:
        pytest.skip(f"prism: {why_not()}")
    (folder / "orders.odcs.yaml").write_text(CONTRACT)
    text = f"""\
name: orders
contract: orders.odcs.yaml
input: kafka://{broker.inner}/{topic}
output: jsonl:out
dead_letters: jsonl:dead
ledger: jsonl:ledger
commit_every: 1
drift: {policy}
"""
    (folder / "job.yaml").write_text(text)
    command = [sys.executable, "-m", "millstream.pipelines.cli", "ingest"]
    command += ["--job", str(folder / "job.yaml"), "--streaming"]
    command += ["--runner=PrismRunner", f"--prism_location={prism}"]
    return Live(command, folder / "live.log")


def given(folder: Path) -> set[str]:
    paths = live_files(f"jsonl:{folder / 'out'}") if (folder / "out").exists() else []
    return {json.loads(line)["id"] for p in paths for line in Path(p).read_text().splitlines()}


def counted(folder: Path) -> dict[str, int]:
    """Records by path, of all commits."""
    found: dict[str, int] = {}
    for path in folder.glob("ledger/_millstream/runs/*/*/drift.json"):
        for place in json.loads(path.read_text())["places"]:
            found[place["path"]] = found.get(place["path"], 0) + place["records"]
    return found


@pytest.mark.service
def test_a_live_job_counts_what_drifts_with_each_commit(broker, topic, tmp_path):
    send(broker, topic, [*GOOD, *DRIFTING])
    with live(broker, topic, tmp_path, "warn") as job:
        job.until(lambda: given(tmp_path) == ids([*GOOD, *UNKNOWN]))
        send(broker, topic, [order(500, coupon="NEXT")])
        job.until(lambda: "o500" in given(tmp_path))
    assert job.code == exit_codes.OK
    assert counted(tmp_path) == {"coupon": 4, "device.v": 1, "qty": 1, "status": 2}
    assert "not as the contract foresees" in job.said


@pytest.mark.service
def test_a_live_job_that_is_frozen_stops_before_the_commit(broker, topic, tmp_path):
    send(broker, topic, GOOD)
    with live(broker, topic, tmp_path, "freeze") as job:
        job.until(lambda: given(tmp_path) == ids(GOOD))
        send(broker, topic, [order(500, coupon="NEXT")])
        job.process.wait(60)
    assert job.code == exit_codes.FAILED
    assert given(tmp_path) == ids(GOOD)
    assert "coupon" in job.said


@pytest.mark.service
def test_a_live_job_evolves_once_and_goes_by_it_when_it_is_started_again(broker, topic, tmp_path):
    send(broker, topic, [*GOOD, order(100, coupon="SPRING")])
    with live(broker, topic, tmp_path, "evolve") as job:
        job.until(lambda: given(tmp_path) == ids(GOOD))
        job.until(lambda: counted(tmp_path) == {"coupon": 1})
        send(broker, topic, [order(101, coupon="SUMMER")])
        job.until(lambda: counted(tmp_path) == {"coupon": 2})
    contracts = list(tmp_path.glob("ledger/_millstream/contracts/*"))
    assert [path.name for path in contracts] == ["orders-1.1.0.odcs.yaml"]
    send(broker, topic, [order(500, coupon="NEXT")])
    with live(broker, topic, tmp_path, "evolve") as job:
        job.until(lambda: "o500" in given(tmp_path))
    assert counted(tmp_path) == {"coupon": 2}
