# pyright: reportMissingImports=false
"""The clicks job as a bytewax dataflow.

bytewax brings no decoder and no contract: each line is checked by hand (``checks.py``). Its
``FileSource`` decodes and so stops at invalid UTF-8: a source of bytes takes its place. There is no
Parquet sink: results are CSV, dead letters JSON lines.
"""

import argparse
import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.files import FileSink
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.testing import run_main
from checks import dead_letter, judge

START = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
BATCH = 20_000


class Lines(StatefulSourcePartition[bytes, int]):
    """The lines of a file as bytes, a batch at a time."""

    def __init__(self, path: Path, offset: int | None) -> None:
        self._file = path.open("rb")
        self._file.seek(offset or 0)

    def next_batch(self) -> list[bytes]:
        batch = list(itertools.islice(self._file, BATCH))
        if not batch:
            raise StopIteration
        return [line.rstrip(b"\n") for line in batch]

    def snapshot(self) -> int:
        return self._file.tell()


class LineSource(FixedPartitionedSource[bytes, int]):
    """One file, one partition."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def list_parts(self) -> list[str]:
        return [str(self._path)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Lines:
        return Lines(Path(for_part), resume_state)


def parsed(line: bytes) -> tuple[bool, Any]:
    """Whether a line is good, and the event or the dead letter."""
    event, reasons = judge(line, orjson.loads)
    return (False, dead_letter(line, reasons)) if reasons else (True, event)


def keyed(event: dict[str, Any]) -> tuple[str, tuple[datetime, float | None]]:
    return f"{event['page']},{event['event_type']}", (
        event["ts"].astimezone(UTC),
        event.get("amount"),
    )


def folded(total: tuple[int, float], value: tuple[datetime, float | None]) -> tuple[int, float]:
    return total[0] + 1, total[1] + (value[1] or 0.0)


def merged(a: tuple[int, float], b: tuple[int, float]) -> tuple[int, float]:
    return a[0] + b[0], a[1] + b[1]


def row(item: tuple[str, tuple[int, tuple[int, float]]]) -> tuple[str, str]:
    """A window's result as a line of CSV."""
    key, (window, (events, revenue)) = item
    start = START + window * MINUTE
    bounds = f"{start:%Y-%m-%d %H:%M:%S},{start + MINUTE:%Y-%m-%d %H:%M:%S}"
    return key, f"{bounds},{key},{events},{revenue!r}"


def dataflow(path: Path, out: Path) -> Dataflow:
    flow = Dataflow("clicks")
    lines = op.input("read", flow, LineSource(path))
    branches = op.branch("good", op.map("parse", lines, parsed), lambda item: item[0])
    events = op.map("key", branches.trues, lambda item: keyed(item[1]))
    clock = EventClock(lambda value: value[0], wait_for_system_duration=timedelta(minutes=2))
    windower = TumblingWindower(length=MINUTE, align_to=START)
    views = fold_window("aggregate", events, clock, windower, lambda: (0, 0.0), folded, merged)
    op.output("write", op.map("row", views.down, row), FileSink(out / "page_views" / "part.csv"))
    dead = op.map("dead", branches.falses, lambda item: ("", item[1]))
    op.output("write_dead", dead, FileSink(out / "dead_letters" / "part.jsonl"))
    return flow


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    for folder in ("page_views", "dead_letters"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    run_main(dataflow(args.input, args.out))


if __name__ == "__main__":
    main()
