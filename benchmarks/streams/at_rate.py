"""Figure 3: a live job at a rate, its delay and memory; and what the state of many keys costs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import events
import numpy as np
import pyarrow.parquet as pq
from run import progress

from streams import feed
from streams.contenders import PATH, Bench
from streams.reference import USERS, VIEWS, differences, reference
from streams.running import Running, Sampler, committed_files, committed_rows, drain

HERE = Path(__file__).parent
DISORDER = timedelta(seconds=2)
"""What the live job allows for."""
DELAY = 1.0
"""Seconds from when a window may close to its visible result that are asked for."""
GROWTH = 1.2
"""What memory may grow by."""
KEY_BYTES = 100
"""What may be kept in files for each key of a window: its name, a count and a sum."""
LOOK_SECONDS = 0.005
LAST_SECONDS = 30
"""How long the last windows are waited for: nothing comes after them."""
READY = "reading kafka:"
SETTLING_SECONDS = 5
"""What Prism takes to start the first bundles."""
WINDOWS = 3
"""Of a million keys each, one after the other."""


def figures(bench: Bench) -> None:
    """Both parts; a part that fails is reported, and does not stop the other."""
    for name, part in (("delay and memory", live), ("state", many_keys)):
        try:
            part(bench)
        except (RuntimeError, OSError) as error:
            said = " ".join(str(error).split())[-300:]
            bench.report.add(f"3. {name}", f"failed: {said}", "", False)


def live(bench: Bench) -> None:
    """Events as they happen, and when the result of each window can be seen."""
    rate, seconds = bench.args.rate, bench.args.seconds
    topic = f"live-{int(time.time())}"
    feed.make(bench.broker, topic)
    progress.print(f"  millstream, live: {rate:,} events/s for {seconds:,} s", style="dim")
    with bench.place() as out, deleted_topic(bench.broker, topic):
        job = bench.job("stream.yaml", topic, out, disorder=f"{DISORDER.seconds}s")
        with stopping(Running(bench.streaming(job), out / "log.txt", {})) as job_runs:
            wait_until_ready(job_runs)
            feeding = [sys.executable, HERE / "feed.py", "--broker", bench.broker]
            feeding += ["--topic", topic, "--rate", str(rate), "--seconds", str(seconds)]
            with stopping(Running(feeding, out / "feed.txt", PATH)) as feeder:
                memory = Sampler(job_runs.memory, 1.0)
                memory.start()
                seen, ended = watched(out / "page_views", job_runs, feeder)
                sampled = memory.stop()
                sent = json.loads(feeder.output.splitlines()[-1])
        lines = out / "lines.jsonl"
        with lines.open("wb") as file:
            feed.dump(bench.broker, topic, file)
        wanted = reference(lines, out / "reference.parquet", VIEWS)
        found = ", ".join(differences(wanted, out, VIEWS))
    delays = [
        (at - end - DISORDER).total_seconds()
        for end, at in seen.items()
        if end + DISORDER < ended  # what comes after closes by the clock, not by events
    ]
    if not delays:
        raise RuntimeError("no window was over when the events ended: give it more seconds")
    exact = f"DIFFERS: {found}" if found else "every window exact"
    middle, most = median(delays), float(np.quantile(delays, 0.99))
    bench.report.add(
        f"3. at {sent['sent'] / sent['seconds']:,.0f} events/s: from a window's end and the"
        " disorder to its visible result",
        f"median {middle:.2f} s, p99 {most:.2f} s ({len(delays)} windows); {exact}",
        f"median < {DELAY:g} s, every window exact",
        middle < DELAY and not found,
    )
    third = max(1, len(sampled) // 3)
    first, last = (median(size for _, size in part) for part in (sampled[:third], sampled[-third:]))
    bench.report.ratio(
        f"3. memory of all processes over {seconds:,} s, last third to first",
        last / first,
        GROWTH,
        f"{last / 1e6:,.0f} MB to {first / 1e6:,.0f} MB",
    )


def watched(home: Path, job: Running, feeder: Running) -> tuple[dict[datetime, datetime], datetime]:
    """When the result of each window became visible, by the window's end; and when events ended.

    Raises:
        RuntimeError: the job has ended.
    """
    seen: dict[datetime, datetime] = {}
    known: set[str] = set()
    newest, ended, quiet = "", None, time.monotonic()
    while ended is None or time.monotonic() - quiet < LAST_SECONDS:
        if job.code is not None:
            raise job.failure()
        if ended is None and feeder.code is not None:
            ended, quiet = datetime.now(UTC), time.monotonic()
        name = newest_manifest(home)
        if name != newest:
            at, newest = datetime.now(UTC), name
            for file in committed_files(home):
                if file["path"] not in known:
                    known.add(file["path"])
                    for end in window_ends(home / file["path"]):
                        seen.setdefault(end, at)
        time.sleep(LOOK_SECONDS)
    return seen, ended


def newest_manifest(home: Path) -> str:
    """The name of the newest manifest; empty if there is none."""
    try:
        with os.scandir(home / "_millstream" / "manifests") as found:
            return max((entry.name for entry in found if entry.name.endswith(".json")), default="")
    except FileNotFoundError:
        return ""


def window_ends(file: Path) -> set[datetime]:
    return set(pq.read_table(file, columns=["window_end"])["window_end"].to_pylist())


def many_keys(bench: Bench) -> None:
    """So many users in each of some windows, none of them twice: what is kept of them must go."""
    keys = bench.args.keys
    topic = bench.topic("users", users(keys), WINDOWS * keys, USERS)
    progress.print(f"  millstream, live: {WINDOWS} windows of {keys:,} users", style="dim")
    with bench.place() as out, deleted_topic(bench.broker, topic.name):
        job = bench.job("users.yaml", topic.name, out)
        with stopping(Running(bench.streaming(job), out / "log.txt", {})) as runs:
            memory = Sampler(runs.memory, 0.5)
            state = Sampler(lambda: bytes_of(out / "state"), 0.5)
            given = Sampler(lambda: committed_rows(out), 0.5)
            samplers = (memory, state, given)
            for sampler in samplers:
                sampler.start()
            cost = drain(runs, out, committed_rows, topic.wanted.groups, bench.args.patience)
            used, kept, rows = (sampler.stop() for sampler in samplers)
        found = ", ".join(differences(topic.wanted, out, USERS))
    first = next((at for at, count in rows if count > 0), float("inf"))
    exact = f"DIFFERS: {found}" if found else "every window exact"
    bench.report.add(
        f"3. {WINDOWS} windows of {keys:,} keys each, drained",
        f"{topic.events / cost.seconds:,.0f} events/s; {exact}",
        "every window exact",
        not found,
    )
    most = max((size for _, size in kept), default=0)
    bench.report.add(
        "3. state files at most",
        f"{most / 1e6:,.0f} MB, {most / keys:,.0f} bytes for each key of a window",
        f"<= {KEY_BYTES} bytes a key",
        most <= KEY_BYTES * keys,
    )
    before = max((size for at, size in used if at <= first), default=0)
    most = max((size for _, size in used), default=0)
    bench.report.ratio(
        "3. memory at most, to the most before the first window closed",
        most / max(before, 1),
        GROWTH,
        f"{most / 1e6:,.0f} MB to {before / 1e6:,.0f} MB; {most / keys:,.0f} bytes a key",
    )


def users(keys: int) -> Path:
    """Events of ``WINDOWS`` windows, in each so many users as events, made once."""
    path = events.DATA / f"users-{WINDOWS * keys}.jsonl"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        staged = path.with_name(f".{path.name}")
        minutes = WINDOWS * USERS.window_seconds // 60
        shape = events.Shape(pages=820, minutes=minutes)
        with staged.open("wb") as out:
            events.generate(shape, WINDOWS * keys, 0.01, out)
        staged.rename(path)
    return path


def bytes_of(folder: Path) -> int:
    """The bytes of all files in a folder, some of which may go meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.path.getsize(os.path.join(parent, name))
    return total


@contextmanager
def deleted_topic(broker: str, topic: str) -> Iterator[None]:
    """Delete a topic at the end of the block."""
    try:
        yield
    finally:
        feed.delete(broker, topic)


@contextmanager
def stopping(running: Running) -> Iterator[Running]:
    """Stop it at the end of the block."""
    try:
        yield running
    finally:
        running.stop()


def wait_until_ready(running: Running) -> None:
    """Until it reads, and its workers are up.

    Raises:
        RuntimeError: it ended.
    """
    while READY not in running.output:
        if running.code is not None:
            raise running.failure()
        time.sleep(0.1)
    time.sleep(SETTLING_SECONDS)
