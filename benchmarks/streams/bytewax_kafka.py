# pyright: reportMissingImports=false
"""The stream's job as a bytewax dataflow.

    python benchmarks/streams/bytewax_kafka.py --broker HOST:PORT --topic TOPIC --out DIR

bytewax brings no decoder and no contract: each message is checked by hand (``checks.py``). There is
no Parquet sink: results are CSV, dead letters JSON lines. It ends with the topic (``tail=False``),
and gives what windows are open then. ``--processes`` runs a cluster of so many.
"""

import argparse
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.files import FileSink
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.testing import cluster_main, run_main
from checks import dead_letter, judge

START = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = timedelta(seconds=10)
DISORDER = timedelta(hours=2)
"""As long as all events, not 30 s: it reads one partition ahead of another by more than that, and
would drop as late what then comes of the other."""
BATCH = 10_000


def parsed(message: Any) -> tuple[bool, Any]:
    """Whether a message is good, and the event or the dead letter."""
    event, reasons = judge(message.value, orjson.loads)
    return (False, dead_letter(message.value, reasons)) if reasons else (True, event)


def keyed(item: tuple[bool, dict[str, Any]]) -> tuple[str, tuple[datetime, float]]:
    event = item[1]
    key = f"{event['event_type']},{event.get('country') or ''}"
    return key, (event["ts"].astimezone(UTC), event.get("amount") or 0.0)


def folded(total: tuple[int, float], value: tuple[datetime, float]) -> tuple[int, float]:
    return total[0] + 1, total[1] + value[1]


def merged(a: tuple[int, float], b: tuple[int, float]) -> tuple[int, float]:
    return a[0] + b[0], a[1] + b[1]


def row(item: tuple[str, tuple[int, tuple[int, float]]]) -> tuple[str, str]:
    """A window's result as a line of CSV."""
    key, (window, (events, revenue)) = item
    start = START + window * WINDOW
    bounds = f"{start:%Y-%m-%d %H:%M:%S},{start + WINDOW:%Y-%m-%d %H:%M:%S}"
    return key, f"{bounds},{key},{events},{revenue!r}"


def dataflow(broker: str, topic: str, out: Path) -> Dataflow:
    flow = Dataflow("clicks")
    source = KafkaSource([broker], [topic], tail=False, batch_size=BATCH)
    messages = op.input("read", flow, source)
    branches = op.branch("good", op.map("parse", messages, parsed), lambda item: item[0])
    events = op.map("key", branches.trues, keyed)
    clock = EventClock(lambda value: value[0], wait_for_system_duration=DISORDER)
    windower = TumblingWindower(length=WINDOW, align_to=START)
    views = fold_window("aggregate", events, clock, windower, lambda: (0, 0.0), folded, merged)
    op.output("write", op.map("row", views.down, row), FileSink(out / "page_views" / "part.csv"))
    dead = op.map("dead", branches.falses, lambda item: ("", item[1]))
    op.output("write_dead", dead, FileSink(out / "dead_letters" / "part.jsonl"))
    return flow


def free_addresses(count: int) -> list[str]:
    found = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in found]
    for server in found:
        server.close()
    return addresses


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--member", nargs="+", help="which of a cluster this is, and who they are")
    args = parser.parse_args()
    for folder in ("page_views", "dead_letters"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    flow = dataflow(args.broker, args.topic, args.out)
    if args.member:
        cluster_main(flow, args.member[1:], int(args.member[0]))
    elif args.processes > 1:
        addresses = free_addresses(args.processes)
        members = [[*sys.argv, "--member", str(i), *addresses] for i in range(args.processes)]
        running = [subprocess.Popen([sys.executable, *member]) for member in members]
        return max(abs(process.wait()) for process in running)
    else:
        run_main(flow)
    return 0


if __name__ == "__main__":
    sys.exit(main())
