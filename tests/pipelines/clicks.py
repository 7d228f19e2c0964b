"""The clickstream job of the examples, and what must come out of it, found row by row.

The judgement here shares no code with the package: the standard library's ``json``, and a few
comparisons. It is slow, plain, and knows this one contract only.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from millstream.schemas import dead_letters
from millstream.transforms.write.files import live_files

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "clickstream"

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.I)
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
Row = tuple[Any, ...]


class Letter(NamedTuple):
    """A dead letter, of which the tests compare everything that the input decides."""

    source: str
    position: str
    payload: bytes | None
    codes: tuple[str, ...]


@dataclass
class Expected:
    """What a job over the clickstream contract must give. Sources are file names alone."""

    records: Counter[Row] = field(default_factory=Counter)
    letters: Counter[Letter] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)

    @property
    def dead(self) -> dict[str, int]:
        dead = Counter(letter.source for letter in self.letters.elements())
        return {source: dead[source] for source in self.read}


def expected(files: list[Path]) -> Expected:
    """Judge every line of the files."""
    found = Expected()
    for path in files:
        found.read[path.name] += 0
        found.written[path.name] += 0
        for position, payload in lines(contents(path)):
            found.read[path.name] += 1
            codes, row = judge(payload)
            if row is None:
                found.letters[Letter(path.name, str(position), payload, tuple(sorted(codes)))] += 1
            else:
                found.written[path.name] += 1
                found.records[row] += 1
    return found


def contents(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    for line in data.split(b"\n"):
        if line.strip(b" \t\r"):
            yield at, line.removesuffix(b"\r")
        at += len(line) + 1


def judge(payload: bytes) -> tuple[set[str], Row | None]:
    """The codes of a record's violations, or its values."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {"ENCODING"}, None
    try:
        said = json.loads(text, parse_float=Decimal, parse_constant=_no_number)
    except ValueError:
        return {"MALFORMED"}, None
    if not isinstance(said, dict):
        return {"MALFORMED"}, None
    codes = set(_codes(said))
    return codes, None if codes else row_of(said)


def _no_number(word: str) -> None:
    raise ValueError(word)


def _codes(said: dict[str, Any]) -> Iterator[str]:
    event_id, ts, user, kind, page = (
        said.get(name) for name in ("event_id", "ts", "user_id", "event_type", "page")
    )
    for value in (event_id, ts, user, kind, page):
        if value is None:
            yield "REQUIRED"
        elif not isinstance(value, str):
            yield "TYPE"
    if isinstance(event_id, str) and not UUID.fullmatch(event_id):
        yield "FORMAT"
    if isinstance(ts, str) and moment(ts) is None:
        yield "FORMAT"
    if isinstance(user, str) and not re.fullmatch("u[0-9]+", user):
        yield "PATTERN"
    if isinstance(kind, str) and kind not in ("view", "click", "cart", "buy"):
        yield "ENUM"
    if isinstance(page, str) and not 1 <= len(page) <= 200:
        yield "LENGTH"
    yield from _number_codes(said.get("amount"), (int, Decimal), Decimal(0), None)
    yield from _number_codes(said.get("quantity"), (int,), 1, 1000)
    device = said.get("device")
    if device is not None:
        if not isinstance(device, dict):
            yield "TYPE"
        else:
            if device.get("os") is None:
                yield "REQUIRED"
            yield from _number_codes(device.get("width"), (int,), 1, None)
    tags = said.get("tags")
    if tags is not None:
        if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
            yield "TYPE"
        elif len(tags) > 5:
            yield "ITEMS"


def _number_codes(value: Any, types: tuple[type, ...], least: Any, most: Any) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, types):
        yield "TYPE"
    elif value < least or (most is not None and value > most):
        yield "RANGE"


def moment(text: str) -> datetime | None:
    if not MOMENT.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None


def row_of(said: dict[str, Any]) -> Row:
    """A record's values, in the order of the contract, as :func:`records` gives them."""
    device = said.get("device")
    tags = said.get("tags")
    amount = said.get("amount")
    return (
        said["event_id"],
        moment(said["ts"]),
        said["user_id"],
        said["event_type"],
        said["page"],
        None if amount is None else Decimal(amount).quantize(Decimal("0.01")),
        said.get("quantity"),
        None if device is None else (device["os"], device.get("width")),
        None if tags is None else tuple(tags),
    )


def page_views(records: Counter[Row], window: timedelta = timedelta(minutes=1)) -> dict[Row, Row]:
    """(window's start, page, event type) → (events, revenue, visitors)."""
    return grouped(records, window, (4, 3), lambda rows: (len(rows), revenue(rows), visitors(rows)))


def grouped(records: Counter[Row], window: timedelta, by: tuple[int, ...], metrics: Any) -> Any:
    """(window's start, *keys) → what ``metrics`` makes of the rows of the group."""
    groups: dict[Row, list[Row]] = {}
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for row in records.elements():
        start = row[1] - (row[1] - epoch) % window
        groups.setdefault((start, *(row[i] for i in by)), []).append(row)
    return {key: metrics(rows) for key, rows in groups.items()}


def revenue(rows: list[Row]) -> Decimal | None:
    amounts = [row[5] for row in rows if row[5] is not None]
    return sum(amounts, Decimal(0)) if amounts else None


def visitors(rows: list[Row]) -> int:
    return len({row[2] for row in rows})


@dataclass(frozen=True)
class JobFolder:
    """A folder with the example's contract and job file, and what the job made there."""

    path: Path

    @classmethod
    def make(cls, path: Path, *, events: int | None = None, seed: int = 7) -> JobFolder:
        """Copy the example there; generate a day of so many events, if any."""
        path.mkdir(parents=True, exist_ok=True)
        for name in ("clickstream.odcs.yaml", "job.yaml"):
            shutil.copy(EXAMPLE / name, path)
        (path / "events").mkdir()
        if events is not None:
            command = [sys.executable, EXAMPLE / "generate.py", "--out", path / "events"]
            command += [f"--events={events}", f"--seed={seed}"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        return cls(path)

    @property
    def job(self) -> str:
        return str(self.path / "job.yaml")

    @property
    def files(self) -> list[Path]:
        """The input."""
        return sorted((self.path / "events").iterdir())

    def put(self, name: str, data: bytes) -> Path:
        """Add an input file."""
        path = self.path / "events" / name
        path.write_bytes(data)
        return path

    def expected(self) -> Expected:
        return expected(self.files)

    def table(self, output: str = "clicks", form: str = "parquet") -> list[dict[str, Any]]:
        """The committed rows of an output: those of the files that its manifest names."""
        return rows_of(f"{form}:{self.path}/warehouse/{output}")

    def records(self, form: str = "parquet") -> Counter[Row]:
        return Counter(record_row(row) for row in self.table(form=form))

    def letters(self, form: str = "jsonl") -> Counter[Letter]:
        return Counter(
            Letter(
                Path(row["source"]).name,
                row["position"],
                row["payloadBytes"],
                tuple(sorted(row["codes"])),
            )
            for row in self.table("dead_letters", form)
        )

    def page_views(self, form: str = "parquet") -> dict[Row, Row]:
        return {
            (as_moment(row["window_start"]), row["page"], row["event_type"]): (
                row["events"],
                as_decimal(row["revenue"]),
                row["visitors"],
            )
            for row in self.table("page_views", form)
        }

    def ledger(self) -> list[dict[str, Any]]:
        return self.table("ledger", "jsonl")

    def visible(self) -> list[str]:
        """Files that a reader by glob would see, relative to the folder."""
        warehouse = self.path / "warehouse"
        found = [p for p in warehouse.rglob("*") if p.suffix in (".parquet", ".jsonl")]
        return sorted(str(p.relative_to(self.path)) for p in found if "_millstream" not in p.parts)

    def staged(self) -> list[str]:
        """Files that wait to be committed."""
        return [str(p) for p in (self.path / "warehouse").rglob("*.staged")]

    def snapshot(self) -> dict[str, tuple[int, bytes]]:
        """Time stamp and bytes of every file that the job made, its locks apart."""
        return {
            str(p.relative_to(self.path)): (p.stat().st_mtime_ns, p.read_bytes())
            for p in (self.path / "warehouse").rglob("*")
            if p.is_file() and p.parent.name != "lock"
        }


def rows_of(uri: str) -> list[dict[str, Any]]:
    """The committed rows of ``parquet:DIR`` or ``jsonl:DIR``."""
    rows: list[dict[str, Any]] = []
    for path in live_files(uri):
        if uri.startswith("parquet:"):
            rows += pq.read_table(path).to_pylist()
        else:
            rows += map(_from_json, Path(path).read_bytes().splitlines())
    return rows


def _from_json(line: bytes) -> dict[str, Any]:
    row = json.loads(line, parse_float=Decimal)
    for name, kind in _BINARY.items():
        if isinstance(row.get(name), str) and pa.types.is_binary(kind):
            row[name] = base64.b64decode(row[name], validate=True)
    return row


_BINARY = {f.name: f.type for f in dead_letters.SCHEMA if pa.types.is_binary(f.type)}


def record_row(row: dict[str, Any]) -> Row:
    """A written record as :func:`row_of` gives it."""
    device, tags = row["device"], row["tags"]
    return (
        row["event_id"],
        as_moment(row["ts"]),
        row["user_id"],
        row["event_type"],
        row["page"],
        as_decimal(row["amount"]),
        row["quantity"],
        None if device is None else (device["os"], device["width"]),
        None if tags is None else tuple(tags),
    )


def as_moment(value: datetime | str) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def as_decimal(value: Any) -> Decimal | None:
    return None if value is None else Decimal(value)


@dataclass(frozen=True)
class Done:
    """A finished process."""

    code: int
    out: str
    err: str


def ingest(*arguments: str, seconds: float = 120, cwd: Path | None = None) -> Done:
    """``millstream ingest`` in a process of its own."""
    command = [sys.executable, "-m", "millstream.pipelines.cli", "ingest", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=cwd)
    return Done(done.returncode, done.stdout, done.stderr)
