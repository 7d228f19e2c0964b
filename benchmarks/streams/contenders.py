"""Who reads the topic: how each is started, and one drain of a topic, checked."""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple

import yaml
from peers import Peer
from run import Report, millstream, progress

from streams import feed
from streams.reference import VIEWS, By, Reference, differences, kept
from streams.running import ParquetRows, Rows, Running, committed_rows, drain, no_rows

HERE = Path(__file__).parent
PATH = {"PYTHONPATH": str(HERE.parent)}
"""Where the alternatives find what they share."""
CLOSING = timedelta(hours=4)
"""How much later than all others the closing events are: more than anybody's disorder."""
LOOK_SECONDS = 0.5
PEERS = (
    Peer(
        "bytewax",
        "bytewax_kafka.py",
        ("bytewax[kafka]==0.21.1", "confluent-kafka==2.16.1", "orjson==3.13.0"),
        "All validation by hand; no Parquet. It does not wait for partitions that are behind: all"
        " windows are kept open to the end",
    ),
    Peer(
        "quixstreams",
        "quixstreams_kafka.py",
        ("quixstreams==3.28.1", "orjson==3.13.0", "pyarrow==26.0.1"),
        "All validation by hand; grouped through a second topic. It does not wait for partitions"
        " that are behind: all windows are kept open to the end",
    ),
)


Command = list[str | int | Path]
Closing = Literal["with the events", "after them", "by itself"]
"""When the events come that close the last windows: at the end of the topic, once all before them
have been read, or never, since windows are given when the topic ends."""


@dataclass(frozen=True)
class Topic:
    """A topic that is filled from a file of lines, and what its results have to be."""

    name: str
    events: int
    lines: Path
    wanted: Reference

    def closing_lines(self) -> Iterator[bytes]:
        return feed.closing_lines(self.wanted.end + CLOSING)


@dataclass(frozen=True)
class Contender:
    """Who does the job: ``command`` is given a topic's name and an output folder.

    ``rows`` tells how far it is, if it does not end by itself; ``checked`` whether it has results.
    Who is ``slow`` may be given fewer events.
    Who is closed after the events commits offsets to a group that is named like the topic.
    """

    name: str
    command: Callable[[str, Path], Command]
    rows: Callable[[], Rows] = lambda: no_rows
    checked: bool = True
    closing: Closing = "with the events"
    slow: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


class Outcome(NamedTuple):
    """What a drain took, and in what its results differ, if they do."""

    seconds: float
    cpu: float
    differs: str
    output: str


class LaterClosing:
    """Sends the closing events to a topic, once a group has committed all that is before them."""

    def __init__(self, broker: str, name: str, topic: Topic) -> None:
        self._broker = broker
        self._name = name
        self._topic = topic
        self._looked = 0.0
        self._sent = False

    def __call__(self) -> None:
        if self._sent or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        if feed.committed(self._broker, self._name, group=self._name) >= self._topic.events:
            feed.send(self._broker, self._name, self._topic.closing_lines())
            self._sent = True


@dataclass
class Bench:
    """What all figures need."""

    broker: str
    args: argparse.Namespace
    report: Report
    folder: Path

    # Topics

    def topic(self, kind: str, lines: Path, count: int, by: By) -> Topic:
        """A topic of a file's lines, and of events that close all windows of them."""
        topic = Topic(f"{kind}-{count}", count, lines, kept(lines, by))
        self._fill(topic, topic.name, closed=True)
        return topic

    @contextmanager
    def _fed(self, topic: Topic, closing: Closing) -> Iterator[tuple[str, Callable[[], None]]]:
        """The name of a topic as a contender needs it, and what is to be called now and then."""
        if closing == "with the events":
            yield topic.name, lambda: None
            return
        name = f"{topic.name}-{uuid.uuid4().hex[:8]}"
        self._fill(topic, name, closed=False)
        try:
            later = closing == "after them"
            yield name, LaterClosing(self.broker, name, topic) if later else lambda: None
        finally:
            feed.delete(self.broker, name)

    def _fill(self, topic: Topic, name: str, *, closed: bool) -> None:
        progress.print(f"  filling {name} with {topic.events:,} events", style="dim")
        closing = topic.closing_lines() if closed else ()
        feed.fill(self.broker, name, itertools.chain(feed.lines_of(topic.lines), closing))

    # Contenders

    def bare(self) -> Contender:
        return Contender("bare loop", self._script("bare_loop.py"), checked=False)

    def incremental(self) -> Contender:
        def command(topic: str, out: Path) -> Command:
            job = self.job("stream.yaml", topic, out, until="now")
            return [millstream(), "ingest", "--job", job]

        return Contender("millstream, incremental", command)

    def live(self) -> Contender:
        def command(topic: str, out: Path) -> Command:
            return self.streaming(self.job("stream.yaml", topic, out))

        return Contender("millstream, live", command, rows=lambda: committed_rows)

    def rows(self) -> Contender:
        script = self._script("beam_rows.py", "--prism", self.args.prism)
        return Contender("Beam row by row", script, rows=ParquetRows, slow=True, env=PATH)

    def peer(self, peer: Peer) -> Contender:
        script = self._script(peer.script)
        ends = peer.name == "bytewax"
        rows = (lambda: no_rows) if ends else ParquetRows
        closing: Closing = "by itself" if ends else "after them"

        def command(topic: str, out: Path) -> Command:
            return [peer.python, *script(topic, out)[1:], "--processes", self.args.processes]

        return Contender(peer.name, command, rows=rows, closing=closing, slow=True, env=PATH)

    def job(self, name: str, topic: str, out: Path, **changes: str) -> Path:
        """A job file that reads a topic, and writes into a folder."""
        job = yaml.safe_load((HERE / name).read_text())
        job |= {"input": f"kafka://{self.broker}/{topic}", **changes}
        job["contract"] = str(HERE / job["contract"])
        for place in ("dead_letters", "late", "ledger"):
            job[place] = f"jsonl:{out / place}"
        job["state"] = str(out / "state")
        for aggregate in job["aggregates"]:
            aggregate["output"] = f"parquet:{out / aggregate['name']}"
        path = out / "job.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    def streaming(self, job: Path) -> Command:
        prism = f"--prism_location={self.args.prism}"
        return [millstream(), "ingest", "--job", job, "--streaming", "--runner=PrismRunner", prism]

    def _script(self, name: str, *more: str) -> Callable[[str, Path], Command]:
        def command(topic: str, out: Path) -> Command:
            script = [sys.executable, HERE / name, "--broker", self.broker]
            return [*script, "--topic", topic, "--out", out, *more]

        return command

    # Running

    @contextmanager
    def place(self) -> Iterator[Path]:
        out = Path(tempfile.mkdtemp(dir=self.folder))
        yield out
        shutil.rmtree(out, ignore_errors=True)

    def once(self, who: Contender, topic: Topic) -> Outcome:
        """One drain, checked.

        Raises:
            RuntimeError: it failed.
        """
        progress.print(f"  {who.name}: {topic.events:,} events", style="dim")
        with self.place() as out, self._fed(topic, who.closing) as (name, look):
            running = Running(who.command(name, out), out / "log.txt", who.env)
            try:
                wanted = topic.wanted.groups
                cost = drain(running, out, who.rows(), wanted, self.args.patience, look)
            finally:
                running.stop()
            found = differences(topic.wanted, out, VIEWS) if who.checked else ()
            outcome = Outcome(cost.seconds, cost.cpu, ", ".join(found), running.output)
        said = f"    {cost.seconds:.2f} s, {cost.cpu:.2f} CPU-s {outcome.differs}"
        progress.print(said, style="dim", markup=False)
        return outcome
