"""The least that reading a topic of JSON costs: ``consume()``, and msgspec's decoder, one process.

    python benchmarks/streams/bare_loop.py --broker HOST:PORT --topic TOPIC

No rules, no windows, no output. Prints the seconds from the first call on, as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import datetime

import msgspec
from confluent_kafka import Consumer, TopicPartition

ROWS = 10_000
SECONDS = 30


class Click(msgspec.Struct, gc=False):
    event_id: str
    user_id: str
    event_type: str
    page: str
    ts: datetime
    amount: float | None = None
    country: str | None = None


def read(consumer: Consumer, left: int) -> tuple[int, int]:
    """Good and bad messages, of as many as there are left."""
    decode = msgspec.json.Decoder(Click).decode
    good = bad = 0
    while good + bad < left:
        messages = consumer.consume(ROWS, 0.5)
        for message in messages:
            try:
                decode(message.value() or b"")
                good += 1
            except (msgspec.DecodeError, UnicodeDecodeError):
                bad += 1
    return good, bad


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--out", help="nothing is written there")
    args = parser.parse_args()
    consumer = Consumer(
        {
            "bootstrap.servers": args.broker,
            "group.id": "bare",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    found = consumer.list_topics(args.topic, timeout=SECONDS).topics[args.topic].partitions
    parts = [TopicPartition(args.topic, number, 0) for number in found]
    total = sum(consumer.get_watermark_offsets(part, timeout=SECONDS)[1] for part in parts)
    consumer.assign(parts)
    start = time.perf_counter()
    good, bad = read(consumer, total)
    seconds = time.perf_counter() - start
    consumer.close()
    print(json.dumps({"seconds": seconds, "good": good, "bad": bad}))


if __name__ == "__main__":
    main()
