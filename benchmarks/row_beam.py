"""The clicks job as good Beam Python is usually written: one dict an element.

    python benchmarks/row_beam.py --input FILE --out DIR [--tuned] [--sessions] [--runner …]

Writes ``DIR/page_views/*.parquet`` and ``DIR/dead_letters/*.jsonl`` (bytes as base64, and the
reasons). ``--tuned`` does what helps without leaving rows: orjson, and parsing, checking and
keying in one DoFn instead of four steps. ``--sessions`` groups by user, in sessions of five
minutes, instead of by page and event type in minutes, and writes ``DIR/sessions/*.parquet``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
import pyarrow as pa
from apache_beam.coders import BytesCoder
from apache_beam.io import ReadFromText, WriteToParquet, WriteToText
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import FixedWindows, Sessions, TimestampedValue, WindowFn
from checks import dead_letter, judge, loads

RUNNER = "apache_beam.runners.portability.fn_api_runner.fn_runner.FnApiRunner"


@dataclass(frozen=True)
class Grouping:
    """What is counted and summed: by which fields, in which windows, and where it goes."""

    name: str
    keys: tuple[str, ...]
    windows: WindowFn

    @property
    def schema(self) -> pa.Schema:
        time = pa.timestamp("us", "UTC")
        return pa.schema(
            [
                ("window_start", time),
                ("window_end", time),
                *((key, pa.string()) for key in self.keys),
                ("events", pa.int64()),
                ("revenue", pa.float64()),
            ]
        )


PAGE_VIEWS = Grouping("page_views", ("page", "event_type"), FixedWindows(60))
SESSIONS = Grouping("sessions", ("user_id",), Sessions(300))


class Parse(beam.DoFn):
    """Lines to dicts; bad ones to ``dead``."""

    def process(self, element: bytes) -> Iterable[Any]:
        event, reasons = judge(element, loads)
        if reasons:
            yield TaggedOutput("dead", dead_letter(element, reasons))
        else:
            yield event


class ParseToKeyed(beam.DoFn):
    """Lines to time-stamped ``(keys, amount)``; bad ones to ``dead``."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys

    def process(self, element: bytes) -> Iterable[Any]:
        # orjson names what is not UTF-8 and what is not JSON by the same exception
        event, reasons = judge(element, orjson.loads)
        if reasons:
            yield TaggedOutput("dead", dead_letter(element, reasons))
        else:
            key = tuple(event[name] for name in self._keys)
            yield TimestampedValue((key, event.get("amount")), event["ts"].timestamp())


class CountAndSum(beam.CombineFn):
    """The number of amounts, null ones included, and their sum."""

    def create_accumulator(self) -> tuple[int, float]:
        return 0, 0.0

    def add_input(self, mutable_accumulator: Any, element: float | None) -> tuple[int, float]:
        count, total = mutable_accumulator
        return count + 1, total + (element or 0.0)

    def merge_accumulators(self, accumulators: Iterable[Any]) -> tuple[int, float]:
        counts, totals = zip(*accumulators, strict=True)
        return sum(counts), sum(totals)

    def extract_output(self, accumulator: Any) -> tuple[int, float]:
        return accumulator


class ToRow(beam.DoFn):
    """A combined group to a row of the output."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys

    def process(self, element: Any, window: Any = beam.DoFn.WindowParam) -> Iterable[Any]:
        key, (events, revenue) = element
        yield {
            "window_start": window.start.to_utc_datetime(has_tz=True),
            "window_end": window.end.to_utc_datetime(has_tz=True),
            **dict(zip(self._keys, key, strict=True)),
            "events": events,
            "revenue": revenue,
        }


def keyed(lines: Any, keys: tuple[str, ...], *, tuned: bool) -> tuple[Any, Any]:
    """Time-stamped ``(keys, amount)``, and the dead letters."""
    if tuned:
        parsed = lines | "ParseToKeyed" >> beam.ParDo(ParseToKeyed(keys)).with_outputs(
            "dead", main="good"
        )
        return parsed.good, parsed.dead
    parsed = lines | "Parse" >> beam.ParDo(Parse()).with_outputs("dead", main="good")
    events = (
        parsed.good
        | "AtEventTime" >> beam.Map(lambda e: TimestampedValue(e, e["ts"].timestamp()))
        | "Key" >> beam.Map(lambda e: (tuple(e[name] for name in keys), e.get("amount")))
    )
    return events, parsed.dead


def run(path: Path, out: Path, by: Grouping, *, tuned: bool, flags: list[str]) -> None:
    """Build and run the pipeline to its end."""
    if not any(flag.startswith("--runner") for flag in flags):
        flags = [*flags, f"--runner={RUNNER}"]
    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        lines = pipeline | "Read" >> ReadFromText(str(path), coder=BytesCoder())
        events, dead = keyed(lines, by.keys, tuned=tuned)
        _ = (
            events
            | "Window" >> beam.WindowInto(by.windows)
            | "Combine" >> beam.CombinePerKey(CountAndSum())
            | "ToRow" >> beam.ParDo(ToRow(by.keys))
            | "Write"
            >> WriteToParquet(
                str(out / by.name / "part"), by.schema, file_name_suffix=".parquet", num_shards=1
            )
        )
        _ = dead | "WriteDead" >> WriteToText(
            str(out / "dead_letters" / "part"), file_name_suffix=".jsonl"
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--sessions", action="store_true")
    args, flags = parser.parse_known_args(argv)
    by = SESSIONS if args.sessions else PAGE_VIEWS
    run(args.input, args.out, by, tuned=args.tuned, flags=flags)
    return 0


if __name__ == "__main__":
    sys.exit(main())
