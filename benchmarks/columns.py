"""Seeded click events as Arrow columns, as a pipeline would hand them to a destination.

    python benchmarks/columns.py --rows 1000000

Seven columns of the usual types, one country in a hundred null, time stamps roughly in order, and
the three that tell where a record came from: its bytes are a line of JSON with the same values.
Files of Arrow IPC lie in ``benchmarks/.data`` and are made only once: empty that folder after a
change here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from events import COUNTRIES, DATA, START

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("user_id", pa.string()),
        ("ts", pa.timestamp("us", "UTC")),
        ("page", pa.string()),
        ("country", pa.string()),
        ("duration_ms", pa.int64()),
        ("price", pa.decimal128(10, 2)),
    ]
)
"""What a destination is to hold."""
KEY, TIME, CHECKED = "event_id", "ts", "duration_ms"
BATCH_ROWS = 32_768
"""Rows of a batch: some megabytes, as batches of a pipeline are."""
Rows = Literal["all", "earlier half", "tenth refused"]
"""``all``: as they are. ``earlier half``: every other row, as it was in an earlier version.
``tenth refused``: every tenth row has a duration below zero."""

_IDENTITY = pa.schema(
    [
        ("_source", pa.dictionary(pa.int32(), pa.string())),
        ("_position", pa.int64()),
        ("_payload", pa.binary()),
    ]
)


def cached(rows: int) -> Path:
    """The file with so many events in ``benchmarks/.data``, made if it is not there."""
    path = DATA / f"columns-{rows}.arrow"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.staged")
        schema = pa.schema([*SCHEMA, *_IDENTITY])
        with pa.OSFile(str(staged), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in made(rows):
                writer.write_batch(batch)
        staged.rename(path)
    return path


def read(rows: int, *, identity: bool = False) -> Iterator[pa.RecordBatch]:
    """The events from their file, a batch at a time; with ``identity``, where they came from."""
    width = len(SCHEMA) + (len(_IDENTITY) if identity else 0)
    options = pa.ipc.IpcReadOptions(included_fields=list(range(width)))
    with pa.OSFile(str(cached(rows))) as file, pa.ipc.open_file(file, options=options) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def made(rows: int, seed: int = 1) -> Iterator[pa.RecordBatch]:
    """The events, made anew: the same for a seed."""
    rng = np.random.default_rng(seed)
    for first in range(0, rows, BATCH_ROWS):
        yield _batch(rng, first, min(BATCH_ROWS, rows - first))


def changed(batches: Iterator[pa.RecordBatch], rows: Rows) -> Iterator[pa.RecordBatch]:
    """The batches with the rows that are wanted."""
    for batch in batches:
        numbers = np.arange(batch.num_rows)
        if rows == "earlier half":
            batch = batch.filter(pa.array(numbers % 2 == 0))
            for name, change in ((CHECKED, 1), ("_position", -1)):
                batch = _set(batch, name, pc.add(batch[name], change))
        if rows == "tenth refused":
            durations = batch[CHECKED]
            below = pc.subtract(-1, durations)
            refused = pa.array(numbers % 10 == 0)
            batch = _set(batch, CHECKED, pc.if_else(refused, below, durations))
        yield batch


class Digest(NamedTuple):
    """Rows, and a sum of hashes of all their values: the same whatever their order."""

    rows: int
    hashes: int

    @classmethod
    def of(cls, table: pa.Table) -> Digest:
        query = (
            "SELECT count(*), coalesce(sum(hash(event_id, user_id, epoch_us(ts), page, country, "
            "duration_ms, price)::HUGEINT), 0)::HUGEINT FROM clicks"
        )
        with duckdb.connect() as db:
            db.register("clicks", table)
            ((rows, hashes),) = db.execute(query).fetchall()
        return cls(rows, hashes)


@cache
def expected(count: int, rows: Rows = "all") -> Digest:
    """What a table has to hold in the end, of so many events."""
    batches = changed(read(count), rows)
    table = pa.Table.from_batches(batches)
    if rows == "tenth refused":
        table = table.filter(pc.greater_equal(table[CHECKED], 0))
    return Digest.of(table)


def _batch(rng: np.random.Generator, first: int, n: int) -> pa.RecordBatch:
    numbers = np.arange(first, first + n)
    # A millisecond an event, each at most two seconds late: nearly in order, as logs are.
    begin = int(START.timestamp() * 1e6)
    micros = begin + numbers * 1000 - rng.integers(0, 2_000_000, n)
    ids = np.frombuffer(rng.bytes(8 * n).hex().encode(), "S16")
    cents = rng.integers(0, 10_000_000, n)
    country = pa.array(COUNTRIES).take(pa.array(rng.integers(0, len(COUNTRIES), n)))
    columns = [
        _strings(ids),
        _joined("u", rng.integers(0, 100_000, n), 6),
        pa.array(micros).cast(SCHEMA.field("ts").type),
        _joined("/shop/", rng.integers(0, 820, n), 3),
        pc.if_else(pa.array(rng.random(n) < 0.01), pa.scalar(None, pa.string()), country),
        pa.array(rng.lognormal(6, 1.5, n).astype(np.int64)),
        _decimals(cents),
    ]
    source = pa.array(["clicks.jsonl"]).dictionary_encode()
    identity = [
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), source.dictionary),
        pa.array(numbers * 160),
        _payloads(columns),
    ]
    return pa.RecordBatch.from_arrays(
        [*columns, *identity], schema=pa.schema([*SCHEMA, *_IDENTITY])
    )


def _set(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    return batch.set_column(batch.schema.get_field_index(name), name, values)


def _strings(cells: np.ndarray) -> pa.Array:
    return pa.array(cells).cast(pa.string())


def _joined(prefix: str, numbers: np.ndarray, digits: int) -> pa.Array:
    padded = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), digits, padding="0")
    return pc.binary_join_element_wise(prefix, padded, "")


def _decimals(cents: np.ndarray) -> pa.Array:
    hundredths = pa.scalar("0.01").cast(pa.decimal128(3, 2))
    whole = pa.array(cents).cast(pa.decimal128(19, 0))
    return pc.multiply(whole, hundredths).cast(SCHEMA.field("price").type)


def _payloads(columns: list[pa.Array]) -> pa.Array:
    """The line of JSON that each event might have come from."""
    parts: list[Any] = []
    for field, column in zip(SCHEMA, columns, strict=True):
        text = pc.fill_null(column.cast(pa.string()), "")
        quote = "" if field.name in ("duration_ms", "price") else '"'
        parts += [f',"{field.name}":{quote}' if parts else f'{{"{field.name}":{quote}', text, quote]
    return pc.binary_join_element_wise(*parts, "}", "").cast(pa.binary())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    print(cached(parser.parse_args(argv).rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
