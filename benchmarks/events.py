"""Seeded JSON-lines events for the benchmarks, made column by column.

    python benchmarks/events.py --events 1000000 --bad 0.01 --out clicks.jsonl

Five shapes, each with a contract and a job file beside this one:

* ``clicks``    seven fields, about 176 bytes a line, roughly in time order (arrival is event time
  plus an exponential delay of 2 s, at most 8 s). From a million events on there are always the same
  60 minutes x 820 pages x 5 event types = 246,000 groups: more events means more events a group,
  so that memory can be compared at a fixed number of groups. A smaller sample has fewer minutes,
  at the same density.
* ``wide``      60 fields in nested objects and arrays, about 1.3 kB a line.
* ``shuffled``  the seven fields, time stamps in no order over six hours, for 10 s windows.
* ``groups``    the seven fields, so many pages that nearly every event has a group of its own.
* ``sessions``  the seven fields, of 100,000 users in roughly time order.

A line is a row of fixed-width cells in one byte matrix, padded with NUL; dropping the NULs gives
the text. Broken lines are made by replacing cells, in equal parts of each kind in ``KINDS``.
Beside FILE lies ``FILE.json``: the number of lines, of broken ones by kind, and of groups. Without
``--out`` the file goes to ``benchmarks/.data`` and is made only once: empty that folder after a
change here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
DATA = HERE / ".data"

START = datetime(2026, 3, 1, tzinfo=UTC)
EVENT_TYPES = ("view", "click", "cart", "buy", "scroll")
COUNTRIES = ("DE", "FR", "PL", "US", "IN", "JP", "BR", "GB", "ES", "IT")
KINDS = (
    "truncated",
    "not_json",
    "not_object",
    "trailing_garbage",
    "amount_string",
    "amount_nan",
    "amount_negative",
    "user_id_missing",
    "user_id_integer",
    "event_type_unknown",
    "ts_no_offset",
    "ts_impossible",
    "invalid_utf8",
    "event_id_pattern",
)
GOOD = -1
"""The kind of a line that keeps the contract; others are indexes into ``KINDS``."""

Cells = NDArray[np.bytes_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a kind of data looks like: how many keys, over what time, in which order.

    ``covered`` promises at least one good event for every (minute, page, event type), as long as
    there are events enough.
    """

    pages: int
    minutes: int = 60
    covered: bool = False
    shuffled: bool = False
    wide: bool = False
    users: int = 10**9


SHAPES = {
    "clicks": Shape(pages=820, covered=True),
    "wide": Shape(pages=40, wide=True),
    "shuffled": Shape(pages=20, minutes=360, shuffled=True),
    "groups": Shape(pages=100_000),
    "sessions": Shape(pages=820, users=100_000),
}
PER_MINUTE = 1_000_000 // 60
"""Events a minute of the time-ordered shapes up to a million events."""


@dataclass(slots=True)
class Events:
    """A piece of the stream before it is text. ``millis`` count from ``START``."""

    millis: Ints
    arrival: Ints
    page: Ints
    event_type: Ints
    kind: Ints

    def take(self, index: Ints) -> Events:
        return Events(*(getattr(self, name)[index] for name in self.__slots__))

    def then(self, other: Events) -> Events:
        pairs = ((getattr(self, name), getattr(other, name)) for name in self.__slots__)
        return Events(*(np.concatenate(pair) for pair in pairs))


def draw(
    rng: np.random.Generator, shape: Shape, n: int, bad: float, start: int, span: int
) -> Events:
    """``n`` events between ``start`` and ``start + span`` milliseconds, in no order."""
    millis = start + rng.integers(0, span, n)
    kind = np.where(rng.random(n) < bad, rng.integers(0, len(KINDS), n), GOOD)
    uniform = rng.random(n)
    page = (shape.pages * (uniform**2 if shape.covered else uniform)).astype(np.int64)
    event_type = rng.choice(len(EVENT_TYPES), n, p=(0.5, 0.2, 0.1, 0.05, 0.15))
    if shape.covered:
        cells = shape.pages * len(EVENT_TYPES)
        good = np.flatnonzero(kind == GOOD)[:cells]
        cell = rng.permutation(cells)[: len(good)]
        page[good], event_type[good] = np.divmod(cell, len(EVENT_TYPES))
    delay = np.minimum(rng.exponential(2_000, n), 8_000).astype(np.int64)
    return Events(millis, millis + delay, page, event_type, kind)


def in_order(rng: np.random.Generator, shape: Shape, events: int, bad: float) -> Iterator[Events]:
    """A minute at a time, by arrival; what arrives after its minute comes with the next."""
    minutes = min(shape.minutes, max(1, round(events / PER_MINUTE)))
    held = draw(rng, shape, 0, bad, 0, 60_000)
    for minute in range(minutes):
        n = events * (minute + 1) // minutes - events * minute // minutes
        pending = held.then(draw(rng, shape, n, bad, minute * 60_000, 60_000))
        order = np.argsort(pending.arrival, kind="stable")
        arrived = np.searchsorted(pending.arrival[order], (minute + 1) * 60_000)
        yield pending.take(order[:arrived])
        held = pending.take(order[arrived:])
    yield held


def in_no_order(
    rng: np.random.Generator, shape: Shape, events: int, bad: float
) -> Iterator[Events]:
    for start in range(0, events, 50_000):
        n = min(50_000, events - start)
        yield draw(rng, shape, n, bad, 0, shape.minutes * 60_000)


# From numbers to cells


def table(values: Any) -> Cells:
    """The possible values of a cell as fixed-width bytes, to be indexed by an array."""
    return np.array([v if isinstance(v, bytes) else str(v).encode() for v in values])


@cache
def tables() -> dict[str, Cells]:
    """The small look-up tables from which every cell is put together."""
    days = [START + timedelta(days=d) for d in (-1, 0, 1)]
    return {
        "hex": table(f"{i:04x}" for i in range(1 << 16)),
        "digits": table(f"{i:03d}" for i in range(1000)),
        "date": table(f"{d:%Y-%m-%d}T" for d in days),
        "minute": table(f"{h:02d}:{m:02d}:" for h in range(24) for m in range(60)),
        "second": table(f"{s:02d}." for s in range(60)),
        "offset": table(["Z", "+02:00", "-05:30"]),
        "amount": table(f"{cents / 100:.15g}" for cents in range(50_000)),
        "event_type": table(EVENT_TYPES),
        "country": table(COUNTRIES),
    }


OFFSETS = np.array([0, 120, -330])
"""Minutes, in the order of the ``offset`` table."""


def bytes_of(part: bytes | Cells, rows: int) -> NDArray[np.uint8]:
    """A part of a line as a matrix of bytes, one row a line."""
    if isinstance(part, bytes):
        return np.broadcast_to(np.frombuffer(part, np.uint8), (rows, len(part)))
    return np.ascontiguousarray(part).view(np.uint8).reshape(rows, part.dtype.itemsize)


def join(rows: int, *parts: bytes | Cells) -> Cells:
    """Cells side by side as one cell."""
    joined = np.concatenate([bytes_of(part, rows) for part in parts], axis=1)
    return joined.view(f"S{joined.shape[1]}").reshape(rows)


def timestamps(rng: np.random.Generator, millis: Ints) -> tuple[Cells, Cells]:
    """Local date and time, and the offset: UTC for most, two other offsets for some."""
    lookup = tables()
    offset = rng.choice(3, len(millis), p=(0.92, 0.04, 0.04))
    minutes, rest = np.divmod(millis, 60_000)
    day, minute = np.divmod(minutes + OFFSETS[offset], 24 * 60)
    second, milli = np.divmod(rest, 1_000)
    parts = (
        lookup["date"][day + 1],
        lookup["minute"][minute],
        lookup["second"][second],
        lookup["digits"][milli],
    )
    return join(len(millis), *parts), lookup["offset"][offset]


def click_cells(rng: np.random.Generator, events: Events, users: int = 10**9) -> dict[str, Cells]:
    """The seven fields of a click, each as ``"name":value,`` (the last without the comma)."""
    n = len(events.millis)
    lookup = tables()
    hexes = [lookup["hex"][rng.integers(0, 1 << 16, n)] for _ in range(4)]
    numbers = rng.integers(0, users, n)
    user = [lookup["digits"][numbers // step % 1000] for step in (10**6, 10**3, 1)]
    page = np.divmod(events.page, 1000)
    amount = np.where(
        rng.random(n) < 0.2, b"null", lookup["amount"][rng.integers(0, len(lookup["amount"]), n)]
    )
    local, offset = timestamps(rng, events.millis)
    cells = {
        "event_id": (b'"event_id":"', *hexes, b'",'),
        "user_id": (b'"user_id":"user-', *user, b'",'),
        "event_type": (b'"event_type":"', lookup["event_type"][events.event_type], b'",'),
        "page": (b'"page":"/shop/categories/p', *(lookup["digits"][p] for p in page), b'",'),
        "ts": (b'"ts":"', local, offset, b'",'),
        "amount": (b'"amount":', amount, b","),
        "country": (b'"country":"', lookup["country"][rng.integers(0, 10, n)], b'"'),
    }
    return {name: join(n, *parts) for name, parts in cells.items()}


@cache
def pools() -> dict[str, Cells]:
    """Ready-made nested parts of a wide event, a thousand of each."""
    rng = np.random.default_rng(60)

    def word(*choices: str) -> str:
        return choices[rng.integers(len(choices))]

    def integer(low: int, high: int) -> int:
        return int(rng.integers(low, high))

    def number(high: float) -> float:
        return round(float(rng.random() * high), 2)

    def device() -> dict[str, Any]:
        return {
            "os": word("linux", "macos", "windows", "android", "ios"),
            "os_version": f"{integer(8, 16)}.{integer(0, 9)}",
            "browser": word("firefox", "chrome", "safari", "edge"),
            "browser_version": f"{integer(90, 140)}.0.{integer(1000, 9999)}",
            "screen": {"width": integer(320, 3840), "height": integer(480, 2160)},
            "mobile": bool(integer(0, 2)),
            "memory": number(32),
            "language": word("de-DE", "en-GB", "fr-FR", "pt-BR"),
            "timezone": word("Europe/Berlin", "Europe/London", "America/New_York"),
            "fingerprint": f"{integer(0, 1 << 60):016x}",
        }

    def geo() -> dict[str, Any]:
        return {
            "lat": number(90),
            "lon": number(180),
            "city": word("Köln", "Paris", "Łódź", "Austin", "São Paulo"),
            "region": word("north", "south", "east", "west"),
            "postal": f"{integer(10_000, 99_999)}",
            "country": word(*COUNTRIES),
            "asn": integer(1, 400_000),
            "isp": word("Example Net", "Sample Telecom", "Test Cable"),
        }

    def campaign() -> dict[str, Any]:
        return {
            "source": word("mail", "search", "social", "partner"),
            "medium": word("cpc", "organic", "banner"),
            "name": f"spring-{integer(1, 500)}",
            "term": word("shoes", "coats") if integer(0, 2) else None,
            "content": word("a", "b") if integer(0, 2) else None,
            "cost": number(5),
        }

    def request() -> dict[str, Any]:
        return {
            "method": word("GET", "POST"),
            "path": f"/api/v1/track/{integer(1, 100)}",
            "status": int(word("200", "204", "302", "404")),
            "duration": number(900),
            "bytes": integer(100, 1_000_000),
            "referrer": f"https://shop.example/p/{integer(1, 9999)}",
            "trace_id": f"{integer(0, 1 << 60):032x}",
        }

    def item() -> dict[str, Any]:
        return {
            "sku": f"SKU-{integer(1, 99_999):05d}",
            "quantity": integer(1, 9),
            "price": number(500),
            "category": word("shoes", "coats", "hats", "bags"),
        }

    def experiment() -> dict[str, Any]:
        return {"name": f"exp-{integer(1, 90)}", "variant": word("control", "a", "b")}

    def pool(name: str, make: Callable[[], Any]) -> Cells:
        def text() -> str:
            return json.dumps(make(), separators=(",", ":"), ensure_ascii=False)

        return table(f'"{name}":{text()},' for _ in range(1000))

    return {
        "device": pool("device", device),
        "geo": pool("geo", geo),
        "campaign": pool("campaign", campaign),
        "request": pool("request", request),
        "items": pool("items", lambda: [item() for _ in range(integer(0, 5))]),
        "experiments": pool("experiments", lambda: [experiment() for _ in range(integer(0, 4))]),
        "tags": pool("tags", lambda: [f"tag-{integer(1, 400)}" for _ in range(integer(0, 6))]),
        "scores": pool("scores", lambda: [number(1) for _ in range(integer(0, 6))]),
        "profile": table(
            f'"name":"{word("Ada", "Grace", "Alan", "Edsger")} {word("L", "H", "T", "D")}.",'
            f'"age":{integer(16, 99)},"premium":{word("true", "false")},'
            f'"signup":"20{integer(10, 26)}-0{integer(1, 10)}-{integer(10, 29)}",'
            f'"segment":"{word("new", "casual", "loyal")}","locale":"{word("de", "en", "fr")}",'
            f'"score":{number(100)},"visits":{integer(0, 5000)},'
            f'"email":"{word("ada", "grace", "alan")}{integer(1, 999)}@mail.example"}},'
            for _ in range(1000)
        ),
        "rest": table(
            f'"currency":"{word("EUR", "USD", "PLN")}","session_id":"s-{integer(0, 1 << 40):x}",'
            f'"sequence":{integer(0, 500)},"consent":{word("true", "false")},'
            for _ in range(1000)
        ),
    }


def wide_cells(rng: np.random.Generator, events: Events) -> dict[str, Cells]:
    """The cells of a click among nested objects and arrays; ``user_id`` moves into ``user``."""
    n = len(events.millis)
    click = click_cells(rng, events)
    nested = {name: pool[rng.integers(0, len(pool), n)] for name, pool in pools().items()}
    first = ("event_id", "event_type", "page", "ts", "amount")
    objects = ("device", "geo", "campaign", "request", "items", "experiments", "tags", "scores")
    return {
        **{name: click[name] for name in first},
        "rest": nested["rest"],
        "user": np.full(n, b'"user":{'),
        "user_id": click["user_id"],
        "profile": nested["profile"],
        **{name: nested[name] for name in objects},
        "country": click["country"],
    }


# Broken lines


def put(cells: dict[str, Cells], name: str, rows: Ints, value: bytes | Cells) -> None:
    """Replace some rows of a cell, widening the column where it must be."""
    width = np.asarray(value).dtype.itemsize
    if width > cells[name].dtype.itemsize:
        cells[name] = cells[name].astype(f"S{width}")
    cells[name][rows] = value


def varied(rows: Ints, *values: bytes) -> Cells:
    """The given values in turn, one for each row."""
    return np.array(values)[np.arange(len(rows)) % len(values)]


def break_cells(cells: dict[str, Cells], broken: dict[str, Ints], millis: Ints) -> None:
    """Break the lines whose fault lies inside one field."""
    lookup = tables()

    def replace(kind: str, name: str, *values: bytes) -> None:
        put(cells, name, broken[kind], varied(broken[kind], *values))

    replace("amount_string", "amount", b'"amount":"12.50",', b'"amount":"7",')
    replace("amount_nan", "amount", b'"amount":NaN,')
    replace("amount_negative", "amount", b'"amount":-3,', b'"amount":-0.01,')
    replace("user_id_missing", "user_id", b"")
    replace("user_id_integer", "user_id", b'"user_id":421337,')
    replace("event_type_unknown", "event_type", b'"event_type":"hover",', b'"event_type":"",')
    replace("invalid_utf8", "page", b'"page":"/shop/\xff\xfe",', b'"page":"/shop/\xc3(",')
    replace("event_id_pattern", "event_id", b'"event_id":"00C0FFEE00C0FFEE",', b'"event_id":"7f",')
    local = lookup["minute"][millis // 60_000 % 1440]
    for kind, head, tail in (
        ("ts_no_offset", b'"ts":"2026-03-01T', b'12.345",'),
        ("ts_impossible", b'"ts":"2026-02-30T', b'12.345Z",'),
    ):
        rows = broken[kind]
        put(cells, "ts", rows, join(len(rows), head, local[rows], tail))


NOT_JSON = (b"<html><body>503 Service Unavailable</body></html>", b"event: none, retry=3", b"\x01")
NOT_OBJECT = (b"null", b"[]", b'"view"', b"17")


def lines(rng: np.random.Generator, shape: Shape, events: Events) -> NDArray[np.uint8]:
    """The text of a piece."""
    n = len(events.millis)
    cells = wide_cells(rng, events) if shape.wide else click_cells(rng, events, shape.users)
    broken = {kind: np.flatnonzero(events.kind == i) for i, kind in enumerate(KINDS)}
    break_cells(cells, broken, events.millis)
    tail = np.full(n, b"}", dtype="S4")
    tail[broken["trailing_garbage"]] = varied(broken["trailing_garbage"], b"}}", b"} x", b"}{}")
    text = join(n, b"{", *cells.values(), tail)
    for kind, values in (("not_json", NOT_JSON), ("not_object", NOT_OBJECT)):
        text[broken[kind]] = varied(broken[kind], *values)
    matrix = text.view(np.uint8).reshape(n, text.dtype.itemsize)
    cut = rng.integers(1, matrix.shape[1] - tail.dtype.itemsize, len(broken["truncated"]))
    kept = np.arange(matrix.shape[1]) < cut[:, None]
    matrix[broken["truncated"]] *= kept
    flat = np.concatenate([matrix, np.full((n, 1), ord("\n"), np.uint8)], axis=1).reshape(-1)
    return flat[flat != 0]


def generate(shape: Shape, events: int, bad: float, out: BinaryIO, seed: int = 1) -> dict[str, Any]:
    """Write the events piece by piece; return what was written (see the module's docstring)."""
    rng = np.random.default_rng(seed)
    pieces = (in_no_order if shape.shuffled else in_order)(rng, shape, events, bad)
    kinds = np.zeros(len(KINDS), np.int64)
    groups: set[int] = set()
    window = 10_000 if shape.shuffled else 60_000
    for piece in pieces:
        for start in range(0, len(piece.millis), 50_000):
            part = piece.take(np.arange(start, min(start + 50_000, len(piece.millis))))
            out.write(lines(rng, shape, part).data)
        good = piece.kind == GOOD
        kinds += np.bincount(piece.kind[~good], minlength=len(KINDS))
        keys = (piece.millis // window * shape.pages + piece.page) * 5 + piece.event_type
        groups.update(np.unique(keys[good]).tolist())
    return {
        "lines": events,
        "bad": int(kinds.sum()),
        "groups": len(groups),
        "kinds": dict(zip(KINDS, kinds.tolist(), strict=True)),
    }


def write(shape: str, events: int, bad: float, path: Path, seed: int = 1) -> dict[str, Any]:
    """Write a file and its ``.json``; neither is seen before it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.staged")
    with staged.open("wb") as out:
        about = {"shape": shape, **generate(SHAPES[shape], events, bad, out, seed)}
    facts(path).write_text(json.dumps(about, indent=1))
    staged.rename(path)
    return about


def facts(path: Path) -> Path:
    """Where the facts about a file of events are kept."""
    return path.with_name(path.name + ".json")


def cached(shape: str, events: int, bad: float = 0.01) -> Path:
    """The file with these events in ``benchmarks/.data``, made if it is not there."""
    path = DATA / f"{shape}-{events}-{bad:g}.jsonl"
    if not path.exists():
        write(shape, events, bad, path)
    return path


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--bad", type=float, default=0.01, help="the part of broken lines, 0 to 1")
    parser.add_argument("--shape", choices=SHAPES, default="clicks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="default: a name of its own in benchmarks/.data")
    args = parser.parse_args(argv)
    if args.out is None:
        print(cached(args.shape, args.events, args.bad))
    else:
        json.dump(write(args.shape, args.events, args.bad, args.out, args.seed), sys.stdout)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
