"""Listing a million dead letters, from each format: ``make bench``.

    python benchmarks/letters.py [--letters 1000000] [--runs 3] [FORMAT …]

A tenth of the letters have two violations; a hundredth are marked as replayed. What is measured is
the whole command, ``millstream dead-letters list`` with its samples; what it takes to start is the
same over none. Medians; the memory is the most of any run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import pyarrow as pa
from rich.table import Table
from run import HERE, console, progress

USUAL = ["parquet", "duckdb", "jsonl"]
"""Those that are looked at unless others are asked for: some take minutes to write."""
FORMATS = {
    "parquet": "parquet:{}/parquet",
    "duckdb": "duckdb:{}/warehouse.duckdb/letters",
    "avro": "avro:{}/avro",
    "csv": "csv:{}/csv",
    "jsonl": "jsonl:{}/jsonl",
}
"""What is listed → the URI in a folder."""
BATCH = 50_000


def batches(count: int) -> Iterator[pa.RecordBatch]:
    """Dead letters as a job over clicks would write them."""
    from millstream.schemas.codes import Code
    from millstream.schemas.rules import Violation
    from millstream.transforms.dead_letters import Origin, dead_letter_batch

    codes = (Code.TYPE, Code.FORMAT, Code.RANGE, Code.PATTERN, Code.ENUM)
    origin = Origin("validate", "clicks", "r1", "clicks", "1.0.0")
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        violations = []
        for row, n in enumerate(numbers):
            field = ("amount", "quantity", "ts", "page")[n % 4]
            message = f"expected a number, got a string 'x{n % 100}'"
            violations.append(Violation(row, field, codes[n % 5], message))
            if n % 10 == 0:
                violations.append(Violation(row, "tags", Code.ITEMS, "more than 5 entries"))
        payloads = [
            b'{"event_id":"3f1e-%028d","ts":"2026-11-29T12:00:00Z","user_id":"u%d","page":"/p/%d",'
            b'"event_type":"view","amount":"x%d","quantity":1,"device":{"os":"ios"}}'
            % (n, n % 1000, n % 50, n % 100)
            for n in numbers
        ]
        yield dead_letter_batch(
            pa.array([f"/data/events/2026-11-{1 + n % 28:02d}.jsonl" for n in numbers]),
            pa.array([str(n * 176) for n in numbers]),
            pa.array(payloads, pa.binary()),
            violations,
            origin,
            attributes={"format": "jsonl"},
        )


def write(format: str, folder: str, count: int) -> None:
    """Write the letters, and mark some."""
    from millstream.schemas.dead_letters import SCHEMA
    from millstream.schemas.table import table_of_schema
    from millstream.transforms.letters import Entry, Marks
    from millstream.transforms.plan import Token
    from millstream.transforms.receipts import content_digest
    from millstream.transforms.write.destination import Commit, Output
    from millstream.transforms.write.stage import stage_batches

    tables: Any = {"data": table_of_schema(SCHEMA, ("id",))}
    uri = FORMATS[format].format(folder)
    output = Output("dead_letters", uri, "dead_letters", tables=tables, state=f"{folder}/ledger")
    token = Token("r1", "0" * 64)
    marked: list[Entry] = []

    def noted() -> Iterator[pa.RecordBatch]:
        for batch in batches(count):
            marked.extend(Entry(i, 0, "replayed") for i in batch["id"].to_pylist()[::100])
            yield batch

    receipts = tuple(stage_batches(output, token, noted()))
    output.destination.commit(Commit(token, content_digest(receipts), receipts, tables))
    Marks(f"{folder}/ledger").append(f"bench-{format}", marked)


def command(uri: str, folder: str) -> list[str]:
    """The command that lists a job's dead letters."""
    job = {
        "name": "clicks",
        "contract": str(HERE / "clicks.odcs.yaml"),
        "input": "none",
        "ledger": f"jsonl:{folder}/ledger",
        "output": f"parquet:{folder}/out",
        "dead_letters": uri,
    }
    flags = [f"--{key}={value}" for key, value in job.items()]
    return [sys.executable, "-m", "millstream.pipelines.cli", "dead-letters", "list", *flags]


def measured(uri: str, folder: str, said: str, runs: int) -> tuple[str, ...]:
    """Seconds, CPU seconds and megabytes of the command, which has to begin by saying something."""
    costs = [measure.measure(command(uri, folder)).checked() for _ in range(runs)]
    for cost in costs:
        first = cost.output.partition("\n")[0]
        assert first == f"{uri}: {said}", first
    wall = statistics.median(cost.wall for cost in costs)
    cpu = statistics.median(cost.cpu for cost in costs)
    return f"{wall:.2f}", f"{cpu:.2f}", f"{max(cost.peak for cost in costs) / 1e6:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "formats", nargs="*", default=["parquet", "duckdb", "jsonl"], metavar="FORMAT"
    )
    parser.add_argument("--letters", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    count = -(-given.letters // BATCH) * BATCH
    marked = BATCH // 100 * (count // BATCH)
    table = Table("letters in", "seconds", "CPU seconds", "peak MB")
    table.title = f"dead-letters list over {count:,}"
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        Path(folder, "ledger").mkdir()
        none = measured(f"parquet:{folder}/parquet", folder, "0 open", given.runs)
        table.add_row("nothing: the start alone", *none)
    for format in given.formats:
        progress.print(f"dead letters in {format} …")
        with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
            write(format, folder, count)
            said = f"{count - marked:,} open, {marked:,} replayed"
            uri = FORMATS[format].format(folder)
            table.add_row(format, *measured(uri, folder, said, given.runs))
    console.print(table)


if __name__ == "__main__":
    main()
