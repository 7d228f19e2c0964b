# pyright: reportMissingImports=false
"""The stream's job in Quix Streams.

    python benchmarks/streams/quixstreams_kafka.py --broker HOST:PORT --topic TOPIC --out DIR

Quix Streams brings no contract: each message is checked by hand (``checks.py``). Messages have no
key, so that grouping sends every good event through a topic of its own (``group_by``). Results are
Parquet, dead letters JSON lines. Its consumer group is called like the topic. It runs until it is
stopped. ``--processes`` runs so many of one group.
"""

import argparse
import logging
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from checks import dead_letter, judge
from quixstreams import Application
from quixstreams.dataframe.windows import Count, Sum
from quixstreams.sinks.community.file.formats import ParquetFormat
from quixstreams.sinks.community.file.local import LocalFileSink

WINDOW_MS = 10_000
DISORDER_MS = 7_200_000
"""As long as all events, not 30 s: it reads one partition ahead of another by more than that, and
would drop as late what then comes of the other."""
COMMIT_SECONDS = 1.0


def parsed(line: bytes) -> dict[str, Any]:
    """A good event as what is counted of it, or a dead letter."""
    event, reasons = judge(line, orjson.loads)
    if reasons:
        return {"dead": dead_letter(line, reasons)}
    return {
        "key": f"{event['event_type']},{event.get('country') or ''}",
        "ms": int(event["ts"].timestamp() * 1000),
        "amount": event.get("amount") or 0.0,
    }


def row(result: dict[str, Any], key: str, *_: Any) -> dict[str, Any]:
    """A window's result as a row of the output."""
    event_type, country = key.split(",")
    return {
        "window_start": datetime.fromtimestamp(result["start"] / 1000, UTC),
        "window_end": datetime.fromtimestamp(result["end"] / 1000, UTC),
        "event_type": event_type,
        "country": country,
        "events": result["events"],
        "revenue": result["revenue"],
    }


def application(broker: str, topic: str, out: Path) -> Application:
    app = Application(
        broker_address=broker,
        consumer_group=topic,
        auto_offset_reset="earliest",
        commit_interval=COMMIT_SECONDS,
        state_dir=str(out / f"state-{uuid.uuid4().hex}"),
        loglevel="ERROR",
    )
    messages = app.dataframe(app.topic(topic, value_deserializer="bytes"))
    events = messages.apply(parsed)
    dead = events.filter(lambda event: "dead" in event)
    lost = out / "dead_letters" / f"part-{uuid.uuid4().hex}.jsonl"
    file = lost.open("w", buffering=1 << 16)
    dead.update(lambda event: file.write(event["dead"] + "\n"))
    good = events.filter(lambda event: "dead" not in event)
    good = good.set_timestamp(lambda event, *_: event["ms"])
    grouped = good.group_by(
        lambda event: event["key"], name="by", key_deserializer="str", key_serializer="str"
    )
    windows = grouped.tumbling_window(WINDOW_MS, grace_ms=DISORDER_MS)
    views = windows.agg(events=Count(), revenue=Sum("amount")).final()
    rows = views.apply(row, metadata=True)
    rows.sink(LocalFileSink(directory=str(out / "page_views"), format=ParquetFormat()))
    return app


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    if args.processes > 1:
        return members(args.processes)
    logging.getLogger("quixstreams").setLevel(logging.ERROR)
    for folder in ("page_views", "dead_letters"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    application(args.broker, args.topic, args.out).run()
    return 0


def members(count: int) -> int:
    """Run so many processes of one consumer group; they are stopped when this one is."""
    running = [
        subprocess.Popen([sys.executable, *sys.argv, "--processes", "1"]) for _ in range(count)
    ]
    signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in running])
    return max(abs(process.wait()) for process in running)


if __name__ == "__main__":
    sys.exit(main())
