"""The stream's job as a hand-written Beam pipeline, one element a message, on Prism.

    python benchmarks/streams/beam_rows.py --broker HOST:PORT --topic TOPIC --out DIR --prism PATH

It is tuned as far as rows go: orjson, one DoFn that reads, parses, checks and keys, sums lifted
before the shuffle, many polls a bundle. All partitions are one restriction, whose watermark is that
of the partition that is furthest behind: with several restrictions Prism takes the watermark of the
one that ran last, and windows go missing. It runs until it is stopped.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import confluent_kafka
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.coders import Coder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from checks import dead_letter, judge

WINDOW_SECONDS = 10
DISORDER_SECONDS = 30
ROWS = 5_000
SLICE_SECONDS = 0.5

Key = tuple[str, str]
Positions = dict[str, list[float]]
"""Of each partition, the next offset and the newest event time in seconds; empty when over."""

SCHEMA = pa.schema(
    [
        ("window_start", pa.timestamp("us", "UTC")),
        ("window_end", pa.timestamp("us", "UTC")),
        ("event_type", pa.string()),
        ("country", pa.string()),
        ("events", pa.int64()),
        ("revenue", pa.float64()),
    ]
)


class Tracker(RestrictionTracker):
    """Goes on for ever; split by nobody but by itself, after what it has read."""

    def __init__(self, positions: Positions) -> None:
        self._positions = positions
        self._claimed: Positions = {}

    def current_restriction(self) -> Positions:
        return self._positions

    def try_claim(self, position: Positions) -> bool:
        self._claimed = position
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Positions, Positions] | None:
        if fraction_of_remainder != 0 or not self._claimed:
            return None
        self._positions = {}
        return {}, self._claimed

    def check_done(self) -> bool:
        return True

    def is_bounded(self) -> bool:
        return False

    def current_progress(self) -> RestrictionProgress:
        return RestrictionProgress(fraction=0.0)


class PositionsCoder(Coder):
    def encode(self, value: Positions) -> bytes:
        return orjson.dumps(value)

    def decode(self, encoded: bytes) -> Positions:
        return orjson.loads(encoded)

    def is_deterministic(self) -> bool:
        return True


class Topic(RestrictionProvider):
    """A topic, all partitions together; an element is ``(broker, topic)``."""

    def initial_restriction(self, element: tuple[str, str]) -> Positions:
        broker, topic = element
        consumer = open_consumer(broker)
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.close()
        return {str(number): [0, float("-1e9")] for number in partitions}

    def create_tracker(self, restriction: Positions) -> Tracker:
        return Tracker(restriction)

    def restriction_size(self, element: tuple[str, str], restriction: Positions) -> int:
        return 1

    def restriction_coder(self) -> Coder:
        return PositionsCoder()


def open_consumer(broker: str) -> confluent_kafka.Consumer:
    return confluent_kafka.Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": "rows",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "queued.max.messages.kbytes": 16 << 10,
            "fetch.queue.backoff.ms": 10,
        }
    )


TRACKER = beam.DoFn.RestrictionParam(Topic())
WATERMARK = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())


class ReadToKeyed(beam.DoFn):
    """Messages to time-stamped ``(key, amount)``; bad ones to ``dead``."""

    def setup(self) -> None:
        self._consumer: confluent_kafka.Consumer | None = None
        self._next: dict[str, float] = {}

    def teardown(self) -> None:
        if self._consumer is not None:
            self._consumer.close()

    @beam.DoFn.unbounded_per_element()
    def process(
        self, element: tuple[str, str], tracker: Any = TRACKER, watermark: Any = WATERMARK
    ) -> Iterator[Any]:
        before = tracker.current_restriction()
        if not before:
            return
        consumer = self._at(element, before)
        now = {number: list(position) for number, position in before.items()}
        until = time.monotonic() + SLICE_SECONDS
        while time.monotonic() < until:
            for message in consumer.consume(ROWS, 0.1):
                if error := message.error():
                    raise RuntimeError(error.str())
                yield from self._judged(message, now)
        tracker.try_claim(now)
        self._next = {number: position[0] for number, position in now.items()}
        watermark.set_watermark(
            Timestamp.of(min(newest for _, newest in now.values()) - DISORDER_SECONDS)
        )
        tracker.defer_remainder()

    def _at(self, element: tuple[str, str], positions: Positions) -> confluent_kafka.Consumer:
        """The consumer, where the restriction begins."""
        wanted = {number: position[0] for number, position in positions.items()}
        if self._consumer is None or wanted != self._next:
            if self._consumer is not None:
                self._consumer.close()
            broker, topic = element
            self._consumer = open_consumer(broker)
            parts = [
                confluent_kafka.TopicPartition(topic, int(n), int(offset))
                for n, offset in wanted.items()
            ]
            self._consumer.assign(parts)
        return self._consumer

    def _judged(self, message: Any, now: Positions) -> Iterator[Any]:
        line = message.value()
        position = now[str(message.partition())]
        position[0] = message.offset() + 1
        event, reasons = judge(line, orjson.loads)
        if reasons:
            yield TaggedOutput("dead", dead_letter(line, reasons))
            return
        at = event["ts"].timestamp()
        if at > position[1]:
            position[1] = at
        key = event["event_type"], event.get("country") or ""
        yield TimestampedValue((key, event.get("amount") or 0.0), at)


class CountAndSum(beam.CombineFn):
    def create_accumulator(self) -> tuple[int, float]:
        return 0, 0.0

    def add_input(self, mutable_accumulator: Any, element: float) -> tuple[int, float]:
        count, total = mutable_accumulator
        return count + 1, total + element

    def merge_accumulators(self, accumulators: Iterable[Any]) -> tuple[int, float]:
        counts, totals = zip(*accumulators, strict=True)
        return sum(counts), sum(totals)

    def extract_output(self, accumulator: Any) -> tuple[int, float]:
        return accumulator


class WriteRows(beam.DoFn):
    """The groups of a bundle as one Parquet file."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def start_bundle(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def process(self, element: Any, window: Any = beam.DoFn.WindowParam) -> None:
        (event_type, country), (events, revenue) = element
        self._rows.append(
            {
                "window_start": window.start.to_utc_datetime(has_tz=True),
                "window_end": window.end.to_utc_datetime(has_tz=True),
                "event_type": event_type,
                "country": country,
                "events": events,
                "revenue": revenue,
            }
        )

    def finish_bundle(self) -> None:
        if self._rows:
            staged = Path(self._folder) / f".{uuid.uuid4().hex}"
            pq.write_table(pa.Table.from_pylist(self._rows, SCHEMA), staged)
            staged.rename(staged.with_name(f"part-{staged.name[1:]}.parquet"))


class WriteLines(beam.DoFn):
    """The dead letters of a bundle as one file."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def start_bundle(self) -> None:
        self._lines: list[str] = []

    def process(self, element: str) -> None:
        self._lines.append(element)

    def finish_bundle(self) -> None:
        if self._lines:
            path = Path(self._folder) / f"part-{uuid.uuid4().hex}.jsonl"
            path.write_text("".join(f"{line}\n" for line in self._lines))


def build(pipeline: beam.Pipeline, broker: str, topic: str, out: Path) -> None:
    read = (
        pipeline
        | "Topic" >> beam.Create([(broker, topic)], reshuffle=False)
        | "Read" >> beam.ParDo(ReadToKeyed()).with_outputs("dead", main="good")
    )
    _ = (
        read.good
        | "Window"
        >> beam.WindowInto(FixedWindows(WINDOW_SECONDS)).with_output_types(tuple[Key, float])
        | "Combine" >> beam.CombinePerKey(CountAndSum())
        | "Write" >> beam.ParDo(WriteRows(str(out / "page_views")))
    )
    _ = read.dead | "WriteDead" >> beam.ParDo(WriteLines(str(out / "dead_letters")))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--broker", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prism", required=True, help="where Beam's Prism is")
    args = parser.parse_args()
    for folder in ("page_views", "dead_letters"):
        (args.out / folder).mkdir(parents=True, exist_ok=True)
    flags = ["--runner=PrismRunner", f"--prism_location={args.prism}", "--streaming"]
    flags.append("--job_server_timeout=100000")  # after which the runner stops listening
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    build(pipeline, args.broker, args.topic, args.out)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    result = pipeline.run()
    try:
        result.wait_until_finish()
    finally:
        result.cancel()


if __name__ == "__main__":
    main()
