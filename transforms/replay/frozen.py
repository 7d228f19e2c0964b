"""The letters of one replay, written down before it begins: what it reads, whatever comes later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...schemas.dead_letters import SCHEMA
from .. import storage

COLUMNS = ("id", "attempt", "run_id", "stage", "source", "position", "payloadBytes", "attributes")
"""Of dead letters, what it takes to read their records again, and to tell what became of them."""
FROZEN = pa.schema([SCHEMA.field(name) for name in COLUMNS])
_FILE_ROWS = 50_000
"""Letters of a file, each of which one worker reads."""


class FrozenLetters(NamedTuple):
    """Letters that a replay reads.

    ``files`` are Parquet files of :data:`FROZEN`, with the number of their rows; ``digest`` is
    SHA-256 (hex) of which letters they are, and of which attempts, in any order.
    """

    files: tuple[tuple[str, int], ...]
    digest: str

    @property
    def rows(self) -> int:
        """How many letters they are."""
        return sum(rows for _, rows in self.files)

    @property
    def paths(self) -> list[str]:
        """The paths of the files."""
        return [path for path, _ in self.files]


def freeze(batches: Iterable[pa.RecordBatch], folder: str) -> FrozenLetters:
    """Write letters down.

    Args:
        batches: by :data:`FROZEN`.
        folder: where their files go, which nobody else uses.

    Raises:
        StorageError: a file cannot be written.
    """
    files: list[tuple[str, int]] = []
    names: list[str] = []
    for table in _pieces(batches):
        path = storage.join(folder, f"letters-{len(files):05d}.parquet")
        with storage.named(path, "write"), storage.open_write(path) as file:
            pq.write_table(table, file)
        files.append((path, table.num_rows))
        attempts = pc.fill_null(table["attempt"], 0).to_pylist()
        names += map("{} {}".format, table["id"].to_pylist(), attempts)
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    return FrozenLetters(tuple(files), digest)


def read_frozen(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The letters of a file: all columns, or these.

    Raises:
        StorageError: it cannot be read.
    """
    names = list(columns) if columns else None
    with storage.named(path, "read"), storage.open_read(path) as file:
        return pq.read_table(file, columns=names, schema=FROZEN, use_threads=False)


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= _FILE_ROWS:
            table = pa.Table.from_batches(waiting, FROZEN)
            yield table
            waiting, rows = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting, FROZEN)
