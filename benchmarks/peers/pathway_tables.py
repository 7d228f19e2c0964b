# pyright: reportMissingImports=false
"""The clicks job as pathway tables, static mode.

pathway brings no decoder that keeps bad lines: each line is checked by hand (``checks.py``) in one
UDF. Its file readers drop what is not UTF-8 without a trace, so lines come from a Python connector
as bytes. There is no Parquet output: results are CSV (pathway's own ``time`` and ``diff`` columns
are cut off afterwards), dead letters JSON lines.
"""

import argparse
import csv
from datetime import timedelta
from pathlib import Path

import orjson
import pathway as pw
from checks import dead_letter, judge

MINUTE = timedelta(minutes=1)


class Line(pw.Schema):
    line: bytes


class Lines(pw.io.python.ConnectorSubject):
    """The lines of a file as bytes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def run(self) -> None:
        with self._path.open("rb") as file:
            for line in file:
                self.next(line=line.rstrip(b"\n"))


@pw.udf(deterministic=True)
def parsed(line: bytes) -> tuple[str, str, pw.DateTimeUtc | None, float, str]:
    """Page, event type, time and amount of a good line, or its dead letter."""
    event, reasons = judge(line, orjson.loads)
    if reasons:
        return "", "", None, 0.0, dead_letter(line, reasons)
    amount = float(event.get("amount") or 0)
    return event["page"], event["event_type"], event["ts"], amount, ""


def build(path: Path, out: Path) -> None:
    """Declare the tables; ``pw.run`` fills them."""
    lines = pw.io.python.read(Lines(path), schema=Line)
    rows = lines.select(row=parsed(pw.this.line))
    columns = rows.select(
        page=pw.this.row[0],
        event_type=pw.this.row[1],
        ts=pw.this.row[2],
        amount=pw.this.row[3],
        dead=pw.this.row[4],
    )
    good = columns.filter(pw.this.dead == "")
    good = good.select(pw.this.page, pw.this.event_type, pw.this.amount, ts=pw.unwrap(pw.this.ts))
    views = good.windowby(
        pw.this.ts,
        window=pw.temporal.tumbling(duration=MINUTE),
        instance=pw.make_tuple(pw.this.page, pw.this.event_type),
    ).reduce(
        window_start=pw.this._pw_window_start,
        window_end=pw.this._pw_window_end,
        page=pw.reducers.any(pw.this.page),
        event_type=pw.reducers.any(pw.this.event_type),
        events=pw.reducers.count(),
        revenue=pw.reducers.sum(pw.this.amount),
    )
    pw.io.csv.write(views, out / "page_views.csv")
    dead = columns.filter(pw.this.dead != "")
    pw.io.jsonlines.write(dead.select(pw.this.dead), out / "dead_letters" / "part.jsonl")


def cut(source: Path, target: Path) -> None:
    """The last state of each row without pathway's columns."""
    state: dict[tuple[str, ...], list[str]] = {}
    with source.open(newline="") as file:
        for row in csv.reader(file):
            if row[-1] == "1":
                state[tuple(row[:4])] = row[:-2]
    with target.open("w", newline="") as file:
        csv.writer(file).writerows(state.values())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    for folder in ("page_views", "dead_letters"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    build(args.input, args.out)
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    cut(args.out / "page_views.csv", args.out / "page_views" / "part.csv")


if __name__ == "__main__":
    main()
