"""A day of click events for the demo: seeded, so that every run makes the same files.

About one event in a hundred is broken, in eleven ways; one in two hundred comes twice; events
arrive up to half a minute late. Hours alternate between plain and gzip files.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

DAY = datetime(2026, 11, 23, tzinfo=UTC)
PAGES = ["/", "/search", "/basket", "/checkout", *(f"/product/{n}" for n in range(1, 21))]
TYPES = ["view"] * 6 + ["click"] * 3 + ["cart", "buy"]

Event = dict[str, Any]


def event(rng: random.Random, at: datetime) -> Event:
    """One valid event that happened at ``at``."""
    kind = rng.choice(TYPES)
    bought = kind == "buy"
    return {
        "event_id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "ts": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "user_id": f"u{rng.randrange(20_000)}",
        "event_type": kind,
        "page": rng.choice(PAGES),
        "amount": round(rng.uniform(1, 300), 2) if bought else None,
        "quantity": rng.randrange(1, 5) if bought else None,
        "device": {"os": rng.choice(["android", "ios", "linux", "windows"]), "width": 1080},
        "tags": rng.sample(["new", "sale", "app", "mail"], rng.randrange(3)),
    }


def line(event: Event) -> bytes:
    """The event as JSON, without its line end."""
    return json.dumps(event, separators=(",", ":")).encode()


BREAKS: list[Callable[[Event], bytes]] = [
    lambda e: line(e)[:-25],  # cut off
    lambda e: b"GET /search HTTP/1.1",  # not JSON at all
    lambda e: line(e) + b'{"event_id":',  # two writers at once
    lambda e: line({**e, "amount": "19.99"}),  # a string is no number
    lambda e: line({**e, "amount": float("nan")}),  # NaN is no JSON
    lambda e: line({**e, "quantity": 3.7}),  # no integer
    lambda e: line({k: v for k, v in e.items() if k != "user_id"}),  # missing
    lambda e: line({**e, "ts": e["ts"][:-1]}),  # no offset
    lambda e: line({**e, "ts": "2026-11-31T12:00:00Z"}),  # no such day
    lambda e: line({**e, "event_type": "hover", "amount": -1}),  # two rules at once
    lambda e: line(e).replace(b'"page":"', b'"page":"caf\xe9'),  # Latin-1, not UTF-8
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("events"))
    parser.add_argument("--events", type=int, default=240_000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    per_hour = options.events // 24
    for hour in range(24):
        lines = []
        for n in range(per_hour):
            seconds = hour * 3600 + 3600 * n / per_hour - rng.uniform(0, 30)
            made = event(rng, DAY + timedelta(seconds=max(seconds, 0)))
            lines.append(rng.choice(BREAKS)(made) if rng.random() < 0.01 else line(made))
            if rng.random() < 0.005:
                lines.append(line(made))
        data = b"\n".join(lines) + b"\n"
        name = f"{DAY:%Y-%m-%d}-{hour:02}.jsonl"
        if hour % 2:
            compressed = gzip.compress(data, compresslevel=6, mtime=0)
            (options.out / f"{name}.gz").write_bytes(compressed)
        else:
            (options.out / name).write_bytes(data)
    print(f"{24 * per_hour:,} events in 24 files in {options.out}")


if __name__ == "__main__":
    main()
