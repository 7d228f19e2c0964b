"""The example's job over a topic: what is sent, and what must come out of it."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from millstream.pipelines.cli import main

from tests.pipelines.clicks import (
    Expected,
    JobFolder,
    Letter,
    Row,
    judge,
    page_views,
)
from tests.services.kafka import Kafka

START = datetime(2026, 11, 23, 12, tzinfo=UTC)
PARTITIONS = 4
Message = tuple[int, bytes]
"""Partition and payload."""


def event(at: datetime, chance: random.Random) -> bytes:
    """A click at a time, one in thirty broken."""
    said: dict[str, Any] = {
        "event_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "ts": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "user_id": f"u{chance.randrange(50)}",
        "event_type": chance.choice(["view", "click", "cart", "buy"]),
        "page": f"/p{chance.randrange(5)}",
        "amount": round(chance.uniform(0, 100), 2),
        "quantity": chance.randint(1, 9),
    }
    if chance.random() < 1 / 30:
        said |= chance.choice([{"ts": "yesterday"}, {"quantity": "5"}, {"user_id": None}])
    payload = json.dumps(said).encode()
    return payload[:-9] if chance.random() < 0.01 else payload


def events(
    count: int,
    *,
    seed: int = 1,
    seconds: float = 600,
    disorder: float = 20,
    start: datetime = START,
    partitions: Sequence[int] = range(PARTITIONS),
) -> list[Message]:
    """Clicks over some time, each at most ``disorder`` seconds after one that is later."""
    chance = random.Random(seed)
    times = sorted(
        (start + timedelta(seconds=chance.uniform(0, seconds)) for _ in range(count)),
        key=lambda at: at + timedelta(seconds=chance.uniform(0, disorder)),
    )
    return [(chance.choice(list(partitions)), event(at, chance)) for at in times]


@dataclass
class TopicJob:
    """The example's job, reading a topic of its own."""

    folder: JobFolder
    broker: Kafka
    topic: str
    sent: dict[int, list[bytes]] = field(default_factory=dict)

    @classmethod
    def make(cls, path: Path, broker: Kafka, partitions: int = PARTITIONS) -> TopicJob:
        folder = JobFolder.make(path)
        topic = f"clicks-{uuid.uuid4().hex[:8]}"
        broker.make(topic, partitions)
        job = cls(folder, broker, topic)
        job.write()
        return job

    def write(self, *changes: tuple[str, str], lines: str = "", query: str = "") -> None:
        """The job file, with some text in place of other."""
        text = (Path(__file__).parents[2] / "examples/clickstream/job.yaml").read_text("utf-8")
        text = re.sub(r"input: .*", f"input: {self.uri(query)}", text)
        text = text.replace("{fixed: 1m}", "{fixed: 10s}")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        late = "" if "late:" in lines else "late: jsonl:warehouse/late\n"
        disorder = "" if "disorder:" in lines else "disorder: 20s\n"
        Path(self.folder.job).write_text(text + late + disorder + lines, "utf-8")

    def uri(self, query: str = "") -> str:
        uri = f"kafka://{self.broker.inner}/{self.topic}"
        return f"{uri}?{query}" if query else uri

    def send(self, messages: Sequence[Message]) -> None:
        """Send messages, in their order, and remember them."""
        from confluent_kafka import Producer

        # Without idempotence a message that is sent again may come after those that followed it.
        settings = {"linger.ms": 5, "enable.idempotence": True}
        producer = Producer({"bootstrap.servers": self.broker.inner, **settings})
        for partition, payload in messages:
            producer.produce(self.topic, payload, partition=partition)
            self.sent.setdefault(partition, []).append(payload)
            producer.poll(0)
        assert producer.flush(30) == 0

    def run(self, *arguments: str) -> int:
        """Read up to now."""
        return main(["ingest", "--job", self.folder.job, "--until=now", *arguments])

    def run_killed(self, after: float) -> None:
        """Read up to now, in a process that is killed after some seconds."""
        killed = subprocess.Popen(
            self.command("--until=now"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(after)
        killed.kill()
        killed.wait()

    def command(self, *arguments: str) -> list[str]:
        return [
            *(sys.executable, "-m", "millstream.pipelines.cli", "ingest"),
            *("--job", self.folder.job, *arguments),
        ]

    def live(self, runner: Sequence[str], *arguments: str) -> Live:
        """Read on a runner for as long as the block lasts."""
        command = self.command("--streaming", *runner, *arguments)
        return Live(command, self.folder.path / "live.log")

    def expected(self) -> Expected:
        found = Expected()
        for partition, payloads in self.sent.items():
            source = f"{partition}"
            for offset, payload in enumerate(payloads):
                found.read[source] += 1
                codes, row = judge(payload)
                if row is None:
                    letter = Letter(source, str(offset), payload, tuple(sorted(codes)))
                    found.letters[letter] += 1
                else:
                    found.written[source] += 1
                    found.records[row] += 1
        return found

    def late(self) -> list[dict[str, Any]]:
        return self.folder.table("late", "jsonl")

    def views(self) -> dict[Row, Row]:
        """What windows hold, each of which must be given once."""
        views = self.folder.page_views()
        assert len(views) == len(self.folder.table("page_views")), "a window was given twice"
        return views

    def assert_exact(self) -> None:
        """Every record is where it belongs, once, and every window is what its records make."""
        expected = self.expected()
        assert self.folder.records() == expected.records
        assert self.folder.letters() == expected.letters
        late = {(row["source"], row["position"]) for row in self.late()}
        on_time = Counter(expected.records)
        for source, position in late:
            payload = self.sent[int(source.rpartition("/")[2])][int(position)]
            on_time[judge(payload)[1] or ()] -= 1
        assert self.views() == page_views(+on_time, timedelta(seconds=10))
        self.assert_balanced()

    def assert_balanced(self) -> None:
        """Every commit balances, and begins with what the one before it left open."""
        left: Counter[str] = Counter()
        runs: dict[str, list[dict[str, Any]]] = {}
        for row in self.folder.ledger():
            runs.setdefault(row["run_id"], []).append(row)
        for run in sorted(runs):
            begun: Counter[str] = Counter()
            for row in runs[run]:
                out = sum(row[n] for n in ("written", "dead", "duplicate", "filtered", "late"))
                assert row["open_before"] + row["read"] == out + row["open_after"], row
                begun[row["source"]] += row["open_before"]
            assert +begun == +left
            left = Counter()
            for row in runs[run]:
                left[row["source"]] += row["open_after"]

    def given(self) -> int:
        """Records that are in the output by now."""
        return sum(self.folder.records().values())

    def committed(self) -> int:
        """Records that the ledger accounts for so far."""
        rows = [row for row in self.folder.ledger() if row["output"] == "records"]
        return sum(row["read"] for row in rows)


class Live:
    """A job that runs in a process of its own until it is stopped."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command = command
        self._log = log
        self.code: int | None = None

    def __enter__(self) -> Live:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self

    def __exit__(self, *raised: Any) -> None:
        if self.process.poll() is None and raised[0] is not None:
            self.kill()
        else:
            self.stop()

    @property
    def said(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def stop(self, seconds: float = 60) -> int:
        """Have it end as a user does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it does not stop:\n{self.said}") from None
        return self.code

    def kill(self) -> None:
        """Have it die at once, with the server that it has started."""
        import psutil

        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for child in family:
            if child.is_running():
                child.kill()

    def until(self, is_so: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for something to be so."""
        deadline = time.monotonic() + seconds
        while not is_so():
            assert self.process.poll() is None, f"it has ended:\n{self.said}"
            assert time.monotonic() < deadline, f"it does not come to pass:\n{self.said}"
            time.sleep(0.1)
